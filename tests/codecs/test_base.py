"""Chunks with a base: whether they are stored against it, what decoding them requires, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

from contract.codec_chunks import encoding_of, record_bytes
from contract.codec_libraries import hidden_library
from contract.codec_values import EVERY_DTYPE
from tensorus_codecs.base import Base, base_digest
from tensorus_codecs.chunk_record import pack_header, parse_record
from tensorus_codecs.dtypes import DType, dtype_by_name, opaque_dtype
from tensorus_codecs.errors import BaseMismatchError, BaseMissingError, CorruptChunkError
from tensorus_codecs.pipeline import (
    EncodedChunk,
    codec_ids,
    decode_chunk,
    decode_chunk_into,
    decode_record,
    encode_chunk,
)
from tensorus_codecs.plan import Candidate, ChunkPlan, plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.select import differences_share, narrowed

BF16 = dtype_by_name("bfloat16")
DOES_NOT_PAY = "the differences to the base save less than 10 %"
HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
LARGE = 400_000
"""Values of a chunk that is larger than a sample."""


def weights(count: int = LARGE, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return values as weights have them, bfloat16."""
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype(ml_dtypes.bfloat16)


def trained(values: np.ndarray[Any, Any], share: float = 0.1, seed: int = 1) -> np.ndarray[Any, Any]:
    """Return `values` of which a share are the next larger or smaller ones, as after a few steps of a training."""
    random = np.random.default_rng(seed)
    words = values.view(np.uint16).copy()
    words += np.where(random.random(words.size) < share, random.choice([1, 0xFFFF], words.size), 0).astype(np.uint16)
    return words.view(values.dtype)


def planned(preset: str = "lossless", dtype: DType = BF16, **contract: float) -> ChunkPlan:
    return plan(StoragePolicy(preset=preset, **contract), dtype)


def encoded(values: np.ndarray[Any, Any], base: np.ndarray[Any, Any], plan_: ChunkPlan | None = None) -> EncodedChunk:
    dtype = dtype_by_name(values.dtype.name)
    return encode_chunk(values.tobytes(), dtype, plan_ or planned(dtype=dtype), base=Base(base.tobytes(), dtype))


def needs_its_base(chunk: EncodedChunk) -> bool:
    found = base_digest(parse_record(record_bytes(chunk))) is not None
    assert found == (chunk.base_reason == "")
    return found


