"""A stream of segments: items that interleave, fail on their own, and are reported exactly once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import normal, random_bits
from support.engine import Reports, announce, find, insert, read, send
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertStream
from tensorus_server.errors import (
    AlreadyExistsError,
    ChecksumMismatchError,
    DatasetNotFoundError,
    InvalidMetadataError,
    InvalidNameError,
    InvalidRequestError,
    SchemaMismatchError,
    SegmentOutOfOrderError,
    SizeMismatchError,
    TensorNotFoundError,
)
from tensorus_server.model import Checksum, Schema, Segment, Tensor

SMALL = random_bits("uint8", (100,))
LARGE = random_bits("uint8", (300_000,))


def segment(item: int, data: bytes, offset: int = 0, *, last: bool = False, tensor: Any = None) -> tuple[Any, ...]:
    """Return what `receive` takes for a piece of an item."""
    return Segment(item, offset, len(data), last, tensor), memoryview(data)


class TestItems:
    """Each item is a tensor, and has an outcome of its own."""

    @pytest.mark.parametrize(
        "array", [SMALL, LARGE, np.zeros((0, 3)), np.array(1.5)], ids=["small", "large", "empty", "0d"]
    )
    def test_an_item_becomes_a_tensor(
        self, engine: Engine, stream: InsertStream, reports: Reports, array: np.ndarray[Any, Any]
    ) -> None:
        send(stream, 0, "t", array, metadata={"a": 1})
        assert stream.finish() == (1, 0)
        tensor = reports.tensor(0)
        assert (tensor.dataset, tensor.id, tensor.metadata) == ("d", "t", {"a": 1})
        assert np.array_equal(read(engine, "d", "t"), array)

    def test_a_tensor_can_be_read_as_soon_as_it_is_reported(self, engine: Engine) -> None:
        found: list[object] = []

        def look(results: Any) -> None:
            found.extend(engine.get_tensor("d", result.outcome.id) == result.outcome for result in results)

        stream = engine.open_insert("d", look)
        send(stream, 0, "small", SMALL)
        send(stream, 1, "large", LARGE)
        stream.finish()
        assert found == [True, True]

    def test_nothing_can_be_seen_before_the_last_segment(self, engine: Engine, stream: InsertStream) -> None:
        stream.receive(*segment(0, LARGE.tobytes(), tensor=announce("t", LARGE)))
        with pytest.raises(TensorNotFoundError):
            engine.get_tensor("d", "t")
        stream.receive(*segment(0, b"", LARGE.nbytes, last=True))
        stream.finish()
        assert np.array_equal(read(engine, "d", "t"), LARGE)

    def test_items_may_interleave(self, engine: Engine, stream: InsertStream, reports: Reports) -> None:
        arrays = [random_bits("uint8", (size,), seed=size) for size in (10_000, 200_000, 50, 120_000)]
        position = [0] * len(arrays)
        for number, array in enumerate(arrays):
            stream.receive(*segment(number, b"", tensor=announce(f"{number}", array)))
        while any(position[number] < array.nbytes for number, array in enumerate(arrays)):
            for number, array in enumerate(arrays):
                begin, end = position[number], min(position[number] + 9_999, array.nbytes)
                if begin < end:
                    data = array.tobytes()[begin:end]
                    stream.receive(*segment(number, data, begin, last=end == array.nbytes))
                    position[number] = end
        assert stream.finish() == (4, 0)
        for number, array in enumerate(arrays):
            assert np.array_equal(read(engine, "d", f"{number}"), array)
            assert reports.tensor(number).id == f"{number}"

    def test_many_small_items_are_all_committed(self, engine: Engine, stream: InsertStream, reports: Reports) -> None:
        for number in range(1000):
            send(stream, number, f"{number}", np.full(3, number))
        assert stream.finish() == (1000, 0)
        assert sorted(reports.outcomes) == list(range(1000))
        assert all(np.array_equal(read(engine, "d", f"{number}"), np.full(3, number)) for number in range(0, 1000, 99))

    def test_many_large_items_are_all_committed(self, engine: Engine, stream: InsertStream) -> None:
        for number in range(20):
            send(stream, number, f"{number}", random_bits("uint8", (100_000,), seed=number))
        assert stream.finish() == (20, 0)
        for number in range(20):
            assert np.array_equal(read(engine, "d", f"{number}"), random_bits("uint8", (100_000,), seed=number))

    def test_items_take_their_own_policy_or_the_datasets(
        self, engine: Engine, stream: InsertStream, reports: Reports
    ) -> None:
        array = normal((10_000,))
        send(stream, 0, "datasets", array)
        send(stream, 1, "own", array, policy=StoragePolicy(preset="maximum"))
        stream.finish()
        assert (reports.tensor(0).policy, reports.tensor(0).storage.lossy) == (None, False)
        assert (reports.tensor(1).policy, reports.tensor(1).storage.lossy) == ({"preset": "maximum"}, True)

    def test_item_numbers_may_leave_gaps(self, stream: InsertStream, reports: Reports) -> None:
        for number in (3, 7, 1000):
            send(stream, number, f"{number}", SMALL)
        assert stream.finish() == (3, 0)
        assert sorted(reports.outcomes) == [3, 7, 1000]

    def test_a_checksum_that_comes_with_the_last_segment_is_verified(
        self, stream: InsertStream, reports: Reports
    ) -> None:
        right = Checksum("crc32c", crc32c(SMALL).to_bytes(4, "big"))
        send(stream, 0, "right", SMALL, cuts=[50], last_checksum=right)
        send(stream, 1, "wrong", SMALL[:50], last_checksum=right)
        assert stream.finish() == (1, 1)
        assert isinstance(reports.error(1), ChecksumMismatchError)

    def test_a_crc_that_the_caller_knows_is_believed(self, engine: Engine, reports: Reports) -> None:
        # It was checked against the bytes where they came in; a pass over them is saved here.
        stream = engine.open_insert("d", reports)
        wrong = Checksum("crc32c", (1).to_bytes(4, "big"))
        stream.receive(
            Segment(0, 0, 100, True, announce("t", SMALL), wrong), memoryview(SMALL.tobytes()), canonical_crc32c=1
        )
        assert stream.finish() == (1, 0)


class Failing(NamedTuple):
    """What is special about an item, and what it fails with."""

    fields: dict[str, Any]
    error: type[Exception]
    message: str


FAILING = [
    pytest.param(Failing({"tensor_id": ""}, InvalidNameError, "id of a tensor is ''"), id="no id"),
    pytest.param(Failing({"tensor_id": "x" * 513}, InvalidNameError, "513 bytes of UTF-8"), id="too long an id"),
    pytest.param(Failing({"metadata": {"a": b""}}, InvalidMetadataError, "a value is a bytes"), id="metadata"),
    pytest.param(Failing({"array": np.zeros(5)}, SchemaMismatchError, "dtype is float64, the schema"), id="schema"),
    pytest.param(Failing({"tensor_id": "there"}, AlreadyExistsError, "has this id already"), id="a taken id"),
    pytest.param(
        Failing({"last_checksum": Checksum("crc32c", b"0000")}, ChecksumMismatchError, "crc32c of the 200000"),
        id="checksum",
    ),
    pytest.param(
        Failing({"last_checksum": Checksum("md5", b"0000")}, InvalidRequestError, "algorithm of the source"),
        id="algorithm",
    ),
]


class TestFailures:
    """An item that fails is reported, leaves nothing, and the stream goes on."""

    @pytest.fixture
    def stream(self, engine: Engine, reports: Reports) -> Iterator[InsertStream]:
        """A stream into a dataset with a schema, in which one id is taken."""
        engine.update_dataset("d", None, Schema(dtype="uint8"))
        insert(engine, "d", "there", SMALL)
        opened = engine.open_insert("d", reports)
        yield opened
        opened.abort()

    @pytest.mark.parametrize("failing", FAILING)
    def test_an_item_fails_alone(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder, failing: Failing
    ) -> None:
        arguments = {"tensor_id": "t", "array": LARGE[:200_000]} | failing.fields
        send(stream, 0, "before", LARGE)
        send(stream, 1, arguments.pop("tensor_id"), arguments.pop("array"), cuts=[10, 20], **arguments)
        send(stream, 2, "after", LARGE[::-1])
        assert stream.finish() == (2, 1)
        failure = reports.error(1)
        assert type(failure) is failing.error
        assert failing.message in str(failure)
        assert "dataset=d" in str(failure)
        assert np.array_equal(read(engine, "d", "after"), LARGE[::-1])
        assert raw.unfinished() == 0
        # Of the failed item no payload is left, published or not.
        assert len(raw.published()) == 2

    def test_a_size_that_does_not_match_fails_the_item_in_both_directions(
        self, stream: InsertStream, reports: Reports
    ) -> None:
        stream.receive(*segment(0, bytes(99), last=True, tensor=announce("short", SMALL)))
        stream.receive(*segment(1, bytes(101), last=True, tensor=announce("long", SMALL)))
        stream.receive(*segment(2, bytes(60), tensor=announce("long in two", SMALL)))
        stream.receive(*segment(2, bytes(60), 60, last=True))
        assert stream.finish() == (0, 3)
        messages = [str(reports.error(number)) for number in range(3)]
        assert [message.split(" of shape")[0] for message in messages] == [
            "99 bytes were sent, uint8",
            "at least 101 bytes were sent, uint8",
            "at least 120 bytes were sent, uint8",
        ]
        assert all(isinstance(reports.error(number), SizeMismatchError) for number in range(3))

    @pytest.mark.parametrize("offset", [0, 49, 51, 2**63])
    def test_a_segment_that_does_not_continue_its_item_fails_it(
        self, stream: InsertStream, reports: Reports, offset: int
    ) -> None:
        stream.receive(*segment(0, bytes(50), tensor=announce("t", SMALL)))
        stream.receive(*segment(0, bytes(50), offset, last=True))
        assert stream.finish() == (0, 1)
        error = reports.error(0)
        assert isinstance(error, SegmentOutOfOrderError)
        assert str(error) == f"offset of a segment of item 0 is {offset}, expected 50 [dataset=d, tensor=t]"
        assert error.facts["expected"] == "50"

    def test_later_segments_of_a_failed_item_are_dropped(
        self, engine: Engine, stream: InsertStream, reports: Reports
    ) -> None:
        stream.receive(*segment(0, b"", tensor=announce("", SMALL)))
        for begin in range(0, 100, 10):
            stream.receive(*segment(0, bytes(10), begin, last=begin == 90))
        send(stream, 1, "after", SMALL)
        stream.receive(*segment(0, bytes(10), 0, last=True))
        assert stream.finish() == (1, 1)
        assert sorted(reports.outcomes) == [0, 1]

    def test_an_item_that_has_not_ended_fails_when_the_stream_finishes(
        self, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        stream.receive(*segment(0, LARGE.tobytes()[:200_000], tensor=announce("t", LARGE)))
        stream.receive(*segment(1, b"", tensor=announce("none", SMALL)))
        assert stream.finish() == (0, 2)
        assert str(reports.error(0)) == (
            "the stream finished after 200000 of 300000 bytes of item 0, and no `last` segment of it [dataset=d, tensor=t]"
        )
        assert isinstance(reports.error(1), SegmentOutOfOrderError)
        assert raw.unfinished() == 0

    def test_an_item_can_be_failed_from_outside_whether_it_has_begun_or_not(
        self, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        stream.receive(*segment(0, LARGE.tobytes()[:200_000], tensor=announce("t", LARGE)))
        errors = [KeyError(str(number)) for number in range(3)]
        stream.fail(0, errors[0])
        stream.fail(0, errors[1])
        stream.fail(5, errors[2])
        stream.fail(5, errors[1])
        send(stream, 6, "after", SMALL)
        assert stream.finish() == (1, 2)
        assert (reports.error(0), reports.error(5)) == (errors[0], errors[2])
        assert raw.unfinished() == 0

    def test_an_item_that_was_committed_cannot_be_failed_any_more(self, stream: InsertStream, reports: Reports) -> None:
        send(stream, 0, "t", SMALL)
        stream.fail(0, KeyError())
        assert stream.finish() == (1, 0)
        assert isinstance(reports.outcomes[0], Tensor)

    def test_a_dataset_that_is_deleted_meanwhile_fails_the_item_at_its_commit(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        stream.receive(*segment(0, LARGE.tobytes(), tensor=announce("t", LARGE)))
        engine.delete_dataset("d")
        stream.receive(*segment(0, b"", LARGE.nbytes, last=True))
        assert stream.finish() == (0, 1)
        assert isinstance(reports.error(0), DatasetNotFoundError)
        assert list(raw.published()) == []


class TestStream:
    """What has no place in a stream ends it: nobody could say which item it belongs to."""

    @pytest.mark.parametrize("number", [0, 4, 5])
    def test_item_numbers_must_ascend(self, stream: InsertStream, number: int) -> None:
        send(stream, 5, "five", SMALL)
        with pytest.raises(InvalidRequestError, match=f"item {number} is announced after item 5; numbers must ascend"):
            send(stream, number, "again", SMALL)

    def test_a_segment_of_an_item_that_was_never_announced_ends_the_stream(self, stream: InsertStream) -> None:
        send(stream, 0, "t", SMALL)
        with pytest.raises(InvalidRequestError, match="first segment of item 1 announces no tensor"):
            stream.receive(*segment(1, bytes(10)))

    def test_a_second_announcement_ends_the_stream(self, stream: InsertStream) -> None:
        stream.receive(*segment(0, b"", tensor=announce("t", SMALL)))
        with pytest.raises(InvalidRequestError, match="segment of item 0 announces its tensor a second time"):
            stream.receive(*segment(0, b"", tensor=announce("t", SMALL)))

    def test_a_dataset_that_does_not_exist_opens_no_stream(self, engine: Engine, reports: Reports) -> None:
        with pytest.raises(DatasetNotFoundError, match="dataset=no"):
            engine.open_insert("no", reports)

    def test_a_stream_may_finish_without_items(self, stream: InsertStream) -> None:
        assert stream.finish() == (0, 0)

    def test_what_is_not_complete_is_dropped_by_an_abort_and_never_reported(
        self, engine: Engine, stream: InsertStream, reports: Reports, raw: RawFolder
    ) -> None:
        send(stream, 0, "complete", LARGE)
        stream.receive(*segment(1, LARGE.tobytes()[:200_000], tensor=announce("half", LARGE)))
        stream.receive(*segment(2, bytes(50), tensor=announce("small", SMALL)))
        stream.abort()
        stream.abort()
        assert list(reports.outcomes) == [0]
        assert raw.unfinished() == 0
        assert np.array_equal(read(engine, "d", "complete"), LARGE)
        with pytest.raises(TensorNotFoundError):
            find(engine, "d", "half")

    def test_streams_of_many_threads_do_not_mix(self, engine: Engine) -> None:
        def work(number: int) -> tuple[int, int]:
            stream = engine.open_insert("d", Reports())
            for turn in range(10):
                array = np.full(20_000 * (turn % 3), number, np.uint8)
                send(stream, turn, f"{number}-{turn}", array, cuts=[array.nbytes // 2])
            return stream.finish()

        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(work, range(6))) == [(10, 0)] * 6
        for number in range(6):
            assert (read(engine, "d", f"{number}-8") == number).all()

    def test_of_racing_inserts_of_one_id_one_wins_and_the_others_leave_nothing(
        self, engine: Engine, raw: RawFolder
    ) -> None:
        together = threading.Barrier(6, timeout=30)

        def work(number: int) -> object:
            reports = Reports()
            stream = engine.open_insert("d", reports)
            together.wait()
            send(stream, 0, "t", np.full(100_000, number, np.uint8))
            stream.finish()
            return reports.outcomes[0]

        with ThreadPoolExecutor(6) as threads:
            outcomes = list(threads.map(work, range(6)))
        won = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Tensor)]
        assert len(won) == 1
        assert all(isinstance(outcome, (Tensor, AlreadyExistsError)) for outcome in outcomes)
        assert (read(engine, "d", "t") == won[0]).all()
        assert len(raw.published()) == 1
