"""Writes the wire vectors: messages as they travel, with what a reader in any language must find in them.

`wire/README.md` says how they are used. Everything here follows from `SEED` and from the golden chunk records, through the
protobuf runtime alone, so that it comes out the same on every machine: `tests/protos/test_wire_vectors.py` holds it to that.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crc32c
import ml_dtypes
import numpy as np
import xxhash
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2

from tensorus_codecs.pipeline import decode_chunk
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import to_value
from tensorus_server.rpc.status import STATUS_BY_REASON

SEED = "tensorus wire vectors 1"
"""Of every tensor's bytes: SHAKE-256 of the seed, "/" and the tensor's id."""

_HERE = Path(__file__).parent
_RECORDS = _HERE / "chunk_records"

_HEX_BYTES_MAX = 64
"""Bytes of tensors up to this size stand in the index; all are in the messages, or, where those are encoded, in files."""


@dataclass
class Item:
    """One tensor of a vector, and its bytes."""

    number: int
    tensor: pb.Tensor
    data: bytes
    stored: bool = True
    """Whether the vector's messages bring all of it, to its end."""


@dataclass
class Vector:
    """Messages that belong together, in order."""

    name: str
    about: str
    messages: list[tuple[str, Any, bytes]] = field(default_factory=list)
    """Who sends it, the message, and its bytes."""
    items: list[Item] = field(default_factory=list)
    decoded: bool = False
    """Whether the canonical bytes are in a file of their own."""

    def add(self, sender: str, message: Any, serialized: bytes | None = None) -> None:
        """Add a message."""
        self.messages.append((sender, message, serialized or message.SerializeToString(deterministic=True)))


def item(
    number: int, tensor_id: str, dtype: int, shape: Sequence[int], data: bytes | None = None, **fields: Any
) -> Item:
    """Return a tensor; without `data`, of bytes that follow from the seed."""
    bits = fields.pop("element_bits", 0)
    length = math.prod(shape) * (bits // 8 or _element_bytes(dtype))
    if data is None:
        data = hashlib.shake_256(f"{SEED}/{tensor_id}".encode()).digest(length)
    if dtype == pb.DATA_TYPE_BOOL:
        data = bytes(byte & 1 for byte in data)
    assert len(data) == length
    spec = pb.TensorSpec(dtype=dtype, shape=list(shape), element_bits=bits)  # type: ignore[arg-type]
    return Item(number, pb.Tensor(id=tensor_id, spec=spec, **fields), data)


def segment(of: Item, begin: int, end: int, **fields: Any) -> pb.Segment:
    """Return the segment of these bytes; the first announces the tensor, the last has the checksum."""
    data = of.data[begin:end]
    made = pb.Segment(
        item=of.number, offset=begin, decoded_length=len(data), payload_length=len(data), crc32c=crc32c.crc32c(data)
    )
    if begin == 0:
        made.tensor.CopyFrom(of.tensor)
    if end == len(of.data):
        made.last = True
        made.source_checksum.CopyFrom(_xxh3(of.data))
    made.MergeFrom(pb.Segment(**fields))
    return made


def insert_request(parts: Sequence[tuple[Item, int, int]], **fields: Any) -> pb.InsertRequest:
    """Return a message with these runs of tensors' bytes."""
    return pb.InsertRequest(
        segments=[segment(*part) for part in parts],
        payload=b"".join(of.data[begin:end] for of, begin, end in parts),
        **fields,
    )


def opening(request_id: str, **fields: Any) -> pb.OpenInsert:
    return pb.OpenInsert(dataset="vectors", request_id=request_id, **fields)


# ---- Vectors ------------------------------------------------------------------------------------------------------------


def dtypes() -> list[Vector]:
    """Return one insert for each dtype, and one of a dtype that nobody knows."""
    vectors = []
    known: list[tuple[str, int, int]] = [(name, number, 0) for name, number in pb.DataType.items() if number]
    for name, number, bits in [*known, ("DATA_TYPE_OF_3_BYTES", 99, 24)]:
        short = name.removeprefix("DATA_TYPE_").lower()
        vector = Vector(f"dtype_{short}", "an insert of one tensor of shape [2, 3] in one message")
        one = item(0, short, number, (2, 3), element_bits=bits)
        vector.items = [one]
        parts = [(one, 0, len(one.data))]
        vector.add("client", insert_request(parts, open=opening(f"request-{short}"), finish=True))
        vectors.append(vector)
    return vectors


def packing() -> Vector:
    """Return many small tensors in one message."""
    vector = Vector("packing", "an insert of 40 tensors in one message, empty ones and scalars among them")
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (3, 0, 2), (5,), (2, 2), (7,), (1, 1, 1)]
    vector.items = [
        item(2 * number, f"small-{number}", pb.DATA_TYPE_UINT16, shapes[number % len(shapes)]) for number in range(40)
    ]
    parts = [(each, 0, len(each.data)) for each in vector.items]
    vector.add("client", insert_request(parts, open=opening("request-packing"), finish=True))
    return vector


