"""tensorus status."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import backend_of, naming, server_options
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, human_bytes, print_fields, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus._grpc.server_report import ServerReport
    from tensorus.cli._connection import ServerOptions

__all__ = ["status"]


@click.command()
@server_options()
@json_option
def status(server: ServerOptions, *, as_json: bool) -> None:
    """Show whether a server works, and how it sees you.

    It shows the address, the version, TLS, health, latency, uptime, who the server takes you for and what you may do, and, if
    you may know, the store and its space. If several servers have the store, one of them answers.

    \b
    Examples:
      tensorus status
      tensorus status --server grpcs://store:7733 --ca ca.pem --json

    \b
    Exit codes:
      0  the server works
      1  it answers, but its store cannot be used, or it does not accept you
      4  it cannot be reached
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    from tensorus._grpc.server_report import server_report  # noqa: PLC0415 - each way in loads only what it needs

    with naming(server.connection), closing(backend_of(server.connection)) as backend:
        found = server_report(backend)
    if as_json:
        print_json(found)
    else:
        print_fields(_fields(found))
    if not found.is_healthy:
        sys.exit(1)


def _fields(found: ServerReport) -> Iterator[tuple[str, str]]:
    yield "address", found.address
    yield "TLS", "yes" if found.tls else "no"
    yield "version", found.version
    yield "health", found.health + (", read-only" if found.read_only else "")
    yield "latency", f"{1000 * found.latency_s:.1f} ms"
    yield "uptime", _duration(found.uptime_s)
    yield "principal", found.principal + ("" if found.authenticates else " (the server asks nobody who they are)")
    yield "rights", ", ".join(found.rights) or "none"
    if found.store is not None:
        yield "store", found.store
    space = found.space
    if space is not None:
        yield "tensors", f"{space.tensors:,} in {counted(space.datasets, 'dataset')}"
        yield "stored", human_bytes(space.unique_stored_bytes + space.past_stored_bytes)
        if space.disk_free_bytes is not None and space.disk_total_bytes is not None:
            yield "free", f"{human_bytes(space.disk_free_bytes)} of {human_bytes(space.disk_total_bytes)}"


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    return (
        f"{days} d {hours} h" if days else f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
    )
