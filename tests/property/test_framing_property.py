"""Framing by hand is what the protobuf runtime does: for every message it writes, and for every run of bytes it reads."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from tensorus_protos.framing import MalformedMessageError, join, split
from tensorus_protos.v1 import tensorus_pb2 as pb

PAYLOAD_NUMBER = 15
VARINT, FIXED64, LENGTH_DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)

TAG_BYTES_MAX = 5
"""Of the longest form of a tag or a length that the runtime reads."""

# ---- Heads as messages --------------------------------------------------------------------------------------------------

texts = st.text(max_size=8)
codecs = st.builds(
    pb.Codec,
    id=texts,
    configuration=st.dictionaries(texts, st.builds(pb.Value, integer=st.integers(-(2**63), 2**63 - 1)), max_size=3),
)
encodings = st.lists(st.builds(pb.Encoding, codecs=st.lists(codecs, max_size=2)), max_size=2)
tensors = st.builds(
    pb.Tensor,
    id=texts,
    spec=st.builds(
        pb.TensorSpec, dtype=st.integers(0, 200), shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
    ),
    metadata=st.dictionaries(texts, st.builds(pb.Value, text=texts) | st.builds(pb.Value, null=st.just(True))),
    generation=st.integers(0, 2**64 - 1),
)
segments = st.lists(
    st.builds(
        pb.Segment,
        item=st.integers(0, 2**32 - 1),
        tensor=st.none() | tensors,
        offset=st.integers(0, 2**64 - 1),
        payload_length=st.integers(0, 2**32 - 1),
        crc32c=st.none() | st.integers(0, 2**32 - 1),
        last=st.booleans(),
    ),
    max_size=3,
)
statuses = st.lists(st.builds(pb.ItemStatus, item=st.integers(0, 9), tensor=st.none() | tensors), max_size=2)

HEADS: dict[Any, st.SearchStrategy[Any]] = {
    pb.InsertRequest: st.builds(
        pb.InsertRequest,
        open=st.none() | st.builds(pb.OpenInsert, dataset=texts, request_id=texts, encodings=encodings),
        segments=segments,
        finish=st.booleans(),
    ),
    pb.GetResponse: st.builds(pb.GetResponse, encodings=encodings, segments=segments, statuses=statuses),
    pb.QueryResponse: st.builds(
        pb.QueryResponse, encodings=encodings, segments=segments, statuses=statuses, resume_token=texts
    ),
}

message_types = st.sampled_from(list(HEADS))


def serialized(message: Any) -> bytes:
    """Return the message's bytes, maps in one order."""
    raw: bytes = message.SerializeToString(deterministic=True)
    return raw


# ---- Messages as bytes --------------------------------------------------------------------------------------------------


@st.composite
def varints(draw: st.DrawFn, values: st.SearchStrategy[int], *, bytes_max: int = 10) -> bytes:
    """Return a varint, sometimes longer than it has to be: padded with zero bits."""
    value = draw(values)
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    padding = draw(st.sampled_from([0, 0, 0, 1, bytes_max]))
    for _ in range(min(padding, bytes_max - len(encoded))):
        encoded[-1] |= 0x80
        encoded.append(0)
    return bytes(encoded)


def tags(number: int, wire_type: int) -> st.SearchStrategy[bytes]:
    return varints(st.just(number << 3 | wire_type), bytes_max=TAG_BYTES_MAX)


@st.composite
def delimited(draw: st.DrawFn, number: int, contents: st.SearchStrategy[bytes]) -> bytes:
    content = draw(contents)
    length = draw(varints(st.just(len(content)), bytes_max=TAG_BYTES_MAX))
    return draw(tags(number, LENGTH_DELIMITED)) + length + content


payload_fields = delimited(
    PAYLOAD_NUMBER, st.binary(max_size=20) | st.just(b"") | st.binary(min_size=128, max_size=300)
)

unknown_numbers = st.sampled_from([16, 17, 100, 2**29 - 1])

# Numbers of known fields with a wire type that they do not have are unknown fields, too: 15 among them.
strange_numbers = unknown_numbers | st.just(PAYLOAD_NUMBER)


