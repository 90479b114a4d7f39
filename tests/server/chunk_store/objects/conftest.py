"""Stores on SeaweedFS, each below a prefix of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")

from obstore.store import S3Store

from contract.chunk_store_raw_objects import RawObjects
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, new_prefix, shared_seaweed
from support.write_log import MemoryWriteLog, SharedLog
from tensorus_server.chunk_store.abc import StagedPayload
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.payload_keys import PackedKey, parse_key


class CommittedStore(ObjectChunkStore):
    """A store that also does what a catalogue and its sweep do: the contract knows neither."""

    writes: MemoryWriteLog

    def __init__(self, url: str, *, writes: MemoryWriteLog, **options: Any) -> None:
        super().__init__(url, writes=writes, **options)
        self._needed: dict[str, set[str]] = {}

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Publish, and take the keys out of the log."""
        keys = super().publish(group)
        assert self.writes.shared.commit(keys, self.writes.number) == []
        for key in keys:
            if isinstance(parsed := parse_key(key), PackedKey):
                self._needed.setdefault(parsed.pack, set()).add(key)
        return keys

    def delete(self, key: str) -> None:
        """Delete, and delete the pack in which nothing is needed any more: what the sweep of packs does."""
        super().delete(key)
        parsed = parse_key(key)
        if isinstance(parsed, PackedKey) and parsed.pack in self._needed:
            needed = self._needed[parsed.pack]
            needed.discard(key)
            if not needed:
                self.packs.delete_pack(parsed.pack)


MakeStore = Callable[..., CommittedStore]


@pytest.fixture(scope="session")
def seaweed() -> Seaweed:
    """The server that all tests of this process share."""
    return shared_seaweed()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user of that server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture
def prefix() -> str:
    """Below which the test's objects are."""
    return new_prefix()


@pytest.fixture
def log() -> SharedLog:
    """The log that all stores of a test share, as the processes of one store do."""
    return SharedLog()


@pytest.fixture
def make_store(seaweed: Seaweed, prefix: str, log: SharedLog) -> Iterator[MakeStore]:
    """Makes stores on the same objects, each for a member of its own."""
    made: list[CommittedStore] = []

    def make(**options: Any) -> CommittedStore:
        made.append(CommittedStore(options.pop("url", seaweed.url(prefix)), writes=MemoryWriteLog(log), **options))
        return made[-1]

    yield make
    for store in made:
        assert store.close(10)
        assert store._parts.budget.taken == 0


@pytest.fixture
def raw(seaweed: Seaweed, prefix: str, log: SharedLog) -> RawObjects:
    """The objects behind the stores of `make_store`."""
    store = S3Store(
        "tensorus",
        prefix=prefix,
        endpoint=seaweed.endpoint,
        region="us-east-1",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
    )
    return RawObjects(store, log)
