"""Messages taken apart and put together, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from tensorus_protos.framing import PAYLOAD_TAG, MalformedMessageError, join, repeated, split
from tensorus_protos.v1 import tensorus_pb2 as pb

SPLITS = [
    pytest.param("", "", "", id="nothing"),
    pytest.param("1801", "1801", "", id="a head alone"),
    pytest.param("7a0161", "", "61", id="a payload alone"),
    pytest.param("1801 7a0161", "1801", "61", id="the payload at the end, as we write it"),
    pytest.param("7a0161 1801", "1801", "61", id="the payload first"),
    pytest.param("1801 7a0161 2801", "1801 2801", "61", id="the payload in the middle"),
    pytest.param("7a00", "", "", id="an empty payload"),
    pytest.param("7a0161 1801 7a0262 63", "1801", "6263", id="of two payloads the last one counts"),
    pytest.param("7a0161 7a00", "", "", id="of two payloads the last one counts, even if empty"),
    pytest.param("fa00 0161", "", "61", id="the payload's tag in two bytes"),
    pytest.param("fa80808000 0161", "", "61", id="the payload's tag in five bytes"),
    pytest.param("7a 8100 61", "", "61", id="its length in two bytes"),
    pytest.param("7a 8180808000 61", "", "61", id="its length in five bytes"),
    pytest.param("7801", "7801", "", id="field 15 as a varint is not the payload"),
    pytest.param("79 0102030405060708", "79 0102030405060708", "", id="field 15 as a fixed64 is not the payload"),
    pytest.param("7d 01020304", "7d 01020304", "", id="field 15 as a fixed32 is not the payload"),
    pytest.param("7b 7a0161 7c 7a0162", "7b 7a0161 7c", "62", id="a payload inside a group is the group's"),
    pytest.param("a301 ab01 7a0161 ac01 a401", "a301 ab01 7a0161 ac01 a401", "", id="groups in groups"),
    pytest.param("a201 03 7a0161", "a201 03 7a0161", "", id="a payload's bytes inside another field"),
    pytest.param("a001 ffffffffffffffffff01 7a0161", "a001 ffffffffffffffffff01", "61", id="a varint of ten bytes"),
]

REFUSALS = [
    pytest.param("7a", r"no varint of at most 5 bytes at byte 1", id="ends after the payload's tag"),
    pytest.param("7a80", r"no varint of at most 5 bytes at byte 1", id="ends inside the payload's length"),
    pytest.param(
        "7a0361", r"payload at byte 2 is 3 bytes long, but the message has 1 left", id="ends inside the payload"
    ),
    pytest.param("7a ffffffff0f", r"payload at byte 6 is 4294967295 bytes long", id="an immense payload"),
    pytest.param("1801 7a05", r"payload at byte 4 is 5 bytes long, but the message has 0 left", id="no payload left"),
    pytest.param("80", r"no varint of at most 5 bytes at byte 0", id="ends inside a tag"),
    pytest.param("808080808000", r"no varint of at most 5 bytes at byte 0", id="a tag of six bytes"),
    pytest.param("18", r"no varint of at most 10 bytes at byte 1", id="ends before a varint"),
    pytest.param("1a0361", r"ends at byte 3, inside a field that goes on to 5", id="ends inside a field"),
    pytest.param("5d000000", r"ends at byte 4, inside a field that goes on to 5", id="ends inside a fixed32"),
    pytest.param("5900000000000000", r"ends at byte 8, inside a field that goes on to 9", id="ends inside a fixed64"),
    pytest.param("a301 1801", r"no varint of at most 10 bytes at byte 4", id="a group without an end"),
    pytest.param("1c", r"wire type 4 at byte 1 is not valid", id="an end without a group"),
    pytest.param("1e", r"wire type 6 at byte 1 is not valid", id="wire type 6"),
    pytest.param("1f", r"wire type 7 at byte 1 is not valid", id="wire type 7"),
    pytest.param("a301 1e a401", r"wire type 6 at byte 3 is not valid", id="wire type 6 inside a group"),
]


@pytest.mark.parametrize(("message", "head", "payload"), SPLITS)
def test_split_finds_the_payload(message: str, head: str, payload: str) -> None:
    found_head, found_payload = split(bytes.fromhex(message))
    assert (found_head.hex(), bytes(found_payload).hex()) == (head.replace(" ", ""), payload)
    assert type(found_head) is bytes
    assert type(found_payload) is memoryview


@pytest.mark.parametrize("message", ["1801 7a0161", "7a0161 1801", "1801"], ids=["last", "first", "none"])
def test_the_payload_is_a_view_of_the_message(message: str) -> None:
    raw = bytes.fromhex(message)
    assert split(raw)[1].obj is raw


@pytest.mark.parametrize(("message", "head", "payload"), SPLITS)
def test_the_runtime_agrees_with_the_table(message: str, head: str, payload: str) -> None:
    assert pb.GetResponse.FromString(bytes.fromhex(message)).payload.hex() == payload


@pytest.mark.parametrize(("message", "match"), REFUSALS)
def test_split_refuses_what_is_no_message(message: str, match: str) -> None:
    with pytest.raises(MalformedMessageError, match=match):
        split(bytes.fromhex(message))
    with pytest.raises(DecodeError):
        pb.GetResponse.FromString(bytes.fromhex(message))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("fa8080808000 0161", id="a tag of six bytes"),
        pytest.param("fa808080808080808000 0161", id="a tag of ten bytes"),
        pytest.param("7a 818080808000 61", id="a length of six bytes"),
        pytest.param("7a 81808080808080808000 61", id="a length of ten bytes"),
        pytest.param("00 01", id="field number 0"),
        pytest.param("0b 7a0161 14", id="a group that another one ends"),
        pytest.param("fa80808010 0161", id="a tag beyond 32 bits"),
    ],
)
def test_what_the_runtime_refuses_is_not_accepted_as_a_payload(message: str) -> None:
    raw = bytes.fromhex(message)
    with pytest.raises(DecodeError):
        pb.GetResponse.FromString(raw)
    with pytest.raises((MalformedMessageError, DecodeError)):
        pb.GetResponse.FromString(split(raw)[0])


def test_a_malformed_message_is_a_value_error() -> None:
    assert issubclass(MalformedMessageError, ValueError)


def test_a_group_may_be_nested_deeper_than_python_recurses() -> None:
    groups = b"\xa3\x01" * 100_000 + b"\xa4\x01" * 100_000
    head, payload = split(groups + b"\x7a\x01a")
    assert head == groups
    assert bytes(payload) == b"a"


@pytest.mark.parametrize(
    ("payload_bytes", "length"),
    [
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (16383, "ff7f"),
        (16384, "808001"),
        (2 * 1024 * 1024, "80808001"),
    ],
)
def test_join_writes_the_tag_and_the_shortest_length(payload_bytes: int, length: str) -> None:
    payload = bytes(payload_bytes)
    assert join(b"\x18\x01", [payload]) == b"\x18\x01\x7a" + bytes.fromhex(length) + payload


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b""]], ids=["no pieces", "an empty piece", "two empty pieces"])
def test_join_writes_no_field_for_an_empty_payload(pieces: list[bytes]) -> None:
    assert join(b"\x18\x01", pieces) == b"\x18\x01"


def test_join_returns_bytes_for_pieces_of_any_kind() -> None:
    pieces = [b"ab", bytearray(b"cd"), memoryview(b"ef"), np.array([0x6867], "<u2")]
    message = join(b"", pieces)
    assert type(message) is bytes
    assert message == b"\x7a\x08abcdefgh"


def test_join_counts_bytes_and_not_elements() -> None:
    assert join(b"", [memoryview(np.zeros((2, 3), np.float64))]) == b"\x7a\x30" + bytes(48)


@pytest.mark.parametrize("sizes", [[], [0], [1, 0, 127, 128, 5, 20_000]], ids=str)
def test_repeated_makes_elements_one_by_one(sizes: list[int]) -> None:
    segments = [pb.Segment(item=number, tensor=pb.Tensor(id="x" * size)) for number, size in enumerate(sizes)]
    elements = repeated(pb.GetResponse.SEGMENTS_FIELD_NUMBER, [segment.SerializeToString() for segment in segments])
    whole = pb.GetResponse(segments=segments)
    assert elements == whole.SerializeToString()
    statuses = pb.GetResponse(statuses=[pb.ItemStatus(item=9)])
    whole.MergeFrom(statuses)
    assert pb.GetResponse.FromString(statuses.SerializeToString() + elements) == whole


@pytest.mark.parametrize("message_type", [pb.InsertRequest, pb.GetResponse, pb.QueryResponse, pb.ExplainPolicyRequest])
def test_every_message_with_bulk_bytes_has_them_under_the_tag(message_type: type) -> None:
    field = message_type.DESCRIPTOR.fields_by_name["payload"]  # type: ignore[attr-defined]
    assert field.number << 3 | 2 == PAYLOAD_TAG
    assert field.number == max(other.number for other in field.containing_type.fields)
