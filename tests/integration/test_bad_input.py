"""Bad input over the wire, from a stranger: a specific code, reason and message; nothing becomes visible, nothing breaks.

The stranger has the generated stub and messages, and nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from support.wire import (
    KEPT,
    announced,
    bytes_of,
    call_error,
    insert,
    insert_message,
    item_error,
    open_insert,
    read_all,
)
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server import limits
from tensorus_server.processes.server import Server

DATA = bytes_of(4)

ITEMS = {
    "a dtype that is not specified": (
        insert_message(DATA, tensor=announced("bad", dtype=pb.DATA_TYPE_UNSPECIFIED)),
        ("INVALID_ARGUMENT", "UNSUPPORTED_DTYPE", r"dtype of the tensor is not specified"),
    ),
    "an unknown dtype of a width that is not whole bytes": (
        insert_message(DATA, tensor=pb.Tensor(id="bad", spec=pb.TensorSpec(dtype=99, shape=[4], element_bits=4))),
        ("INVALID_ARGUMENT", "UNSUPPORTED_DTYPE", r"dtype 99 is unknown here and its element_bits is 4"),
    ),
    "a shape whose product overflows 64 bits": (
        insert_message(DATA, tensor=announced("bad", [2**40, 2**40])),
        ("INVALID_ARGUMENT", "INVALID_SHAPE", r"needs 1208925819614629174706176 bytes, limit is 1099511627776 bytes"),
    ),
    "an empty shape with a size beyond every limit": (
        insert_message(b"", tensor=announced("bad", [0, 2**62])),
        ("INVALID_ARGUMENT", "INVALID_SHAPE", r"limit is 1099511627776 bytes"),
    ),
    "a negative size": (
        insert_message(DATA, tensor=announced("bad", [-4])),
        ("INVALID_ARGUMENT", "INVALID_SHAPE", r"size of axis 0 is -4, must not be negative"),
    ),
    "too many axes": (
        insert_message(b"\0", tensor=announced("bad", [1] * 100_000)),
        ("INVALID_ARGUMENT", "INVALID_SHAPE", r"rank is 100000, limit is 32 axes"),
    ),
    "fewer bytes than the shape needs": (
        insert_message(DATA, tensor=announced("bad", [5])),
        ("INVALID_ARGUMENT", "SIZE_MISMATCH", r"4 bytes were sent, uint8 of shape \[5\] has 5 bytes"),
    ),
    "more bytes than the shape needs": (
        insert_message(DATA, tensor=announced("bad", [3])),
        ("INVALID_ARGUMENT", "SIZE_MISMATCH", r"at least 4 bytes were sent, uint8 of shape \[3\] has 3 bytes"),
    ),
    "a segment whose CRC32C does not match": (
        insert_message(DATA, tensor=announced("bad"), crc32c=1),
        (
            "INVALID_ARGUMENT",
            "CHECKSUM_MISMATCH",
            r"CRC32C of the segment at offset 0 is 0x[0-9a-f]{8}, the segment says 0x00000001",
        ),
    ),
    "a source checksum that does not match": (
        insert_message(
            DATA, tensor=announced("bad", source_checksum=pb.Checksum(algorithm="xxh3_128", value=b"\0" * 16))
        ),
        (
            "INVALID_ARGUMENT",
            "CHECKSUM_MISMATCH",
            r"xxh3_128 of the 4 bytes is [0-9a-f]{32}, the source checksum is 0{32}",
        ),
    ),
    "a checksum of an unknown algorithm": (
        insert_message(DATA, tensor=announced("bad"), source_checksum=pb.Checksum(algorithm="md5", value=b"\0" * 16)),
        (
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
            r"algorithm of the source checksum is 'md5', must be xxh3_128 or crc32c",
        ),
    ),
    "an unknown preset": (
        insert_message(DATA, tensor=announced("bad", policy=pb.StoragePolicy(preset="ultra"))),
        ("INVALID_ARGUMENT", "INVALID_POLICY", r"preset 'ultra' is not one of none, fast, lossless"),
    ),
    "an unknown codec": (
        insert_message(
            DATA,
            tensor=announced("bad", policy=pb.StoragePolicy(encoding=pb.Encoding(codecs=[pb.Codec(id="middle_out")]))),
        ),
        ("INVALID_ARGUMENT", "UNSUPPORTED_CODEC", r"codec 'middle_out' is not one of"),
    ),
    "a policy with a filter that needs a base": (
        insert_message(
            DATA,
            tensor=announced("bad", policy=pb.StoragePolicy(encoding=pb.Encoding(codecs=[pb.Codec(id="int_delta")]))),
        ),
        ("INVALID_ARGUMENT", "INVALID_POLICY", r"has the filter 'int_delta', which needs a base; a policy has none"),
    ),
    "a codec setting out of range": (
        insert_message(
            DATA,
            tensor=announced(
                "bad",
                policy=pb.StoragePolicy(
                    encoding=pb.Encoding(codecs=[pb.Codec(id="gzip", configuration={"level": pb.Value(integer=99)})])
                ),
            ),
        ),
        ("INVALID_ARGUMENT", "INVALID_POLICY", r"level of codec gzip is 99, must be an integer from 1 to 9"),
    ),
    "an id that is too long": (
        insert_message(DATA, tensor=announced("x" * 513)),
        ("INVALID_ARGUMENT", "INVALID_NAME", r"513 bytes of UTF-8; must be 1 to 512 bytes"),
    ),
    "an id with a control character": (
        insert_message(DATA, tensor=announced("a\0b")),
        ("INVALID_ARGUMENT", "INVALID_NAME", r"must have no control characters"),
    ),
    "an id that is taken by another tensor": (
        insert_message(DATA, tensor=announced("kept")),
        ("ALREADY_EXISTS", "ALREADY_EXISTS", r"another tensor has this id already"),
    ),
    "the values that are there with other metadata": (
        insert_message(KEPT, tensor=announced("kept", [100], metadata={"a": pb.Value(integer=1)})),
        ("ALREADY_EXISTS", "STORED_DIFFERENTLY", r'with other metadata: \{\}, this insert has \{"a": 1\}; .*replace'),
    ),
    "an id that must be free and is not": (
        insert_message(DATA, tensor=announced("kept", if_generation_match=0)),
        ("FAILED_PRECONDITION", "GENERATION_MISMATCH", r"has this id already, and the id was to be free"),
    ),
    "two ways to replace": (
        insert_message(DATA, tensor=announced("kept", if_generation_match=1, replace=True)),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"has both replace and if_generation_match"),
    ),
    "a bool that is neither 0 nor 1": (
        insert_message(b"\0\1\7\2", tensor=announced("bad", dtype=pb.DATA_TYPE_BOOL)),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"byte 2 of a bool tensor is 7, must be 0 or 1"),
    ),
    "metadata above its limit": (
        insert_message(DATA, tensor=announced("bad", metadata={"a": pb.Value(text="x" * 70_000)})),
        ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", r"metadata is 70008 bytes as JSON, limit is 65536 bytes"),
    ),
    "a replacement of a generation that is not there": (
        insert_message(DATA, tensor=announced("kept", if_generation_match=10**6)),
        ("FAILED_PRECONDITION", "GENERATION_MISMATCH", r"generation is \d+, 1000000 was to be replaced"),
    ),
    "a replacement of nothing": (
        insert_message(DATA, tensor=announced("bad", if_generation_match=1)),
        ("FAILED_PRECONDITION", "GENERATION_MISMATCH", r"there is no such tensor, generation 1 was to be replaced"),
    ),
    "an offset that leaves a gap": (
        insert_message(DATA, tensor=announced("bad", [8]), offset=4),
        ("INVALID_ARGUMENT", "SEGMENT_OUT_OF_ORDER", r"offset of a segment of item 0 is 4, expected 0"),
    ),
    "a decoded length that is not the payload's": (
        insert_message(DATA, tensor=announced("bad"), decoded_length=3),
        (
            "INVALID_ARGUMENT",
            "SEGMENT_MISALIGNED",
            r"decoded_length of the segment at offset 0 is 3 bytes, it has 4 bytes",
        ),
    ),
    "a decoded length beyond every chunk": (
        insert_message(DATA, tensor=announced("bad"), decoded_length=2**32 - 1),
        (
            "INVALID_ARGUMENT",
            "PAYLOAD_TOO_LARGE",
            r"decoded_length of a segment is 4294967295 bytes, limit is 2097152 bytes",
        ),
    ),
    "an encoding that the stream did not announce": (
        insert_message(DATA, tensor=announced("bad"), encoding=3),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"encoding of a segment is 3, the stream announced 0"),
    ),
}


@pytest.mark.parametrize("case", ITEMS, ids=str)
def test_a_bad_item_is_refused_by_itself(stub: TensorServiceStub, kept: str, case: str) -> None:
    message, (code, reason, text) = ITEMS[case]
    good = insert_message(DATA, item=1, tensor=announced("good"))

    (bad_status, good_status) = sorted(insert(stub, [open_insert(kept), message, good]), key=lambda status: status.item)

    found = item_error(bad_status)
    assert (found.code, found.reason) == (code, reason)
    assert re.search(text, found.message)
    assert good_status.status.code == 0
    stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=kept, ids=["good"]))


def message_of_payload(count: int) -> pb.InsertRequest:
    return insert_message(bytes(count), tensor=announced("bad", [count]))


STREAMS: dict[str, tuple[Callable[[str], list[pb.InsertRequest]], tuple[str, str, str]]] = {
    "an unknown dataset": (
        lambda _: [open_insert("no such dataset")],
        ("NOT_FOUND", "DATASET_NOT_FOUND", r"there is no such dataset \[dataset=no such dataset\]"),
    ),
    "a stream that does not open": (
        lambda _: [insert_message(DATA, tensor=announced("bad"))],
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"first message of the stream does not open it"),
    ),
    "a stream that opens twice": (
        lambda name: [open_insert(name), open_insert(name)],
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"opens the stream a second time"),
    ),
    "payload lengths that do not add up": (
        lambda name: [open_insert(name), insert_message(DATA, tensor=announced("bad"), payload_length=3)],
        ("INVALID_ARGUMENT", "SEGMENT_MISALIGNED", r"add up to 3 bytes, the payload is 4 bytes"),
    ),
    "a payload length that lies": (
        lambda name: [open_insert(name), insert_message(DATA, tensor=announced("bad"), payload_length=2**32 - 1)],
        ("INVALID_ARGUMENT", "SEGMENT_MISALIGNED", r"add up to 4294967295 bytes, the payload is 4 bytes"),
    ),
    "a payload above its limit": (
        lambda name: [open_insert(name), message_of_payload(limits.PAYLOAD_BYTES_MAX + 1)],
        ("INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE", r"payload is 2097153 bytes, limit is 2097152 bytes"),
    ),
    "a message above its limit": (
        lambda name: [open_insert(name), message_of_payload(limits.MESSAGE_BYTES_MAX)],
        ("INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE", r"message is 41943\d\d bytes, limit is 4194304 bytes"),
    ),
    "a segment of a tensor that was never announced": (
        lambda name: [open_insert(name), insert_message(DATA, item=5)],
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"first segment of item 5 announces no tensor"),
    ),
    "an unknown codec in the table of encodings": (
        lambda name: [open_insert(name, encodings=[pb.Encoding(codecs=[pb.Codec(id="middle_out")])])],
        ("INVALID_ARGUMENT", "UNSUPPORTED_CODEC", r"codec 'middle_out' is not one of"),
    ),
    "a filter with a base in the table of encodings": (
        lambda name: [open_insert(name, encodings=[pb.Encoding(codecs=[pb.Codec(id="int_delta")])])],
        ("INVALID_ARGUMENT", "INVALID_REQUEST", r"a filter whose records need a base, which a segment does not have"),
    ),
    "a request id that is too long": (
        lambda name: [open_insert(name, request_id="x" * 129)],
        ("INVALID_ARGUMENT", "INVALID_NAME", r"129 bytes of UTF-8; must be 1 to 128 bytes"),
    ),
}


@pytest.mark.parametrize("case", STREAMS, ids=str)
def test_a_bad_stream_is_refused_as_a_whole(stub: TensorServiceStub, kept: str, case: str) -> None:
    messages, expected = STREAMS[case]
    with pytest.raises(grpc.RpcError) as raised:
        insert(stub, messages(kept))
    found = call_error(raised.value)
    assert (found.code, found.reason) == expected[:2]
    assert re.search(expected[2], found.message)


def end_without_finish(
    stub: TensorServiceStub, messages: list[pb.InsertRequest]
) -> tuple[list[pb.ItemStatus], grpc.RpcError | None]:
    """Send these messages and nothing more; return the results, and how the call failed."""
    results: list[pb.ItemStatus] = []
    try:
        for response in stub.Insert(iter(messages), timeout=60):
            results.extend(response.results)
    except grpc.RpcError as error:
        return results, error
    return results, None


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (4, r"without finish after 4 of 4 bytes of item 1, and no `last` segment of it \[dataset=\S+, tensor=bad\]"),
        (3, r"without finish after 3 of 4 bytes of item 1, and no `last` segment of it"),
        (0, r"without finish after 0 of 4 bytes of item 1, and no `last` segment of it"),
    ],
)
def test_a_client_that_ends_its_side_with_an_item_open_hears_of_it_and_keeps_what_is_complete(
    stub: TensorServiceStub, kept: str, sent: int, text: str
) -> None:
    messages = [
        open_insert(kept),
        insert_message(DATA, tensor=announced("good")),
        insert_message(DATA[:sent], item=1, tensor=announced("bad"), last=False),
    ]
    results, failure = end_without_finish(stub, messages)
    assert [(status.item, status.status.code) for status in results] == [(0, 0)]
    assert failure is not None
    found = call_error(failure)
    assert (found.code, found.reason, found.facts["item"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST", "1")
    assert re.search(text, found.message)
    stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=kept, ids=["good"]))


def test_a_client_that_ends_its_side_without_an_open_item_has_its_results(stub: TensorServiceStub, kept: str) -> None:
    messages = [open_insert(kept), insert_message(DATA, tensor=announced("good"))]
    results, failure = end_without_finish(stub, messages)
    assert ([status.item for status in results], failure) == ([0], None)
    stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=kept, ids=["good"]))


def test_an_insert_of_all_or_nothing_that_ends_without_finish_says_that_nothing_is_stored(
    stub: TensorServiceStub, kept: str
) -> None:
    messages = [open_insert(kept, all_or_nothing=True), insert_message(DATA, tensor=announced("bad"))]
    results, failure = end_without_finish(stub, messages)
    assert results == []
    assert failure is not None
    assert "without finish, so nothing of it was stored" in call_error(failure).message


@pytest.mark.parametrize(
    ("announces", "message"),
    [
        (["zstd"], r"takes gzip, encoding 1 of the stream has zstd"),
        (["planes", "zstd"], r"takes gzip, encoding 1 of the stream has planes, zstd"),
        ([], r"takes gzip, encoding 1 of the stream has no codec"),
        (["gzip"], ""),
        (["planes", "gzip"], ""),
    ],
)
def test_a_record_takes_no_codecs_but_those_that_were_announced(
    stub: TensorServiceStub, kept: str, announces: list[str], message: str
) -> None:
    plan_ = plan(StoragePolicy(encoding=Encoding.from_json([{"id": "gzip"}])), dtype_by_name("uint8"))
    canonical = bytes(1000)
    record = b"".join(bytes(part) for part in encode_chunk(canonical, dtype_by_name("uint8"), plan_).record)
    encoding = pb.Encoding(codecs=[pb.Codec(id=codec_id) for codec_id in announces])
    tensor = announced("good", [1000])
    (status,) = insert(
        stub,
        [
            open_insert(kept, encodings=[encoding]),
            insert_message(record, tensor=tensor, decoded_length=1000, encoding=1),
        ],
    )
    if message:
        found = item_error(status)
        assert found.reason == "INVALID_REQUEST"
        assert re.search(message, found.message)
    else:
        assert read_all(stub, kept, "good") == canonical
        stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=kept, ids=["good"]))


@pytest.mark.parametrize("second", [{}, {"metadata": {"a": pb.Value(integer=1)}, "replace": True}])
def test_a_result_says_what_was_done(stub: TensorServiceStub, kept: str, second: dict[str, Any]) -> None:
    outcomes = []
    for fields in ({}, {}, second, second):
        (status,) = insert(stub, [open_insert(kept), insert_message(DATA, tensor=announced("good", **fields))])
        assert status.status.code == 0
        outcomes.append(status.outcome)
    inserted, stored, replaced = (
        pb.INSERT_OUTCOME_INSERTED,
        pb.INSERT_OUTCOME_ALREADY_STORED,
        pb.INSERT_OUTCOME_REPLACED,
    )
    assert outcomes == [inserted, stored, replaced if second else stored, stored]
    stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=kept, ids=["good"]))


def test_a_message_beyond_what_the_transport_lets_in_is_refused(
    server: Server, stub: TensorServiceStub, kept: str
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel, pytest.raises(grpc.RpcError) as raised:
        insert(TensorServiceStub(channel), [open_insert(kept), message_of_payload(9 * 1024 * 1024)])
    assert call_error(raised.value).code == "RESOURCE_EXHAUSTED"


def test_bytes_that_are_no_message_are_refused(server: Server, kept: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        raw = channel.stream_stream("/tensorus.v1.TensorService/Insert")
        with pytest.raises(grpc.RpcError) as raised:
            list(raw(iter([b"\xff\xff\xff"]), timeout=60))
    found = call_error(raised.value)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert "message is not an InsertRequest" in found.message
