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


class CommittedStore(ObjectChunkStore):
    """A store whose payloads are committed when they are published: the contract knows no catalogue, which would do that."""

    writes: MemoryWriteLog

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Publish, and take the keys out of the log."""
        keys = super().publish(group)
        assert self.writes.shared.commit(keys, self.writes.member) == []
        return keys


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
