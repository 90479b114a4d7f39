"""The error contract: no chunk breaks it, whatever its values, and the ladder leads from coarse to fine and ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_chunks import encode, encoding_of, stored_values
from contract.codec_values import any_values
from support.cases import each
from tensorus_codecs.abc import Quantizer
from tensorus_codecs.contract import ErrorContract, encodings_within, finer
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.filters.planes import Planes, RotatedPlanes
from tensorus_codecs.measure import MeasuredError, measure
from tensorus_codecs.pipeline import EncodedChunk
from tensorus_codecs.quantizers.bf16 import Bf16
from tensorus_codecs.quantizers.bitround import BitRound
from tensorus_codecs.quantizers.fp16 import Fp16
from tensorus_codecs.quantizers.int4_block import Int4Block
from tensorus_codecs.quantizers.int8_block import Int8Block
from tensorus_codecs.quantizers.int16_block import Int16Block
from tensorus_codecs.quantizers.nf4 import Nf4

HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
FLOAT32 = dtype_by_name("float32")
COUNT = 20_000
BOUNDS = [1e-1, 5e-2, 2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5]
LOSSY_PRESETS = ["balanced", "bf16", "maximum", "extreme", "auto", "fp16_only", "int8_only"]


def distributions() -> dict[str, np.ndarray]:
    """Return what tensors are made of, float32, and a mix of all of them in one."""
    random = np.random.default_rng(0)
    gaussian = random.standard_normal(COUNT)
    outliers = np.where(random.random(COUNT) < 1e-3, 50 * gaussian, gaussian)
    channels = random.standard_normal((200, COUNT // 200)) * np.logspace(-3, 0, 200)[:, np.newaxis]
    made = {
        "Gaussian": gaussian,
        "Student-t": random.standard_t(3, COUNT),
        "outliers x50": outliers,
        "100 +- 1": 100 + random.uniform(-1, 1, COUNT),
        "channels of 1e-3 to 1": channels.ravel(),
        "Adam second moments": gaussian**2 * 1e-10,
    }
    made["a mix"] = np.concatenate([values[: COUNT // 6] for values in made.values()])
    return {name: values.astype(np.float32) for name, values in made.items()}


DISTRIBUTIONS = distributions()


def relative_error(values: np.ndarray, chunk: EncodedChunk) -> float:
    sent, found = values.astype(np.float64), stored_values(chunk, values).astype(np.float64)
    return float(np.sqrt(np.sum((found - sent) ** 2) / np.sum(sent**2)))


@each("name", DISTRIBUTIONS)
class TestNoViolation:
    """Every preset keeps every contract on every kind of values."""

    @each("preset", LOSSY_PRESETS)
    def test_the_relative_error_is_within_the_bound(self, name: str, preset: str) -> None:
        values = DISTRIBUTIONS[name]
        for bound in BOUNDS[::3]:
            chunk = encode(values, preset, max_relative_error=bound)
            found = relative_error(values, chunk)
            assert found <= bound * (1 + 1e-12)
            reported = 0.0 if chunk.error is None else chunk.error.relative_error
            # Float32 is measured in float32, and rounded up.
            assert found * (1 - 1e-9) <= reported <= found * (1 + 3.2e-5)

    @each("preset", ["maximum", "auto", "int8_only"])
    def test_the_absolute_error_is_within_the_bound(self, name: str, preset: str) -> None:
        values = DISTRIBUTIONS[name]
        spread = float(np.abs(values).max())
        for bound in BOUNDS[::4]:
            chunk = encode(values, preset, max_absolute_error=bound * spread)
            errors = np.abs(stored_values(chunk, values).astype(np.float64) - values.astype(np.float64))
            assert errors.max() <= bound * spread

    def test_the_ratio_of_auto_falls_as_the_contract_tightens_and_never_by_half(self, name: str) -> None:
        values = DISTRIBUTIONS[name]
        ratios = [values.nbytes / encode(values, "auto", max_relative_error=bound).stored_bytes for bound in BOUNDS]
        for coarse, fine in itertools.pairwise(ratios):
            # A little less is noise of the estimates: the choice is made on a sample.
            assert fine <= coarse * 1.02
        smooth = ratios if name != "100 +- 1" else [ratio for ratio in ratios if ratio < 100]
        assert all(fine > coarse / 2 for coarse, fine in itertools.pairwise(smooth))
        assert ratios[-1] > 1.5


@given(values=any_values("float32"), bound=st.sampled_from([1e-1, 1e-3, 1e-5]), preset=st.sampled_from(LOSSY_PRESETS))
def test_no_bits_break_an_absolute_contract(values: np.ndarray, bound: float, preset: str) -> None:
    chunk = encode(values, preset, max_absolute_error=bound)
    found, finite = stored_values(chunk, values), np.isfinite(values)
    assert (np.abs(found[finite].astype(np.float64) - values[finite].astype(np.float64)) <= bound).all()
    assert np.array_equal(found[~finite], values[~finite], equal_nan=True)


class TestExcess:
    """How many times what is allowed an error is."""

    @each(
        ("contract", "error", "expected"),
        [
            (ErrorContract(), MeasuredError(1, 5.0, 1.0, 9.0), 0.0),
            (ErrorContract(0.1), MeasuredError(1, 0.2, 1.0, 9.0), 2.0),
            (ErrorContract(None, 3.0), MeasuredError(1, 0.2, 1.0, 9.0), 3.0),
            (ErrorContract(0.1, 3.0), MeasuredError(1, 0.2, 1.0, 9.0), 3.0),
            (ErrorContract(0.0, 0.0), MeasuredError(1, 0.0, 1.0, 0.0), 0.0),
            (ErrorContract(0.0), MeasuredError(1, 1e-9, 1.0, 1e-9), math.inf),
            (ErrorContract(1e300), MeasuredError(1, math.inf, 1.0, math.inf), math.inf),
        ],
    )
    def test_it_is_that_of_the_bound_that_is_exceeded_most(
        self, contract: ErrorContract, error: MeasuredError, expected: float
    ) -> None:
        assert contract.excess(error) == pytest.approx(expected)
        assert (contract.broken_by("fp16", error) != "") == (expected > 1)


class TestLadder:
    """The rungs above one that was not fine enough."""

    COMPRESSED = encoding_of("int8_block", "rotated_planes", HUFFMAN)
    ALONE = encoding_of("int8_block")

    @each(
        ("failed", "excess", "expected"),
        [
            (Int4Block(), 2.0, Int8Block(code_max=15)),
            (Nf4(), 10.0, Int8Block(code_max=73)),
            (Int4Block(), 100.0, Int8Block(code_max=127)),
            (Int8Block(block_size=128, code_max=50), 2.0, Int8Block(block_size=128, code_max=103)),
            (Int8Block(block_size=128, code_max=127), 1.1, Int8Block()),
            (Int8Block(), 2.0, Int16Block(code_max=262)),
            (Int8Block(), 1e5, BitRound(keep_bits=8)),
            (Int16Block(code_max=32767), 2.0, BitRound(keep_bits=8)),
            (Bf16(), 2.0, BitRound(keep_bits=8)),
            (BitRound(keep_bits=8), 5.0, BitRound(keep_bits=11)),
            (BitRound(keep_bits=21), 1.1, None),
            (Int8Block(), math.inf, None),
        ],
    )
    def test_with_a_compressor(self, failed: Quantizer, excess: float, expected: Quantizer | None) -> None:
        found = finer(self.COMPRESSED, failed, excess, ErrorContract(1e-3), FLOAT32)
        assert (None if found is None else found.quantizer) == expected

    @each(
        ("failed", "dtype", "expected"),
        [
            (Int8Block(), "float32", Bf16()),
            (Bf16(), "float32", Fp16()),
            (Fp16(), "float32", None),
            (Int8Block(), "bfloat16", None),
            (Int8Block(), "float16", None),
        ],
    )
    def test_without_one_only_what_saves_bytes_by_itself(
        self, failed: Quantizer, dtype: str, expected: Quantizer | None
    ) -> None:
        found = finer(self.ALONE, failed, 3.0, ErrorContract(1e-3), dtype_by_name(dtype))
        assert (None if found is None else found.quantizer) == expected

    def test_planes_are_rotated_for_floats_only(self) -> None:
        integers = finer(self.COMPRESSED, Int8Block(), 2.0, ErrorContract(1e-3), FLOAT32)
        floats = finer(self.COMPRESSED, Int8Block(), 1e6, ErrorContract(1e-3), FLOAT32)
        assert integers is not None
        assert floats is not None
        assert (integers.filter, floats.filter) == (Planes(), RotatedPlanes())
        assert integers.compressor == floats.compressor == self.COMPRESSED.compressor

    @each("first", [COMPRESSED, ALONE], ids=["compressed", "alone"])
    @each("dtype", ["float16", "bfloat16", "float32", "float64"])
    @each("start", [Int4Block(), Nf4(), Int8Block(block_size=256, code_max=1)])
    @each("excess", [1.0000001, 1.5, 40.0, 1e30])
    def test_it_ends_from_everywhere(self, first: Encoding, dtype: str, start: Quantizer, excess: float) -> None:
        quantizer, seen = start, set()
        while quantizer not in seen:
            seen.add(quantizer)
            found = finer(first, quantizer, excess, ErrorContract(1e-4), dtype_by_name(dtype))
            if found is None or found.quantizer is None:
                return
            assert found.quantizer.applies_to(dtype_by_name(dtype))
            quantizer = found.quantizer
        pytest.fail(f"{quantizer} is followed by itself")


def test_chunks_that_differ_in_the_number_of_codes_alone_are_counted_together() -> None:
    values = DISTRIBUTIONS["Gaussian"]
    found = {encode(values * scale, "auto", max_absolute_error=0.05).encoding for scale in (1.0, 1.5, 2.0)}
    assert len(found) == 1
    escalated = {encode(values, "maximum", max_relative_error=bound).encoding for bound in (8e-3, 8.1e-3)}
    assert len(escalated) == 1


class TestAim:
    """Quantizers that keep the contract for a sample, each about as coarse as it may be."""

    ENCODING = encoding_of("int8_block", "rotated_planes", HUFFMAN)

    @each("bound", BOUNDS)
    def test_they_keep_it_and_half_of_it_would_not_do(self, bound: float) -> None:
        sample = DISTRIBUTIONS["Gaussian"][:16384]
        for encoding in encodings_within(self.ENCODING, sample, ErrorContract(bound), FLOAT32):
            quantized = encoding.quantizer.encode(sample)
            decoded = encoding.quantizer.decode(quantized.codes, quantized.parameters, sample.dtype, sample.size)
            error = measure(sample, decoded).relative_error
            assert error <= bound
            # bitround halves with every bit, and one more is tried.
            assert error > bound / 5

    def test_what_cannot_keep_it_is_left_out(self) -> None:
        sample = DISTRIBUTIONS["Gaussian"][:16384]
        assert encodings_within(self.ENCODING, sample, ErrorContract(1e-7), FLOAT32) == []
        assert encodings_within(self.ENCODING, sample, ErrorContract(0.0), FLOAT32) == []

    def test_values_that_integers_cannot_code_leave_rounding(self) -> None:
        sample = np.where(np.arange(1000) % 20 == 0, np.nan, DISTRIBUTIONS["Gaussian"][:1000]).astype(np.float32)
        found = encodings_within(self.ENCODING, sample, ErrorContract(1e-2), FLOAT32)
        assert {type(encoding.quantizer) for encoding in found} == {BitRound}
