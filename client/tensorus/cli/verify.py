"""tensorus verify."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import SIZE, json_option
from tensorus.cli._output import TransferBar, counted, human_bytes, print_json, print_table, print_text

if TYPE_CHECKING:
    from tensorus.cli._connection import ServerOptions
    from tensorus.types import Damage, VerifyProgress, VerifyReport

__all__ = ["print_report", "verify"]


@click.command()
@click.argument("dataset", required=False)
@click.argument("ids", nargs=-1)
@store_options()
@click.option(
    "--bytes-per-second",
    type=SIZE,
    metavar="SIZE",
    help="Read at most so many stored bytes per second. Default: no limit.",
)
@json_option
def verify(
    dataset: str | None,
    ids: tuple[str, ...],
    server: ServerOptions,
    store: str | None,
    *,
    bytes_per_second: int | None,
    as_json: bool,
) -> None:
    """Verify every checksum of DATASET, of its tensors with these IDS, or of the whole store.

    The server reads everything that is stored again. Nothing is changed, and others can use the store meanwhile. The exit code
    is 1 if something is damaged.

    \b
    Examples:
      tensorus verify
      tensorus verify weights --bytes-per-second 50MiB
      tensorus verify weights layer1.q layer1.k
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    bar = TransferBar("verifying", quiet=as_json)

    def show(progress: VerifyProgress) -> None:
        bar.show(progress.stored_bytes, progress.total_stored_bytes)

    with bar, connected(server, store, bar.connection_lost, reads=True) as client:
        report = client.verify(dataset, ids or None, max_bytes_per_second=bytes_per_second, on_progress=show)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    if not report.is_intact:
        sys.exit(1)


def print_report(report: VerifyReport) -> None:
    """Print the damages that were found, and what was verified."""
    if report.damages:
        print_table(["dataset", "id", ">generation", ">chunk", "file", "damage"], map(_cells, report.damages))
        print_text("")
    more = report.damage_count - len(report.damages)
    if more:
        print_text(f"and {counted(more, 'damage')} more")
    found = "no damage" if report.is_intact else counted(report.damage_count, "damage")
    in_tensors = f" in {counted(report.damaged_tensors, 'tensor')}" if report.damaged_tensors else ""
    print_text(
        f"{counted(report.tensors, 'tensor')} verified, {human_bytes(report.stored_bytes)} stored: {found}{in_tensors}"
    )
    if report.undecoded_tensors:
        print_text(
            f"{counted(report.undecoded_tensors, 'tensor')} verified without decoding: a codec is not installed where they "
            "are stored"
        )
    if report.orphans:
        print_text(f"{counted(report.orphans, 'payload')} that no tensor refers to; the server removes them by itself")


def _cells(damage: Damage) -> tuple[str, ...]:
    return (
        damage.dataset,
        damage.id or "",
        "" if damage.generation is None else str(damage.generation),
        "" if damage.chunk is None else str(damage.chunk),
        damage.file,
        damage.message,
    )
