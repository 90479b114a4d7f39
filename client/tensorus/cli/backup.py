"""tensorus backup: its commands create, verify and restore."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tensorus
from tensorus._version import __version__
from tensorus.cli._engine import engine_errors
from tensorus.cli._options import json_option
from tensorus.cli._output import TransferBar, counted, human_bytes, print_error, print_json, print_text
from tensorus.cli._places import require_store
from tensorus.cli.verify import print_report
from tensorus.errors import NotFoundError

if TYPE_CHECKING:
    from tensorus.types import VerifyProgress, VerifyReport
    from tensorus_server.backup.create import BackupReport
    from tensorus_server.backup.manifest import Manifest
    from tensorus_server.backup.restoring import RestoreReport

__all__ = ["backup"]

_FOLDER = click.Path(file_okay=False, path_type=Path)

_COPY = click.option(
    "--copy",
    "copies",
    is_flag=True,
    help="Copy payloads even where hard links are possible, which share the disk's blocks.",
)


@click.group()
def backup() -> None:
    """Back up the store in a folder while servers use it, verify backups, and restore them.

    A backup is a folder with the same files as a store. It has everything that was acknowledged before it began. On the same
    file system, payloads are hard links: they take no space, and protect against mistakes but not against the loss of the disk.

    \b
    Examples:
      tensorus backup create /srv/tensors /backup/tensors
      tensorus backup verify /backup/tensors
      tensorus backup restore /backup/tensors /srv/restored
    """  # noqa: D301 - click's mark for lines that are not rewrapped


@backup.command()
@click.argument("store", type=_FOLDER)
@click.argument("folder", type=_FOLDER)
@_COPY
@json_option
def create(store: Path, folder: Path, *, copies: bool, as_json: bool) -> None:
    """Back up the store in the folder STORE to FOLDER, or bring the backup in FOLDER up to date.

    Servers and other processes can use the store meanwhile. FOLDER is a new or empty folder, or has a backup of the same store:
    then only payloads that it lacks are brought, and those that are no longer needed are removed at the end. If the command is
    interrupted, the backup that was there before is intact; run it again.

    \b
    Examples:
      tensorus backup create /srv/tensors /backup/tensors
      tensorus backup create ./data /mnt/usb/data --json
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    require_store(store)
    bar = TransferBar("backing up", quiet=as_json)
    with bar, engine_errors():
        from tensorus_server.backup.create import create_backup  # noqa: PLC0415 - not part of the thin client

        report = create_backup(store, folder, version=__version__, links=not copies, on_progress=bar.show)
    if as_json:
        print_json(report)
    else:
        _print_made(report)


@backup.command("verify")
@click.argument("folder", type=_FOLDER)
@json_option
def verify_(folder: Path, *, as_json: bool) -> None:
    """Verify every checksum of the backup in FOLDER, as `tensorus verify` does of a store. The backup is not changed.

    The exit code is 1 if something is damaged or missing.

    \b
    Example:
      tensorus backup verify /backup/tensors
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    _require_folder(folder)
    bar = TransferBar("verifying", quiet=as_json)
    with bar, engine_errors():
        from tensorus_server.backup.checking import missing_payloads, opened_copy  # noqa: PLC0415 - as above
        from tensorus_server.backup.folders import complete_backup  # noqa: PLC0415

        manifest = complete_backup(folder)
        missing = missing_payloads(folder)
        with opened_copy(folder) as place:
            report = _verified(place, bar)
    if as_json:
        print_json({"manifest": manifest, "missing": missing, "report": report})
    else:
        _print_held(manifest)
        print_report(report)
        for file in missing:
            print_error(ValueError(f"{file} is missing or too short"))
    if missing or not report.is_intact:
        sys.exit(1)


@backup.command()
@click.argument("folder", type=_FOLDER)
@click.argument("store", type=_FOLDER)
@_COPY
@json_option
def restore(folder: Path, store: Path, *, copies: bool, as_json: bool) -> None:
    """Make a store in the new or empty folder STORE of the backup in FOLDER.

    A folder that is not empty is refused. If the command is interrupted, run it again. On the same file system, payloads are
    hard links to those of the backup. Tensors inserted into the store, or deleted from it, leave the backup as it is.

    \b
    Example:
      tensorus backup restore /backup/tensors /srv/restored
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    _require_folder(folder)
    bar = TransferBar("restoring", quiet=as_json)
    with bar, engine_errors():
        from tensorus_server.backup.restoring import restore_backup  # noqa: PLC0415 - as above

        report = restore_backup(folder, store, links=not copies, on_progress=bar.show)
    if as_json:
        print_json(report)
    else:
        _print_restored(report)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", reason="STORE_NOT_FOUND")


def _verified(place: Path, bar: TransferBar) -> VerifyReport:
    from tensorus.embedded import EmbeddedBackend  # noqa: PLC0415 - as above
    from tensorus_server.config import EngineConfig  # noqa: PLC0415

    def show(progress: VerifyProgress) -> None:
        bar.show(progress.stored_bytes, progress.total_stored_bytes)

    # Without sweeps, which would remove files of the backup.
    configure = partial(EngineConfig, sweeps=False, reserve_bytes=0, reserve_share=0.0)
    with tensorus.Client(EmbeddedBackend(place, configure)) as client:
        return client.verify(on_progress=show)


def _print_held(manifest: Manifest) -> None:
    past = f" and {manifest.past_tensors:,} of earlier states" if manifest.past_tensors else ""
    print_text(
        f"backup of {manifest.started} by tensorus {manifest.version}: {counted(manifest.datasets, 'dataset')}, "
        f"{counted(manifest.tensors, 'tensor')}{past}, {counted(manifest.payloads, 'payload')} of "
        f"{human_bytes(manifest.payload_bytes)}, catalogue of {human_bytes(manifest.catalogue_bytes)}"
    )


def _print_made(report: BackupReport) -> None:
    _print_held(report.manifest)
    removed = f", {report.removed:,} removed" if report.removed else ""
    print_text(
        f"{counted(report.copied, 'payload')} copied ({human_bytes(report.copied_bytes)}), {report.linked:,} linked, "
        f"{report.present:,} there before{removed}, in {report.seconds:.1f} s"
    )
    if report.linked:
        print_text("linked payloads share the disk with the store: copy the backup to another disk, too")


def _print_restored(report: RestoreReport) -> None:
    _print_held(report.manifest)
    print_text(
        f"restored in {report.folder}: {counted(report.copied, 'payload')} copied ({human_bytes(report.copied_bytes)}), "
        f"{report.linked:,} linked, in {report.seconds:.1f} s"
    )