def segments() -> Vector:
    """Return two larger tensors whose segments are interleaved over several messages."""
    vector = Vector("segments", "an insert of two tensors in 5 messages: segments of uneven sizes that interleave")
    first = item(0, "first", pb.DATA_TYPE_FLOAT32, (2500,))
    second = item(1, "second", pb.DATA_TYPE_UINT8, (77, 100))
    vector.items = [first, second]
    cuts = [
        [(first, 0, 3000)],
        [(first, 3000, 3001), (second, 0, 4096), (first, 3001, 6000)],
        [(second, 4096, 7000)],
        [(first, 6000, 10_000), (second, 7000, 7700)],
    ]
    vector.add("client", pb.InsertRequest(open=opening("request-segments")))
    for number, parts in enumerate(cuts):
        vector.add("client", insert_request(parts, finish=number == len(cuts) - 1))
    return vector


def any_order() -> Vector:
    """Return a message whose fields are not in order, with one that nobody knows."""
    vector = Vector(
        "any_order", "an insert in one message: the payload comes first, then a field of the future, then the rest"
    )
    one = item(0, "any-order", pb.DATA_TYPE_INT32, (25,))
    vector.items = [one]
    whole = insert_request([(one, 0, 100)], open=opening("request-any-order"), finish=True)
    head = pb.InsertRequest()
    head.CopyFrom(whole)
    head.ClearField("payload")
    # Field 14, length-delimited, and a varint field 13.
    unknown = b"\x72\x06future\x68\x2a"
    payload = b"\x7a\x64" + one.data
    vector.add("client", whole, payload + unknown + head.SerializeToString(deterministic=True))
    return vector


def metadata() -> Vector:
    """Return a tensor with metadata of every kind."""
    vector = Vector(
        "metadata", "an insert of an empty tensor with metadata of every kind, a policy, and no segment checksum"
    )
    entries = {
        "null": pb.Value(null=True),
        "boolean": pb.Value(boolean=False),
        "integer": pb.Value(integer=-(2**63)),
        "beyond doubles": pb.Value(integer=2**53 + 1),
        "number": pb.Value(number=0.1),
        "minus zero": pb.Value(number=-0.0),
        "infinity": pb.Value(number=math.inf),
        "text": pb.Value(text="ä\0\U0001f600"),
        "list": pb.Value(list=pb.ListValue(values=[pb.Value(integer=1), pb.Value(number=1.0), pb.Value(text="")])),
        "map": pb.Value(map=pb.MapValue(entries={"": pb.Value(list=pb.ListValue()), "dots.in": pb.Value(integer=1)})),
    }
    policy = pb.StoragePolicy(preset="maximum", max_relative_error=0.01, chunk_bytes=4096)
    one = item(0, "metadata", pb.DATA_TYPE_FLOAT32, (0, 3), metadata=entries, policy=policy)
    vector.items = [one]
    request = insert_request([(one, 0, 0)], open=opening("request-metadata"), finish=True)
    request.segments[0].ClearField("crc32c")
    vector.add("client", request)
    return vector


