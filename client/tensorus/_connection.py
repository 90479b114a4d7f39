"""How a client reaches its server: where it is, whether over TLS, with which certificates and which token. No gRPC.

`_profiles.py` puts a connection together from arguments, the environment and a file.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

__all__ = [
    "DEFAULT_ADDRESS",
    "Connection",
    "Pem",
    "Tls",
    "Token",
    "TokenFile",
    "checked_token",
    "is_loopback",
    "parsed_address",
]

DEFAULT_ADDRESS = "127.0.0.1:7733"
"""Of `tensorus serve`."""

Pem: TypeAlias = str | bytes
"""The path of a PEM file, or its content."""

Token: TypeAlias = str | Callable[[], str]
"""A token, or a function that returns the current one."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_OURS = frozenset({"grpc", "grpcs"})
_OF_GRPC = frozenset({"dns", "unix", "unix-abstract", "vsock", "xds"})
"""Schemes of names that gRPC resolves itself."""

_HOST = re.compile(r"(?:ipv[46]:|dns:///)?(\[[^\[\]]+\]|[^:/\[\]]+)(?::\d{1,5})?")

_TOKEN = re.compile(r"[!-~]+")

_LOOK_AGAIN_S = 1.0
"""How long a token from a file is used before the file is looked at again."""


@dataclass(frozen=True)
class Tls:
    """Which certificates a client trusts and shows. Nothing of them is part of its repr."""

    ca: Pem | None = field(default=None, repr=False)
    """Certificates of the authorities that may have signed the server's; None: those of the operating system."""
    cert: Pem | None = field(default=None, repr=False)
    """The client's own certificate, followed by those between it and its authority; None: the client has none."""
    key: Pem | None = field(default=None, repr=False)
    """The private key of `cert`, not encrypted."""

    def __post_init__(self) -> None:
        """Check that certificate and key come together.

        Raises:
            ValueError: one of them is missing.
        """
        if (self.cert is None) is not (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ValueError(f"{given} is given without {missing}; a client certificate needs both")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of `ca`, `cert` and `key` as they are now.

        Raises:
            ValueError: one cannot be read, or is not PEM; the message names it.
        """
        return _pem("ca", self.ca), _pem("cert", self.cert), _pem("key", self.key)

    def state(self) -> tuple[tuple[int, ...], ...]:
        """Return what changes when one of the files changes."""
        return tuple(_file_state(found) for found in (self.ca, self.cert, self.key) if isinstance(found, str))


@dataclass(frozen=True)
class Connection:
    """How to reach a server, or several servers of one store. Can be pickled, with the token; the repr does not show it."""

    address: str
    """What `Servers` takes: without a scheme of ours."""
    tls: Tls | None = None
    """None: in clear text."""
    token: Token | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the address as a user writes it."""
        return self.address if self.tls is None else f"grpcs://{self.address}"

    def metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """Return the metadata of one call.

        Raises:
            ValueError: the function that returns the token returned something else.
        """
        token = self.token
        if token is None:
            return (("x-request-id", request_id),)
        if not isinstance(token, str):
            token = checked_token(token())
        return (("x-request-id", request_id), ("authorization", f"Bearer {token}"))


class TokenFile:
    """The token in a file, which may be replaced: it is looked at again when a second has passed. Can be pickled."""

    def __init__(self, path: str | Path) -> None:
        """Read the file.

        Raises:
            ValueError: it cannot be read, or has no token.
        """
        self._path = Path(path)
        self._looked_s, self._state, self._token = time.monotonic(), _file_state(str(path)), self._read()

    def __reduce__(self) -> tuple[type[TokenFile], tuple[Path]]:
        """Pickle the path alone."""
        return type(self), (self._path,)

    def __call__(self) -> str:
        """Return the token; if the file cannot be read any more, the last one, whose expiry the server notices."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_AGAIN_S:
            # First, without a lock: whoever else asks meanwhile uses the old token.
            self._looked_s = now_s
            state = _file_state(str(self._path))
            if state != self._state:
                with suppress(ValueError):
                    self._token = self._read()
                    self._state = state
        return self._token

    def _read(self) -> str:
        try:
            text = self._path.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise ValueError(f"token file {str(self._path)!r} cannot be read: {error.strerror or error}") from error
        try:
            return checked_token(text)
        except ValueError as error:
            raise ValueError(f"token file {str(self._path)!r}: {error}") from None


def checked_token(token: object) -> str:
    """Return a token that can be sent. No message has any part of it.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty, or has characters that no token has.
    """
    if not isinstance(token, str):
        raise TypeError(f"the token is a {type(token).__name__}, must be text or a function that returns text")
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"the token has {len(token)} characters, must be printable ASCII without spaces and line ends, not empty"
        )
    return token


def parsed_address(address: str) -> tuple[str, bool]:
    """Return an address without the scheme, and whether it asks for TLS. The scheme stands first, and holds for a whole list.

    Raises:
        ValueError: a scheme is unknown, or the servers of a list have different ones.
    """
    if not isinstance(address, str):
        raise TypeError(f"address is a {type(address).__name__}, must be text such as 'localhost:7733'")
    parts, schemes = [], []
    for part in address.split(","):
        found = _SCHEME.fullmatch(part.strip())
        scheme = "" if found is None else found[1].lower()
        if found is None or scheme in _OF_GRPC:
            parts.append(part)
            schemes.append("")
            continue
        if scheme not in _OURS:
            raise ValueError(
                f"the address has the scheme {scheme}://, must be grpcs:// (with TLS), grpc://, or have none"
            )
        rest = found[2].rstrip("/")
        if "@" in rest:
            # Not shown: it may be a password.
            raise ValueError(f"the address {scheme}://... has a user name; tokens are passed as token=")
        parts.append(rest)
        schemes.append(scheme)
    if any(scheme not in ("", schemes[0]) for scheme in schemes):
        raise ValueError(f"the servers of {address!r} have different schemes; one, at the start, holds for all of them")
    return ",".join(parts), schemes[0] == "grpcs"


def is_loopback(address: str) -> bool:
    """Return whether nothing that is sent to an address leaves this machine. Names other than `localhost` may lead anywhere."""
    return all(_is_loopback(part.strip()) for part in address.split(","))


def _is_loopback(part: str) -> bool:
    if part.startswith(("unix:", "unix-abstract:")):
        return True
    found = _HOST.fullmatch(part)
    if found is None:
        return False
    host = found[1].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _pem(name: str, given: Pem | None) -> bytes | None:
    """Return the content of a PEM file.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    if given is None:
        return None
    if isinstance(given, bytes):
        content, shown = given, f"{name} has {len(given)} bytes"
    else:
        shown = f"{name} is {given!r}"
        try:
            content = Path(given).read_bytes()
        except OSError as error:
            raise ValueError(f"{shown}, which cannot be read: {error.strerror or error}") from error
    if b"-----BEGIN " not in content:
        raise ValueError(f"{shown}, which is not PEM: it has no line with -----BEGIN")
    return content


def _file_state(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 - every object of a path would be made for this alone
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