class TestDecoding:
    """A record against its base comes back; against anything else, or nothing, it is refused."""

    @pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=lambda dtype: dtype.name)
    def test_a_chunk_of_any_dtype_comes_back(self, dtype: DType) -> None:
        random = np.random.default_rng(dtype.element_bytes)
        before = np.frombuffer(random.bytes(500 * dtype.element_bytes), dtype.word)
        after = before + (random.random(before.size) < 0.05).astype(dtype.word)
        base = Base(before.tobytes(), dtype)
        chunk = encode_chunk(after.tobytes(), dtype, planned("none", dtype), base=base)
        assert needs_its_base(chunk)
        record = record_bytes(chunk)
        assert bytes(decode_chunk(record, base=base)) == after.tobytes()
        assert bytes(decode_record(parse_record(record), base=base)) == after.tobytes()
        target = bytearray(after.nbytes)
        decode_chunk_into(record, memoryview(target), base=base)
        assert target == after.tobytes()

    def test_a_record_says_which_base_it_needs(self) -> None:
        base = weights()
        record = parse_record(record_bytes(encoded(trained(base), base)))
        assert base_digest(record) == xxhash.xxh3_128_digest(base.tobytes())
        assert codec_ids(record) == ("int_delta", "zstd")

    def test_a_record_that_needs_none_says_so_and_ignores_any(self) -> None:
        values = weights()
        for preset in PRESETS:
            record = record_bytes(encode_chunk(values.tobytes(), BF16, planned(preset)))
            assert base_digest(parse_record(record)) is None
            assert bytes(decode_chunk(record, base=Base(b"x", BF16))) == bytes(decode_chunk(record))

    def test_without_a_base_it_is_refused(self) -> None:
        base = weights()
        record = record_bytes(encoded(trained(base), base))
        message = (
            f"^chunk record: the chunk was encoded against a base with the digest {Base(base, BF16).digest.hex()}, "
        )
        for decode in (decode_chunk, lambda data: decode_chunk_into(data, memoryview(bytearray(base.nbytes)))):
            with pytest.raises(BaseMissingError, match=message + "none was given$"):
                decode(record)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda base: Base(base.canonical[:-2], BF16), "the base is 798 bytes, must be 800 as the chunk"),
            (lambda base: Base(b"", BF16), "the base is 0 bytes, must be 800 as the chunk"),
            (
                lambda base: replace(base, dtype=dtype_by_name("float16")),
                "the base is float16, must be bfloat16 as the chunk",
            ),
            (
                lambda base: replace(base, dtype=opaque_dtype(99, 16)),
                "the base is dtype_99, must be bfloat16 as the chunk",
            ),
            (
                lambda base: Base(bytes([base.canonical[0] ^ 1]) + base.canonical[1:], BF16),
                "the digest of the base is [0-9a-f]{32}, the chunk was encoded against [0-9a-f]{32}",
            ),
        ],
    )
    def test_another_base_is_refused(self, change: Any, message: str) -> None:
        values = weights(400)
        base = Base(values.tobytes(), BF16)
        record = record_bytes(encode_chunk(trained(values).tobytes(), BF16, planned(), base=base))
        assert base_digest(parse_record(record)) == base.digest
        with pytest.raises(BaseMismatchError, match=rf"^chunk record: {message}$"):
            decode_chunk(record, base=change(base))

    def test_bases_of_an_opaque_dtype_are_compared_by_width(self) -> None:
        # A record does not know the number of such a dtype.
        data, dtype = bytes(600), opaque_dtype(90, 24)
        data = bytes(range(200)) * 3
        record = record_bytes(encode_chunk(data, dtype, planned("none", dtype), base=Base(data, dtype)))
        assert bytes(decode_chunk(record, base=Base(data, opaque_dtype(91, 24)))) == data
        with pytest.raises(BaseMismatchError, match=r"the base is dtype_90, must be dtype_0 as the chunk$"):
            decode_chunk(record, base=Base(data, opaque_dtype(90, 16)))

    def test_a_record_whose_parameters_are_too_short_for_a_digest_is_damage(self) -> None:
        values = weights(400)
        record = parse_record(record_bytes(encoded(trained(values), values)))
        short = replace(record, filter_parameters=bytes(15))
        data = pack_header(short) + short.parameters + b"".join(bytes(stream.data) for stream in short.streams)
        message = "^chunk record: a filter with a base has 15 bytes of parameters, must be at least 16$"
        with pytest.raises(CorruptChunkError, match=message):
            decode_chunk(data, base=Base(values.tobytes(), BF16))

    def test_a_quantized_record_with_a_base_is_damage(self) -> None:
        values = weights(400)
        record = parse_record(record_bytes(encoded(trained(values), values)))
        lossy = replace(record, quantizer=8)
        data = pack_header(lossy) + lossy.parameters + b"".join(bytes(stream.data) for stream in lossy.streams)
        message = "^chunk record: quantizer bitround before a filter that needs a base, which is lossless$"
        with pytest.raises(CorruptChunkError, match=message):
            decode_chunk(data, base=Base(values.tobytes(), BF16))

    def test_any_buffer_is_a_base(self) -> None:
        values = weights(400)
        chunk = encoded(trained(values), values)
        for canonical in (bytearray(values.tobytes()), memoryview(values.view(np.uint16)), values.view(np.uint8)):
            decoded = decode_chunk(record_bytes(chunk), base=Base(canonical, BF16))
            assert bytes(decoded) == trained(values).tobytes()


