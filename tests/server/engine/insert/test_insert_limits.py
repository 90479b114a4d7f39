"""The bounds of a stream's memory; disks that fill up or fail; the same tensor sent again."""

from __future__ import annotations

import errno
import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import random_bits
from support.engine import Reports, announce, engine_on, insert, read, send
from support.faults import FaultyFiles
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.background import WorkerPool
from tensorus_server.chunk_store.memory import MemoryChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.health import Health
from tensorus_server.engine.insert import items as items_module
from tensorus_server.engine.insert import stream as insert_module
from tensorus_server.engine.insert.committer import Commit
from tensorus_server.engine.insert.items import Batch
from tensorus_server.engine.insert.stream import InsertOptions, InsertServices, InsertStream
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.errors import (
    AlreadyExistsError,
    LimitExceededError,
    StorageFullError,
    StoreUnavailableError,
)
from tensorus_server.limits import OPEN_ITEMS_MAX, UNCOMMITTED_ITEMS_MAX
from tensorus_server.model import Dataset, Schema, Segment

SMALL = random_bits("uint8", (100,))
LARGE = random_bits("uint8", (300_000,))


def segment(item: int, data: bytes, offset: int = 0, *, last: bool = False, tensor: Any = None) -> tuple[Any, ...]:
    """Return what `receive` takes for a piece of an item."""
    return Segment(item, offset, len(data), last, tensor), memoryview(data)


