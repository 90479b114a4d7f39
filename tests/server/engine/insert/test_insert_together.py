"""Inserts of all or nothing: everything becomes visible with `finish`, or nothing ever does, and nothing is left over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, random_bits
from support.engine import Reports, announce, insert, read, send
from support.marks import mark_tensors
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import PageRequest
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import options as options_module
from tensorus_server.engine.insert import stream as insert_module
from tensorus_server.engine.insert import tensor_writer
from tensorus_server.engine.insert.stream import InsertOptions, InsertStream
from tensorus_server.errors import (
    AlreadyExistsError,
    ChecksumMismatchError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InsertAbandonedError,
    InvalidNameError,
    LimitExceededError,
    SegmentOutOfOrderError,
    StorageFullError,
    StoreUnavailableError,
)
from tensorus_server.model import Checksum, NewTensor, Segment, Tensor

CHUNK = 4096
MARK_EVERY = 2 * CHUNK
TOGETHER = InsertOptions(request_id="request", all_or_nothing=True)

SMALL = random_bits("uint8", (100,), seed=1)
LARGE = random_bits("uint8", (90_000,), seed=2)
"""Too large for the catalogue, too small for marks."""
MARKED = random_bits("uint8", (150_001,), seed=3)
ARRAYS = {"small": SMALL, "large": LARGE, "marked": MARKED, "empty": np.empty(0, np.uint8)}


@pytest.fixture(autouse=True)
def small_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_tensors(monkeypatch, above_bytes=100_000, every_bytes=MARK_EVERY)


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """Return an engine whose chunks are small."""
    engine.update_dataset("d", StoragePolicy(preset="none", chunk_bytes=CHUNK), None)
    return engine


@pytest.fixture
def stream(engine: Engine, reports: Reports) -> InsertStream:
    return engine.open_insert("d", reports, TOGETHER)


def send_all(stream: InsertStream, *, first: int = 0, **fields: Any) -> None:
    for item, (tensor_id, array) in enumerate(ARRAYS.items(), first):
        send(stream, item, tensor_id, array, cuts=range(5000, array.nbytes, 5000), **fields)


def visible(engine: Engine) -> list[str]:
    return [tensor.id for tensor in engine._catalogue.tensors.page("d", PageRequest()).tensors]


def assert_nothing_left(engine: Engine, raw: RawFolder) -> None:
    """Check that neither a payload nor an upload is there."""
    assert (raw.published(), raw.unfinished(), raw.kept()) == ({}, 0, {})
    assert engine._catalogue.uploads.find("request") == []


def test_nothing_is_visible_or_reported_before_the_finish_and_everything_after(
    engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
) -> None:
    send_all(stream)
    stream._items.wait(sealed=True)
    assert (visible(engine), raw.published(), reports.outcomes) == ([], {}, {})
    assert stream.finish() == (4, 0)
    assert sorted(visible(engine)) == sorted(ARRAYS)
    for item, (tensor_id, array) in enumerate(ARRAYS.items()):
        assert reports.tensor(item).id == tensor_id
        assert read(engine, "d", tensor_id).tobytes() == canonical(array)
    assert (len(raw.published()), raw.unfinished(), raw.kept()) == (2, 0, {})


def test_everything_is_committed_in_one_transaction(
    engine: Engine, stream: InsertStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    commit = engine._catalogue.tensors.commit

    def recorded(group: Any, *, together: bool = False) -> Any:
        groups.append(([stored.new.id for stored in group], together))
        return commit(group, together=together)

    monkeypatch.setattr(engine._catalogue.tensors, "commit", recorded)
    send_all(stream)
    stream.finish()
    ((ids, together),) = groups
    assert (sorted(ids), together) == (sorted(ARRAYS), True)


def test_ordinals_are_in_the_order_of_the_items_however_long_each_takes(
    stream: InsertStream, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_are_sealed = threading.Event()
    seal = tensor_writer.TensorWriter.seal

    def late(writer: Any, *arguments: Any) -> Any:
        if not writer.is_held:
            assert others_are_sealed.wait(30)
        return seal(writer, *arguments)

    monkeypatch.setattr(tensor_writer.TensorWriter, "seal", late)
    for item, array in enumerate((SMALL, LARGE, SMALL)):
        send(stream, item, f"{item}", array)
    others_are_sealed.set()
    assert stream.finish() == (3, 0)
    assert [reports.tensor(item).ordinal for item in range(3)] == [1, 2, 3]


def test_small_ones_on_the_short_way_keep_their_order_among_larger_ones(
    engine: Engine, stream: InsertStream, reports: Reports
) -> None:
    arrays = [SMALL, SMALL + 1, LARGE, SMALL + 2, SMALL + 3, MARKED, SMALL + 4]
    for item, array in enumerate(arrays):
        send(stream, item, f"t{item}", array)
        assert not reports.outcomes
    assert stream.finish() == (len(arrays), 0)
    assert [reports.tensor(item).ordinal for item in range(len(arrays))] == list(range(1, len(arrays) + 1))
    for item, array in enumerate(arrays):
        assert np.array_equal(read(engine, "d", f"t{item}"), array)


def test_small_ones_on_the_short_way_are_abandoned_one_by_one(
    engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
) -> None:
    for item in range(3):
        send(stream, item, f"t{item}", SMALL)
    stream.flush()
    send(stream, 3, "t3", SMALL, source_checksum=Checksum("xxh3_128", bytes(16)))
    send(stream, 4, "t4", SMALL)
    assert stream.finish() == (0, 5)
    abandoned = [reports.error(item) for item in (0, 1, 2, 4)]
    assert all(isinstance(error, InsertAbandonedError) for error in abandoned)
    named = [error.facts.get("tensor") for error in abandoned if isinstance(error, InsertAbandonedError)]
    assert named[:3] == ["t0", "t1", "t2"]
    assert_nothing_left(engine, raw)
    assert visible(engine) == []


def test_an_insert_of_nothing_is_nothing(stream: InsertStream) -> None:
    assert stream.finish() == (0, 0)


def wrong_checksum(stream: InsertStream) -> None:
    send(stream, 10, "bad", SMALL, last_checksum=Checksum("crc32c", b"\0\0\0\0"))


def wrong_checksum_of_a_marked_one(stream: InsertStream) -> None:
    cuts = range(5000, MARKED.nbytes, 5000)
    send(stream, 10, "bad", MARKED, cuts=cuts, last_checksum=Checksum("crc32c", b"\0\0\0\0"))


def incomplete(stream: InsertStream) -> None:
    stream.receive(Segment(10, 0, 50, last=False, tensor=announce("bad", SMALL)), memoryview(canonical(SMALL))[:50])


def not_allowed(stream: InsertStream) -> None:
    send(stream, 10, "bad\n", SMALL)


def failed_outside(stream: InsertStream) -> None:
    stream.fail(10, ChecksumMismatchError("damaged on its way"))


FAILURES = [
    pytest.param(wrong_checksum, ChecksumMismatchError, id="a checksum"),
    pytest.param(wrong_checksum_of_a_marked_one, ChecksumMismatchError, id="a checksum of one that was marked"),
    pytest.param(incomplete, SegmentOutOfOrderError, id="an end that is missing"),
    pytest.param(not_allowed, InvalidNameError, id="an announcement"),
    pytest.param(failed_outside, ChecksumMismatchError, id="a segment"),
]


@pytest.mark.parametrize(("failing", "error"), FAILURES)
@pytest.mark.parametrize("first", [0, 20], ids=["after the others", "before the others"])
def test_where_one_fails_nothing_is_stored_and_the_others_are_abandoned(
    engine: Engine,
    stream: InsertStream,
    reports: Reports,
    raw: RawFolder,
    *,
    failing: Callable[[InsertStream], None],
    error: type[Exception],
    first: int,
) -> None:
    steps: list[Callable[[], Any]] = [lambda: send_all(stream, first=first), lambda: failing(stream)]
    for step in reversed(steps) if first else steps:
        step()
    assert stream.finish() == (0, 5)
    assert isinstance(reports.error(10), error)
    for item in range(first, first + len(ARRAYS)):
        abandoned = reports.error(item)
        assert isinstance(abandoned, InsertAbandonedError)
        assert "item 10 of the insert failed, so nothing of it was stored [dataset=d" in str(abandoned)
    assert visible(engine) == []
    assert_nothing_left(engine, raw)


class TestConflicts:
    """What is found at the commit alone."""

    def outcomes(self, stream: InsertStream, reports: Reports) -> list[type]:
        assert stream.finish() == (0, len(reports.outcomes))
        return [type(reports.outcomes[item]) for item in sorted(reports.outcomes)]

    def test_an_id_that_was_taken_meanwhile_abandons_the_others(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        send_all(stream)
        there = insert(engine, "d", "small", LARGE)
        expected = [AlreadyExistsError, *[InsertAbandonedError] * 3]
        assert self.outcomes(stream, reports) == expected
        assert visible(engine) == ["small"]
        assert list(raw.published()) == [there.locator.key]
        engine.delete_tensors("d", ["small"])
        assert (raw.unfinished(), raw.kept(), engine._catalogue.uploads.find("request")) == (0, {}, [])

    def test_two_of_the_insert_cannot_have_one_id(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        send(stream, 0, "t", LARGE)
        send(stream, 1, "t", MARKED)
        assert sorted(kind.__name__ for kind in self.outcomes(stream, reports)) == [
            "AlreadyExistsError",
            "InsertAbandonedError",
        ]
        assert_nothing_left(engine, raw)

    def test_a_generation_that_has_gone_abandons_the_others_and_replaces_nothing(
        self, engine: Engine, stream: InsertStream, reports: Reports
    ) -> None:
        first, second = insert(engine, "d", "a", SMALL), insert(engine, "d", "b", SMALL)
        send(stream, 0, "a", SMALL[::-1], if_generation_match=first.generation)
        send(stream, 1, "b", SMALL[::-1], if_generation_match=second.generation + 100)
        assert self.outcomes(stream, reports) == [InsertAbandonedError, GenerationMismatchError]
        assert read(engine, "d", "a").tobytes() == canonical(SMALL)

    def test_a_dataset_that_was_deleted_meanwhile_takes_nothing(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        send_all(stream)
        engine.delete_dataset("d")
        assert self.outcomes(stream, reports) == [DatasetNotFoundError] * 4
        assert_nothing_left(engine, raw)

    def test_a_commit_that_fails_fails_for_all(
        self,
        engine: Engine,
        stream: InsertStream,
        reports: Reports,
        raw: RawFolder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise StorageFullError("the disk is full")

        send_all(stream)
        monkeypatch.setattr(engine._catalogue.tensors, "commit", full)
        assert self.outcomes(stream, reports) == [StorageFullError] * 4
        assert_nothing_left(engine, raw)


def test_tensors_that_are_there_already_are_part_of_it(engine: Engine, reports: Reports, raw: RawFolder) -> None:
    there = insert(engine, "d", "large", LARGE)
    for request_id in ("one", "two"):
        again = Reports()
        stream = engine.open_insert("d", again, InsertOptions(request_id, all_or_nothing=True))
        send_all(stream)
        assert stream.finish() == (4, 0)
        assert again.tensor(1) == there
    assert sorted(visible(engine)) == sorted(ARRAYS)
    assert len(raw.published()) == 2


def test_replacements_are_done_together(engine: Engine, stream: InsertStream, reports: Reports) -> None:
    old = {tensor_id: insert(engine, "d", tensor_id, SMALL).generation for tensor_id in "ab"}
    for item, tensor_id in enumerate(old):
        send(stream, item, tensor_id, LARGE, if_generation_match=old[tensor_id])
    assert stream.finish() == (2, 0)
    for item, tensor_id in enumerate(old):
        assert reports.tensor(item).generation > old[tensor_id]
        assert read(engine, "d", tensor_id).tobytes() == canonical(LARGE)


def test_what_does_not_fit_into_memory_waits_in_the_chunk_store(
    engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insert_module, "_INLINE_TOGETHER_BYTES_MAX", 300)
    for item in range(6):
        send(stream, item, f"{item}", SMALL + item)
    # A small tensor is 129 bytes with its record's head and its index: the third one takes memory beyond the limit.
    assert raw.unfinished() == 3
    assert stream.finish() == (6, 0)
    assert len(raw.published()) == 3
    assert all(read(engine, "d", f"{item}").tobytes() == canonical(SMALL + item) for item in range(6))


class TestLimit:
    """As many items as may be stored together."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(options_module, "ITEMS_TOGETHER_MAX", 3)

    @pytest.mark.parametrize("count", [2, 3])
    def test_up_to_the_limit_they_are(self, engine: Engine, stream: InsertStream, count: int) -> None:
        for item in range(count):
            send(stream, item, f"{item}", SMALL)
        assert stream.finish() == (count, 0)
        assert len(visible(engine)) == count

    @pytest.mark.parametrize("validate_only", [False, True])
    def test_above_the_limit_none_is(self, engine: Engine, reports: Reports, *, validate_only: bool) -> None:
        options = InsertOptions("request", all_or_nothing=True, validate_only=validate_only)
        stream = engine.open_insert("d", reports, options)
        for item in range(4):
            send(stream, item, f"{item}", SMALL)
        stream.finish()
        error = reports.error(3)
        assert isinstance(error, LimitExceededError)
        assert "limit is 3 (items_together_max) [dataset=d, tensor=3]" in str(error)
        assert error.facts["limit"] == "3"
        assert visible(engine) == []

    def test_items_that_are_still_open_count(self, stream: InsertStream, reports: Reports) -> None:
        for item in range(4):
            new: NewTensor = announce(f"{item}", SMALL)
            stream.receive(Segment(item, 0, 1, last=False, tensor=new), memoryview(canonical(SMALL))[:1])
        assert isinstance(reports.error(3), LimitExceededError)
        stream.abort()

    def test_an_insert_of_each_for_itself_has_no_such_limit(self, engine: Engine, reports: Reports) -> None:
        stream = engine.open_insert("d", reports)
        for item in range(4):
            send(stream, item, f"{item}", SMALL)
        assert stream.finish() == (4, 0)


