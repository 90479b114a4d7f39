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
from tensorus.cli._remote import remote_options, settings_of

if TYPE_CHECKING:
    from tensorus.cli._remote import RemoteParts
    from tensorus_server.engine.recover import Recovery

__all__ = ["recover"]


@click.command()
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@remote_options
@json_option
def recover(directory: Path | None, *, remote: RemoteParts, as_json: bool) -> None:
    """Recover lost catalogue rows of a store from its payloads.

    Use it if the catalogue in DIRECTORY is lost, damaged, or older than the payloads. Stop the server first. Nothing is
    deleted, and intact rows do not change; a catalogue that cannot be opened is renamed. Small tensors and small
    edits (up to 64 KiB stored) cannot be recovered, because they exist only in the catalogue, nor can snapshots, copies and
    names given later. Datasets are recovered with the default policy, without a schema and without a retention, tensors
    with the metadata of their insert.

    The exit code is 1 if something could not be recovered.

    \b
    Examples:
      tensorus recover ./data
      tensorus recover --catalogue postgresql://host/db --chunks s3://bucket/prefix
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with engine_errors():
        from tensorus_server.app import recover_store  # noqa: PLC0415 - not part of the thin client

        recovery = recover_store(settings_of(directory, remote))
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
        print_text(f"The catalogue could not be opened; it was renamed to {recovery.moved}.")
    if recovery.datasets:
        named = ", ".join(recovery.datasets)
        print_text(f"Datasets recreated with the default policy and without a schema: {named}.")
    for name in recovery.damaged:
        print_text(f"Damaged, without a payload file to recover from: {name}.")
    if recovery.repaired:
        print_text(f"{counted(recovery.repaired, 'payload')} found in newer packs than the catalogue knew.")
    recovered = sum(finding.outcome == "recovered" for finding in recovery.findings)
    print_text(
        f"{counted(recovered, 'tensor')} recovered, {counted(recovery.known, 'payload')} already known. Tensors and "
        "edits of up to 64 KiB stored exist only in the catalogue; lost ones cannot be recovered."
    )
