"""tensorus recover."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tensorus.cli._engine import engine_errors
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, print_json, print_table, print_text

if TYPE_CHECKING:
    from tensorus_server.engine.recover import Recovery

__all__ = ["recover"]


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def recover(directory: Path, *, as_json: bool) -> None:
    """Make lost rows of the store in DIRECTORY again, from its payloads.

    For a store whose catalogue is lost, older than its payloads, or damaged. End the server first. Nothing is deleted, and
    intact rows stay as they are; a catalogue that cannot be opened is renamed. Small tensors, of up to 64 KiB stored, were rows
    of the catalogue themselves and cannot come back. Datasets come back with the default policy and without a schema, tensors
    with the metadata that they were inserted with.

    The exit code is 1 where something could not be recovered.

    \b
    Example:
      tensorus recover ./data
    """  # noqa: D301 - click's mark for lines that stay as they are
    with engine_errors():
        from tensorus_server.app import recover_store  # noqa: PLC0415 - not part of the thin client

        recovery = recover_store(directory)
    if as_json:
        print_json(asdict(recovery))
    else:
        _print(recovery)
    if not recovery.is_complete:
        sys.exit(1)


def _print(recovery: Recovery) -> None:
    if recovery.findings:
        print_table(
            ["outcome", "dataset", "id", "file", "reason"],
            (
                (finding.outcome, finding.dataset, finding.id, finding.file, finding.reason)
                for finding in recovery.findings
            ),
        )
    if recovery.moved:
        print_text(f"The catalogue could not be opened; it is kept as {recovery.moved}.")
    if recovery.datasets:
        named = ", ".join(recovery.datasets)
        print_text(f"Datasets made again, with the default policy and without a schema: {named}.")
    for name in recovery.damaged:
        print_text(f"Damaged, and without a payload file to recover it from: {name}.")
    recovered = sum(finding.outcome == "recovered" for finding in recovery.findings)
    print_text(
        f"{counted(recovered, 'tensor')} recovered, {counted(recovery.known, 'payload')} known already. Tensors of up to "
        "64 KiB stored were rows of the catalogue itself: those that it lacks cannot be recovered."
    )
