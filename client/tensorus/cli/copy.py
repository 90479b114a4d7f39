"""tensorus copy."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from tensorus._arguments import at_of
from tensorus._moving.copying import CopyOptions, copy_datasets
from tensorus.cli._options import AT, json_option
from tensorus.cli._output import TransferBar, counted, human_bytes, print_json, print_note, print_table, print_text
from tensorus.cli._places import opened, places_of, require_store

if TYPE_CHECKING:
    from datetime import datetime

    from tensorus._moving.report import CopyReport, DatasetCopy
    from tensorus.cli._places import Place

__all__ = ["copy"]

_PROBLEMS_MAX = 20
"""Problems that are printed; --json prints up to 1,000."""


@click.command()
@click.argument("src")
@click.argument("dst")
@click.option(
    "--dataset", "datasets", multiple=True, metavar="NAME", help="Copy this dataset; can be repeated.  [default: all]"
)
@click.option("--as", "new_name", metavar="NAME", help="Name of the dataset in DST; with one --dataset.")
@click.option("--prefix", default="", help="Copy only tensors whose ids begin with it.")
@click.option(
    "--at",
    type=AT,
    metavar="STATE",
    help="Copy an earlier state: the name of a snapshot, a generation, or a time. Generations and names need one --dataset.",
)
@click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Replace what DST has under the same ids, and settings of datasets that differ.",
)
@click.option("--verify", is_flag=True, help="Then let DST read every copied dataset again and verify all checksums.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Large tensors, or batches of small ones, to copy at a time.",
)
@json_option
def copy(
    src: str,
    dst: str,
    datasets: tuple[str, ...],
    new_name: str | None,
    prefix: str,
    at: str | int | datetime | None,
    threads: int,
    *,
    replaces: bool,
    verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy datasets from the store SRC to the store DST. Both are HOST:PORT of a server, or the folder of a store.

    Several servers of one store are named as a:7733,b:7733. With TLS, a server is grpcs://HOST:7733. profile:NAME is the server
    of a profile in ~/.config/tensorus/config.toml, with its token and its certificates. If both are servers, TENSORUS_TOKEN is
    used only for the one that TENSORUS_ADDRESS names. A store beyond one machine can also be named by its parts, as
    postgresql://HOST/DATABASE,s3://BUCKET/PREFIX.

    Tensors that DST has already are skipped. So a copy that was interrupted goes on when it is repeated, and a repeated copy
    brings what is new. A tensor that DST has with other values or metadata is reported and kept, unless --replace is given.

    The copies have the values that SRC returns, exactly, and their ids and metadata. They are encoded anew, so those of lossy
    tensors may be larger than the originals. Snapshots and earlier states are not copied.

    The exit code is 1 if a tensor could not be copied.

    \b
    Examples:
      tensorus copy localhost:7733 ./copy
      tensorus copy ./data gpu-server:7733 --dataset weights --as weights-before
      tensorus copy old:7733 new:7733 --verify
      tensorus copy profile:old profile:new
      tensorus copy ./data postgresql://host/db,s3://bucket/prefix
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    from_place, to_place = places_of(src, dst)
    _require_two(from_place, to_place)
    if new_name is not None and len(set(datasets)) != 1:
        raise click.UsageError("--as needs exactly one --dataset")
    if isinstance(at, (str, int)) and len(set(datasets)) != 1:
        raise click.UsageError("--at with a snapshot or a generation needs exactly one --dataset: each has its own")
    options = CopyOptions(
        datasets, new_name, prefix, at_of(at), replaces=replaces, dry_run=dry_run, verify=verify, threads=threads
    )
    bar = TransferBar("comparing" if dry_run else "copying", quiet=as_json)
    with ExitStack() as stack:
        stack.enter_context(bar)
        # First, so that no folder is created for the destination if the source does not answer, or lacks a dataset.
        from_client = stack.enter_context(opened(from_place, bar.connection_lost, reads=True))
        for name in datasets:
            from_client.dataset(name)
        to_client = None
        if to_place.folder is None or to_place.folder.exists() or not dry_run:
            to_client = stack.enter_context(opened(to_place, bar.connection_lost, reads=dry_run))
        # The copy works on what is below both clients: bytes instead of arrays.
        report = copy_datasets(
            from_client._backend,  # noqa: SLF001
            None if to_client is None else to_client._backend,  # noqa: SLF001
            options,
            on_progress=bar.show,
        )
    if as_json:
        print_json(report)
    else:
        _print(report)
    if not report.is_complete:
        sys.exit(1)


def _require_two(source: Place, destination: Place) -> None:
    """Refuse a source that is no store, a destination that is the source, and one that has other files."""
    if source.is_same(destination):
        raise click.UsageError(
            f"SRC and DST are the same store, {source}; `tensorus cp` copies tensors and datasets within a store"
        )
    if source.folder is not None:
        require_store(source.folder)
    folder = destination.folder
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        require_store(folder)


def _print(report: CopyReport) -> None:
    print_table(
        ["dataset", ">copied", ">present", ">conflicts", ">failed", ">size", ">stored before", ">stored"],
        map(_cells, report.datasets),
    )
    for problem in report.problems[:_PROBLEMS_MAX]:
        print_note(f"{problem.dataset}/{problem.id}: {problem.message}")
    problems = sum(one.conflict + one.failed for one in report.datasets)
    if problems > _PROBLEMS_MAX:
        print_note(f"and {counted(problems - _PROBLEMS_MAX, 'tensor')} more that could not be copied")
    for one in report.datasets:
        for note in one.notes:
            print_note(note)
        if one.gone:
            print_note(f"{counted(one.gone, 'tensor')} of {one.source} were deleted from the source meanwhile")
        if one.snapshots:
            print_note(f"{counted(one.snapshots, 'snapshot')} of {one.source} and its earlier states were not copied")
    if any(one.conflict for one in report.datasets):
        print_note("the destination has other tensors under the ids of conflicts; --replace replaces them")
    if report.dry_run:
        print_text("nothing was stored, because of --dry-run")
    elif report.verified and report.is_complete:
        print_text("every copied dataset was read again in the destination: no damage")


def _cells(one: DatasetCopy) -> tuple[str, ...]:
    name = one.source if one.source == one.destination else f"{one.source} as {one.destination}"
    copied = one.copied + one.shared + one.replaced + one.updated
    return (
        name,
        f"{copied:,}",
        f"{one.present:,}",
        f"{one.conflict:,}",
        f"{one.failed:,}",
        human_bytes(one.canonical_bytes),
        human_bytes(one.source_stored_bytes),
        human_bytes(one.stored_bytes),
    )
