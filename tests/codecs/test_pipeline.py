"""The pipeline: every preset with every dtype, what it measures, and that nothing ever expands."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from contract.codec_chunks import encode, encoding_of, record_bytes, stored_values
from contract.codec_contract import in_threads
from contract.codec_quantizer_contract import component_dtype
from contract.codec_values import EVERY_DTYPE
from support.arrays import DTYPE_NAMES, canonical, normal, random_bits
from support.cases import each
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, RAW_HEADER_BYTES, VERSION, parse_record
from tensorus_codecs.dtypes import DType, dtype_by_name, opaque_dtype
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.filters.planes import Planes
from tensorus_codecs.lossless.gzip import Gzip
from tensorus_codecs.pipeline import EncodedChunk, codec_ids, decode_chunk, decode_chunk_into, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.summary import summarize

HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
EXPLICIT = {
    "identity": IDENTITY,
    "gzip": encoding_of("gzip"),
    "planes, lz4": encoding_of("planes", "lz4"),
    "rotated planes, huffman": encoding_of("rotated_planes", HUFFMAN),
    "bf16 planes, huffman": encoding_of("bf16_planes", HUFFMAN),
    "planes alone": encoding_of("planes"),
    "fp16, gzip": encoding_of("fp16", "gzip"),
    "fp16, planes, lz4": encoding_of("fp16", "planes", "lz4"),
    "int8, zstd": encoding_of({"id": "int8_block", "configuration": {"block_size": 32}}, "zstd"),
}
POLICIES = {**{name: StoragePolicy(preset=name) for name in PRESETS}} | {
    name: StoragePolicy(encoding=encoding) for name, encoding in EXPLICIT.items()
}


def values_of(name: str, kind: str, count: int) -> np.ndarray:
    if kind == "random bits":
        return random_bits(name, (count,), seed=count)
    if kind == "zeros":
        return np.zeros(count, component_dtype(name))
    return normal((count,), name, seed=count, scale=1.0 if component_dtype(name).kind in "iub" else 0.02)


def assert_holds_together(chunk: EncodedChunk, values: np.ndarray) -> None:
    """Fail unless everything that the chunk says of itself is true."""
    data, sent = record_bytes(chunk), canonical(values)
    assert chunk.stored_bytes == len(data) <= len(sent) + RAW_HEADER_BYTES
    assert chunk.crc32c == crc32c(data)
    decoded = bytes(decode_chunk(data))
    assert decoded == (sent if chunk.decoded is None else bytes(chunk.decoded))
    target = bytearray(b"\xaa" * len(sent))
    decode_chunk_into(data, memoryview(target))
    assert target == decoded
    lossy = chunk.encoding.quantizer is not None
    assert (chunk.error is not None, chunk.decoded is not None) == (lossy, lossy)
    record = parse_record(data)
    assert record.dtype.name == values.dtype.name
    assert codec_ids(record) == tuple(codec.id for codec in chunk.encoding.codecs)
    if lossy:
        quantizer, component = chunk.encoding.quantizer, record.dtype.component
        code_count = quantizer.code_count(values.view(component).size)
        codes_bytes = code_count * quantizer.code_dtype(component).itemsize
        assert chunk.quantized_bytes == codes_bytes + len(record.quantizer_parameters)
    else:
        assert chunk.quantized_bytes == len(sent)


@each("policy", POLICIES.values(), ids=POLICIES)
@each("name", DTYPE_NAMES)
@each("kind", ["random bits", "weights", "zeros"])
def test_a_reader_gets_what_the_writer_was_told(policy: StoragePolicy, name: str, kind: str) -> None:
    for count in (1, 63, 1000):
        values = values_of(name, kind, count)
        assert_holds_together(encode(values, policy), values)


@each("policy", POLICIES.values(), ids=POLICIES)
@each("name", DTYPE_NAMES)
def test_what_is_not_lossy_comes_back_bit_for_bit(policy: StoragePolicy, name: str) -> None:
    values = random_bits(name, (3001,))
    chunk = encode(values, policy)
    if plan(policy, dtype_by_name(name)).lossy is None:
        assert chunk.encoding.quantizer is None
    if chunk.encoding.quantizer is None:
        assert stored_values(chunk, values).tobytes() == values.tobytes()


@each("policy", POLICIES.values(), ids=POLICIES)
@each("dtype", EVERY_DTYPE)
def test_no_record_is_larger_than_the_raw_one(policy: StoragePolicy, dtype: DType) -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 5, 9, 21, 40):
        data = random.integers(0, 2, count * dtype.element_bytes, np.uint8).tobytes()
        noise = data if dtype.name == "bool" else random.bytes(count * dtype.element_bytes)
        for sent in (data, noise):
            chunk = encode_chunk(sent, dtype, plan(policy, dtype))
            assert chunk.stored_bytes == len(record_bytes(chunk)) <= len(sent) + RAW_HEADER_BYTES


@pytest.mark.slow
@each("name", ["float32", "bfloat16", "complex64", "int16", "uint8"])
def test_the_largest_chunk_comes_back(name: str) -> None:
    values = normal((CANONICAL_BYTES_MAX // component_dtype(name).itemsize,), name)
    for preset in ("none", "lossless", "maximum"):
        assert_holds_together(encode(values, preset), values)


@each("policy", POLICIES.values(), ids=POLICIES)
def test_every_thread_gets_the_same_record(policy: StoragePolicy) -> None:
    values = normal((20_000,))
    expected = record_bytes(encode(values, policy))
    assert all(found == expected for found in in_threads(lambda: record_bytes(encode(values, policy))))
    decoded = bytes(decode_chunk(expected))
    assert all(found == decoded for found in in_threads(lambda: bytes(decode_chunk(expected))))


class TestSizes:
    """What a chunk may be."""

    @each(
        ("name", "size"),
        [
            ("float32", 0),
            ("float32", 1),
            ("float32", 6),
            ("complex128", 8),
            ("complex128", 24),
            ("uint8", CANONICAL_BYTES_MAX + 1),
            ("float32", CANONICAL_BYTES_MAX + 4),
        ],
    )
    def test_empty_partial_and_oversized_chunks_are_refused(self, name: str, size: int) -> None:
        dtype = dtype_by_name(name)
        message = rf"^a chunk is {size} bytes, must be 1 to 2097152 and whole elements$"
        for preset in PRESETS:
            with pytest.raises(ValueError, match=message):
                encode_chunk(bytes(size), dtype, plan(StoragePolicy(preset=preset), dtype))

    @pytest.mark.parametrize("size", [1, CANONICAL_BYTES_MAX])
    def test_the_smallest_and_the_largest_chunk_are_taken(self, size: int) -> None:
        dtype = dtype_by_name("uint8")
        chunk = encode_chunk(bytes(size), dtype, plan(StoragePolicy(preset="none"), dtype))
        assert chunk.stored_bytes == size + RAW_HEADER_BYTES

    def test_any_buffer_is_taken(self) -> None:
        values = normal((100,))
        expected = record_bytes(encode(values, "balanced"))
        dtype = dtype_by_name("float32")
        for buffer in (bytearray(values.tobytes()), memoryview(values), memoryview(values).cast("B"), values):
            chunk = encode_chunk(buffer, dtype, plan(StoragePolicy(preset="balanced"), dtype))
            assert record_bytes(chunk) == expected


class TestRaw:
    """A chunk that does not shrink is kept as it is, and not even copied."""

    def test_its_record_is_a_header_before_the_callers_own_bytes(self) -> None:
        values = random_bits("int32", (1000,))
        dtype = dtype_by_name("int32")
        chunk = encode_chunk(values, dtype, plan(StoragePolicy(preset="lossless"), dtype))
        header, body = chunk.record
        assert bytes(header)[0] == VERSION
        assert len(bytes(header)) == RAW_HEADER_BYTES
        assert np.shares_memory(np.frombuffer(body, np.uint8), values)

    def test_decoding_it_copies_nothing(self) -> None:
        record = np.frombuffer(record_bytes(encode(normal((100,)), "none")), np.uint8)
        decoded = np.frombuffer(decode_chunk(record), np.uint8)
        assert np.shares_memory(decoded, record)
        assert decoded.tobytes() == normal((100,)).tobytes()

    @each("name", ["lossless", "fast", "rotated planes, huffman", "planes alone", "gzip"])
    def test_noise_is_stored_raw_whatever_was_asked_for(self, name: str) -> None:
        chunk = encode(random_bits("uint64", (1000,)), POLICIES[name])
        assert chunk.encoding == IDENTITY
        assert chunk.stored_bytes == 8000 + RAW_HEADER_BYTES
        assert parse_record(record_bytes(chunk)).is_raw
        assert chunk.fallback_reason == ""

    def test_what_shrinks_by_less_than_its_header_is_stored_raw(self) -> None:
        # gzip makes 22 bytes of zeros some 11 bytes, with 21 bytes of header before them.
        chunk = encode(np.zeros(22, np.uint8), encoding_of("gzip"))
        assert chunk.encoding == IDENTITY
        assert chunk.stored_bytes == 22 + RAW_HEADER_BYTES

    @pytest.mark.parametrize("steps", [("fp16",), ("int8_block",), ("fp16", "planes", "zstd")])
    def test_a_quantizer_that_saves_nothing_is_not_applied(self, steps: tuple[str, ...]) -> None:
        values = np.array([1.1, 2.2], np.float32)
        chunk = encode(values, encoding_of(*steps))
        assert chunk.encoding == IDENTITY
        assert (chunk.error, chunk.decoded, chunk.quantized_bytes) == (None, None, 8)
        assert stored_values(chunk, values).tolist() == values.tolist()


class TestStreams:
    """What the record keeps of the encoding that was asked for."""

    def test_a_plane_that_does_not_shrink_is_kept_beside_one_that_does(self) -> None:
        values = normal((5000,))
        record = parse_record(record_bytes(encode(values, "lossless")))
        assert [stream.compressor for stream in record.streams] == [0, 3, 0, 0]
        assert codec_ids(record) == ("bf16_planes", "zstd")

    def test_a_filter_is_not_kept_where_none_of_its_streams_shrank(self) -> None:
        chunk = encode(random_bits("uint32", (1000,)), encoding_of("planes", "zstd"))
        assert chunk.encoding == IDENTITY

    def test_a_filter_without_compressor_does_nothing(self) -> None:
        values = np.zeros(1000, np.uint32)
        assert encode(values, encoding_of("planes")).encoding == IDENTITY

    def test_a_filter_after_a_quantizer_is_dropped_with_the_compressor(self) -> None:
        # Exponents and fractions at random: neither plane has repetitions that LZ4 could find.
        random = np.random.default_rng(0)
        values = np.ldexp(random.uniform(-1, 1, 1000), random.integers(-13, 1, 1000))
        chunk = encode(values.astype(np.float32), encoding_of("fp16", "planes", "lz4"))
        assert [codec.id for codec in chunk.encoding.codecs] == ["fp16"]
        assert chunk.stored_bytes == RAW_HEADER_BYTES + 2 + 2000

    def test_exactly_the_encoding_that_was_asked_for_is_done(self) -> None:
        values = np.repeat(normal((100,)), 50)
        for name in ("gzip", "planes, lz4", "fp16, gzip", "fp16, planes, lz4", "int8, zstd"):
            found = encode(values, POLICIES[name]).encoding
            assert [codec.id for codec in found.codecs] == [codec.id for codec in EXPLICIT[name].codecs]

    def test_a_stream_that_only_keeps_its_size_is_kept_as_it_is(self) -> None:
        class KeepsNoise(Gzip):
            def encode(self, data):
                encoded = super().encode(data)
                return encoded if len(encoded) < len(data) else bytes(data)

        # The lower plane is noise, the upper one zeros.
        values = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint16)
        chunk = encode(values, Encoding(None, Planes(), KeepsNoise()))
        assert [stream.compressor for stream in parse_record(record_bytes(chunk)).streams] == [0, 1]
        assert_holds_together(chunk, values)

    @each(
        ("steps", "dtype", "ids"),
        [
            ((), "float32", ()),
            (("gzip",), "float32", ("gzip",)),
            (("rotated_planes", "lz4"), "float64", ("rotated_planes", "lz4")),
            (("fp16", "planes", "zstd"), "float32", ("fp16", "planes", "zstd")),
            (("int8_block",), "float16", ("int8_block",)),
            (("int8_block", "zstd"), "complex64", ("int8_block", "zstd")),
        ],
    )
    def test_codec_ids_are_in_the_order_of_encoding_and_each_once(
        self, steps: tuple[str, ...], dtype: str, ids: tuple[str, ...]
    ) -> None:
        values = np.zeros(5000, dtype)
        assert codec_ids(parse_record(record_bytes(encode(values, encoding_of(*steps))))) == ids


class TestQuantizedBytes:
    """What is left after the quantizer, parameters included."""

    def test_of_fp16(self) -> None:
        assert encode(normal((1000,)), "fp16_only").quantized_bytes == 2 * 1000 + 2

    def test_of_int8_block(self) -> None:
        # Eight bytes, a scale for each started block of 64, and four bytes for an exception.
        values = normal((1000,))
        values[3] = np.nan
        assert encode(values, "int8_only").quantized_bytes == 1000 + 8 + 2 * 16 + 4

    def test_of_complex_numbers_that_are_two_each(self) -> None:
        assert encode(normal((500,)).astype(np.complex64), "fp16_only").quantized_bytes == 2 * 1000 + 2

    def test_without_a_quantizer_it_is_the_canonical_bytes(self) -> None:
        assert encode(normal((1000,)), "lossless").quantized_bytes == 4000


class TestSummary:
    """The values that came in, at a glance."""

    @each("name", DTYPE_NAMES)
    @each("preset", ["none", "maximum"])
    def test_it_is_of_the_values_that_came_in(self, name: str, preset: str) -> None:
        values = normal((5000,), name)
        dtype = dtype_by_name(name)
        assert encode(values, preset).summary == summarize(values.view(dtype.component), dtype)

    def test_lossy_values_do_not_change_it(self) -> None:
        values = normal((1000,))
        assert encode(values, "int8_only").summary == encode(values, "none").summary


class TestOpaque:
    """A dtype that this version does not know."""

    @each("preset", PRESETS)
    def test_it_comes_back_and_keeps_its_width(self, preset: str) -> None:
        dtype = opaque_dtype(99, 24)
        sent = b"\x01\x02\x03" * 1000
        chunk = encode_chunk(sent, dtype, plan(StoragePolicy(preset=preset), dtype))
        assert bytes(decode_chunk(record_bytes(chunk))) == sent
        assert parse_record(record_bytes(chunk)).dtype.element_bytes == 3
        assert chunk.summary is None


def test_bools_that_are_neither_0_nor_1_come_back() -> None:
    dtype = dtype_by_name("bool")
    sent = bytes(range(256))
    for preset in PRESETS:
        chunk = encode_chunk(sent, dtype, plan(StoragePolicy(preset=preset), dtype))
        assert bytes(decode_chunk(record_bytes(chunk))) == sent


def test_an_encoded_chunk_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        encode(normal((10,)), "none").stored_bytes = 0  # type: ignore[misc]  # that is what must not work


def test_presets_shrink_weights_as_much_as_the_design_measured() -> None:
    values = normal((250_000,))
    ratios = {name: values.nbytes / encode(values, name).stored_bytes for name in PRESETS}
    assert ratios["none"] == pytest.approx(1, abs=1e-3)
    assert ratios["lossless"] == pytest.approx(1.2, abs=0.05)
    assert ratios["balanced"] == pytest.approx(2.36, abs=0.1)
    assert ratios["maximum"] == pytest.approx(4.3, abs=0.2)
    assert ratios["extreme"] == pytest.approx(7.7, abs=0.3)
    assert ratios["fp16_only"] == pytest.approx(2.0, abs=0.01)
    assert ratios["int8_only"] == pytest.approx(3.88, abs=0.01)
    errors = encode(values, "maximum").error
    assert errors is not None
    assert math.isclose(errors.relative_error, 8.6e-3, rel_tol=0.1)


@each("policy", [StoragePolicy(preset="none"), StoragePolicy(preset="lossless")], ids=["none", "lossless"])
@each("kind", ["random bits", "weights", "zeros"])
def test_a_checksum_that_is_known_already_changes_nothing(policy: StoragePolicy, kind: str) -> None:
    for count in (1, 1000, CANONICAL_BYTES_MAX // 4):
        sent, dtype = canonical(values_of("float32", kind, count)), dtype_by_name("float32")
        chunk_plan = plan(policy, dtype)
        without = encode_chunk(sent, dtype, chunk_plan)
        known = encode_chunk(sent, dtype, chunk_plan, crc32c(sent))
        assert known.crc32c == without.crc32c == crc32c(record_bytes(without))
        assert record_bytes(known) == record_bytes(without)
