"""tensorus snapshot, snapshots, drop-snapshot, restore and retention."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import AT, DURATION, json_option
from tensorus.cli._output import counted, human_duration, print_error, print_json, print_table, print_text
from tensorus.errors import NewerTensorsError

if TYPE_CHECKING:
    from datetime import timedelta

    from tensorus.cli._connection import ServerOptions
    from tensorus.errors import DataCorruptError
    from tensorus.types import At

__all__ = ["drop_snapshot", "restore", "retention", "snapshot", "snapshots"]


@click.command()
@click.argument("dataset")
@click.argument("name")
@store_options()
def snapshot(dataset: str, name: str, server: ServerOptions, store: str | None) -> None:
    """Give the current state of DATASET a name, under which it stays readable.

    Nothing is copied. What is replaced or deleted later is kept until the snapshot is dropped. NAME must not be all digits or
    look like a time, so that it can be told from a generation and a time, and must contain neither '@' nor '/'.

    \b
    Example:
      tensorus snapshot weights before-pruning
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        made = client.snapshot(dataset, name)
    print_text(f"snapshot {made.name} of {made.dataset}, generation {made.generation}")


@click.command()
@click.argument("dataset")
@store_options()
@json_option
def snapshots(dataset: str, server: ServerOptions, store: str | None, *, as_json: bool) -> None:
    """List the snapshots of DATASET, oldest first.

    Damaged snapshots are named last, and the exit code is then 1.

    \b
    Example:
      tensorus snapshots weights
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    damages: list[DataCorruptError] = []
    with connected(server, store, reads=True) as client:
        found = client.snapshots(dataset, on_damaged=damages.append)
    if as_json:
        print_json(found)
    else:
        print_table(
            ["snapshot", ">generation", "created"],
            ((one.name, str(one.generation), one.created.isoformat(sep=" ", timespec="seconds")) for one in found),
        )
    for error in damages:
        print_error(error)
    if damages:
        sys.exit(1)


@click.command()
@click.argument("dataset")
@click.argument("name")
@store_options()
def drop_snapshot(dataset: str, name: str, server: ServerOptions, store: str | None) -> None:
    """Drop the snapshot NAME of DATASET. What only it needed is deleted.

    \b
    Example:
      tensorus drop-snapshot weights before-pruning
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        client.drop_snapshot(dataset, name)
    print_text(f"snapshot {name} of {dataset} dropped")


@click.command()
@click.argument("dataset")
@click.argument("state", type=AT)
@click.option(
    "--discard-newer",
    is_flag=True,
    help="Also restore if that loses tensors that neither a snapshot nor the retention keeps.",
)
@store_options()
@json_option
def restore(
    dataset: str, state: At, server: ServerOptions, store: str | None, *, discard_newer: bool, as_json: bool
) -> None:
    """Make the tensors of DATASET those of an earlier STATE, all at once.

    STATE is the name of a snapshot, a generation (digits), or a time such as 2026-01-31T12:00 (local time) or
    2026-01-31T12:00Z. Tensors that the state does not have are deleted. Others come back under new generations.

    \b
    Examples:
      tensorus restore weights before-pruning
      tensorus restore weights 2026-01-31T12:00 --discard-newer
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        try:
            report = client.restore(dataset, state, discard_newer=discard_newer)
        except NewerTensorsError as error:
            raise NewerTensorsError(
                f"{error}: `tensorus snapshot {dataset} NAME`, or --discard-newer",
                reason=error.reason,
                facts=error.facts,
            ) from error
    if as_json:
        print_json(report)
    else:
        print_text(
            f"{counted(report.restored, 'tensor')} brought back, {report.deleted:,} deleted, "
            f"{report.unchanged:,} unchanged: the state of generation {report.generation}"
        )


@click.command()
@click.argument("dataset")
@click.argument("duration", type=DURATION, required=False)
@store_options()
def retention(dataset: str, duration: timedelta | None, server: ServerOptions, store: str | None) -> None:
    """Show or set how long tensors of DATASET stay readable after they were replaced, changed or deleted.

    DURATION is a number with a unit: 90s, 30m, 12h, 7d, 4w. With 0, only snapshots keep tensors. A shorter retention
    also applies to what was replaced and deleted before, which is then deleted for good.

    \b
    Examples:
      tensorus retention weights
      tensorus retention weights 7d
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store) as client:
        info = client.dataset(dataset) if duration is None else client.update_dataset(dataset, retention=duration)
    print_text(f"{dataset}: {human_duration(info.retention)}")
