"""Interrupted inserts: a tensor that is resumed is the one that an uninterrupted insert stores, and nothing is left over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import canonical, normal
from support.cases import each
from support.engine import Reports, announce, engine_on, find, insert, read, send, set_aside_now
from support.marks import mark_tensors
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.digest import TENSOR_DIGEST, ChunkedDigest
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import tensor_writer
from tensorus_server.engine.insert.stream import InsertOptions, InsertStream
from tensorus_server.engine.insert.totals import Totals
from tensorus_server.errors import (
    ChecksumMismatchError,
    DataCorruptError,
    InvalidRequestError,
    SegmentOutOfOrderError,
    SessionExpiredError,
)
from tensorus_server.model import Checksum, Segment, Tensor

pytestmark = pytest.mark.slow

CHUNK = 4096
MARK_EVERY = 2 * CHUNK
PRESETS = ["none", "fast", "lossless", "balanced", "maximum"]
ARRAY = normal((20_001,), "float32")
SENT = 48_000
"""Bytes before the interruption: neither a chunk's end nor a mark's."""
COMMITTED = SENT // MARK_EVERY * MARK_EVERY


def request_of(dataset: str) -> InsertOptions:
    """Return the options of the one request of a dataset."""
    return InsertOptions(request_id=f"into {dataset}")


REQUEST = request_of("none")


@pytest.fixture(autouse=True)
def small_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=MARK_EVERY)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "small chunks"


@pytest.fixture
def engine(store: Path) -> Iterator[Engine]:
    with engine_on(store) as opened:
        for preset in PRESETS:
            opened.create_dataset(preset, StoragePolicy(preset=preset, chunk_bytes=CHUNK))
        yield opened


def begin(engine: Engine, dataset: str, array: np.ndarray[Any, Any] = ARRAY, *, sent: int = SENT) -> InsertStream:
    """Open a stream and send the first bytes of item 3."""
    stream = engine.open_insert(dataset, Reports(), request_of(dataset))
    data = memoryview(canonical(array))[:sent]
    for offset in range(0, sent, 5000):
        piece = data[offset : offset + 5000]
        new = announce("t", array) if offset == 0 else None
        stream.receive(Segment(3, offset, piece.nbytes, last=False, tensor=new), piece)
    return stream


def go_on(
    engine: Engine, dataset: str, offset: int, array: np.ndarray[Any, Any] = ARRAY, *, with_checksum: bool = True
) -> Tensor | Exception:
    """Open another stream of the request, send item 3 from `offset` to its end, and return what became of it."""
    reports = Reports()
    stream = engine.open_insert(dataset, reports, request_of(dataset))
    data = memoryview(canonical(array))
    checksum = Checksum("crc32c", crc32c(data).to_bytes(4, "big")) if with_checksum else None
    half = offset + (data.nbytes - offset) // 2
    stream.receive(Segment(3, offset, half - offset, last=False, tensor=announce("t", array)), data[offset:half])
    stream.receive(Segment(3, half, data.nbytes - half, last=True, source_checksum=checksum), data[half:])
    stream.finish()
    return reports.outcomes[3]


def resumable(engine: Engine, dataset: str) -> dict[int, int]:
    """Return the committed bytes of each item that a stream of the request would find."""
    stream = engine.open_insert(dataset, Reports(), request_of(dataset))
    stream.abort()
    return {progress.item: progress.committed_bytes for progress in stream.resumable}


def leftovers(engine: Engine, store: Path) -> list[str]:
    """Return the names of payloads on their way in."""
    names = [path.name for path in (store / "uploads").iterdir()]
    return names + [path.name for folder in (store / "tmp").iterdir() for path in folder.iterdir()]


def crc_of(array: np.ndarray[Any, Any]) -> Checksum:
    return Checksum("crc32c", crc32c(canonical(array)).to_bytes(4, "big"))


def digest_of(tensor: Tensor, values: np.ndarray[Any, Any]) -> Checksum:
    """Return the tensor digest of values that are stored like a tensor."""
    dtype = tensor.spec.dtype
    digest = ChunkedDigest(dtype.number, 8 * dtype.element_bytes, tensor.spec.shape, tensor.chunk_bytes)
    digest.update(canonical(values))
    return Checksum(TENSOR_DIGEST, digest.digest())


def assert_same_tensor(engine: Engine, dataset: str, found: Tensor | Exception, *, resumed: bool = True) -> None:
    """Check that the tensor is the one that an insert without interruption stores; one that was resumed has other checksums."""
    assert isinstance(found, Tensor), found
    whole = insert(engine, dataset, "uninterrupted", ARRAY)
    # A resumed payload is a file, whatever its size, and has chunk details.
    assert replace(found.storage, stored_bytes=0) == replace(whole.storage, stored_bytes=0)
    assert found.values == whole.values
    if resumed:
        assert found.source_checksum == crc_of(ARRAY)
        assert found.value_checksum == digest_of(found, read(engine, dataset, "uninterrupted"))
    else:
        assert (found.source_checksum, found.value_checksum) == (whole.source_checksum, whole.value_checksum)
    assert (found.spec, found.chunk_bytes, found.policy) == (whole.spec, whole.chunk_bytes, whole.policy)
    assert read(engine, dataset, "t").tobytes() == read(engine, dataset, "uninterrupted").tobytes()


class TestResumed:
    """The same tensor comes out, whatever interrupted the insert."""

    @pytest.mark.parametrize("offset", [COMMITTED, COMMITTED - 1, COMMITTED - 3 * CHUNK, 0])
    @each("dataset", PRESETS)
    def test_after_its_stream_has_ended(self, engine: Engine, store: Path, dataset: str, offset: int) -> None:
        begin(engine, dataset).abort()
        assert resumable(engine, dataset) == {3: COMMITTED}
        assert_same_tensor(engine, dataset, go_on(engine, dataset, offset))
        assert leftovers(engine, store) == []

    def test_after_the_store_was_closed(self, engine: Engine, store: Path) -> None:
        for dataset in PRESETS:
            begin(engine, dataset).abort()
        engine.close()
        with engine_on(store) as reopened:
            reopened.sweep()
            for dataset in PRESETS:
                assert resumable(reopened, dataset) == {3: COMMITTED}
                assert_same_tensor(reopened, dataset, go_on(reopened, dataset, COMMITTED))
            assert leftovers(reopened, store) == []

    def test_after_a_crash_in_the_middle(self, engine: Engine, store: Path, tmp_path: Path) -> None:
        streams = [begin(engine, dataset) for dataset in PRESETS]
        # What a crash leaves: the files as they are, and no lock of a living process on them.
        shutil.copytree(store, tmp_path / "crashed")
        for stream in streams:
            stream.abort()
        with engine_on(tmp_path / "crashed") as recovered:
            recovered.sweep()
            for dataset in PRESETS:
                found = resumable(recovered, dataset)
                assert list(found) == [3]
                assert SENT - 2 * MARK_EVERY - 4 * CHUNK <= found[3] <= COMMITTED
                assert_same_tensor(recovered, dataset, go_on(recovered, dataset, found[3]))
            assert leftovers(recovered, tmp_path / "crashed") == []

    @each("dataset", PRESETS)
    def test_again_and_again(self, engine: Engine, store: Path, dataset: str) -> None:
        begin(engine, dataset, sent=12_000).abort()
        data = memoryview(canonical(ARRAY))
        for stop in (24_000, 24_001, 44_000, 80_000):
            stream = engine.open_insert(dataset, Reports(), request_of(dataset))
            (found,) = stream.resumable
            piece = data[found.committed_bytes : stop]
            stream.receive(
                Segment(3, found.committed_bytes, piece.nbytes, last=False, tensor=announce("t", ARRAY)), piece
            )
            stream.abort()
        assert resumable(engine, dataset) == {3: 80_000 // MARK_EVERY * MARK_EVERY}
        assert_same_tensor(engine, dataset, go_on(engine, dataset, 72_000))

    @each("dataset", PRESETS)
    def test_under_the_policy_that_it_began_with(self, engine: Engine, dataset: str) -> None:
        begin(engine, dataset).abort()
        engine.update_dataset(dataset, StoragePolicy(preset="int8_only", chunk_bytes=16 * CHUNK), None)
        found = go_on(engine, dataset, COMMITTED)
        engine.update_dataset(dataset, StoragePolicy(preset=dataset, chunk_bytes=CHUNK), None)
        assert_same_tensor(engine, dataset, found)

    @each("dataset", PRESETS)
    def test_what_is_resumed_is_checked_to_its_end(self, engine: Engine, store: Path, dataset: str) -> None:
        begin(engine, dataset).abort()
        other = ARRAY.copy()
        other[-1] += 1
        reports = Reports()
        stream = engine.open_insert(dataset, reports, request_of(dataset))
        data = memoryview(canonical(ARRAY))
        checksum = Checksum("crc32c", crc32c(canonical(other)).to_bytes(4, "big"))
        stream.receive(
            Segment(3, COMMITTED, data.nbytes - COMMITTED, True, announce("t", ARRAY), checksum), data[COMMITTED:]
        )
        assert stream.finish() == (0, 1)
        assert isinstance(reports.error(3), ChecksumMismatchError)
        assert leftovers(engine, store) == []
        assert resumable(engine, dataset) == {}

    @pytest.mark.parametrize("damage", ["the last bit", "the end", "everything"])
    @each("dataset", ["none", "maximum"])
    def test_what_was_damaged_meanwhile_must_be_sent_again(
        self, engine: Engine, store: Path, dataset: str, damage: str
    ) -> None:
        begin(engine, dataset).abort()
        (path,) = (store / "uploads").iterdir()
        stored = bytearray(path.read_bytes())
        if damage == "the last bit":
            (upload,) = engine._catalogue.uploads.find(f"into {dataset}")
            stored[upload.stored_bytes - 1] ^= 4
            path.write_bytes(stored)
        elif damage == "the end":
            path.write_bytes(stored[: len(stored) // 2])
        else:
            path.unlink()
        assert isinstance(go_on(engine, dataset, COMMITTED), SessionExpiredError)
        assert resumable(engine, dataset) == {}
        assert leftovers(engine, store) == []
        assert_same_tensor(engine, dataset, go_on(engine, dataset, 0), resumed=False)

    @each("dataset", ["none", "maximum"])
    def test_what_is_not_read_again_is_checked_when_it_is_read(self, engine: Engine, store: Path, dataset: str) -> None:
        begin(engine, dataset).abort()
        (path,) = (store / "uploads").iterdir()
        stored = bytearray(path.read_bytes())
        stored[1000] ^= 4
        path.write_bytes(stored)
        assert isinstance(go_on(engine, dataset, COMMITTED), Tensor)
        with pytest.raises(DataCorruptError):
            read(engine, dataset, "t")

    def test_an_upload_without_chunk_details_must_be_sent_again(self, engine: Engine, store: Path) -> None:
        begin(engine, "none").abort()
        with engine._catalogue._database.write() as connection:  # type: ignore[attr-defined]
            connection.execute("UPDATE upload_chunks SET details = NULL")
        assert isinstance(go_on(engine, "none", COMMITTED), SessionExpiredError)
        assert leftovers(engine, store) == []
        assert_same_tensor(engine, "none", go_on(engine, "none", 0), resumed=False)


class TestChecksums:
    """What a writer may send at the end of an item that was resumed."""

    @each("dataset", ["none", "lossless"])
    def test_without_a_checksum_the_values_have_one_nevertheless(self, engine: Engine, dataset: str) -> None:
        begin(engine, dataset).abort()
        assert_same_tensor(engine, dataset, go_on(engine, dataset, COMMITTED, with_checksum=False))

    @each("dataset", PRESETS)
    def test_only_a_crc_is_checked(self, engine: Engine, dataset: str) -> None:
        digest = insert(engine, dataset, "uninterrupted", ARRAY).source_checksum
        begin(engine, dataset).abort()
        reports = Reports()
        stream = engine.open_insert(dataset, reports, request_of(dataset))
        data = memoryview(canonical(ARRAY))[COMMITTED:]
        stream.receive(Segment(3, COMMITTED, data.nbytes, True, announce("t", ARRAY), digest), data)
        stream.finish()
        error = reports.error(3)
        assert isinstance(error, InvalidRequestError)
        assert str(error).startswith("xxh3_128 of an item that was resumed cannot be checked")

    @each("dataset", PRESETS)
    def test_an_insert_repeated_with_a_digest_is_the_one_that_was_resumed(self, engine: Engine, dataset: str) -> None:
        begin(engine, dataset).abort()
        found = go_on(engine, dataset, COMMITTED)
        assert isinstance(found, Tensor)
        assert found.source_checksum.algorithm == "crc32c"
        assert insert(engine, dataset, "t", ARRAY) == found

    @each("dataset", ["none", "lossless"])
    def test_a_copy_of_a_resumed_tensor_is_the_one_that_was_not(self, engine: Engine, dataset: str) -> None:
        begin(engine, dataset).abort()
        go_on(engine, dataset, COMMITTED)
        whole = insert(engine, dataset, "uninterrupted", ARRAY)
        (copied,) = engine.copies.copy_tensors(dataset, [("t", "uninterrupted")])
        assert copied.generation == whole.generation


class TestRequest:
    """A request's items, and nobody else's."""

    def test_progress_is_reported(self, engine: Engine) -> None:
        stream = begin(engine, "none")
        stream.abort()
        assert stream._report.committed_bytes == {3: COMMITTED}  # type: ignore[attr-defined]

    def test_an_insert_without_a_request_leaves_nothing(self, engine: Engine, store: Path) -> None:
        stream = engine.open_insert("none", Reports())
        data = memoryview(canonical(ARRAY))[:SENT]
        stream.receive(Segment(3, 0, SENT, last=False, tensor=announce("t", ARRAY)), data)
        stream.abort()
        assert leftovers(engine, store) == []

    def test_a_small_tensor_leaves_nothing(self, engine: Engine, store: Path) -> None:
        begin(engine, "none", ARRAY[:2500], sent=9_000).abort()
        assert leftovers(engine, store) == []
        assert resumable(engine, "none") == {}

    def test_a_complete_item_is_answered_again(self, engine: Engine) -> None:
        begin(engine, "none").abort()
        first = go_on(engine, "none", COMMITTED)
        reports = Reports()
        stream = engine.open_insert("none", reports, REQUEST)
        (found,) = stream.resumable
        assert (found.item, found.id, found.committed_bytes, found.tensor) == (3, "t", ARRAY.nbytes, first)
        stream.receive(Segment(3, 0, 4, last=False, tensor=announce("t", ARRAY)), memoryview(b"\0\0\0\0"))
        assert stream.finish() == (1, 0)
        assert reports.outcomes[3] == first

    def test_a_complete_item_that_was_deleted_is_stored_again(self, engine: Engine) -> None:
        begin(engine, "none").abort()
        first = go_on(engine, "none", COMMITTED)
        engine.delete_tensors("none", ["t"])
        assert resumable(engine, "none") == {}
        second = go_on(engine, "none", 0)
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        assert second.generation > first.generation

    def test_an_item_cannot_become_another_tensor(self, engine: Engine) -> None:
        begin(engine, "none").abort()
        other = go_on(engine, "none", 0, ARRAY[:-1])
        assert isinstance(other, InvalidRequestError)
        assert "was announced as another tensor by an earlier stream" in str(other)

    def test_a_request_cannot_change_its_dataset(self, engine: Engine) -> None:
        begin(engine, "none").abort()
        with pytest.raises(InvalidRequestError, match="belongs to an insert into another dataset"):
            engine.open_insert("fast", Reports(), REQUEST)

    def test_bytes_cannot_be_left_out(self, engine: Engine) -> None:
        begin(engine, "none").abort()
        reports = Reports()
        stream = engine.open_insert("none", reports, REQUEST)
        piece = memoryview(canonical(ARRAY))[COMMITTED + 1 : COMMITTED + 5]
        stream.receive(Segment(3, COMMITTED + 1, 4, last=False, tensor=announce("t", ARRAY)), piece)
        assert isinstance(reports.error(3), SegmentOutOfOrderError)
        stream.abort()

    def test_the_status_says_how_far_it_is(self, engine: Engine) -> None:
        with pytest.raises(SessionExpiredError, match="nothing is known of insert into none"):
            engine.insert_status("into none")
        begin(engine, "none").abort()
        (item,), finished, _ = engine.insert_status("into none")
        assert (item.item, item.id, item.committed_bytes, item.tensor, finished) == (3, "t", COMMITTED, None, False)
        tensor = go_on(engine, "none", COMMITTED)
        (item,), finished, _ = engine.insert_status("into none")
        assert (item.committed_bytes, item.tensor, finished) == (ARRAY.nbytes, tensor, True)

    def test_a_damaged_row_does_not_hide_how_far_an_insert_is(self, engine: Engine) -> None:
        begin(engine, "none").abort()
        go_on(engine, "none", COMMITTED)
        with engine._catalogue._database.write() as connection:  # type: ignore[attr-defined]
            connection.execute("UPDATE tensor SET shape = '[3]'")
        (item,), finished, _ = engine.insert_status("into none")
        assert (item.committed_bytes, item.tensor, finished) == (ARRAY.nbytes, None, True)

    def test_a_cancelled_insert_leaves_nothing_but_what_is_complete(self, engine: Engine, store: Path) -> None:
        begin(engine, "none").abort()
        engine.cancel_insert("into none")
        assert resumable(engine, "none") == {}
        assert leftovers(engine, store) == []
        begin(engine, "none").abort()
        go_on(engine, "none", COMMITTED)
        engine.cancel_insert("into none")
        assert find(engine, "none", "t").id == "t"
        engine.cancel_insert("into none")


class TestExpiry:
    """Uploads go when their time is over, and not before."""

    def test_an_expired_upload_is_swept_with_its_bytes(self, store: Path) -> None:
        with engine_on(store, upload_expiry_s=0.0) as engine:
            engine.create_dataset("none", StoragePolicy(preset="none", chunk_bytes=CHUNK))
            stream = begin(engine, "none")
            # A stream at work keeps what it has.
            engine.sweep()
            assert len(leftovers(engine, store)) == 1
            stream.abort()
            assert engine.sweep().expired == 1
            assert leftovers(engine, store) == []
            assert resumable(engine, "none") == {}

    def test_one_that_is_not_is_left(self, engine: Engine, store: Path) -> None:
        begin(engine, "none").abort()
        assert engine.sweep().expired == 0
        assert resumable(engine, "none") == {3: COMMITTED}

    def test_a_payload_without_an_upload_goes_to_quarantine(self, engine: Engine, store: Path) -> None:
        begin(engine, "none").abort()
        engine._catalogue.uploads.drop("into none")
        engine.close()
        with engine_on(store) as reopened:
            reopened.sweep()
            assert len(leftovers(reopened, store)) == 1
            assert set_aside_now(reopened) == 1
            assert leftovers(reopened, store) == []
            (entry,) = reopened.quarantine.entries()
            assert entry.key.startswith("uploads/")

    def test_a_payload_that_a_writer_has_is_left_where_it_is(self, engine: Engine, store: Path) -> None:
        stream = begin(engine, "none")
        engine._catalogue.uploads.drop("into none")
        assert set_aside_now(engine) == 0
        assert len(leftovers(engine, store)) == 1
        stream.abort()


def test_a_tensor_that_is_marked_is_the_one_that_is_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = Reports()
    stream = engine.open_insert("lossless", reports, REQUEST)
    send(stream, 0, "marked", ARRAY)
    stream.finish()
    assert reports.committed_bytes[0] > 0
    monkeypatch.setattr(tensor_writer, "RESUMABLE_BYTES_MIN", 1 << 40)
    plain = insert(engine, "lossless", "plain", ARRAY)
    assert reports.tensor(0).storage == plain.storage
    assert reports.tensor(0).value_checksum == plain.value_checksum


def test_what_a_mark_saves_does_not_change_with_later_chunks() -> None:
    # A mark is written to the catalogue while the stream goes on.
    policy, chunk = plan(StoragePolicy(), dtype_by_name("float32")), canonical(ARRAY)[:CHUNK]
    encoded = replace(
        encode_chunk(chunk, dtype_by_name("float32"), policy), fallback_reason="why", base_reason="because"
    )
    totals = Totals(policy)
    totals.add(CHUNK, encoded, 0, bytes(16))
    fields = totals.to_json()
    saved = json.dumps(fields)
    totals.add(CHUNK, encoded, 0, bytes(16))
    assert json.dumps(fields) == saved
