"""Properties of the codecs: lossless means bit for bit, whatever the bytes, and no record can do worse than be refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.codec_chunks import encoding_of, record_bytes
from contract.codec_decoding import assert_refused_or_decoded, rebased, repaired
from contract.codec_values import EVERY_DTYPE, chunk_bytes
from tensorus_codecs.abc import BaseFilter, Codec, Compressor, Filter, Quantizer
from tensorus_codecs.base import Base
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, RAW_HEADER_BYTES
from tensorus_codecs.dtypes import DType
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.registry import available_codecs

HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
PIXELS = {"id": "delta", "configuration": {"distance": 3}}
FILTERS = ["planes", "rotated_planes", "delta", PIXELS, "bitmap", "packbits", "constant", "bf16_planes"]
COMPRESSORS = [
    "gzip",
    "lz4",
    {"id": "lz4", "configuration": {"level": 9}},
    "zstd",
    HUFFMAN,
    "blosc_lz4",
    "brotli",
    "pcodec",
]
QUANTIZERS = ["fp16", "bf16", "int4_block", "nf4", "fp8_e4m3fn", "fp8_e5m2", "bitround", "int8_block", "int16_block"]
VARIANTS = [
    {"id": "int8_block", "configuration": {"variant": "affine", "code_max": 15}},
    {"id": "int16_block", "configuration": {"variant": "affine", "block_size": 32, "code_max": 100}},
]
LOSSLESS = [
    encoding_of(*steps)
    for steps in (
        (),
        *((step,) for step in (*FILTERS, *COMPRESSORS)),
        *((step, HUFFMAN) for step in FILTERS),
        *(("planes", step) for step in ("gzip", "lz4", "brotli")),
        *(("delta", step) for step in ("gzip", "pcodec")),
        ("rotated_planes", "zstd"),
        ("bitmap", "brotli"),
    )
]
LOSSY = [
    encoding_of(quantizer, *rest)
    for quantizer in (*QUANTIZERS, *VARIANTS)
    for rest in (
        (),
        ("gzip",),
        ("planes", "lz4"),
        ("rotated_planes", HUFFMAN),
        ("bitmap",),
        ("delta", "brotli"),
        ("pcodec",),
    )
]

OURS_MAX = 127
"""The largest number of a codec that is no third party's."""

dtypes = st.sampled_from(EVERY_DTYPE)


def examples(factor: float) -> settings:
    """Return settings with that many times the examples of the profile in use."""
    return settings(max_examples=int(factor * settings.default.max_examples))


def numbers_of(kind: type[Codec]) -> list[int]:
    """Return the numbers of every codec of this kind that is ours."""
    return sorted(entry.number for entry in available_codecs() if entry.kind is kind and entry.number <= OURS_MAX)


def encode(data: bytes, dtype: DType, encoding: Encoding):
    return encode_chunk(data, dtype, plan(StoragePolicy(encoding=encoding), dtype))