@st.composite
def unknown_fields(draw: st.DrawFn, depth: int = 0) -> bytes:
    kind = draw(st.sampled_from([VARINT, FIXED64, LENGTH_DELIMITED, FIXED32, START_GROUP]))
    if kind == LENGTH_DELIMITED:
        return draw(delimited(draw(unknown_numbers), st.binary(max_size=20)))
    number = draw(strange_numbers)
    if kind == VARINT:
        content = draw(varints(st.integers(0, 2**64 - 1)))
    elif kind == FIXED64:
        content = draw(st.binary(min_size=8, max_size=8))
    elif kind == FIXED32:
        content = draw(st.binary(min_size=4, max_size=4))
    else:
        # What looks like a payload inside a group is none.
        inner = payload_fields if depth > 2 else payload_fields | unknown_fields(depth + 1)
        content = b"".join(draw(st.lists(inner, max_size=3))) + draw(tags(number, END_GROUP))
    return draw(tags(number, kind)) + content


@st.composite
def wire_messages(draw: st.DrawFn, message_type: Any) -> bytes:
    """Return fields in any order: heads in several parts, unknown fields, and the payload any number of times."""
    fields = draw(
        st.lists(HEADS[message_type].map(serialized) | unknown_fields() | payload_fields, max_size=6).flatmap(
            st.permutations
        )
    )
    return b"".join(fields)


@st.composite
def damaged_messages(draw: st.DrawFn, message_type: Any) -> bytes:
    """Return a message with a few bytes changed, inserted or cut away."""
    raw = bytearray(draw(wire_messages(message_type)))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(raw)))
        kind = draw(st.sampled_from(["change", "insert", "cut", "end"]))
        if kind == "insert":
            raw[position:position] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "end":
            del raw[position:]
        elif position < len(raw):
            raw[position : position + 1] = bytes([draw(st.integers(0, 255))]) if kind == "change" else b""
    return bytes(raw)


def read_by_hand(message_type: Any, raw: bytes) -> bytes | None:
    """Return what `split` and the runtime make of the message together, serialized again; None where it is refused."""
    try:
        head, payload = split(raw)
        message = message_type.FromString(head)
    except (MalformedMessageError, DecodeError):
        return None
    assert message.payload == b""
    message.payload = bytes(payload)
    return serialized(message)


def read_by_runtime(message_type: Any, raw: bytes) -> bytes | None:
    try:
        return serialized(message_type.FromString(raw))
    except DecodeError:
        return None


# ---- The properties -----------------------------------------------------------------------------------------------------


@given(message_type=message_types, data=st.data())
def test_join_writes_what_the_runtime_writes_and_split_undoes_it(message_type: Any, data: st.DataObject) -> None:
    message = data.draw(HEADS[message_type])
    pieces = data.draw(st.lists(st.binary(max_size=300), max_size=4))
    head = serialized(message)
    message.payload = b"".join(pieces)
    raw = join(head, pieces)
    assert raw == serialized(message)
    found_head, payload = split(raw)
    assert (found_head, bytes(payload)) == (head, b"".join(pieces))


@given(message_type=message_types, data=st.data())
def test_split_reads_what_the_runtime_reads_in_any_order_of_fields(message_type: Any, data: st.DataObject) -> None:
    raw = data.draw(wire_messages(message_type))
    expected = read_by_runtime(message_type, raw)
    assert expected is not None
    assert read_by_hand(message_type, raw) == expected


@given(message_type=message_types, data=st.data())
def test_a_damaged_message_is_refused_or_read_as_the_runtime_reads_it(message_type: Any, data: st.DataObject) -> None:
    raw = data.draw(damaged_messages(message_type))
    assert read_by_hand(message_type, raw) == read_by_runtime(message_type, raw)


@given(message_type=message_types, raw=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_read_as_the_runtime_reads_them(message_type: Any, raw: bytes) -> None:
    assert read_by_hand(message_type, raw) == read_by_runtime(message_type, raw)


@given(pieces=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=5), max_size=4))
def test_pieces_may_be_buffers_of_wider_elements(pieces: list[list[int]]) -> None:
    buffers = [np.array(piece, "<u2") for piece in pieces]
    expected = pb.GetResponse(payload=b"".join(struct.pack(f"<{len(piece)}H", *piece) for piece in pieces))
    assert join(b"", buffers) == serialized(expected)
