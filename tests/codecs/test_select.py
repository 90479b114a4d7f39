"""The automatic choice: what suits which values, decided on a sample, the same in every thread."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from contract.codec_chunks import encode, encoding_of, record_bytes
from support.arrays import canonical, normal
from support.cases import each
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.encoding import IDENTITY
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.select import choose, choose_lossless, narrowed, sample_of
from tensorus_codecs.streams import encode_words

COUNT = 100_000
RANDOM = np.random.default_rng(0)


def sparse(share: float) -> np.ndarray:
    return np.where(RANDOM.random(COUNT) < share, normal((COUNT,)), 0).astype(np.float32)


def picture(channels: int) -> np.ndarray:
    """Return smooth rows of pixels, the channels of each side by side."""
    steps = RANDOM.integers(-3, 4, (200, 250, channels))
    return (np.cumsum(steps, axis=1).clip(-120, 120) + 128).astype(np.uint8).ravel()


# values, and the codecs that suit them
SUITED = {
    "weights": (normal((COUNT,)), ["bf16_planes", "zstd"]),
    "weights in bfloat16": (normal((COUNT,), "bfloat16"), ["rotated_planes", "zstd"]),
    "weights in float64": (normal((COUNT,), "float64"), ["planes", "zstd"]),
    "nine zeros in ten": (sparse(0.1), ["bitmap", "zstd"]),
    "activations after a ReLU": (np.maximum(normal((COUNT,)), 0), ["bitmap", "zstd"]),
    "float32 that holds bfloat16": (
        normal((COUNT,)).astype(ml_dtypes.bfloat16).astype(np.float32),
        ["bf16_planes", "zstd"],
    ),
    "sequential ids": (np.arange(COUNT) + 10**9, ["delta", "zstd"]),
    "timestamps": (np.cumsum(RANDOM.integers(900, 1100, COUNT)) + 10**15, ["delta", "zstd"]),
    "small integers of both signs": (RANDOM.integers(-20, 20, COUNT).astype(np.int32), ["delta", "zstd"]),
    "token ids": (RANDOM.integers(0, 50257, COUNT), ["planes", "zstd"]),
    "a mask": (RANDOM.random(COUNT) < 0.05, ["packbits", "zstd"]),
    "a grey picture": (picture(1), ["delta", "zstd"]),
    "a picture of three channels": (picture(3), ["delta", "zstd"]),
    "a picture of four channels": (picture(4), ["delta", "zstd"]),
    "noise": (np.frombuffer(RANDOM.bytes(COUNT), np.uint8), []),
    "one value": (np.full(COUNT, 3.14, np.float32), ["constant"]),
    "one complex value": (np.full(COUNT, 3 - 4j, np.complex64), ["constant"]),
}


@each(("values", "ids"), SUITED.values(), ids=SUITED)
class TestSuited:
    """What the default preset does with each kind of values."""

    def test_it_picks_what_suits_them(self, values: np.ndarray, ids: list[str]) -> None:
        assert [codec.id for codec in encode(values, "lossless").encoding.codecs] == ids

    def test_they_come_back(self, values: np.ndarray, ids: list[str]) -> None:
        for preset in ("lossless", "archive"):
            assert bytes(decode_chunk(record_bytes(encode(values, preset)))) == canonical(values)

    def test_it_is_nearly_as_small_as_the_best_of_its_candidates(self, values: np.ndarray, ids: list[str]) -> None:
        dtype = dtype_by_name(values.dtype.name)
        words = np.frombuffer(canonical(values), dtype.word)
        candidates = plan(StoragePolicy(preset="lossless"), dtype).lossless
        best = min(encode_words(words, candidate.encoding).stored_bytes for candidate in candidates)
        # Slow decoders are charged up to 4 %, and a sample is not the whole.
        assert encode(values, "lossless").stored_bytes <= best * 1.08 + 100


GOALS = {"nine zeros in ten": 8, "sequential ids": 8, "noise": 0.999, "a mask": 20, "a picture of three channels": 2.2}
"""Ratios that were measured when the candidates were chosen, less a little."""


@each(("name", "ratio"), GOALS.items())
def test_the_ratio_is_at_least(name: str, ratio: float) -> None:
    values, _ = SUITED[name]
    assert values.nbytes / encode(values, "lossless").stored_bytes >= ratio


@each("preset", ["balanced", "bf16", "maximum", "extreme"])
class TestLossyPresets:
    """Where lossless is no larger, it is lossless."""

    def test_sparse_values_of_few_kinds_stay_exact(self, preset: str) -> None:
        values = (RANDOM.random(COUNT) < 0.02).astype(np.float32)
        chunk = encode(values, preset)
        assert chunk.encoding.quantizer is None
        assert chunk.fallback_reason == ""

    def test_what_cannot_be_quantized_says_so(self, preset: str) -> None:
        values = normal((COUNT,), "float64")
        values[::10] = np.nan if preset in {"maximum", "extreme"} else 1e300
        chunk = encode(values, preset)
        if preset == "balanced":
            assert chunk.error is not None
        else:
            assert chunk.encoding.quantizer is None
            assert f"of {COUNT} values are " in chunk.fallback_reason

    def test_weights_are_quantized(self, preset: str) -> None:
        assert encode(normal((COUNT,)), preset).encoding.quantizer is not None


class TestSample:
    """What of a chunk is looked at."""

    def test_a_small_chunk_is_its_own_sample(self) -> None:
        numbers = np.arange(16384, dtype=np.uint32)
        assert sample_of(numbers) is numbers

    @each("word", ["<u1", "<u2", "<u4", "<u8"])
    def test_a_large_one_gives_four_slices_from_beginning_to_end(self, word: str) -> None:
        numbers = np.arange(2**21 // np.dtype(word).itemsize).astype(word)
        sample = sample_of(numbers)
        assert sample.nbytes == 64 * 1024
        length = sample.size // 4
        starts = [int(np.flatnonzero(numbers == sample[part * length])[0]) for part in range(4)]
        if numbers.size < 2**16:
            assert starts[0] == 0
            assert all(later > earlier + length for earlier, later in itertools.pairwise(starts))
        assert (sample[-length:-1] == numbers[numbers.size - length - numbers.size % 2 :][: length - 1]).all()

    def test_complex_numbers_are_not_torn(self) -> None:
        numbers = np.arange(200_001, dtype=np.float32)
        sample = sample_of(numbers).reshape(-1, 2)
        assert (sample[:, 0] % 2 == 0).all()
        assert (sample[:, 1] == sample[:, 0] + 1).all()


class TestNarrowed:
    """A choice that serves many chunks."""

    def test_it_is_that_of_its_own_chunk(self) -> None:
        dtype = dtype_by_name("float32")
        found = plan(StoragePolicy(preset="lossless"), dtype)
        values = sparse(0.1)
        assert narrowed(found, values, dtype).choice == choose(found, memoryview(values).cast("B"), dtype)
        assert record_bytes(encode_chunk(values, dtype, narrowed(found, values, dtype))) == record_bytes(
            encode_chunk(values, dtype, found)
        )

    def test_a_chunk_that_it_does_not_suit_is_looked_at_itself(self) -> None:
        dtype = dtype_by_name("float32")
        found = narrowed(plan(StoragePolicy(preset="lossless"), dtype), sparse(0.1), dtype)
        chunk = encode_chunk(normal((COUNT,)), dtype, found)
        assert [codec.id for codec in chunk.encoding.codecs] == ["bf16_planes", "zstd"]

    def test_a_chunk_of_one_value_is_stored_as_that(self) -> None:
        dtype = dtype_by_name("float32")
        found = narrowed(plan(StoragePolicy(preset="balanced"), dtype), normal((COUNT,)), dtype)
        chunk = encode_chunk(np.zeros(COUNT, np.float32), dtype, found)
        assert chunk.encoding == encoding_of({"id": "constant", "configuration": {"element_words": 1}})

    @pytest.mark.parametrize("policy", [StoragePolicy(preset="none"), StoragePolicy(encoding=encoding_of("gzip"))])
    def test_where_there_is_nothing_to_choose_nothing_is_chosen(self, policy: StoragePolicy) -> None:
        dtype = dtype_by_name("float32")
        assert narrowed(plan(policy, dtype), normal((COUNT,)), dtype).choice is None

    def test_a_plan_that_aims_looks_at_every_chunk(self) -> None:
        dtype = dtype_by_name("float32")
        found = plan(StoragePolicy(preset="auto", max_relative_error=1e-2), dtype)
        assert narrowed(found, normal((COUNT,)), dtype) is found


def test_a_chunk_too_small_to_be_worth_it_gets_the_first_candidate() -> None:
    found = plan(StoragePolicy(preset="lossless"), dtype_by_name("float32"))
    assert choose_lossless(found, np.zeros(100, np.uint32)).encoding == found.lossless[0].encoding


def test_noise_is_left_as_it_is() -> None:
    found = plan(StoragePolicy(preset="lossless"), dtype_by_name("uint64"))
    words = np.frombuffer(RANDOM.bytes(8 * COUNT), np.uint64)
    assert choose_lossless(found, words).encoding == IDENTITY