def resumed() -> Vector:
    """Return an insert that breaks off and goes on."""
    vector = Vector(
        "resumed_insert",
        "an insert of 20000 bytes that breaks off after 15000, of which 8192 are durable, and goes on there in another stream: "
        "open alone, opened.items, the same item announced at its committed_bytes, and a checksum that is a CRC. A server may "
        "also name bytes that the client has not heard of as committed. The numbers are smaller than any real server's",
    )
    one = item(3, "resumed", pb.DATA_TYPE_UINT8, (20_000,))
    vector.items = [one]
    open_ = opening("7d5f7a52-5c0c-4a0e-9d0c-1f3a4b5c6d7e")
    left = pb.ItemStatus(item=3, committed_bytes=8192, tensor=pb.Tensor(id="resumed"), status=status_pb2.Status())
    vector.add("client", insert_request([(one, 0, 5000)], open=open_))
    vector.add("server", pb.InsertResponse(opened=pb.InsertOpened(max_unacknowledged_bytes=16 * 1024 * 1024)))
    vector.add("client", insert_request([(one, 5000, 10_000)]))
    progress = pb.InsertProgress(acknowledged_payload_bytes=10_000, items=[left])
    vector.add("server", pb.InsertResponse(progress=progress))
    vector.add("client", insert_request([(one, 10_000, 15_000)]))
    vector.add("nobody", pb.InsertRequest())
    vector.add("client", pb.InsertRequest(open=open_))
    opened = pb.InsertOpened(max_unacknowledged_bytes=16 * 1024 * 1024, items=[left])
    vector.add("server", pb.InsertResponse(opened=opened))
    vector.add("client", _continued(one, 8192, 15_000))
    vector.add("client", _continued(one, 15_000, 20_000))
    result = pb.ItemStatus(
        item=3, committed_bytes=20_000, status=status_pb2.Status(), outcome=pb.INSERT_OUTCOME_INSERTED
    )
    result.tensor.CopyFrom(one.tensor)
    result.tensor.MergeFrom(pb.Tensor(dataset="vectors", generation=7, source_checksum=_xxh3(one.data)))
    vector.add("server", pb.InsertResponse(results=[result]))
    vector.add("server", pb.InsertResponse(finished=pb.InsertFinished(succeeded=1)))
    return vector


def _continued(of: Item, begin: int, end: int) -> pb.InsertRequest:
    """Return a message of a stream that goes on with an item."""
    request = insert_request([(of, begin, end)], finish=end == len(of.data))
    (only,) = request.segments
    if begin == 8192:
        only.tensor.CopyFrom(of.tensor)
    if only.last:
        only.source_checksum.CopyFrom(_crc(of.data))
    return request


def got_slice() -> Vector:
    """Return a Get of a slice, and of a tensor that is not there."""
    vector = Vector(
        "get_slice", "a Get of x[1:3, ..., ::-1] of an int16 tensor of shape [4, 5], and of one that is not there"
    )
    whole = item(0, "sliced", pb.DATA_TYPE_INT16, (4, 5))
    values = np.frombuffer(whole.data, "<i2").reshape(4, 5)[1:3, ::-1]
    slices = pb.SliceSet(axes=[pb.Slice(start=1, stop=3)], trailing_axes=[pb.Slice(step=-1)])
    reads = [pb.TensorRead(id="sliced", slices=slices), pb.TensorRead(id="none")]
    vector.add(
        "client", pb.GetRequest(dataset="vectors", reads=reads, options=pb.ReadOptions(max_payload_bytes=65_536))
    )
    part = item(0, "sliced", pb.DATA_TYPE_INT16, (2, 5), values.tobytes())
    header = pb.Tensor(dataset="vectors", id="sliced", generation=8, spec=whole.tensor.spec)
    response = pb.GetResponse(payload=part.data)
    # Segments of a part need not come in order of their offsets.
    for begin, end in ((10, 20), (0, 10)):
        made = segment(part, begin, end)
        made.ClearField("tensor")
        made.ClearField("last")
        made.ClearField("source_checksum")
        response.segments.append(made)
    response.payload = part.data[10:20] + part.data[0:10]
    response.segments[0].tensor.CopyFrom(header)
    response.segments[0].part.CopyFrom(part.tensor.spec)
    response.segments[1].last = True
    missing = error("TENSOR_NOT_FOUND", "there is no such tensor [dataset=vectors, tensor=none]", tensor="none")
    response.statuses.append(pb.ItemStatus(item=1, status=missing))
    vector.add("server", response)
    vector.items = [part]
    return vector


