"""The disk fails once, at every call in turn, while a tensor is marked on its way: what was called durable can be resumed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, random_bits
from support.engine import Reports, announce, engine_on, read, set_aside_now
from support.faults import FaultyFiles
from support.marks import mark_tensors
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.errors import StorageFullError, StoreUnavailableError
from tensorus_server.model import Segment

pytestmark = pytest.mark.slow

CHUNK = 4096
MARK_EVERY = 2 * CHUNK
ARRAY = random_bits("uint8", (60_001,))
SENT = 40_000
REQUEST = InsertOptions(request_id="request")

WHILE_SENDING = [
    *[("create", 0), *(("write_all", number) for number in range(8)), ("rename", 0), ("sync_folder", 0)],
    *(("sync_data", number) for number in range(4)),
]
"""Every call that an interrupted insert makes, by its number among those of its method."""
WHILE_RESUMING = [
    ("open_to_write", 0),
    ("cut", 0),
    ("open_to_read", 0),
    ("read", 0),
    *(("write_all", number) for number in range(6)),
    *(("sync_data", number) for number in range(3)),
    ("rename", 0),
    ("sync_folder", 0),
]


@pytest.fixture(autouse=True)
def small_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=MARK_EVERY)


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def engine(tmp_path: Path, files: FaultyFiles) -> Iterator[Engine]:
    with engine_on(tmp_path / "store", files=files) as opened:
        opened.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=CHUNK))
        yield opened


def send(engine: Engine, begin: int, end: int) -> Reports:
    """Send a run of the tensor's bytes in a stream of its own, which ends there."""
    reports = Reports()
    stream = engine.open_insert("d", reports, REQUEST)
    data = memoryview(canonical(ARRAY))
    for offset in range(begin, end, CHUNK):
        piece = data[offset : min(offset + CHUNK, end)]
        new = announce("t", ARRAY) if offset == begin else None
        stream.receive(Segment(0, offset, piece.nbytes, offset + piece.nbytes == ARRAY.nbytes, new), piece)
    if end == ARRAY.nbytes:
        stream.finish()
    else:
        stream.abort()
    return reports


def committed_bytes(engine: Engine) -> int:
    stream = engine.open_insert("d", Reports(), REQUEST)
    stream.abort()
    return sum(left.committed_bytes for left in stream.resumable if left.tensor is None)


def assert_goes_on(engine: Engine, raw: RawFolder) -> None:
    """Check that the insert can be brought to its end from where it says it is, and leaves nothing but its tensor."""
    reports = send(engine, committed_bytes(engine), ARRAY.nbytes)
    tensor = reports.tensor(0)
    assert read(engine, "d", "t").tobytes() == canonical(ARRAY)
    engine.sweep()
    set_aside_now(engine)
    assert (raw.unfinished(), raw.kept()) == (0, {})
    assert raw.published().keys() == {tensor.locator.key}


@pytest.mark.parametrize(
    ("method", "number", "error_number"),
    # The first call of each method with both errors, the others with one of them in turn.
    [
        (method, number, error_number)
        for method, number in WHILE_SENDING
        for is_broken, error_number in enumerate((errno.ENOSPC, errno.EIO))
        if number == 0 or number % 2 == is_broken
    ],
)
def test_an_insert_whose_disk_failed_on_its_way_goes_on_where_it_says(
    engine: Engine, raw: RawFolder, files: FaultyFiles, *, method: str, number: int, error_number: int
) -> None:
    files.fail(method, error_number, skip=number)
    reports = send(engine, 0, SENT)
    assert sum(called == method for called, _ in files.calls) > number, "the call to fail was never made"
    files.heal()
    if reports.outcomes:
        assert isinstance(reports.error(0), (StorageFullError, StoreUnavailableError))
        assert committed_bytes(engine) == 0
    else:
        assert committed_bytes(engine) >= reports.committed_bytes.get(0, 0)
    assert_goes_on(engine, raw)


@pytest.mark.parametrize(("method", "number"), WHILE_RESUMING)
def test_an_insert_whose_disk_failed_when_it_went_on_can_be_repeated(
    engine: Engine, raw: RawFolder, files: FaultyFiles, *, method: str, number: int
) -> None:
    send(engine, 0, SENT)
    begin = committed_bytes(engine)
    assert begin == SENT // MARK_EVERY * MARK_EVERY
    files.calls.clear()
    files.fail(method, errno.EIO, skip=number)
    reports = send(engine, begin, ARRAY.nbytes)
    assert sum(called == method for called, _ in files.calls) > number, "the call to fail was never made"
    files.heal()
    assert isinstance(reports.error(0), StoreUnavailableError)
    assert_goes_on(engine, raw)
