"""An insert that is interrupted, at any message: what the server has is not sent again, everything else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import crc32c
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from support.cases import each
from tensorus._backend import InsertOptions, Upload
from tensorus._grpc import insert_stream
from tensorus._grpc.insert_stream import InsertMessages, InsertSession
from tensorus._grpc.inserts import insert_results
from tensorus.errors import InvalidMetadataError
from tensorus.types import Progress, TensorInfo
from tensorus_protos.framing import split
from tensorus_protos.v1 import tensorus_pb2 as pb

BLOCK = 100
"""Bytes of a segment and of a message here, instead of 1 MiB."""


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(insert_stream, "_BLOCK_BYTES", BLOCK)
        yield


def data_of(item: int, length: int) -> bytes:
    return bytes((item * 31 + number * 7) % 251 for number in range(length))


def uploads_of(sizes: Sequence[int]) -> list[Upload]:
    def upload(item: int, size: int) -> Upload:
        data = memoryview(data_of(item, size))

        def blocks(block_bytes: int) -> Iterator[memoryview]:
            return (data[begin : begin + block_bytes] for begin in range(0, size, block_bytes))

        return Upload(f"t{item}", "uint8", (size,), size, blocks, {}, None)

    return [upload(item, size) for item, size in enumerate(sizes)]


class Server:
    """What a server makes of an insert's streams, without a server: refuses what the contract forbids."""

    def __init__(self, sizes: Sequence[int], mark_every: int) -> None:
        self.sizes = sizes
        self.complete: dict[int, bytes] = {}
        self.received: dict[int, bytearray] = {}
        self.resent_bytes = 0
        self.mark_every = mark_every
        self._committed: dict[int, int] = {}
        self._latest = -1
        self._announced: set[int] = set()
        self._finished = False

    def begin(self) -> dict[int, int]:
        """Begin a stream: everything but what is complete or committed is lost; return the committed bytes of the items."""
        self._committed = {
            item: min(len(data) // self.mark_every * self.mark_every, self.sizes[item] - 1)
            for item, data in self.received.items()
        }
        self.received = {item: data[: self._committed[item]] for item, data in self.received.items()}
        self._latest, self._announced, self._finished = -1, set(), False
        return {item: committed for item, committed in self._committed.items() if committed}

    def take(self, raw: bytes) -> list[int]:
        """Take a message and return the items that it completes."""
        assert not self._finished
        head, payload = split(raw)
        message = pb.InsertRequest.FromString(head)
        self._finished = message.finish
        position, completed = 0, []
        for segment in message.segments:
            data = bytes(payload[position : position + segment.payload_length])
            position += segment.payload_length
            assert crc32c.crc32c(data) == segment.crc32c or not data
            if self._segment(segment, data):
                completed.append(segment.item)
        assert position == payload.nbytes
        return completed

    def _segment(self, segment: pb.Segment, data: bytes) -> bool:
        item = segment.item
        assert segment.HasField("tensor") == (item not in self._announced), "announced once, and before anything else"
        if item not in self._announced:
            assert item > self._latest, "numbers ascend"
            self._latest = item
            self._announced.add(item)
            assert segment.tensor.id == f"t{item}"
            # What is committed is not sent again, but for the block in which it ends.
            committed = self._committed.get(item, 0)
            assert not data or segment.offset + len(data) > committed >= segment.offset
            self.resent_bytes += max(committed - segment.offset, 0)
        if item in self.complete:
            return segment.last
        received = self.received.setdefault(item, bytearray())
        assert segment.offset <= len(received), "bytes are left out"
        received += data[len(received) - segment.offset :]
        if segment.last:
            whole = self.complete[item] = bytes(self.received.pop(item))
            checksum = segment.source_checksum
            if self._committed.get(item):
                assert checksum == pb.Checksum(algorithm="crc32c", value=crc32c.crc32c(whole).to_bytes(4, "big"))
            else:
                assert checksum == pb.Checksum(algorithm="xxh3_128", value=xxhash.xxh3_128(whole).digest())
        return segment.last


def opened(session: InsertSession, server: Server, *, again: bool) -> InsertMessages:
    """Begin a stream and let the server say what it has."""
    committed = server.begin()
    messages = session.begin()
    if again:
        opening = pb.InsertRequest.FromString(next(messages))
        assert opening == pb.InsertRequest(open=opening.open)
        assert opening.open.request_id == session.request_id
    for item in server.complete:
        session.resolve(item)
    session.resumed(committed)
    messages.credit.set_limit(2**62)
    messages.opened.set()
    return messages


@given(
    sizes=st.lists(st.integers(0, 20) | st.integers(1, 1000), max_size=5),
    stops=st.lists(st.integers(0, 15), max_size=5),
    mark_every=st.integers(1, 300),
    heard=st.booleans(),
)
def test_whatever_interrupts_it_every_tensor_arrives_and_nothing_that_is_committed_is_sent_again(
    sizes: list[int], stops: list[int], mark_every: int, *, heard: bool
) -> None:
    session = InsertSession("d", uploads_of(sizes), InsertOptions())
    server = Server(sizes, mark_every)
    for number, stop in enumerate([*stops, 10**6]):
        messages = opened(session, server, again=number > 0)
        for raw in (raw for _, raw in zip(range(stop), messages, strict=False)):
            for item in server.take(raw):
                if heard:
                    session.resolve(item)
    assert messages.finished
    assert session.failure is None
    assert server.complete == {item: data_of(item, size) for item, size in enumerate(sizes)}
    assert server.resent_bytes < BLOCK * (len(stops) or 1)


def started(sizes: Sequence[int], **options: Any) -> tuple[InsertSession, InsertMessages]:
    """Return a session whose first stream has sent everything, of which nothing has a result."""
    session = InsertSession("d", uploads_of(sizes), InsertOptions(**options))
    messages = session.begin()
    messages.credit.set_limit(2**62)
    list(messages)
    return session, messages


def resume(session: InsertSession, committed_bytes: dict[int, int]) -> list[pb.InsertRequest]:
    """Return the messages of the next stream."""
    messages = session.begin()
    opening = next(messages)
    session.resumed(committed_bytes)
    messages.credit.set_limit(2**62)
    messages.opened.set()
    return [pb.InsertRequest.FromString(raw) for raw in (opening, *messages)]


@each("committed_bytes", [1, 99, 100, 101, 999])
def test_blocks_that_are_committed_are_left_out(committed_bytes: int) -> None:
    session, _ = started([1000])
    _, *messages = resume(session, {0: committed_bytes})
    segments = [segment for message in messages for segment in message.segments]
    assert [segment.offset for segment in segments] == list(range(committed_bytes // BLOCK * BLOCK, 1000, BLOCK))
    assert segments[-1].source_checksum.algorithm == "crc32c"
    assert int.from_bytes(segments[-1].source_checksum.value, "big") == crc32c.crc32c(data_of(0, 1000))


def test_a_tensor_of_which_everything_is_committed_is_ended_without_bytes() -> None:
    session, _ = started([1000])
    _, message = resume(session, {0: 1000})
    (segment,) = message.segments
    assert (segment.offset, segment.decoded_length, segment.payload_length, message.payload) == (1000, 0, 0, b"")
    assert segment.last
    assert segment.tensor.id == "t0"
    assert int.from_bytes(segment.source_checksum.value, "big") == crc32c.crc32c(data_of(0, 1000))


def test_what_has_a_result_is_neither_sent_nor_numbered_anew() -> None:
    session, _ = started([10, 20, 30])
    assert session.resolve(1)
    assert not session.resolve(1)
    assert not session.resolve(7)
    _, message = resume(session, {})
    assert [segment.item for segment in message.segments] == [0, 2]


def test_an_older_stream_makes_no_more_messages() -> None:
    session = InsertSession("d", uploads_of([1000, 1000]), InsertOptions())
    older = session.begin()
    next(older)
    resume(session, {})
    assert list(older) == []


def test_every_stream_opens_the_same_request_with_the_same_options() -> None:
    session, _ = started([10], all_or_nothing=True, validate_only=True)
    opening, *_ = resume(session, {})
    assert opening == pb.InsertRequest(
        open=pb.OpenInsert(dataset="d", request_id=session.request_id, all_or_nothing=True, validate_only=True)
    )


def test_uploads_are_asked_for_once_over_all_streams() -> None:
    asked = []

    def uploads() -> Iterator[Upload]:
        for upload in uploads_of([300, 300, 300]):
            asked.append(upload.id)
            yield upload

    session = InsertSession("d", uploads(), InsertOptions())
    messages = session.begin()
    next(messages)
    assert asked == ["t0"]
    resume(session, {})
    resume(session, {})
    assert asked == ["t0", "t1", "t2"]


class TestExpired:
    """A tensor whose bytes the server lost is sent from its start once more, in another stream."""

    def test_the_next_stream_sends_it_from_its_start(self) -> None:
        session, _ = started([1000])
        resume(session, {0: 500})
        assert session.expired(0)
        assert session.has_expired
        _, *messages = resume(session, {})
        assert not session.has_expired
        segments = [segment for message in messages for segment in message.segments]
        assert segments[0].offset == 0
        assert segments[-1].source_checksum.algorithm == "xxh3_128"

    def test_a_second_time_is_a_failure(self) -> None:
        session, _ = started([1000])
        assert session.expired(0)
        resume(session, {})
        assert not session.expired(0)

    def test_what_has_a_result_cannot_expire(self) -> None:
        session, _ = started([1000])
        session.resolve(0)
        assert not session.expired(0)
        assert not session.has_expired


def test_only_tensors_that_a_server_may_keep_are_worth_cancelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insert_stream, "_KEPT_BYTES_MIN", 500)
    session, _ = started([500, 501])
    assert session.may_have_left_something
    session.resolve(1)
    assert not session.may_have_left_something


def test_what_the_server_has_counts_as_delivered() -> None:
    session, _ = started([1000, 400, 300])
    session.resolve(1)
    resume(session, {0: 600})
    assert session.delivered_bytes == 400 + 600


def test_all_or_nothing_ends_with_what_cannot_be_sent() -> None:
    uploads = uploads_of([10, 10])
    unsendable = Upload("bad", "uint8", (1,), 1, uploads[0].blocks, {"k": object()}, None)
    session = InsertSession("d", [uploads[0], unsendable, uploads[1]], InsertOptions(all_or_nothing=True))
    messages = session.begin()
    messages.credit.set_limit(2**62)
    assert not any(pb.InsertRequest.FromString(raw).finish for raw in messages)
    assert isinstance(session.failure, InvalidMetadataError)
    assert session.unsendable == []


def test_what_the_server_has_may_take_several_messages() -> None:
    session = InsertSession("d", uploads_of([1000, 1000, 500]), InsertOptions())
    broken = session.begin()
    broken.credit.set_limit(2**24)
    assert len(list(broken)) > 3

    messages = session.begin()
    complete = pb.Tensor(id="t0", generation=7, spec=pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[1000]))
    parts = [
        pb.InsertOpened(items=[pb.ItemStatus(item=1, committed_bytes=600, tensor=pb.Tensor(id="t1"))], more=True),
        pb.InsertOpened(items=[pb.ItemStatus(item=0, tensor=complete)], more=True),
        pb.InsertOpened(max_unacknowledged_bytes=2**24),
    ]
    found: list[Any] = []
    told: list[Progress] = []
    for part in parts:
        assert not messages.opened.is_set()
        found += insert_results(pb.InsertResponse(opened=part).SerializeToString(), session, messages, told.append)
    assert messages.opened.is_set()
    assert told == []
    assert [(item, info.id) for item, info in found if isinstance(info, TensorInfo)] == [(0, "t0")]
    segments = [segment for raw in messages for segment in pb.InsertRequest.FromString(split(raw)[0]).segments]
    begins = {segment.item: segment.offset for segment in reversed(segments)}
    assert begins == {1: 600, 2: 0}


class TestStalls:
    """What a session does after a stream on which nothing moved for too long."""

    def test_where_the_source_takes_its_time_it_is_waited_for_and_each_tensor_is_sent_at_once(self) -> None:
        asked, may_go_on = threading.Event(), threading.Event()

        def slowly() -> Iterator[Upload]:
            first, *others = uploads_of([10, 10, 10])
            yield first
            asked.set()
            assert may_go_on.wait(30)
            yield from others

        session = InsertSession("d", slowly(), InsertOptions())
        stalled = threading.Thread(target=lambda: list(session.begin()))
        stalled.start()
        assert asked.wait(30)
        threading.Timer(0.05, may_go_on.set).start()
        assert session.await_source()
        assert may_go_on.is_set()
        _, *messages = resume(session, {})
        stalled.join(30)
        # The last one has nothing but the finish.
        assert [[segment.item for segment in message.segments] for message in messages] == [[0], [1], [2], []]
        assert messages[-1].finish

    def test_where_it_was_not_the_source_the_next_stream_sends_smaller_messages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(insert_stream, "_BLOCK_BYTES_SLOW", 25)
        session, _ = started([100, 10])
        assert not session.await_source()
        _, *messages = resume(session, {})
        assert [len(message.payload) for message in messages] == [25, 25, 25, 25, 10]
