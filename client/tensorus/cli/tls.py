"""tensorus tls: a certificate for a first try, and what is in a certificate."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tensorus._missing import engine_missing
from tensorus.cli._output import counted, print_fields, print_text
from tensorus.errors import TensorusError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["tls"]

_CERT_FILE = "tls-cert.pem"
_KEY_FILE = "tls-key.pem"


@click.group()
def tls() -> None:
    """Make a certificate for a first try with TLS, or show one.

    \b
    Examples:
      tensorus tls self-signed --host gpu-17 --out tls
      tensorus tls show tls/tls-cert.pem
    """  # noqa: D301 - click's mark for lines that are not rewrapped


@tls.command("self-signed")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name or address by which clients reach the server; can be repeated.  [default: localhost, 127.0.0.1, ::1 and the "
    "name of this machine]",
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long the certificate is valid."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help=f"Folder for {_CERT_FILE} and {_KEY_FILE}; created if missing.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def self_signed(hosts: tuple[str, ...], days: int, out: Path, *, force: bool) -> None:
    """Make a key and a self-signed certificate for a server.

    Clients must have the certificate itself as their CA. For more than a few machines, use a CA.

    \b
    Example:
      tensorus tls self-signed --host gpu-17 --out tls
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    try:
        from tensorus_server.processes.self_signed import make_self_signed, write_new  # noqa: PLC0415 - needs a library
    except ImportError as error:
        raise engine_missing(error) from error
    names = hosts or _own_names()
    try:
        cert, key = make_self_signed(names, days)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--host") from error
    cert_file, key_file = out / _CERT_FILE, out / _KEY_FILE
    for file in (cert_file, key_file):
        if not force and file.exists():
            raise click.UsageError(f"{file} exists: pass --force to replace it, or --out for another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_new(key_file, key, 0o600, replace=force)
    write_new(cert_file, cert, 0o644, replace=force)
    print_text(f"{cert_file} and {key_file} are for {', '.join(names)}, and valid for {counted(days, 'day')}.\n")
    print_text("Serve with them, and connect with the certificate as the CA:\n")
    print_text(f"  tensorus serve --tls-cert {cert_file} --tls-key {key_file}")
    print_text(f'  tensorus.connect("grpcs://{_in_address(names[0])}:7733", ca="{cert_file}")')


@tls.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Show whom the certificate in FILE is for, and until when. Of several, show the first."""
    try:
        from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415 - not part of the thin client
        from tensorus_server.processes.certificates import read_certificates  # noqa: PLC0415 - needs a library
    except ImportError as error:
        raise engine_missing(error) from error
    try:
        found = read_certificates(file)
    except StoreUnavailableError as error:
        raise TensorusError(str(error)) from error
    print_fields(_fields(found))


def _fields(chain: list[Certificate]) -> list[tuple[str, str]]:
    from cryptography import x509  # noqa: PLC0415 - a library that only servers need
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    first = chain[0]
    try:
        others = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = []
    else:
        names = [str(name.value) for name in others]
    days = (first.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86_400
    left = f"{days:.1f} days left" if days > 0 else "expired"
    fields = [
        ("subject", first.subject.rfc4514_string()),
        ("names", ", ".join(names) or "none"),
        ("issuer", first.issuer.rfc4514_string()),
        ("valid from", f"{first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"),
        ("valid until", f"{first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, {left}"),
        ("sha256", first.fingerprint(hashes.SHA256()).hex()),
        ("certificates", str(len(chain))),
    ]
    # A certificate may hold anything, also characters that control a terminal.
    return [(name, "".join(c if c.isprintable() else "?" for c in value)) for name, value in fields]


def _own_names() -> list[str]:
    return list(dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname()]))


def _in_address(host: str) -> str:
    """Return a host as it is written in front of a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
