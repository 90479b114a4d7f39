"""The sending side of an insert: messages within every limit, and never more on the way than the server allows."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest.mock import patch

import crc32c
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from support.arrays import canonical, random_bits
from support.cases import each
from tensorus._arrays.canonical import as_numpy, canonical_blocks, dtype_name
from tensorus._backend import InsertOptions, Upload
from tensorus._grpc import insert_stream
from tensorus._grpc.insert_stream import Credit, InsertSession
from tensorus.errors import InvalidMetadataError
from tensorus_protos.framing import split
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.limits import (
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    SEGMENTS_PER_MESSAGE_MAX,
    UNACKNOWLEDGED_BYTES_MAX,
)

MIB = 1024 * 1024

UNLIMITED = 2**62
"""Bytes of credit."""

INITIAL_CREDIT_BYTES = PAYLOAD_BYTES_MAX
"""What may be sent before the server has answered: one payload of the largest size, which every server takes."""


def upload(array: Any, tensor_id: str = "t", **fields: Any) -> Upload:
    values = as_numpy(array)
    filled: dict[str, Any] = {"metadata": {}, "policy": None, **fields}
    return Upload(
        tensor_id,
        dtype_name(values),
        values.shape,
        values.nbytes,
        lambda size: canonical_blocks(values, size),
        **filled,
    )


def sent(uploads: Iterable[Upload]) -> list[bytes]:
    """Return all messages of an insert to which the server gives all the credit it wants."""
    messages = InsertSession("weights", uploads, InsertOptions()).begin()
    messages.credit.set_limit(UNLIMITED)
    found = list(messages)
    assert messages.session.failure is None
    return found


def parsed(raw: bytes) -> pb.InsertRequest:
    return pb.InsertRequest.FromString(raw)


def items_of(messages: Iterable[bytes]) -> dict[int, list[tuple[pb.Segment, bytes]]]:
    """Return each item's segments, in order, with their bytes."""
    found: dict[int, list[tuple[pb.Segment, bytes]]] = {}
    for raw in messages:
        message = parsed(raw)
        position = 0
        for segment in message.segments:
            data = message.payload[position : position + segment.payload_length]
            found.setdefault(segment.item, []).append((segment, data))
            position += segment.payload_length
        assert position == len(message.payload)
    return found


# ---- The stream ---------------------------------------------------------------------------------------------------------


def test_the_first_message_opens_the_stream_and_no_other_does() -> None:
    first, *others = (parsed(raw) for raw in sent([upload(np.zeros(3 * MIB, np.uint8))]))
    assert first.open.dataset == "weights"
    assert str(uuid.UUID(first.open.request_id)) == first.open.request_id
    assert len(others) == 2
    assert not any(other.HasField("open") for other in others)


def test_every_insert_has_an_id_of_its_own() -> None:
    ids = {parsed(sent([])[0]).open.request_id for _ in range(10)}
    assert len(ids) == 10


def test_the_last_message_finishes_the_stream_and_no_other_does() -> None:
    messages = [parsed(raw) for raw in sent([upload(np.zeros(3 * MIB, np.uint8))])]
    assert [message.finish for message in messages] == [False, False, True]


def test_an_insert_of_nothing_opens_and_finishes_in_one_message() -> None:
    (raw,) = sent([])
    message = parsed(raw)
    assert message.HasField("open")
    assert message.finish
    assert not message.segments


def test_a_message_is_bytes_and_nothing_like_it() -> None:
    # A serializer that returns another buffer hangs a grpcio call.
    assert {type(raw) for raw in sent([upload(np.zeros(3 * MIB, np.uint8)), upload(np.zeros(3))])} == {bytes}


