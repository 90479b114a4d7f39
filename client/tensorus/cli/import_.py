"""tensorus import."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import SIZE, json_option
from tensorus.cli._output import counted, print_json, print_table, print_text, progress_bar, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus.cli._connection import ServerOptions
    from tensorus.old_files import FileReport, ImportSummary

__all__ = ["import_"]

EXIT_DROPPED = 5
"""Exit code if all records were imported, but some metadata or other contents of the files were dropped."""

_LINES_MAX = 20
"""Maximum printed records, and kinds of dropped values; the report has all of them."""


@click.command("import")
@click.argument("old_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME",
    help="Import only this dataset; can be repeated.  [default: all]",
)
@click.option("--dry-run", is_flag=True, help="Read and check everything but store nothing; needs no store.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.json",
    help="Write the outcome of every record to this file.",
)
@click.option(
    "--inflate-limit",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Maximum decompressed size of one tensor; a larger one fails.",
)
@store_options(makes_store=True)
@json_option
def import_(
    old_folder: Path,
    datasets: tuple[str, ...],
    report: Path | None,
    inflate_limit: int,
    server: ServerOptions,
    store: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import the datasets of Tensorus 0.1, the .pt files in OLD_FOLDER.

    The files are read without torch and without running code in them, and do not change. Every dataset keeps its name, ids,
    metadata and order; values are stored losslessly. Damage done by the original is repaired if no information is lost, and
    reported otherwise. Importing again is safe: nothing is stored twice.

    \b
    Examples:
      tensorus import ./tensor_data --dry-run
      tensorus import ./tensor_data --store ./data --report import.json

    \b
    Exit codes:
      0  everything was imported; values may be lossy if Tensorus 0.1 stored them so
      1  something was not imported
      5  all records were imported, but some metadata, or a part of a schema, was dropped
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if report is not None and report.suffix != ".json":
        raise click.BadParameter(f"{report} must end in .json", param_hint="--report")
    from tensorus.old_files.storing import old_files  # noqa: PLC0415 - only this command needs it

    paths = old_files(old_folder, datasets)
    reports: list[FileReport] = []
    try:
        _run(paths, None if dry_run else (server, store), inflate_limit, reports, quiet=as_json)
    finally:
        # Also if the store became unreachable: earlier records were imported.
        summary = _write(reports, report, as_json=as_json)
    if summary.failed or summary.dropped:
        click.get_current_context().exit(1 if summary.failed else EXIT_DROPPED)


def _run(
    paths: Sequence[Path],
    place: tuple[ServerOptions, str | None] | None,
    inflate_limit: int,
    reports: list[FileReport],
    *,
    quiet: bool,
) -> None:
    """Import the files one by one, or only examine them without a place, and append each outcome to `reports`."""
    from tensorus.old_files.storing import examine_file, import_file  # noqa: PLC0415 - see above

    with nullcontext() if place is None else connected(*place) as client, progress_bar(quiet=quiet) as bar:
        task = bar.add_task("", total=sum(path.stat().st_size for path in paths))
        done_bytes = 0
        for path in paths:
            bar.update(task, description=escape(_shown(path.stem)))

            def advance(count: int) -> None:
                bar.advance(task, count)

            if client is None:
                found = examine_file(path, on_bytes=advance, inflated_bytes_max=inflate_limit)
            else:
                found = import_file(client, path, on_bytes=advance, inflated_bytes_max=inflate_limit)
            reports.append(found)
            done_bytes += found.file_bytes
            bar.update(task, completed=done_bytes)


def _write(reports: Sequence[FileReport], file: Path | None, *, as_json: bool) -> ImportSummary:
    """Print and write the reports, and return their summary."""
    from tensorus.old_files.storing import summary_of  # noqa: PLC0415 - see above

    summary = summary_of(reports)
    found = {"datasets": reports, "summary": summary}
    if file is not None:
        file.write_text(json.dumps(to_json(found), indent=2), encoding="utf-8")
    if as_json:
        print_json(found)
    elif reports:
        _print_reports(reports)
        print_text(f"\n{summary}")
    return summary


def _print_reports(reports: Sequence[FileReport]) -> None:
    print_table(
        ["dataset", ">generation", ">records", ">imported", ">present", ">repaired", ">lossy", ">failed"],
        (
            (
                _shown(found.dataset),
                "-" if found.generation is None else str(found.generation),
                f"{len(found.outcomes):,}",
                *(f"{count:,}" for count in found.counts.values()),
            )
            for found in reports
        ),
    )
    for found in reports:
        for note in filter(None, (found.error and f"not imported: {found.error}", *found.notes, *found.left_out)):
            print_text(f"{_shown(found.dataset)}: {_shown(note)}")
    _print_some(
        ["dataset", "id", "what", "why"],
        [
            (found.dataset, outcome.id, outcome.status, outcome.reason)
            for found in reports
            for outcome in found.outcomes
            if not outcome.is_plain
        ],
        "record",
    )
    _print_some(
        ["dataset", "dropped metadata", "where", ">records"],
        [
            (found.dataset, dropped.name, dropped.path, f"{dropped.count:,}")
            for found in reports
            for dropped in found.dropped
        ],
        "kind",
    )


def _print_some(columns: Sequence[str], rows: Sequence[Sequence[str]], noun: str) -> None:
    """Print the first rows, and the number of the others."""
    if not rows:
        return
    print_text("")
    print_table(columns, [list(map(_shown, row)) for row in rows[:_LINES_MAX]])
    if len(rows) > _LINES_MAX:
        print_text(f"... and {counted(len(rows) - _LINES_MAX, noun)} more; --report FILE.json has all of them")


def _shown(text: str) -> str:
    """Return a text from the file with unprintable characters escaped, such as terminal control sequences."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
