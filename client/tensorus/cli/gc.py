"""tensorus gc."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tensorus.cli._engine import engine_errors
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, human_bytes, print_json, print_table, print_text
from tensorus.cli._remote import remote_options, settings_of
from tensorus.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus.cli._remote import RemoteParts
    from tensorus_server.engine.engine import Engine

__all__ = ["gc"]


@dataclass(frozen=True)
class _Held:
    """A payload in quarantine, as it is printed."""

    key: str
    stored_bytes: int
    until: datetime
    why: str


@dataclass(frozen=True)
class _Collected:
    """The result of a collection, as it is printed."""

    deleted: int
    """Payloads of deleted tensors."""
    expired: int
    """Payloads of interrupted inserts that were never resumed."""
    unfinished: int
    """Incomplete payloads of processes that died."""
    moved_to_quarantine: int
    deleted_from_quarantine: int
    packs_deleted: int
    """Objects of an object store that held many small payloads."""
    payloads_moved: int
    """Payloads that were moved to other packs, so that theirs could be deleted."""
    bytes_moved: int


@click.command()
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@remote_options
@click.option("--list", "lists", is_flag=True, help="List the payloads in quarantine.")
@click.option("--restore", metavar="KEY", multiple=True, help="Restore a payload from quarantine; can be repeated.")
@click.option("--restore-all", is_flag=True, help="Restore all payloads from quarantine.")
@click.option(
    "--now",
    is_flag=True,
    help="Free the space of deleted tensors now instead of after an hour. Reads of them that are in progress may fail.",
)
@click.option("--purge", is_flag=True, help="Delete all payloads in quarantine now instead of when they expire.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Open a store that is refused because its catalogue lacks rows. Payloads without a row are quarantined for 7 days. "
    "No server may use the store meanwhile.",
)
@json_option
def gc(
    folder: Path | None,
    restore: tuple[str, ...],
    *,
    remote: RemoteParts,
    lists: bool,
    restore_all: bool,
    now: bool,
    purge: bool,
    accept_loss: bool,
    as_json: bool,
) -> None:
    """Collect the garbage of the store in FOLDER. A server may use the store meanwhile.

    \b
    Examples:
      tensorus gc /srv/tensors
      tensorus gc /srv/tensors --now
      tensorus gc /srv/tensors --list
      tensorus gc --catalogue postgresql://host/db --chunks s3://bucket/prefix

    Payloads of deleted tensors are removed after an hour. Payloads that belong to no tensor are quarantined when they are a
    day old, and deleted a day later. A server does both by itself.
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if sum([lists, bool(restore), restore_all, now or purge or accept_loss]) > 1:
        raise click.UsageError(
            "--list, --restore, --restore-all, and the options that delete (--now, --purge, --accept-loss) cannot be combined"
        )
    if folder is not None and not (folder / "catalogue.db").exists() and not (folder / "chunks").is_dir():
        # Opening it would create a store.
        raise NotFoundError(f"{folder} is not a store", reason="DATASET_NOT_FOUND")
    with _opened(folder, remote, accept_loss=accept_loss) as engine:
        if lists:
            _print_held(_held(engine), as_json=as_json)
        elif restore or restore_all:
            restored = _restore(engine, restore)
            if as_json:
                print_json(restored)
            else:
                print_text(f"{counted(len(restored), 'payload')} restored; to recover their rows, run tensorus recover")
        else:
            _print_collected(_collect(engine, now=now, purge=purge), as_json=as_json)


@contextmanager
def _opened(folder: Path | None, remote: RemoteParts, *, accept_loss: bool) -> Iterator[Engine]:
    """Yield an engine that works on the store; its errors are raised as errors of the client."""
    with engine_errors():
        from tensorus_server.app import open_engine  # noqa: PLC0415 - not part of the thin client

        settings = settings_of(folder, remote, accept_loss=accept_loss, sweeps=False)
        with closing(open_engine(settings)) as engine:
            yield engine


def _held(engine: Engine) -> list[_Held]:
    return [
        _Held(
            entry.key,
            entry.stored_bytes,
            datetime.fromtimestamp(entry.until_s, UTC),
            "belongs to no insert" if entry.key.startswith("uploads/") else "belongs to no tensor",
        )
        for entry in engine.quarantine.entries()
    ]


def _print_held(held: Sequence[_Held], *, as_json: bool) -> None:
    if as_json:
        print_json(held)
        return
    if not held:
        print_text("the quarantine is empty")
        return
    print_table(
        ["key", ">bytes", "deleted from", "why"],
        ((one.key, human_bytes(one.stored_bytes), f"{one.until:%Y-%m-%d %H:%M} UTC", one.why) for one in held),
    )


def _restore(engine: Engine, keys: Sequence[str]) -> list[str]:
    """Restore payloads from quarantine, all of them without keys, and return their keys.

    Raises:
        NotFoundError: a key is not in quarantine; nothing was restored.
    """
    entries = {entry.key: entry for entry in engine.quarantine.entries()}
    for key in keys:
        if key not in entries:
            raise NotFoundError(f"no payload in quarantine has the key {key}", reason="TENSOR_NOT_FOUND")
    chosen = list(dict.fromkeys(keys)) or list(entries)
    for key in chosen:
        engine.quarantine.restore(entries[key])
    return chosen


def _collect(engine: Engine, *, now: bool, purge: bool) -> _Collected:
    swept = engine.sweep(in_grace=now)
    purged = engine.empty_quarantine() if purge else 0
    listing = engine.quarantine_orphans()
    return _Collected(
        *(swept.deleted, swept.expired, swept.unfinished, listing.moved, purged + listing.deleted),
        *(swept.packs, swept.moved, swept.moved_bytes),
    )


def _print_collected(collected: _Collected, *, as_json: bool) -> None:
    if as_json:
        print_json(collected)
        return
    print_text(
        f"{counted(collected.deleted, 'payload')} of deleted tensors removed, {collected.expired:,} of interrupted inserts, "
        f"{collected.unfinished:,} unfinished; {collected.moved_to_quarantine:,} moved to quarantine, "
        f"{collected.deleted_from_quarantine:,} deleted from it"
    )
    if collected.packs_deleted or collected.payloads_moved:
        print_text(
            f"{counted(collected.packs_deleted, 'pack')} removed; {counted(collected.payloads_moved, 'payload')}, "
            f"{human_bytes(collected.bytes_moved)}, moved out of packs that were mostly garbage"
        )
