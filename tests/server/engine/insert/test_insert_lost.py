"""An insert of all or nothing that has lost an item: nothing more is read, written or kept, and it needs few descriptors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, random_bits
from support.engine import Reports, announce, send
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions, InsertStream
from tensorus_server.errors import InsertAbandonedError, InvalidRequestError, SchemaMismatchError
from tensorus_server.model import Schema, Segment, Tensor

SMALL = random_bits("uint8", (100,), seed=1)
LARGE = random_bits("uint8", (90_000,), seed=2)
TOGETHER = InsertOptions(all_or_nothing=True)


@pytest.fixture
def engine(engine: Engine) -> Engine:
    engine.update_dataset("d", None, Schema(dtype="uint8"))
    return engine


def lose(stream: InsertStream, item: int) -> None:
    """Send an item that the dataset's schema does not allow."""
    send(stream, item, "wrong", SMALL.view("int8"))


def test_items_that_were_sealed_or_open_fail_at_once(engine: Engine, reports: Reports, raw: RawFolder) -> None:
    stream = engine.open_insert("d", reports, TOGETHER)
    send(stream, 0, "sealed", SMALL)
    send(stream, 1, "large", LARGE)
    stream._items.wait(sealed=True)
    stream.receive(Segment(2, 0, 50_000, False, announce("open", LARGE)), memoryview(canonical(LARGE))[:50_000])
    lose(stream, 3)
    assert sorted(reports.outcomes) == [3]
    stream.receive(Segment(2, 50_000, 40_000, True), memoryview(canonical(LARGE))[50_000:])
    assert isinstance(reports.error(3), SchemaMismatchError)
    for item, tensor_id in ((0, "sealed"), (1, "large"), (2, "open")):
        error = reports.error(item)
        assert isinstance(error, InsertAbandonedError)
        assert str(error).startswith("item 3 of the insert failed, so nothing of it was stored")
        assert error.facts == {"dataset": "d", "tensor": tensor_id, "failed_item": "3"}
    assert (raw.unfinished(), raw.published()) == (0, {})
    assert stream.finish() == (0, 4)


def test_what_comes_later_fails_when_it_is_announced_and_is_not_written(
    engine: Engine, reports: Reports, raw: RawFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = engine.open_insert("d", reports, TOGETHER)
    lose(stream, 0)
    monkeypatch.setattr(engine._chunk_store, "begin", None)
    for item in range(1, 5):
        send(stream, item, f"{item}", LARGE, cuts=[10_000])
        assert isinstance(reports.error(item), InsertAbandonedError)
    assert raw.unfinished() == 0
    assert stream.finish() == (0, 5)


def test_a_segment_that_was_never_announced_is_still_refused(engine: Engine, reports: Reports) -> None:
    stream = engine.open_insert("d", reports, TOGETHER)
    lose(stream, 0)
    with pytest.raises(InvalidRequestError, match="first segment of item 1 announces no tensor"):
        stream.receive(Segment(1, 0, 100, last=True), memoryview(canonical(SMALL)))
    stream.abort()


@pytest.mark.parametrize("options", [InsertOptions(), InsertOptions(all_or_nothing=True, validate_only=True)])
def test_other_inserts_go_on_after_a_failure(engine: Engine, reports: Reports, options: InsertOptions) -> None:
    stream = engine.open_insert("d", reports, options)
    lose(stream, 0)
    assert not stream.is_lost
    send(stream, 1, "t", LARGE)
    assert stream.finish() == (1, 1)
    assert isinstance(reports.outcomes[1], Tensor)


_MANY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
count, descriptors = int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
from support.arrays import random_bits
from support.engine import Reports, engine_on, read, send
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.insert import tensor_writer
from tensorus_server.engine.insert.stream import InsertOptions
tensor_writer.RESUMABLE_BYTES_MIN, tensor_writer.MARK_EVERY_BYTES = 10_000, 8192
array = random_bits("uint8", (20_001,))
with engine_on(Path(sys.argv[2])) as engine:
    engine.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=4096))
    reports = Reports()
    stream = engine.open_insert("d", reports, InsertOptions("request", all_or_nothing=True))
    for item in range(count):
        send(stream, item, f"{item}", array, cuts=[4096, 8192, 12288, 16384])
    print(*stream.finish(), len(reports.committed_bytes))
    assert (read(engine, "d", f"{count - 1}") == array).all()
"""


def insert_many_marked(folder: Path, count: int, descriptors: int) -> str:
    """Insert so many marked tensors in one insert of all or nothing, in a process that may open so many files."""
    tests = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", _MANY, tests, str(folder), str(count), str(descriptors)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout.strip()


@pytest.mark.slow
def test_large_tensors_take_no_descriptor_each(tmp_path: Path) -> None:
    assert insert_many_marked(tmp_path / "store", 250, 128) == "250 0 250"
