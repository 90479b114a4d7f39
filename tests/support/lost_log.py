"""Catalogues that lost their log: whether what was acknowledged is missing, and whether an opening notices."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw

from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import StoredKey
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import StoreIdentity


def payload_of(tensor_id: str, length: int) -> bytes:
    """Return what these tensors have as their payload: their id, again and again."""
    return (tensor_id.encode() * length)[:length]


class FrozenPayloads:
    """What an opening sees of a chunk store whose identity is this; the chunk store itself hears nothing of it."""

    def __init__(self, identity: StoreIdentity | None) -> None:
        """Take the identity."""
        self._identity = identity

    def read_identity(self) -> StoreIdentity | None:
        """See `ChunkStore`."""
        return self._identity

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `ChunkStore`."""
        self._identity = identity

    def published(self) -> Iterator[StoredKey]:
        """See `ChunkStore`."""
        yield StoredKey("00/" + "0" * 32, 0.0)


def check_lost_log(folder: Path, copy: Path, identity: StoreIdentity | None, acknowledged: set[str]) -> bool:
    """Check that a copy without the log is refused if it lacks anything, and that a copy with the log opens and lacks nothing.

    Args:
        folder: of a store, whatever state it is in; it stays as it is.
        copy: where copies may be made; nothing is there.
        identity: what the chunk store says.
        acknowledged: the ids of tensors of the dataset "dataset" that somebody was told of.

    Returns:
        Whether the copy without the log was refused.
    """
    copy.mkdir()
    for name in ("catalogue.db", "catalogue.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy / name)
    whole = SqliteCatalogue(copy, payloads=FrozenPayloads(identity))
    assert acknowledged <= _ids(whole), "the log does not hold what was acknowledged"
    whole.close()
    shutil.rmtree(copy)

    copy.mkdir()
    shutil.copy(folder / "catalogue.db", copy / "catalogue.db")
    try:
        without = SqliteCatalogue(copy, payloads=FrozenPayloads(identity))
    except (StoreUnavailableError, apsw.Error):
        return True
    else:
        missing = acknowledged - _ids(without)
        assert not missing, f"{missing} is missing, and nobody noticed"
        without.close()
        return False
    finally:
        shutil.rmtree(copy)


def _ids(catalogue: SqliteCatalogue) -> set[str]:
    with catalogue._database.read() as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchall()[0]
        assert found == "ok", f"{found}: the database is damaged, and nobody noticed"
        rows = connection.execute("SELECT id, bytes FROM tensor JOIN payload USING (seq)").fetchall()
    return {tensor_id for tensor_id, payload in rows if payload == payload_of(tensor_id, len(payload))}
