"""Faults at the seams of an engine: between it and SQLite, its chunk store, its codecs, and its own background work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tensorus_server.catalogue.sqlite import database
from tensorus_server.chunk_store import local, local_payloads
from tensorus_server.engine import collection as collection_module
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.insert import delta_base, edit_writer, small_tensors, tensor_writer

__all__ = ["SEAMS", "Seams"]

_CHUNK_STORE: dict[str, tuple[type, str]] = {
    "chunk store: space": (local.LocalChunkStore, "require_space"),
    "chunk store: begin": (local.LocalChunkStore, "begin"),
    "chunk store: append": (local._LocalWriter, "append"),
    "chunk store: keep": (local._LocalWriter, "keep"),
    "chunk store: keep, later": (local._LocalWriter, "_keep"),
    "chunk store: finish": (local._LocalWriter, "finish"),
    "chunk store: drop unfinished": (local._LocalWriter, "drop"),
    "chunk store: publish": (local.LocalChunkStore, "publish"),
    "chunk store: drop": (local.LocalChunkStore, "drop"),
    "chunk store: delete": (local.LocalChunkStore, "delete"),
    "chunk store: open": (local.LocalChunkStore, "open"),
    "chunk store: read": (local_payloads.LocalReader, "read"),
}

_CLOSING = {"drop"}
"""What lets go of something: that happens, and then it fails."""

_CATALOGUE = (
    "catalogue: read",
    "catalogue: begin",
    "catalogue: statement",
    "catalogue: commit",
    "catalogue: roll back",
    "catalogue: checkpoint",
)

SEAMS = (*_CATALOGUE, *_CHUNK_STORE, "codec", "codec pool", "sweep")


class Seams:
    """Calls pass through here, and fail where they are told to. Safe in many threads."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between what is opened from now on and what it is built on."""
        self._lock = threading.Lock()
        self._seam = ""
        self._error: BaseException | None = None
        self._times = 0
        self.raised = 0
        """Faults so far."""
        for seam, (owner, method) in _CHUNK_STORE.items():
            guarded = self._failing_late if method in _CLOSING else self._guarded
            patch.setattr(owner, method, guarded(seam, getattr(owner, method)))
        for module in (small_tensors, tensor_writer, edit_writer, delta_base):
            patch.setattr(module, "encode_chunk", self._guarded("codec", module.encode_chunk))
        patch.setattr(CodecPool, "submit", self._guarded("codec pool", CodecPool.submit))
        patch.setattr(collection_module, "sweep", self._guarded("sweep", collection_module.sweep))
        connect = database.connect
        patch.setattr(
            database, "connect", lambda path, *, create: _Connection(connect(path, create=create), self, create)
        )

    def fail(self, seam: str, error: BaseException, times: int) -> None:
        """Let the next `times` calls at `seam` raise `error`."""
        with self._lock:
            self._seam, self._error, self._times, self.raised = seam, error, times, 0

    def heal(self) -> None:
        """Let everything work again."""
        with self._lock:
            self._times = 0

    def pass_through(self, seam: str) -> None:
        """Raise what is to be raised at this seam."""
        with self._lock:
            if seam != self._seam or self._times <= 0:
                return
            self._times -= 1
            self.raised += 1
            assert self._error is not None
            error = self._error
        raise error

    def _guarded(self, seam: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            self.pass_through(seam)
            return call(*arguments, **named)

        return guarded

    def _failing_late(self, seam: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **named: Any) -> Any:
            call(*arguments, **named)
            self.pass_through(seam)

        return failing


class _Connection:
    """A connection to SQLite whose statements pass through the seams."""

    def __init__(self, connection: Any, seams: Seams, writes: bool) -> None:  # noqa: FBT001 - of this module alone
        self._connection = connection
        self._seams = seams
        self._writes = writes

    def execute(self, statement: str, *arguments: Any) -> Any:
        self._seams.pass_through(self._seam_of(statement))
        return self._connection.execute(statement, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        self._seams.pass_through("catalogue: statement")
        return self._connection.executemany(*arguments)

    def wal_checkpoint(self, **named: Any) -> Any:
        self._seams.pass_through("catalogue: checkpoint")
        return self._connection.wal_checkpoint(**named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _seam_of(self, statement: str) -> str:
        if not self._writes:
            return "catalogue: read"
        found = {"BEGIN IMMEDIATE": "begin", "COMMIT": "commit", "ROLLBACK": "roll back"}.get(statement, "statement")
        return f"catalogue: {found}"