@st.composite
def chunks_with_bases(draw: st.DrawFn) -> tuple[bytes, Base]:
    """Draw a chunk of any dtype, and a base from which few or many of its words differ, by little or by much."""
    dtype = draw(dtypes)
    data = draw(chunk_bytes(dtype))
    words = np.frombuffer(data, dtype.word)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([2, 3, 5, 100, 2 ** (8 * words.itemsize) - 1]))
    steps = random.integers(0, size, words.size, np.uint64, endpoint=True).astype(words.dtype)
    differs = random.random(words.size) < draw(st.sampled_from([0.0, 0.05, 0.4, 1.0]))
    base = np.where(differs, words + steps - words.dtype.type(size // 2), words).astype(words.dtype)
    return data, Base(base.tobytes(), dtype)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Draw a record that `encode_chunk` wrote, of any dtype and encoding; one with a base is for zeros."""
    if draw(st.integers(0, 9)) == 0:
        data, base = draw(chunks_with_bases())
        planned = plan(StoragePolicy(preset=draw(st.sampled_from(sorted(PRESETS)))), base.dtype)
        return rebased(record_bytes(encode_chunk(data, base.dtype, planned, base=base)))
    dtype = draw(dtypes)
    data = draw(chunk_bytes(dtype))
    return record_bytes(encode(data, dtype, draw(st.sampled_from(LOSSLESS + LOSSY))))


@st.composite
def damaged_records(draw: st.DrawFn) -> bytes:
    """Draw a record with bits flipped, bytes set, removed, inserted or exchanged, the header's more often than not."""
    data = bytearray(draw(records()))
    for _ in range(draw(st.integers(1, 4))):
        end = max(len(data), 1)
        position = draw(st.integers(0, min(end - 1, 40)) | st.integers(0, end - 1))
        change = draw(st.sampled_from(["flip", "set", "truncate", "remove", "insert", "swap", "integer"]))
        if change == "flip" and data:
            data[position] ^= 1 << draw(st.integers(0, 7))
        elif change == "set" and data:
            data[position] = draw(st.sampled_from([0, 1, 2, 3, 127, 128, 255]))
        elif change == "truncate":
            del data[position:]
        elif change == "remove":
            del data[position : position + draw(st.integers(1, 8))]
        elif change == "insert":
            data[position:position] = draw(st.binary(min_size=1, max_size=8))
        elif change == "swap" and data:
            other = draw(st.integers(0, end - 1))
            data[position], data[other] = data[other], data[position]
        elif change == "integer":
            number = draw(st.sampled_from([0, 1, 2**16, CANONICAL_BYTES_MAX, 2**31 - 1, 2**32 - 1]))
            data[position : position + 4] = number.to_bytes(4, "little")
    return bytes(data)


def test_every_codec_is_in_some_of_these_encodings() -> None:
    used = {codec.id for encoding in LOSSLESS + LOSSY for codec in encoding.codecs}
    ours = [entry for entry in available_codecs() if entry.number <= OURS_MAX]
    # No policy has a filter that needs a base: see `chunks_with_bases`.
    assert used == {entry.id for entry in ours if not issubclass(entry.load(), BaseFilter)}


@pytest.mark.parametrize("encoding", LOSSLESS, ids=lambda encoding: "-".join(codec.id for codec in encoding.codecs))
@examples(0.5)
@given(data=st.data(), dtype=dtypes)
def test_a_lossless_encoding_gives_back_every_bit(encoding: Encoding, data: st.DataObject, dtype: DType) -> None:
    sent = data.draw(chunk_bytes(dtype))
    chunk = encode(sent, dtype, encoding)
    record = record_bytes(chunk)
    assert chunk.decoded is None
    assert chunk.error is None
    assert bytes(decode_chunk(record)) == sent
    assert chunk.stored_bytes == len(record) <= len(sent) + RAW_HEADER_BYTES


@pytest.mark.parametrize("preset", PRESETS)
@examples(1)
@given(drawn=chunks_with_bases())
def test_a_chunk_with_a_base_is_never_larger_and_never_less_exact(preset: str, drawn: tuple[bytes, Base]) -> None:
    sent, base = drawn
    planned = plan(StoragePolicy(preset=preset), base.dtype)
    chunk, plain = encode_chunk(sent, base.dtype, planned, base=base), encode_chunk(sent, base.dtype, planned)
    record = record_bytes(chunk)
    assert chunk.stored_bytes == len(record) <= plain.stored_bytes
    assert bool(chunk.base_reason) == (chunk.encoding == plain.encoding)
    decoded = bytes(decode_chunk(record, base=base))
    if chunk.base_reason:
        assert record == record_bytes(plain)
        assert decoded == bytes(decode_chunk(record))
    else:
        assert decoded == sent
        assert chunk.error is chunk.decoded is None


@pytest.mark.parametrize("preset", PRESETS)
@examples(0.5)
@given(data=st.data(), dtype=dtypes)
def test_a_preset_gives_back_every_bit_or_what_it_said(preset: str, data: st.DataObject, dtype: DType) -> None:
    sent = data.draw(chunk_bytes(dtype))
    chunk = encode_chunk(sent, dtype, plan(StoragePolicy(preset=preset), dtype))
    record = record_bytes(chunk)
    decoded = bytes(decode_chunk(record))
    assert decoded == (sent if chunk.encoding.quantizer is None else bytes(chunk.decoded))
    assert len(decoded) == len(sent)
    assert chunk.stored_bytes == len(record) <= len(sent) + RAW_HEADER_BYTES


@examples(2)
@given(data=st.data(), dtype=dtypes, bound=st.sampled_from([0.0, 1e-6, 1e-3, 1e-2, 0.5]))
def test_an_absolute_bound_is_kept_for_any_bits(data: st.DataObject, dtype: DType, bound: float) -> None:
    sent = data.draw(chunk_bytes(dtype))
    policy = StoragePolicy(encoding=data.draw(st.sampled_from(LOSSY)), max_absolute_error=bound)
    chunk = encode_chunk(sent, dtype, plan(policy, dtype))
    decoded = bytes(decode_chunk(record_bytes(chunk)))
    if chunk.encoding.quantizer is None:
        assert decoded == sent
        return
    with np.errstate(all="ignore"):
        values = np.frombuffer(sent, dtype.component).astype(np.float64)
        found = np.frombuffer(decoded, dtype.component).astype(np.float64)
    finite = np.isfinite(values)
    assert (np.abs(found[finite] - values[finite]) <= bound).all()
    assert np.array_equal(found[~finite], values[~finite], equal_nan=True)


@examples(2)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_decoded(data: bytes) -> None:
    assert_refused_or_decoded(data)


@examples(4)
@given(
    header=st.tuples(
        st.integers(0, 17),  # dtype
        st.integers(1, 16),  # element_bytes
        st.integers(0, len(numbers_of(Quantizer))),
        st.integers(0, len(numbers_of(Filter))),
        st.integers(0, 1),  # flags
        st.integers(0, 9),  # stream_count
        st.sampled_from([0, 1, 2, 4, 8, 16, 22]),  # filter_bytes
    ),
    sizes=st.tuples(st.integers(1, 300), st.sampled_from([0, 2, 8, 10, 14]) | st.integers(0, 40)),
    streams=st.lists(
        st.tuples(st.integers(0, len(numbers_of(Compressor))), st.integers(0, 40)), min_size=9, max_size=9
    ),
    rest=st.binary(max_size=200),
)
def test_arbitrary_bytes_after_a_plausible_header_are_refused_or_decoded(
    header: tuple[int, ...], sizes: tuple[int, int], streams: list[tuple[int, int]], rest: bytes
) -> None:
    table = b"".join(struct.pack("<BI", *stream) for stream in streams[: header[5]])
    data = struct.pack("<8BII", 1, *header, *sizes) + table + rest
    assert_refused_or_decoded(data)
    assert_refused_or_decoded(rebased(repaired(data)))


@examples(4)
@given(data=damaged_records())
def test_a_damaged_record_is_refused_or_decoded(data: bytes) -> None:
    assert_refused_or_decoded(data)
    assert_refused_or_decoded(rebased(repaired(data)))


def test_the_header_s_numbers_above_are_all_that_there_are() -> None:
    for kind in (Quantizer, Filter, Compressor):
        assert numbers_of(kind) == list(range(1, len(numbers_of(kind)) + 1))


@examples(1)
@given(first=records(), second=records(), cut=st.floats(0, 1))
def test_the_beginning_of_one_record_and_the_end_of_another_are_refused_or_decoded(
    first: bytes, second: bytes, cut: float
) -> None:
    assert_refused_or_decoded(first[: int(cut * len(first))] + second[int(cut * len(second)) :])


@examples(0.25)
@given(data=records())
def test_every_flipped_bit_of_a_header_is_refused_or_decoded(data: bytes) -> None:
    for position in range(8 * min(len(data), 30)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        assert_refused_or_decoded(bytes(damaged))


@examples(0.25)
@given(data=records())
def test_a_record_that_ends_early_or_goes_on_is_damage(data: bytes) -> None:
    for changed in (*(data[:length] for length in range(0, len(data), 1 + len(data) // 50)), data + b"\0", data + data):
        with pytest.raises(CorruptChunkError):
            decode_chunk(changed)