@each("canonical_bytes", [1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 5])
def test_a_tensor_is_cut_into_segments_that_follow_each_other(canonical_bytes: int) -> None:
    array = random_bits("uint8", (canonical_bytes,))
    (segments,) = items_of(sent([upload(array)])).values()
    offset = 0
    for segment, data in segments:
        assert segment.offset == offset
        assert segment.decoded_length == segment.payload_length == len(data)
        assert segment.crc32c == crc32c.crc32c(data)
        assert segment.encoding == 0
        offset += len(data)
    assert b"".join(data for _, data in segments) == array.tobytes()
    assert len(segments) == -(-canonical_bytes // MIB)


def test_the_tensor_is_announced_on_its_first_segment_alone() -> None:
    array = np.zeros((3, MIB), np.uint8)
    ((first, _), *others) = items_of(sent([upload(array, "w", metadata={"layer": 3})]))[0]
    assert first.tensor == pb.Tensor(
        id="w",
        spec=pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[3, MIB]),
        metadata={"layer": pb.Value(integer=3)},
    )
    assert not any(segment.HasField("tensor") for segment, _ in others)


@each(
    "array",
    [
        pytest.param(np.arange(5, dtype=np.float32), id="a small one"),
        pytest.param(random_bits("float32", (MIB,)), id="a large one"),
        pytest.param(np.empty((0, 3), np.float32), id="an empty one"),
        pytest.param(random_bits("float32", (600, 700)).T, id="a scattered one"),
        pytest.param(np.array(5, ">i8"), id="a big-endian scalar"),
    ],
)
def test_the_last_segment_says_so_and_has_the_checksum_of_them_all(array: np.ndarray[Any, Any]) -> None:
    (*others, (last, _)) = items_of(sent([upload(array)]))[0]
    assert last.last
    assert last.source_checksum == pb.Checksum(algorithm="xxh3_128", value=xxhash.xxh3_128(canonical(array)).digest())
    assert not any(segment.last or segment.HasField("source_checksum") for segment, _ in others)


def test_an_empty_tensor_is_one_segment_without_bytes() -> None:
    (raw,) = sent([upload(np.empty((0, 3), ">f4"), "e")])
    (segment,) = parsed(raw).segments
    assert segment.last
    assert segment.tensor.id == "e"
    assert segment.decoded_length == segment.payload_length == 0
    assert parsed(raw).payload == b""


def test_tensors_are_numbered_in_order() -> None:
    uploads = [upload(np.full(size, size), f"{size}") for size in (3, 200_000, 0, 7)]
    found = items_of(sent(uploads))
    assert {item: segments[0][0].tensor.id for item, segments in found.items()} == {0: "3", 1: "200000", 2: "0", 3: "7"}
    assert list(found) == sorted(found)


# ---- Limits -------------------------------------------------------------------------------------------------------------


def text_of(size: int) -> str:
    return "x" * size


LOADS: dict[str, Callable[[], Iterator[Upload]]] = {
    "thousands of tiny tensors": lambda: (upload(np.arange(4), f"t{number}") for number in range(4500)),
    "thousands of empty tensors": lambda: (upload(np.empty(0), f"t{number}") for number in range(4500)),
    "hundreds with the largest metadata": lambda: (
        upload(np.arange(4), f"t{number}", metadata={"k": text_of(METADATA_BYTES_MAX - 10)}) for number in range(100)
    ),
    "large ones with the largest metadata": lambda: (
        upload(np.zeros(MIB, np.uint8), f"t{number}", metadata={"k": text_of(METADATA_BYTES_MAX - 10)})
        for number in range(5)
    ),
    "one that is large": lambda: iter([upload(np.zeros(9 * MIB + 7, np.uint8))]),
    "just below and just above a message": lambda: (
        upload(np.zeros(MIB + offset, np.uint8), f"{offset}") for offset in (-1, 0, 1, -1, 0, 1)
    ),
    "scattered ones": lambda: (upload(np.zeros((700, 900)).T, f"t{number}") for number in range(3)),
    "sizes of every kind": lambda: (
        upload(np.zeros(size, np.uint8), f"t{number}", metadata={"k": text_of(size % 70_000)})
        for number, size in enumerate([0, 5, 900_000, 200_000, 2_100_000, 1, 1, 0, 65_536, 1_048_000, 600, 3_000_000])
    ),
}


