"""tensorus df."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, human_bytes, print_fields, print_json, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tensorus.cli._connection import ServerOptions
    from tensorus.types import StoreStats

__all__ = ["df"]


@click.command()
@store_options()
@json_option
def df(server: ServerOptions, store: str | None, *, as_json: bool) -> None:
    """Show how much space a store takes, and how much is free.

    Tensors with equal bytes share them: they are counted for each tensor first, then once. Past tensors are replaced and
    deleted ones that are kept for snapshots or by a retention; only what no current tensor shares with them is counted.

    Garbage is what deleted, replaced and edited tensors still take; tensorus gc DIR --now frees it at once. Chunks
    that edits have overwritten are not shown while their file has others that are needed.

    \b
    Example:
      tensorus df
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store, reads=True) as client:
        found = client.store_stats()
    if as_json:
        print_json(found)
        return
    print_text(f"{counted(found.tensors, 'tensor')} in {counted(found.datasets, 'dataset')}")
    print_text("")
    print_table(
        ["", ">values", ">stored"],
        [
            ("each tensor by itself", human_bytes(found.canonical_bytes), human_bytes(found.stored_bytes)),
            ("equal bytes once", human_bytes(found.unique_bytes), human_bytes(found.unique_stored_bytes)),
        ],
    )
    print_text("")
    print_fields(_fields(found))


def _fields(stats: StoreStats) -> Iterator[tuple[str, str]]:
    past = counted(stats.past_tensors, "replaced or deleted tensor")
    yield "past", f"{human_bytes(stats.past_stored_bytes)} of {past}, {counted(stats.snapshots, 'snapshot')}"
    yield "catalogue", f"{human_bytes(stats.catalogue_bytes)}, including small tensors"
    about = "about " if stats.garbage_bytes_estimated else ""
    yield "garbage", _waiting(stats.garbage_payloads, f"{about}{human_bytes(stats.garbage_bytes)}", stats.garbage_until)
    yield (
        "quarantine",
        _waiting(stats.quarantined_payloads, human_bytes(stats.quarantined_bytes), stats.quarantined_until),
    )
    yield "uploads", f"{human_bytes(stats.upload_bytes)} of {counted(stats.uploads, 'unfinished tensor')}"
    if stats.disk_free_bytes is not None and stats.disk_total_bytes is not None:
        yield "free", f"{human_bytes(stats.disk_free_bytes)} of {human_bytes(stats.disk_total_bytes)}"


def _waiting(payloads: int, size: str, until: datetime | None) -> str:
    if until is None:
        return "none"
    return f"{size} in {counted(payloads, 'payload')}, until {until:%Y-%m-%d %H:%M} UTC at the latest"