def raised(error: Exception) -> None:
    raise error


class TestAborted:
    """A stream that ends without a finish leaves what was marked, and nothing else."""

    def test_only_marked_uploads_are_left(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        send_all(stream)
        stream.receive(Segment(9, 0, 1, last=False, tensor=announce("open", LARGE)), memoryview(canonical(LARGE))[:1])
        stream.abort()
        stream.abort()
        assert (visible(engine), reports.outcomes) == ([], {})
        assert (raw.published(), raw.unfinished()) == ({}, 0)
        (upload,) = engine._catalogue.uploads.find("request")
        assert list(raw.kept()) == [upload.payload_key]
        assert (upload.id, upload.committed_bytes) == ("marked", MARKED.nbytes // MARK_EVERY * MARK_EVERY)

    def test_without_a_request_nothing_is_left(self, engine: Engine, reports: Reports, raw: RawFolder) -> None:
        stream = engine.open_insert("d", reports, InsertOptions(all_or_nothing=True))
        send_all(stream)
        stream.abort()
        assert_nothing_left(engine, raw)

    @pytest.mark.parametrize("gives_up", [False, True], ids=["aborted", "given up"])
    def test_it_can_be_resumed_and_is_then_all_there_at_once(
        self, engine: Engine, stream: InsertStream, raw: RawFolder, monkeypatch: pytest.MonkeyPatch, *, gives_up: bool
    ) -> None:
        send_all(stream)
        if gives_up:
            stream._items.wait(sealed=True)
            stuck = StoreUnavailableError("nothing of the insert has moved")
            monkeypatch.setattr(stream._items, "wait", lambda **_: raised(stuck))
            assert stream.finish() == (0, 4)
            assert raw.unfinished() == 0
        else:
            stream.abort()
        resumed = engine.open_insert("d", Reports(), TOGETHER)
        (left,) = resumed.resumable
        assert (left.item, left.id, left.tensor) == (2, "marked", None)
        for item, (tensor_id, array) in enumerate(ARRAYS.items()):
            begin = left.committed_bytes if item == left.item else 0
            data = memoryview(canonical(array))
            checksum = Checksum("crc32c", crc32c(data).to_bytes(4, "big"))
            segment = Segment(item, begin, data.nbytes - begin, True, announce(tensor_id, array), checksum)
            resumed.receive(segment, data[begin:])
        assert visible(engine) == []
        assert resumed.finish() == (4, 0)
        for tensor_id, array in ARRAYS.items():
            assert read(engine, "d", tensor_id).tobytes() == canonical(array)
        assert (raw.unfinished(), raw.kept()) == (0, {})

    def test_what_was_committed_is_answered_again(self, engine: Engine, stream: InsertStream, reports: Reports) -> None:
        send_all(stream)
        stream.finish()
        again = Reports()
        repeated = engine.open_insert("d", again, TOGETHER)
        assert [(left.item, left.tensor) for left in repeated.resumable] == [(2, reports.tensor(2))]
        send_all(repeated)
        assert repeated.finish() == (4, 0)
        assert all(again.tensor(item) == reports.tensor(item) for item in range(4))
        assert isinstance(again.tensor(0), Tensor)