RECORDS = [
    "raw_bool",
    "gzip_int32",
    "lz4_int64",
    "zstd_uint16",
    "zstd_huffman_int8",
    "planes_gzip_float64",
    "rotated_planes_huffman_float32",
    "fp16_float32_special",
    "fp16_planes_lz4_complex64",
    "int8_block_64_float32_exceptions",
    "int8_block_128_float64_exceptions",
    "int8_block_256_gzip_complex64",
]
"""Golden chunk records of every kind of chain, and with every kind of exception; one is added for each codec that none has."""


def records() -> list[Vector]:
    """Return a Get for each of RECORDS, by a client that decodes its codecs."""
    manifest = json.loads((_RECORDS / "manifest.json").read_text())
    entries = {name: manifest[f"v1_{name}.bin"] for name in RECORDS}
    held = {step["id"] for entry in entries.values() for step in entry["encoding"]}
    for file, entry in sorted(manifest.items(), key=lambda entry: entry[1]["decoded_bytes"]):
        ids = {step["id"] for step in entry["encoding"]}
        # A dtype that the contract has no number for cannot be told on the wire, and a record with a base does not travel.
        if not ids <= held and not entry["dtype"].startswith("dtype_") and "base" not in entry:
            entries[file.removeprefix("v1_").removesuffix(".bin")] = entry
            held |= ids
    return [_record(name, entry) for name, entry in entries.items()]


def _record(name: str, entry: dict[str, Any]) -> Vector:
    record = (_RECORDS / f"v1_{name}.bin").read_bytes()
    canonical = bytes(decode_chunk(record))
    ids = [step["id"] for step in entry["encoding"]]
    vector = Vector(
        f"record_{name}", f"a Get that is answered by a chunk record: {' > '.join(ids) or 'raw'}", decoded=True
    )
    number = pb.DataType.Value(f"DATA_TYPE_{entry['dtype'].upper()}")
    one = item(0, name, number, (len(canonical) // entry["element_bytes"],), canonical)
    options = pb.ReadOptions(accepted_codecs=sorted(ids))
    vector.add("client", pb.GetRequest(dataset="vectors", reads=[pb.TensorRead(id=name)], options=options))
    made = segment(one, 0, len(canonical), encoding=1)
    made.payload_length, made.crc32c = len(record), crc32c.crc32c(record)
    made.ClearField("source_checksum")
    made.tensor.MergeFrom(pb.Tensor(dataset="vectors", generation=9, value_checksum=_xxh3(canonical)))
    encoding = pb.Encoding(
        codecs=[
            pb.Codec(
                id=step["id"], configuration={key: to_value(value) for key, value in step["configuration"].items()}
            )
            for step in entry["encoding"]
        ]
    )
    vector.add("server", pb.GetResponse(encodings=[encoding], segments=[made], payload=record))
    vector.items = [one]
    return vector


def error(reason: str, message: str, **facts: str) -> status_pb2.Status:
    """Return an error as it travels."""
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain="tensorus", metadata={"dataset": "vectors", **facts}),
        deterministic=True,
    )
    return status_pb2.Status(code=STATUS_BY_REASON[reason][0].value[0], message=message, details=[detail])


def errors() -> list[Vector]:
    """Return a status for each reason that the server gives."""
    vectors = []
    for reason in STATUS_BY_REASON:
        vector = Vector(f"error_{reason.lower()}", "an error: in the trailer grpc-status-details-bin, or of one item")
        vector.add(
            "server", error(reason, f"what is wrong [dataset=vectors, tensor={reason}]", tensor=reason, limit="7")
        )
        vectors.append(vector)
    return vectors


# ---- Files --------------------------------------------------------------------------------------------------------------


