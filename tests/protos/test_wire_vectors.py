"""The wire vectors hold what their index says, the protobuf runtime and our framing agree on it, and a server takes them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import crc32c
import grpc
import ml_dtypes
import numpy as np
import pytest
import xxhash
from google.protobuf import json_format
from google.rpc import status_pb2

from golden.write_wire import build
from support.wire import read_all
from tensorus._grpc.convert import error_of
from tensorus_codecs.pipeline import codec_ids, decode_chunk, parse_record
from tensorus_protos.framing import split
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1 import tensorus_pb2_grpc
from tensorus_server.processes.server import Server
from tensorus_server.rpc.status import STATUS_BY_REASON

FOLDER = Path(__file__).parent.parent / "golden" / "wire"
INDEX: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in INDEX["vectors"]}
TYPES: dict[str, Any] = {
    message.DESCRIPTOR.full_name: message
    for message in (pb.InsertRequest, pb.InsertResponse, pb.GetRequest, pb.GetResponse, status_pb2.Status)
}
INSERTS = ["packing", "segments", "any_order", "metadata", *(name for name in VECTORS if name.startswith("dtype_"))]
ALL_BYTES_MAX = 300 * 1024


def messages(vector: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, bytes]]:
    """Yield what the index says of each message, the message as the runtime parses it, and its bytes."""
    for entry in vector["messages"]:
        if "file" in entry:
            raw = (FOLDER / entry["file"]).read_bytes()
            yield entry, TYPES[entry["type"]].FromString(raw), raw


def canonical_pieces(vector: dict[str, Any]) -> Iterator[tuple[pb.Segment, bytes]]:
    """Yield each segment with the canonical bytes that it stands for, every length and checksum verified."""
    for _, message, _ in messages(vector):
        position = 0
        for segment in getattr(message, "segments", ()):
            data = message.payload[position : position + segment.payload_length]
            position += segment.payload_length
            assert len(data) == segment.payload_length
            assert not segment.HasField("crc32c") or crc32c.crc32c(data) == segment.crc32c
            canonical = bytes(decode_chunk(data)) if segment.encoding else data
            assert len(canonical) == segment.decoded_length
            yield segment, canonical
        assert position == len(getattr(message, "payload", b""))


def tensors(vector: dict[str, Any]) -> dict[int, bytes]:
    """Return each item's canonical bytes; those that came twice are the same, and there are no holes."""
    found: dict[int, bytearray] = {}
    for segment, canonical in sorted(canonical_pieces(vector), key=lambda piece: piece[0].offset):
        data = found.setdefault(segment.item, bytearray())
        assert segment.offset <= len(data), "a hole"
        again = data[segment.offset :]
        assert again == canonical[: len(again)]
        data += canonical[len(again) :]
    return {item: bytes(data) for item, data in found.items()}


def numbers(data: bytes, dtype: str) -> list[Any]:
    """Return values as the index has them."""
    if dtype.startswith("complex"):
        dtype = {"complex64": "float32", "complex128": "float64"}[dtype]
    found = np.frombuffer(data, np.dtype(getattr(ml_dtypes, dtype, None) or dtype).newbyteorder("<")).tolist()
    return [value if not isinstance(value, float) or np.isfinite(value) else str(value) for value in found]


def test_the_generator_reproduces_every_byte() -> None:
    files = build()
    assert {path.name for path in FOLDER.iterdir()} == {*files, "README.md"}
    assert [name for name, data in files.items() if (FOLDER / name).read_bytes() != data] == []


def test_all_of_them_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < ALL_BYTES_MAX


@pytest.mark.parametrize("name", VECTORS)
class TestVectors:
    """One vector after the other."""

    def test_the_runtime_finds_what_the_index_says(self, name: str) -> None:
        for entry, message, _ in messages(VECTORS[name]):
            assert len(getattr(message, "payload", b"")) == entry.get("payload_bytes", 0)
            if "payload_bytes" in entry:
                message.ClearField("payload")
            message.DiscardUnknownFields()
            assert json_format.MessageToDict(message) == entry["json"]
            parsed = json_format.ParseDict(entry["json"], type(message)())
            # Not the messages: what an error packs has a map in it, whose order is another each time.
            assert json_format.MessageToDict(parsed) == entry["json"]

    def test_our_framing_finds_the_same_head_and_payload(self, name: str) -> None:
        for entry, message, raw in messages(VECTORS[name]):
            if "payload_bytes" in entry:
                head, payload = split(raw)
                assert bytes(payload) == message.payload
                message.ClearField("payload")
                assert type(message).FromString(head) == message

    def test_its_segments_add_up_to_its_tensors(self, name: str) -> None:
        found = tensors(VECTORS[name])
        assert found.keys() == {entry["item"] for entry in VECTORS[name]["tensors"]}
        for entry in VECTORS[name]["tensors"]:
            data = found[entry["item"]]
            assert len(data) == entry["canonical_bytes"]
            assert f"{crc32c.crc32c(data):08x}" == entry["crc32c"]
            assert xxhash.xxh3_128(data).hexdigest() == entry["xxh3_128"]
            if "canonical_hex" in entry:
                assert data.hex() == entry["canonical_hex"]
            if "file" in entry:
                assert (FOLDER / entry["file"]).read_bytes() == data

    def test_checksums_and_values_are_those_of_the_bytes(self, name: str) -> None:
        vector = VECTORS[name]
        entries, dtypes = {entry["item"]: entry for entry in vector["tensors"]}, {}
        for segment, _ in canonical_pieces(vector):
            if segment.HasField("tensor"):
                number = segment.tensor.spec.dtype
                dtypes[segment.item] = pb.DataType.Name(number) if number in pb.DataType.values() else ""
            if segment.HasField("source_checksum"):
                checksum = segment.source_checksum
                assert entries[segment.item][checksum.algorithm] == checksum.value.hex()
        for item, entry in entries.items():
            if "values" in entry:
                dtype = dtypes[item].removeprefix("DATA_TYPE_").lower()
                assert numbers(tensors(vector)[item], dtype) == entry["values"]