class TestChoice:
    """The differences are stored where they are smaller."""

    @pytest.mark.parametrize("preset", PRESETS)
    @pytest.mark.parametrize("count", [100, LARGE])
    def test_of_a_base_that_is_near_under_every_preset(self, preset: str, count: int) -> None:
        base = weights(count)
        values = trained(base)
        chunk = encoded(values, base, planned(preset))
        assert needs_its_base(chunk)
        assert chunk.encoding == encoding_of("int_delta", *([HUFFMAN] if count == LARGE else []))
        assert (chunk.decoded, chunk.error, chunk.fallback_reason) == (None, None, "")
        assert chunk.quantized_bytes == values.nbytes
        assert count == 100 or chunk.stored_bytes < values.nbytes / 15

    # Large chunks would be raw under the presets `none` and `fp16_only`, so that any compressor saves a tenth.
    @pytest.mark.parametrize(
        ("preset", "count"),
        [
            (preset, count)
            for preset in PRESETS
            for count in (100, LARGE)[: 1 if preset in {"none", "fp16_only"} else 2]
        ],
    )
    def test_not_of_a_base_that_is_another_tensor(self, preset: str, count: int) -> None:
        values = weights(count)
        plain = encode_chunk(values.tobytes(), BF16, planned(preset))
        assert encoded(values, weights(count, seed=9), planned(preset)) == replace(plain, base_reason=DOES_NOT_PAY)

    def test_a_chunk_equal_to_its_base_is_a_few_hundred_bytes(self) -> None:
        chunk = encoded(weights(), weights())
        assert needs_its_base(chunk)
        assert chunk.stored_bytes < 300

    def test_a_constant_chunk_stays_constant(self) -> None:
        values = np.full(LARGE, 2, ml_dtypes.bfloat16)
        chunk = encoded(values, trained(values, share=0.001))
        assert not needs_its_base(chunk)
        assert [codec.id for codec in chunk.encoding.codecs] == ["constant"]

    def test_a_lossy_encoding_is_kept_where_it_is_smaller(self) -> None:
        base = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
        values = base * np.float32(1.001)
        assert not needs_its_base(encoded(values, base, planned("extreme", dtype_by_name("float32"))))
        assert needs_its_base(encoded(values, base))

    def test_a_choice_made_for_another_chunk_is_compared_by_its_share(self) -> None:
        base = weights()
        narrow = narrowed(planned(), weights(seed=5).tobytes(), BF16)
        assert narrow.choice is not None
        assert needs_its_base(encoded(trained(base), base, narrow))
        assert not needs_its_base(encoded(weights(seed=3), base, narrow))

    def test_differences_that_turn_out_larger_than_their_estimate_are_compared_with_the_chunk_itself(self) -> None:
        # Every word that the estimate looks at is equal; the others are random.
        base = weights(1 << 19)
        values = weights(1 << 19, seed=9)
        values[:: base.size // 2048] = base[:: base.size // 2048]
        assert differences_share(values.view(np.uint16), base.view(np.uint16)) == 0
        plain = encode_chunk(values.tobytes(), BF16, planned())
        assert encoded(values, base) == replace(plain, base_reason=DOES_NOT_PAY)

    def test_an_encoding_without_a_base_leaves_the_filter_out(self) -> None:
        values = weights()
        candidate = Candidate(encoding_of("int_delta", HUFFMAN))
        chunk = encode_chunk(values.tobytes(), BF16, replace(planned("none"), lossless=(candidate,)))
        assert chunk.encoding == encoding_of(HUFFMAN)
        assert bytes(decode_chunk(record_bytes(chunk))) == values.tobytes()

    def test_without_its_library_the_compressor_is_left_out(self) -> None:
        base = weights()
        with hidden_library("zstd"):
            chunk = encoded(trained(base), base, planned("none"))
        assert needs_its_base(chunk)
        assert chunk.encoding == encoding_of("int_delta")

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            (Base(bytes(798), BF16), "the base of a chunk is 798 bytes of bfloat16, must be 800 of bfloat16"),
            (
                Base(bytes(800), dtype_by_name("int16")),
                "the base of a chunk is 800 bytes of int16, must be 800 of bfloat16",
            ),
        ],
    )
    def test_a_base_that_does_not_fit_is_refused(self, base: Base, message: str) -> None:
        with pytest.raises(ValueError, match=rf"^{message}$"):
            encode_chunk(weights(400).tobytes(), BF16, planned(), base=base)


class TestEstimate:
    """The share that differences are estimated to take."""

    @pytest.mark.parametrize("word", ["<u1", "<u2", "<u4", "<u8"])
    def test_of_random_words_it_is_nearly_1_and_of_equal_ones_0(self, word: str) -> None:
        random = np.random.default_rng(0)
        words, others = (np.frombuffer(random.bytes(100_000 * np.dtype(word).itemsize), word) for _ in range(2))
        assert 0.98 < differences_share(words, others) <= 1
        assert differences_share(words, words) == 0

    @pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.3])
    def test_it_is_near_to_what_they_take(self, share: float) -> None:
        base = weights()
        values = trained(base, share)
        found = encoded(values, base).stored_bytes / values.nbytes
        assert differences_share(values.view(np.uint16), base.view(np.uint16)) == pytest.approx(
            found, rel=0.2, abs=0.01
        )

    def test_a_few_words_are_enough(self) -> None:
        for count in (1, 2, 3):
            words = np.arange(count, dtype="<u2")
            assert differences_share(words, words) == 0