def build() -> dict[str, bytes]:
    """Return the bytes of every file by its name."""
    vectors = [*dtypes(), packing(), segments(), any_order(), metadata(), resumed(), got_slice(), *records(), *errors()]
    files: dict[str, bytes] = {}
    head = {
        "seed": SEED,
        "written_by": "tests/golden/write_wire.py",
        "digests": [_digest(data) for data in (b"", b"123456789", bytes(range(256)), bytes(40))],
    }
    entries = ",\n".join(json.dumps(_entry(vector, files), sort_keys=True) for vector in vectors)
    files["index.json"] = f'{json.dumps(head, indent=1)[:-2]},\n "vectors": [\n{entries}\n]}}\n'.encode()
    return files


def write_wire(folder: Path) -> None:
    """Write every file, and remove those that there is no vector for any more."""
    files = build()
    for path in folder.glob("*.bin"):
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _entry(vector: Vector, files: dict[str, bytes]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": vector.name, "about": vector.about, "messages": [], "tensors": []}
    for number, (sender, message, serialized) in enumerate(vector.messages):
        if sender == "nobody":
            entry["messages"].append({"sender": "nobody", "what": "the connection breaks"})
            continue
        name = f"{vector.name}.{number}.bin" if len(vector.messages) > 1 else f"{vector.name}.bin"
        files[name] = serialized
        entry["messages"].append(_message(name, sender, message))
    for each in vector.items:
        entry["tensors"].append(_tensor(each))
    if vector.decoded:
        (one,) = vector.items
        files[f"{vector.name}.decoded.bin"] = one.data
        entry["tensors"][0]["file"] = f"{vector.name}.decoded.bin"
    return entry


def _message(name: str, sender: str, message: Any) -> dict[str, Any]:
    head = type(message)()
    head.CopyFrom(message)
    entry: dict[str, Any] = {"file": name, "sender": sender, "type": message.DESCRIPTOR.full_name}
    if "payload" in message.DESCRIPTOR.fields_by_name:
        entry["payload_bytes"] = len(message.payload)
        head.ClearField("payload")
    entry["json"] = json_format.MessageToDict(head)
    return entry


def _tensor(of: Item) -> dict[str, Any]:
    entry = {
        "item": of.number,
        "id": of.tensor.id,
        "canonical_bytes": len(of.data),
        "crc32c": _crc(of.data).value.hex(),
        "xxh3_128": _xxh3(of.data).value.hex(),
    }
    if len(of.data) <= _HEX_BYTES_MAX:
        entry["canonical_hex"] = of.data.hex()
    if 0 < len(of.data) <= 96 and of.tensor.spec.dtype in pb.DataType.values():
        entry["values"] = _values(of)
    return entry


def _values(of: Item) -> list[Any]:
    """Return the values as JSON has them: complex ones in pairs, and as text what no number is."""
    name = pb.DataType.Name(of.tensor.spec.dtype).removeprefix("DATA_TYPE_").lower()
    if name in {"complex64", "complex128"}:
        code = {"complex64": "f", "complex128": "d"}[name]
        flat = [float(value) for (value,) in struct.iter_unpack(f"<{code}", of.data)]
    else:
        numpy_dtype = np.dtype(getattr(ml_dtypes, name, None) or name).newbyteorder("<")
        flat = [value.item() for value in np.frombuffer(of.data, numpy_dtype)]
    return [value if not isinstance(value, float) or math.isfinite(value) else str(value) for value in flat]


def _digest(data: bytes) -> dict[str, str]:
    return {"hex": data.hex(), "crc32c": _crc(data).value.hex(), "xxh3_128": _xxh3(data).value.hex()}


def _crc(data: bytes) -> pb.Checksum:
    return pb.Checksum(algorithm="crc32c", value=crc32c.crc32c(data).to_bytes(4, "big"))


def _xxh3(data: bytes) -> pb.Checksum:
    return pb.Checksum(algorithm="xxh3_128", value=xxhash.xxh3_128(data).digest())


def _element_bytes(dtype: int) -> int:
    """Return the width of a dtype, from its name alone."""
    name = pb.DataType.Name(dtype).removeprefix("DATA_TYPE_").lower()  # type: ignore[arg-type]
    if name == "bool" or name.startswith("float8"):
        return 1
    return int("".join(character for character in name if character.isdigit())) // 8


if __name__ == "__main__":
    write_wire(_HERE / "wire")
