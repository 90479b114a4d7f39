"""Checks a catalogue when it is opened, before it is used, and makes its files private.

The caller holds the lock on `writer.lock`.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from tensorus_server.catalogue.identity_check import CatalogueState, require_match
from tensorus_server.catalogue.sqlite.epoch import read_identity
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    import apsw

    from tensorus_server.catalogue.identity_check import FoundPayloads, Payloads

__all__ = ["accept_loss", "require_no_payloads", "require_payloads", "secure_files"]

_IDENTITY_SINCE, _REFERENCES_SINCE, _HISTORY_SINCE = 4, 9, 10
"""The schema versions that introduced identities, references, and past tensors with payloads that others need."""

_UNKNOWN = """
SELECT value FROM json_each(?)
WHERE NOT EXISTS (SELECT 1 FROM tensor WHERE key = value AND inline = 0)
  AND NOT EXISTS (SELECT 1 FROM tombstone WHERE key = value)
"""

_UNREFERENCED = "  AND NOT EXISTS (SELECT 1 FROM reference WHERE key = value)"
_NO_BASES = "  AND NOT EXISTS (SELECT 1 FROM payload_base WHERE base = value)"
_NOT_PAST = "  AND NOT EXISTS (SELECT 1 FROM past_tensor WHERE key = value AND inline = 0)"

_NEW = CatalogueState(is_new=True, identity=None, has_payloads=lambda: False, unknown=set)

_log = logging.getLogger(__name__)


def require_no_payloads(path: Path, payloads: FoundPayloads) -> None:
    """Refuse to create a catalogue next to existing payloads, whose own catalogue is then missing. Changes nothing.

    Raises:
        StoreUnavailableError: the file at `path` does not exist or is empty, and payloads or an identity exist.
    """
    try:
        is_new = path.stat().st_size == 0
    except FileNotFoundError:
        is_new = True
    if is_new:
        require_match(path.parent, _NEW, payloads)


def require_payloads(folder: Path, connection: apsw.Connection, version: int, payloads: FoundPayloads) -> None:
    """Refuse a catalogue that does not match the payloads. Changes nothing.

    Args:
        version: the schema version; 0: the catalogue is new.

    Raises:
        StoreUnavailableError: see `require_match`.
    """
    require_match(folder, _state(connection, version), payloads)


def accept_loss(folder: Path, connection: apsw.Connection, version: int, payloads: Payloads) -> None:
    """Give the store a new id, within the connection's transaction, if catalogue and payloads do not match.

    If the lost catalogue is found later, its id no longer matches. That is intended, because some of its payloads may be gone.
    """
    try:
        require_match(folder, _state(connection, version), payloads)
    except StoreUnavailableError:
        _log.warning("the catalogue and the payloads in %s do not match: the store gets a new id", folder)
        connection.execute("UPDATE store SET id = ?, epoch = epoch + 1", (secrets.token_hex(16),))


def secure_files(path: Path) -> None:
    """Make the catalogue's files readable by their owner only; SQLite gives the log the mode of the database.

    A missing database is created here. An existing one is not opened, because closing it would release the POSIX locks that
    this process's SQLite connections hold on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        # The modes of another user's files are not ours to change.
        with suppress(FileNotFoundError, PermissionError):
            path.with_name(name).chmod(0o600)


def _state(connection: apsw.Connection, version: int) -> CatalogueState:
    if version == 0:
        return _NEW

    def unknown(keys: list[str]) -> set[str]:
        statement = _UNKNOWN + (_UNREFERENCED if version >= _REFERENCES_SINCE else "")
        statement += _NOT_PAST + _NO_BASES if version >= _HISTORY_SINCE else ""
        return {key for (key,) in connection.execute(statement, (json.dumps(keys),))}

    def has_payloads() -> bool:
        tables = ("tensor", "past_tensor") if version >= _HISTORY_SINCE else ("tensor",)
        return any(connection.execute(f"SELECT 1 FROM {table} WHERE inline = 0 LIMIT 1").fetchall() for table in tables)

    identity = read_identity(connection) if version >= _IDENTITY_SINCE else None
    return CatalogueState(is_new=False, identity=identity, has_payloads=has_payloads, unknown=unknown)