class TestLimits:
    """Memory is bounded: of open items, and of items that wait for their commit."""

    def test_one_item_too_many_open_fails_alone(self, stream: InsertStream, reports: Reports) -> None:
        for number in range(OPEN_ITEMS_MAX + 1):
            stream.receive(*segment(number, bytes(50), tensor=announce(f"{number}", SMALL)))
        error = reports.error(OPEN_ITEMS_MAX)
        assert isinstance(error, LimitExceededError)
        assert str(error) == "16 items of the stream are open, limit is 16 (open_items_max) [dataset=d, tensor=16]"
        assert list(reports.outcomes) == [OPEN_ITEMS_MAX]
        # One that ends makes room for another.
        stream.receive(*segment(3, bytes(50), 50, last=True))
        stream.receive(*segment(OPEN_ITEMS_MAX + 1, bytes(50), tensor=announce("next", SMALL)))
        for number in {*range(OPEN_ITEMS_MAX), OPEN_ITEMS_MAX + 1} - {3}:
            stream.receive(*segment(number, bytes(50), 50, last=True))
        assert stream.finish() == (OPEN_ITEMS_MAX + 1, 1)

    @pytest.mark.parametrize(
        ("array", "count", "limit"),
        [(SMALL, UNCOMMITTED_ITEMS_MAX + 60, UNCOMMITTED_ITEMS_MAX), (LARGE[:70_000], 20, 3)],
        ids=["inline", "files"],
    )
    def test_no_more_items_wait_for_their_commit_than_may(
        self, monkeypatch: pytest.MonkeyPatch, array: np.ndarray[Any, Any], count: int, limit: int
    ) -> None:
        for module in (insert_module, items_module):
            monkeypatch.setattr(module, "UNCOMMITTED_ITEMS_MAX", limit)
        committer = HoldingCommitter(limit)
        pool = CodecPool(1)
        seal_pool = WorkerPool(2, "seal")
        store = MemoryChunkStore()
        services = InsertServices(None, store, pool, committer, seal_pool, Health(), None, TensorLocks(), None)  # type: ignore[arg-type]
        dataset = Dataset(1, "d", StoragePolicy(preset="none"), Schema(), 0)
        stream = InsertStream(dataset, services, Reports(), InsertOptions())
        done = threading.Thread(target=committer.let_go_while_full, args=(count,))
        done.start()
        for number in range(count):
            send(stream, number, f"{number}", array)
        assert stream.finish() == (count, 0)
        done.join()
        assert seal_pool.close(30)
        assert pool.close()
        assert committer.most == limit

    def test_storage_that_fills_up_in_the_middle_fails_the_item_and_the_stream_goes_on(self, tmp_path: Path) -> None:
        files = FaultyFiles()
        with engine_on(tmp_path / "store", files=files) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            reports = Reports()
            stream = engine.open_insert("d", reports)
            files.fail("write_all", errno.ENOSPC, skip=1)
            array = random_bits("uint8", (3_000_000,))
            send(stream, 0, "t", array, cuts=[1_500_000])
            send(stream, 1, "next", array, cuts=[1_500_000])
            assert stream.finish() == (1, 1)
            assert isinstance(reports.error(0), StorageFullError)
            assert np.array_equal(read(engine, "d", "next"), array)
            assert RawFolder(tmp_path / "store").unfinished() == 0

    def test_a_full_disk_refuses_small_items_too(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        def full() -> None:
            raise StorageFullError("free space is 0 bytes")

        monkeypatch.setattr(engine._chunk_store, "require_space", full)
        reports = Reports()
        stream = engine.open_insert("d", reports)
        send(stream, 0, "t", SMALL)
        assert stream.finish() == (0, 1)
        assert isinstance(reports.error(0), StorageFullError)

    @pytest.mark.parametrize("method", ["sync_data", "rename", "sync_folder"])
    def test_a_disk_that_fails_at_the_end_fails_the_item_and_the_stream_goes_on(
        self, tmp_path: Path, method: str
    ) -> None:
        files = FaultyFiles()
        with engine_on(tmp_path / "store", files=files) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            reports = Reports()
            stream = engine.open_insert("d", reports)
            files.fail(method, errno.EIO)
            send(stream, 0, "t", LARGE)
            assert stream.finish() == (0, 1)
            assert isinstance(reports.error(0), StoreUnavailableError)
            assert insert(engine, "d", "t", LARGE).id == "t"
            assert RawFolder(tmp_path / "store").unfinished() == 0


class HoldingCommitter:
    """A committer that commits what came first whenever as many wait as may, and so shows when more do."""

    def __init__(self, limit: int) -> None:
        """Expect at most `limit` at once."""
        self._changed = threading.Condition()
        self._waiting: list[Batch] = []
        self._limit = limit
        self.most = 0

    def submit(self, commit: Commit) -> None:
        """Take more."""
        with self._changed:
            self._waiting.extend(commit.batches)
            self.most = max(self.most, self._count())
            self._changed.notify()

    def let_go_while_full(self, count: int) -> None:
        """Commit `count` tensors: as they were submitted while as many wait as may, and the rest once nothing else can come."""
        done = 0
        while done < count:
            with self._changed:
                # The last ones cannot fill it up any more.
                enough = 1 if done >= count - self._limit else self._limit
                self._changed.wait_for(functools.partial(self._has, enough), timeout=30)
                pending = self._waiting.pop(0)
            pending.settle([stored.committed(done + 1, done + 1, 0) for stored in pending.stored])
            done += len(pending.stored)

    def _count(self) -> int:
        return sum(len(pending.stored) for pending in self._waiting)

    def _has(self, count: int) -> bool:
        return self._count() >= count


class TestIdempotence:
    """The same tensor under the same id is one tensor, however often it is sent."""

    @pytest.mark.parametrize("array", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("preset", ["none", "lossless"])
    def test_the_same_again_is_the_one_that_is_there(
        self, engine: Engine, raw: RawFolder, array: np.ndarray[Any, Any], preset: str
    ) -> None:
        first = insert(engine, "d", "t", array)
        # Another policy that loses nothing does not make it another tensor: readers get the same.
        assert insert(engine, "d", "t", array, preset=preset) == first
        assert len(raw.published()) == (array is LARGE)

    @pytest.mark.parametrize("array", [SMALL, LARGE], ids=["small", "large"])
    def test_another_one_is_refused_and_leaves_nothing(
        self, engine: Engine, raw: RawFolder, array: np.ndarray[Any, Any]
    ) -> None:
        insert(engine, "d", "t", array)
        other = array.copy()
        other[-1] ^= 1
        with pytest.raises(AlreadyExistsError, match=r"another tensor has this id already; .* \[dataset=d, tensor=t\]"):
            insert(engine, "d", "t", other)
        with pytest.raises(AlreadyExistsError):
            insert(engine, "d", "t", array.reshape(10, -1))
        assert np.array_equal(read(engine, "d", "t"), array)
        assert len(raw.published()) == (array is LARGE)

    def test_twins_within_one_stream_are_one_tensor(
        self, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        for number in range(4):
            send(stream, number, "t", LARGE)
        assert stream.finish() == (4, 0)
        assert len({reports.tensor(number).generation for number in range(4)}) == 1
        assert len(raw.published()) == 1
