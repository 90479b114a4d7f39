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
from tensorus.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    """What became of the garbage, as it is printed."""

    deleted: int
    """Payloads of deleted tensors."""
    expired: int
    """Payloads of inserts that nobody went on with."""
    unfinished: int
    """Payloads that dead processes began."""
    moved_to_quarantine: int
    deleted_from_quarantine: int


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--list", "lists", is_flag=True, help="List the payloads in quarantine.")
@click.option(
    "--restore", metavar="KEY", multiple=True, help="Take a payload out of quarantine; may be given several times."
)
@click.option("--restore-all", is_flag=True, help="Take all payloads out of quarantine.")
@click.option(
    "--now",
    is_flag=True,
    help="Free the space of deleted tensors at once, not after an hour. A read of them that goes on may fail.",
)
@click.option("--purge", is_flag=True, help="Delete all payloads in quarantine at once, not after their time.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Open a store that is refused because its catalogue lacks rows. Payloads that the catalogue does not know go to "
    "quarantine, for 7 days. No server may use the store meanwhile.",
)
@json_option
def gc(
    folder: Path,
    restore: tuple[str, ...],
    *,
    lists: bool,
    restore_all: bool,
    now: bool,
    purge: bool,
    accept_loss: bool,
    as_json: bool,
) -> None:
    """Collect the garbage of the store in FOLDER, also while a server uses it.

    \b
    Examples:
      tensorus gc /srv/tensors
      tensorus gc /srv/tensors --now
      tensorus gc /srv/tensors --list

    Payloads of deleted tensors are removed after an hour. Payloads that belong to nothing go to quarantine when they are a day
    old, and are deleted a day later. A server does both by itself.
    """  # noqa: D301 - click's mark for lines that stay as they are
    if sum([lists, bool(restore), restore_all, now or purge or accept_loss]) > 1:
        raise click.UsageError("--list, --restore, --restore-all and what deletes exclude each other")
    if not (folder / "catalogue.db").exists() and not (folder / "chunks").is_dir():
        # An opening would make one.
        raise NotFoundError(f"there is no store in {folder}", reason="DATASET_NOT_FOUND")
    with _opened(folder, accept_loss=accept_loss) as engine:
        if lists:
            _print_held(_held(engine), as_json=as_json)
        elif restore or restore_all:
            restored = _restore(engine, restore)
            if as_json:
                print_json(restored)
            else:
                print_text(f"{counted(len(restored), 'payload')} restored; rows for them: tensorus recover {folder}")
        else:
            _print_collected(_collect(engine, now=now, purge=purge), as_json=as_json)


@contextmanager
def _opened(folder: Path, *, accept_loss: bool) -> Iterator[Engine]:
    """Lend an engine on the folder; its errors are those of the client."""
    with engine_errors():
        from tensorus_server.app import open_engine  # noqa: PLC0415 - not part of the thin client
        from tensorus_server.config import EngineConfig  # noqa: PLC0415

        with closing(open_engine(EngineConfig(folder, accept_loss=accept_loss, sweeps=False))) as engine:
            yield engine


def _held(engine: Engine) -> list[_Held]:
    return [
        _Held(
            entry.key,
            entry.stored_bytes,
            datetime.fromtimestamp(entry.until_s, UTC),
            "no insert knows it" if entry.key.startswith("uploads/") else "no tensor has it",
        )
        for entry in engine.quarantine.entries()
    ]


def _print_held(held: Sequence[_Held], *, as_json: bool) -> None:
    if as_json:
        print_json(held)
        return
    if not held:
        print_text("nothing is in quarantine")
        return
    print_table(
        ["key", ">bytes", "deleted from", "why"],
        ((one.key, human_bytes(one.stored_bytes), f"{one.until:%Y-%m-%d %H:%M} UTC", one.why) for one in held),
    )


def _restore(engine: Engine, keys: Sequence[str]) -> list[str]:
    """Take payloads out of quarantine, or all of them where no key is given, and return their keys.

    Raises:
        NotFoundError: one is not there; nothing was restored.
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
    listing = engine.set_unknown_aside()
    return _Collected(swept.deleted, swept.expired, swept.unfinished, listing.moved, purged + listing.deleted)


def _print_collected(collected: _Collected, *, as_json: bool) -> None:
    if as_json:
        print_json(collected)
        return
    print_text(
        f"{counted(collected.deleted, 'payload')} of deleted tensors removed, {collected.expired:,} of interrupted inserts, "
        f"{collected.unfinished:,} unfinished; {collected.moved_to_quarantine:,} moved to quarantine, "
        f"{collected.deleted_from_quarantine:,} deleted from it"
    )