@each("load", LOADS.values(), ids=LOADS)
def test_no_message_exceeds_a_limit_and_every_byte_arrives_in_its_place(load: Callable[[], Iterator[Upload]]) -> None:
    messages = sent(load())
    for raw in messages:
        head, payload = split(raw)
        assert payload.nbytes <= PAYLOAD_BYTES_MAX
        assert len(raw) < MESSAGE_BYTES_MAX
        assert len(pb.InsertRequest.FromString(head).segments) <= SEGMENTS_PER_MESSAGE_MAX
    found = items_of(messages)
    for item, wanted in enumerate(load()):
        segments = found[item]
        assert segments[0][0].tensor.id == wanted.id
        assert b"".join(data for _, data in segments) == b"".join(wanted.blocks(MIB))
        assert [segment.last for segment, _ in segments] == [False] * (len(segments) - 1) + [True]


SHORT_AND_GENERAL = [
    *(random_bits("uint8", (size,)) for size in (1, 4096, 1, MIB - 1, MIB, MIB + 1, 3)),
    np.zeros((0, 3)),
    np.array(5.0),
    np.arange(60_000, dtype=">f4").reshape(200, 300).T,
    np.arange(300_000, dtype=">f8"),
    np.arange(3, dtype=np.int16),
]
"""What is sent the short way, and what is not: large, empty, or rearranged into several blocks."""


def test_tensors_of_one_block_are_sent_as_all_others() -> None:
    uploads = [
        upload(array, f"{number}", metadata={"number": number} if number % 2 else {})
        for number, array in enumerate(SHORT_AND_GENERAL)
    ]
    with patch.object(insert_stream, "_only_block", lambda *_: None):
        general = items_of(sent(uploads))
    short = items_of(sent(uploads))
    assert short == general
    blocks = [insert_stream._only_block(one, MIB) for one in uploads]
    assert [block is None for block in blocks].count(True) == 3
    for array, block in zip(SHORT_AND_GENERAL, blocks, strict=True):
        assert block is None or bytes(block) == canonical(array)


def test_small_tensors_share_messages() -> None:
    # A message for each would cost a hundred times more than its bytes.
    assert len(sent(upload(np.arange(4), f"t{number}") for number in range(2000))) == 2
    assert len(sent(upload(np.zeros(100_000, np.uint8), f"t{number}") for number in range(100))) == 10


def test_a_large_tensor_goes_in_messages_of_one_chunk() -> None:
    # The server takes a chunk of the default size out of a message without copying it.
    assert [len(parsed(raw).payload) for raw in sent([upload(np.zeros(5 * MIB, np.uint8))])] == [MIB] * 5


def test_metadata_counts_towards_the_size_of_a_message() -> None:
    uploads = [upload(np.arange(4), f"t{number}", metadata={"k": text_of(60_000)}) for number in range(100)]
    sizes = [len(raw) for raw in sent(uploads)]
    assert max(sizes) < 1.2 * MIB
    assert len(sizes) == 6


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 100) | st.integers(0, 3 * MIB), max_size=6), metadata=st.integers(0, 60_000))
def test_any_load_is_cut_within_the_limits_and_arrives(sizes: list[int], metadata: int) -> None:
    arrays = [np.resize(np.arange(251, dtype=np.uint8), size) for size in sizes]
    uploads = [upload(array, f"{number}", metadata={"k": text_of(metadata)}) for number, array in enumerate(arrays)]
    messages = sent(uploads)
    assert all(len(raw) < MESSAGE_BYTES_MAX and split(raw)[1].nbytes <= PAYLOAD_BYTES_MAX for raw in messages)
    found = items_of(messages)
    assert [b"".join(data for _, data in found[item]) for item in range(len(arrays))] == [
        array.tobytes() for array in arrays
    ]


# ---- What cannot be sent ------------------------------------------------------------------------------------------------


