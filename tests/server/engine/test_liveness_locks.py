"""Another program keeps the catalogue locked: the call that meets it fails with STORE_BUSY, and everything else goes on."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from support.arrays import canonical, random_bits
from support.engine import Reports, announce, engine_on, insert, read, send
from support.marks import mark_tensors
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.sqlite import writer_lock
from tensorus_server.catalogue.sqlite.file_lock import FileLock
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import small_tensors
from tensorus_server.engine.insert.stream import InsertOptions, InsertStream
from tensorus_server.errors import StoreBusyError, StoreUnavailableError
from tensorus_server.model import Segment, Tensor

pytestmark = pytest.mark.slow

CHUNK = 4096
MARK_EVERY = 2 * CHUNK
SMALL = random_bits("uint8", (100,))
MARKED = random_bits("uint8", (60_001,))
BUSY_S = 0.2
"""The limit of the waits, for the tests."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=MARK_EVERY)
    monkeypatch.setattr(writer_lock, "BUSY_TIMEOUT_MS", int(1000 * BUSY_S))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with engine_on(tmp_path / "store") as opened:
        opened.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=CHUNK))
        yield opened


@contextmanager
def transaction_of_another_program(folder: Path) -> Iterator[None]:
    other = apsw.Connection(str(folder / "catalogue.db"))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def lock_of_another_process(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / "writer.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


Lock = Callable[[Path], AbstractContextManager[None]]
LOCKS = [
    pytest.param(transaction_of_another_program, id="a transaction"),
    pytest.param(lock_of_another_process, id="writer.lock"),
]


def send_part(stream: InsertStream, array: np.ndarray[Any, Any], begin: int, end: int) -> None:
    data = memoryview(canonical(array))
    for offset in range(begin, end, CHUNK):
        piece = data[offset : min(offset + CHUNK, end)]
        new = announce("t", array) if offset == 0 else None
        stream.receive(Segment(0, offset, piece.nbytes, offset + piece.nbytes == data.nbytes, new), piece)


def assert_goes_on(engine: Engine, reports: Reports) -> None:
    """Check that the item failed alone, and that the store takes the tensor now."""
    error = reports.error(0)
    assert isinstance(error, StoreBusyError), error
    assert float(error.facts["retry_after_s"]) > 0
    engine.check_writable()
    assert engine._committer._thread.is_alive
    assert insert(engine, "d", "t", MARKED).id == "t"
    assert np.array_equal(read(engine, "d", "t"), MARKED)


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("all_or_nothing", [False, True])
class TestLocked:
    """Whenever the lock is taken, the item fails within the limit, and the next insert succeeds."""

    def test_while_a_marked_tensor_is_committed(
        self, engine: Engine, tmp_path: Path, lock: Lock, *, all_or_nothing: bool
    ) -> None:
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions("request", all_or_nothing=all_or_nothing))
        send_part(stream, MARKED, 0, MARKED.nbytes // CHUNK * CHUNK)
        while reports.committed_bytes.get(0, 0) < MARKED.nbytes // MARK_EVERY * MARK_EVERY:
            time.sleep(0.001)
        with lock(tmp_path / "store"):
            send_part(stream, MARKED, MARKED.nbytes // CHUNK * CHUNK, MARKED.nbytes)
            assert stream.finish() == (0, 1)
        stream.abort()
        assert_goes_on(engine, reports)

    def test_while_the_first_mark_is_saved(
        self, engine: Engine, tmp_path: Path, lock: Lock, *, all_or_nothing: bool
    ) -> None:
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions("request", all_or_nothing=all_or_nothing))
        with lock(tmp_path / "store"):
            send_part(stream, MARKED, 0, MARKED.nbytes)
            assert stream.finish() == (0, 1)
        stream.abort()
        assert_goes_on(engine, reports)

    def test_while_small_tensors_are_committed(
        self, engine: Engine, tmp_path: Path, lock: Lock, *, all_or_nothing: bool
    ) -> None:
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions(all_or_nothing=all_or_nothing))
        with lock(tmp_path / "store"):
            for item in range(5):
                send(stream, item, f"{item}", SMALL)
            assert stream.finish() == (0, 5)
        assert {type(reports.error(item)) for item in range(5)} == {StoreBusyError}
        assert_goes_on(engine, reports)

    def test_while_a_stream_is_aborted(
        self, engine: Engine, tmp_path: Path, lock: Lock, *, all_or_nothing: bool
    ) -> None:
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions("request", all_or_nothing=all_or_nothing))
        with lock(tmp_path / "store"):
            send_part(stream, MARKED, 0, MARK_EVERY)
            stream.abort()
        assert insert(engine, "d", "t", MARKED).id == "t"


@pytest.mark.parametrize("lock", LOCKS)
def test_the_store_is_closed_in_time_while_it_is_locked(tmp_path: Path, lock: Lock) -> None:
    with engine_on(tmp_path / "store") as engine:
        engine.create_dataset("d", StoragePolicy(preset="none"))
        tensor = insert(engine, "d", "t", SMALL)
        with lock(tmp_path / "store"):
            engine.close()
    with engine_on(tmp_path / "store") as engine:
        assert engine.get_tensor("d", "t") == tensor


@pytest.mark.parametrize("lock", LOCKS)
def test_a_store_that_is_locked_is_not_opened(tmp_path: Path, lock: Lock) -> None:
    with engine_on(tmp_path / "store"):
        pass
    with (
        lock(tmp_path / "store"),
        pytest.raises(StoreUnavailableError, match="cannot be opened"),
        engine_on(tmp_path / "store"),
    ):
        pass


def test_a_flush_that_fails_fails_its_items_and_the_next_ones_go_in(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    reports = Reports()
    stream = engine.open_insert("d", reports)
    with monkeypatch.context() as patch:
        patch.setattr(small_tensors, "_summaries", no_memory)
        for item in range(3):
            send(stream, item, f"{item}", SMALL)
        stream.flush()
    send(stream, 3, "3", SMALL)
    assert stream.finish() == (1, 3)
    assert {type(reports.error(item)) for item in range(3)} == {MemoryError}
    assert isinstance(reports.outcomes[3], Tensor)


class TestFileLock:
    """`flock` with a limit: those who wait are served in turn, and who gives up leaves nothing locked."""

    def test_it_is_taken_when_the_other_lets_go(self, tmp_path: Path) -> None:
        one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        assert one.acquire(0)
        taken: list[bool] = []
        waiting = threading.Thread(target=lambda: taken.append(two.acquire(30)))
        waiting.start()
        one.release()
        waiting.join()
        assert taken == [True]
        assert not one.acquire_if_free()
        two.release()
        assert one.acquire_if_free()
        one.release()
        one.close()
        two.close()

    def test_whoever_gives_up_does_not_keep_it_from_the_others(self, tmp_path: Path) -> None:
        one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        assert one.acquire(0)
        for _ in range(3):
            assert not two.acquire(0.01)
        # One helper however often it was tried.
        assert sum(thread.name == "tensorus-file-lock" for thread in threading.enumerate()) == 1
        one.release()
        assert one.acquire(30)
        one.release()
        assert two.acquire(30)
        two.release()
        one.close()
        two.close()

    def test_whoever_comes_back_takes_what_the_helper_waits_for(self, tmp_path: Path) -> None:
        one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        assert one.acquire(0)
        assert not two.acquire(0.01)
        threading.Timer(0.05, one.release).start()
        assert two.acquire(30)
        assert not one.acquire_if_free()
        two.release()
        one.close()
        two.close()
