"""Replicas: engines on one store that know each other through the catalogue alone, as processes on several machines do.

Their payloads are in a local folder here, which plays no part in who may do what.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.catalogue_sessions import CatalogueSessions
from tensorus_server.engine.insert.lease_locks import LeaseLocks
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.engine.membership import Membership


@contextmanager
def replica_on(folder: Path, name: str, *, sweeps: bool = False, delete_grace_s: float = 3600.0) -> Iterator[Engine]:
    """Open an engine in `folder` that is a member of its store."""
    folder.mkdir(exist_ok=True)
    chunk_store = LocalChunkStore(folder)
    catalogue = SqliteCatalogue(folder, payloads=chunk_store, delete_grace_s=delete_grace_s)
    membership = Membership(catalogue.members, name)
    engine = Engine(
        catalogue,
        chunk_store,
        CodecPool(2),
        InsertSessions(CatalogueSessions(membership)),
        TensorLocks(LeaseLocks(membership)),
        membership=membership,
        sweeps=sweeps,
    )
    try:
        yield engine
    finally:
        engine.close()