def test_there_is_one_for_every_dtype_with_its_values_and_one_for_an_unknown_one() -> None:
    known = {f"dtype_{name.removeprefix('DATA_TYPE_').lower()}" for name, number in pb.DataType.items() if number}
    assert {name for name in VECTORS if name.startswith("dtype_")} == {*known, "dtype_of_3_bytes"}
    assert all("values" in VECTORS[name]["tensors"][0] for name in known)


def test_there_is_one_for_every_codec_that_has_a_golden_record() -> None:
    held = set()
    for name, vector in VECTORS.items():
        if name.startswith("record_"):
            (_, request, _), (_, response, _) = messages(vector)
            ids = codec_ids(parse_record(response.payload))
            assert [codec.id for codec in response.encodings[0].codecs] == list(ids)
            assert sorted(ids) == list(request.options.accepted_codecs)
            held |= set(ids)
    manifest = json.loads((FOLDER.parent / "chunk_records" / "manifest.json").read_text())
    assert held == {step["id"] for entry in manifest.values() if "base" not in entry for step in entry["encoding"]}


def test_there_is_one_for_every_reason_and_a_client_knows_them_all() -> None:
    assert {name for name in VECTORS if name.startswith("error_")} == {
        f"error_{reason.lower()}" for reason in STATUS_BY_REASON
    }
    for reason, (code, _) in STATUS_BY_REASON.items():
        ((_, status, _),) = messages(VECTORS[f"error_{reason.lower()}"])
        error = error_of(status)
        assert (error.reason, status.code) == (reason, code.value[0])
        assert error.facts == {"dataset": "vectors", "tensor": reason, "limit": "7"}


def test_the_digests_are_those_of_the_bytes() -> None:
    for entry in INDEX["digests"]:
        data = bytes.fromhex(entry["hex"])
        assert struct.pack(">I", crc32c.crc32c(data)).hex() == entry["crc32c"]
        assert xxhash.xxh3_128(data).hexdigest() == entry["xxh3_128"]
    # The check values of CRC-32C's and XXH3's own documentation.
    digests = {entry["hex"]: entry for entry in INDEX["digests"]}
    assert digests[b"123456789".hex()]["crc32c"] == "e3069283"
    assert digests[""]["xxh3_128"] == "99aa06d3014798d86001c324468d497f"


def test_a_resumed_insert_goes_on_at_what_is_committed() -> None:
    vector = VECTORS["resumed_insert"]
    breaks = next(number for number, entry in enumerate(vector["messages"]) if entry["sender"] == "nobody")
    sent = [(entry["sender"], message) for entry, message, _ in messages(vector)]
    first, second = sent[:breaks], sent[breaks:]
    opening, opened, *rest = [message for _, message in second]
    assert opening == pb.InsertRequest(open=first[0][1].open)
    (left,) = opened.opened.items
    continued = [segment for message in rest if isinstance(message, pb.InsertRequest) for segment in message.segments]
    assert (
        continued[0].offset
        == left.committed_bytes
        < max(
            segment.offset
            for _, message in first
            if isinstance(message, pb.InsertRequest)
            for segment in message.segments
        )
    )
    assert continued[0].tensor.id == left.tensor.id
    assert continued[-1].source_checksum.algorithm == "crc32c"


@pytest.mark.parametrize("name", INSERTS)
def test_a_server_stores_what_a_client_sends(server: Server, name: str) -> None:
    vector = VECTORS[name]
    with grpc.insecure_channel(server.address) as channel:
        stub = tensorus_pb2_grpc.TensorServiceStub(channel)
        with suppress(grpc.RpcError):
            # It is there after the first vector.
            policy = pb.StoragePolicy(preset="none")
            stub.CreateDataset(pb.CreateDatasetRequest(name="vectors", policy=policy))
        # As bytes, not as messages: what lies in the files is what travels.
        call: Any = channel.stream_stream("/tensorus.v1.TensorService/Insert")
        raw = [raw for _, _, raw in messages(vector)]
        responses = [pb.InsertResponse.FromString(answer) for answer in call(iter(raw), timeout=60)]
        results = {result.item: result for response in responses for result in response.results}
        assert {item: result.status.message for item, result in results.items()} == dict.fromkeys(tensors(vector), "")
        for entry in vector["tensors"]:
            stored = results[entry["item"]].tensor
            assert stored.source_checksum.value.hex() == entry["xxh3_128"]
            data = read_all(stub, "vectors", entry["id"])
            assert xxhash.xxh3_128(data).hexdigest() == entry["xxh3_128"]