def test_an_upload_that_cannot_be_sent_is_left_out_and_the_others_keep_their_numbers() -> None:
    uploads = [
        upload(np.zeros(1), "a"),
        upload(np.zeros(2), "b", metadata={"k": object()}),
        upload(np.zeros(3), "c"),
        upload(np.zeros(4), "d", metadata={"k": 2**64}),
    ]
    messages = InsertSession("weights", uploads, InsertOptions()).begin()
    found = items_of(list(messages))
    assert {item: segments[0][0].tensor.id for item, segments in found.items()} == {0: "a", 2: "c"}
    assert [(item, type(error)) for item, error in messages.session.unsendable] == [
        (1, InvalidMetadataError),
        (3, InvalidMetadataError),
    ]
    assert messages.session.failure is None


class Stop(BaseException):
    """What `sys.exit()` raises is no `Exception` either."""


@pytest.mark.parametrize("error", [KeyError("mine"), Stop("mine")], ids=["an exception", "no Exception"])
def test_what_the_uploads_raise_ends_the_messages_and_is_kept(error: BaseException) -> None:
    # gRPC asks for messages on a thread of its own: an error that got out there would be nobody's, and the call never end.
    def uploads() -> Iterator[Upload]:
        yield upload(np.zeros(3))
        raise error

    messages = InsertSession("weights", uploads(), InsertOptions()).begin()
    assert not any(parsed(raw).finish for raw in messages)
    assert messages.session.failure is error
    assert list(messages) == []


def test_what_was_complete_before_the_uploads_raised_is_sent() -> None:
    def uploads() -> Iterator[Upload]:
        yield upload(np.zeros(3), "a")
        yield upload(np.zeros(2 * MIB, np.uint8), "b")
        raise KeyError

    messages = InsertSession("weights", uploads(), InsertOptions()).begin()
    messages.credit.set_limit(UNLIMITED)
    found = items_of(list(messages))
    assert {segments[0][0].tensor.id for segments in found.values() if segments[-1][0].last} == {"a", "b"}


def test_what_the_blocks_raise_ends_the_messages_and_is_kept() -> None:
    def blocks(_: int) -> Iterator[memoryview]:
        yield memoryview(bytes(MIB))
        raise OSError("the file was cut")

    messages = InsertSession(
        "weights", [Upload("t", "uint8", (2 * MIB,), 2 * MIB, blocks, {}, None)], InsertOptions()
    ).begin()
    assert not any(parsed(raw).finish for raw in messages)
    assert str(messages.session.failure) == "the file was cut"


def test_uploads_are_asked_for_as_the_messages_go_out() -> None:
    # They need not be in memory together.
    asked: list[int] = []

    def uploads() -> Iterator[Upload]:
        for number in range(10):
            asked.append(number)
            yield upload(np.zeros(MIB, np.uint8), f"t{number}")

    messages = InsertSession("weights", uploads(), InsertOptions()).begin()
    assert asked == []
    next(messages)
    assert len(asked) == 2


# ---- Credit -------------------------------------------------------------------------------------------------------------


class Steps:
    """A condition variable that takes the next step where a thread would wait, so that one thread can play both sides."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.remaining = list(steps)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            self.remaining.pop(0)()

    def notify_all(self) -> None:
        pass


class NobodyAnswersError(Exception):
    pass


def nobody() -> None:
    raise NobodyAnswersError


def credit_with(*steps: Callable[[Credit], None]) -> tuple[Credit, Steps]:
    """Return a credit on which `spend` takes the next step wherever it would wait."""
    credit = Credit()
    condition = Steps(*(lambda step=step: step(credit) for step in steps), nobody)
    credit._changed = condition  # type: ignore[assignment]
    return credit, condition


def test_before_the_server_has_answered_one_payload_may_go_out() -> None:
    credit, _ = credit_with()
    assert credit.spend(INITIAL_CREDIT_BYTES)
    with pytest.raises(NobodyAnswersError):
        credit.spend(1)


def test_an_acknowledgement_gives_credit_back() -> None:
    credit, condition = credit_with(lambda credit: credit.acknowledge(MIB))
    assert credit.spend(2 * MIB)
    assert credit.spend(MIB)
    assert len(condition.remaining) == 1


def test_an_acknowledgement_counts_from_the_start_and_not_from_the_one_before() -> None:
    credit, _ = credit_with(lambda credit: credit.acknowledge(MIB), lambda credit: credit.acknowledge(2 * MIB))
    assert all(credit.spend(MIB) for _ in range(4))
    with pytest.raises(NobodyAnswersError):
        credit.spend(MIB)


def test_the_server_s_word_replaces_the_first_limit() -> None:
    credit, _ = credit_with(lambda credit: credit.set_limit(UNACKNOWLEDGED_BYTES_MAX))
    assert all(credit.spend(MIB) for _ in range(16))
    with pytest.raises(NobodyAnswersError):
        credit.spend(1)


def test_a_limit_may_be_reached_exactly() -> None:
    credit, _ = credit_with()
    credit.set_limit(10)
    assert credit.spend(10)
    with pytest.raises(NobodyAnswersError):
        credit.spend(1)


def test_no_payload_needs_no_credit() -> None:
    credit, _ = credit_with()
    assert credit.spend(INITIAL_CREDIT_BYTES)
    assert credit.spend(0)


def test_the_end_of_the_call_lets_go_who_waits() -> None:
    credit, _ = credit_with(Credit.end)
    assert credit.spend(INITIAL_CREDIT_BYTES)
    assert not credit.spend(1)


def test_after_the_end_of_the_call_nothing_is_sent() -> None:
    messages = InsertSession("weights", [upload(np.zeros(3 * MIB, np.uint8))], InsertOptions()).begin()
    next(messages)
    messages.credit.end()
    assert list(messages) == []


def test_what_is_on_the_way_never_exceeds_the_credit() -> None:
    uploads = (upload(np.zeros(700_000, np.uint8), f"t{number}") for number in range(40))
    messages = InsertSession("weights", uploads, InsertOptions()).begin()
    on_the_way: list[int] = []
    acknowledged = 0

    def acknowledge_the_oldest() -> None:
        nonlocal acknowledged
        acknowledged += on_the_way.pop(0)
        messages.credit.acknowledge(acknowledged)

    messages.credit._changed = Steps(*[acknowledge_the_oldest] * 100)  # type: ignore[assignment]
    for raw in messages:
        on_the_way.append(split(raw)[1].nbytes)
        assert sum(on_the_way) <= INITIAL_CREDIT_BYTES
    assert messages.session.failure is None
    assert acknowledged + sum(on_the_way) == 40 * 700_000


@each(
    "wake",
    [lambda credit: credit.acknowledge(MIB), lambda credit: credit.set_limit(UNLIMITED), lambda credit: credit.end()],
    ids=["an acknowledgement", "a limit", "the end"],
)
def test_a_waiting_thread_is_woken_by(wake: Callable[[Credit], None]) -> None:
    credit = Credit()
    credit.spend(INITIAL_CREDIT_BYTES)
    sender = threading.Thread(target=credit.spend, args=(MIB,), daemon=True)
    sender.start()
    deadline = time.monotonic() + 10
    while not credit._changed._waiters and time.monotonic() < deadline:  # type: ignore[attr-defined]
        pass
    assert sender.is_alive()
    wake(credit)
    sender.join(10)
    assert not sender.is_alive()


def test_the_limits_of_a_message_lie_below_the_contract_s() -> None:
    assert insert_stream._BLOCK_BYTES <= PAYLOAD_BYTES_MAX
    assert insert_stream._SEGMENTS_MAX <= SEGMENTS_PER_MESSAGE_MAX
    assert insert_stream._INITIAL_CREDIT_BYTES == INITIAL_CREDIT_BYTES <= UNACKNOWLEDGED_BYTES_MAX
