"""Small floats: the fast ways to round to them and to read them equal the slow ones, bit for bit."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_quantizer_contract import component_dtype
from contract.codec_values import any_values, finite_values
from support.cases import each
from tensorus_codecs.quantizers import _small_floats
from tensorus_codecs.quantizers._float_formats import float_format
from tensorus_codecs.quantizers._small_floats import ScaledFloat, SmallFloat, narrow
from tensorus_codecs.quantizers.fp8 import Fp8E4M3Fn, Fp8E5M2
from tensorus_codecs.quantizers.fp16 import Fp16

CODECS = [Fp16, Fp8E4M3Fn, Fp8E5M2]
WIDE = ("float32", "float64")

codecs = each("codec", CODECS)


def every_code(codec: type[ScaledFloat]) -> np.ndarray:
    return np.arange(2**codec.small.bits).astype(codec.small.word)


def widen(codes: np.ndarray, small: SmallFloat, exponent: int, component: np.dtype) -> np.ndarray:
    """Return what is widened into memory that held something else."""
    target = np.ones(codes.size, component)
    _small_floats.widen(codes, small, exponent, target)
    return target


def slow_widen(codes: np.ndarray, codec: type[ScaledFloat], exponent: int, component: str) -> np.ndarray:
    """Return what the libraries make of the codes: exact in float32, then scaled by C's `ldexp`."""
    with np.errstate(all="ignore"):
        exact = codes.view(codec.code).astype(component)
        return np.ldexp(exact, exponent - codec.small.exponent_max)


def slow_narrow(values: np.ndarray, codec: type[ScaledFloat], exponent: int) -> np.ndarray:
    """Return the libraries' codes of values, which must be float32 for codes of 8 bits: ml_dtypes rounds float64 twice."""
    with np.errstate(all="ignore"):
        return np.ldexp(values, codec.small.exponent_max - exponent).astype(codec.code).view(codec.small.word)


def rounded_once(scaled: float, codec: type[ScaledFloat]) -> int:
    """Return the code of one number from the definition of rounding, by exact arithmetic."""
    small = codec.small
    # Python says that the exponent of zero is that of a half.
    exponent = max(math.frexp(abs(scaled))[1] - 1, 1 - small.bias) if scaled else 1 - small.bias
    unit = Fraction(2) ** (exponent - small.fraction_bits)
    # Python rounds a fraction to the nearest integer, ties to even.
    units = round(Fraction(abs(scaled)) / unit)
    magnitude = units + ((exponent + small.bias - 1) << small.fraction_bits)
    return magnitude | (small.sign if math.copysign(1, scaled) < 0 else 0)


def exponents_of(component: str) -> list[int]:
    """Return every exponent of float32, and some of float64: its ends, and where the fast way changes."""
    form = float_format(component_dtype(component))
    exponents = range(form.exponent_of_unit + 1, form.exponent_limit + 1)
    if component == "float32":
        return list(exponents)
    return [*exponents[:40], *exponents[:: len(exponents) // 40], *range(40), *exponents[-40:]]


@codecs
@each("component", WIDE)
def test_every_code_is_read_as_the_slow_way_reads_it(codec: type[ScaledFloat], component: str) -> None:
    codes = every_code(codec)
    if codec is Fp8E4M3Fn:
        # Its NaN is the quantizer's mark.
        codes = codes[(codes & 0x7F) != 0x7F]
    for exponent in exponents_of(component):
        with np.errstate(all="ignore"):
            found = widen(codes, codec.small, exponent, component_dtype(component))
        expected = slow_widen(codes, codec, exponent, component)
        numbers = ~np.isnan(expected)
        assert np.isnan(found[~numbers]).all()
        assert found[numbers].tobytes() == expected[numbers].tobytes()


@each("codec", [Fp8E4M3Fn, Fp8E5M2])
@each("component", ["float16", "bfloat16"])
def test_every_code_is_rounded_to_a_narrow_component(codec: type[ScaledFloat], component: str) -> None:
    dtype = component_dtype(component)
    codes = every_code(codec)
    codes = codes[(codes & 0x7F) < codec.small.infinity]
    form = float_format(dtype)
    for exponent in range(form.exponent_of_unit + 1, form.exponent_limit + 1):
        with np.errstate(all="ignore"):
            found = widen(codes, codec.small, exponent, dtype)
            expected = slow_widen(codes, codec, exponent, "float32").astype(dtype)
        assert found.tobytes() == expected.tobytes()


@codecs
def test_every_nan_that_is_read_is_the_quiet_one(codec: type[ScaledFloat]) -> None:
    codes = every_code(codec)
    nans = codes[(codes & (codec.small.sign - 1)) > codec.small.infinity]
    assert (nans.size == 0) == (codec is Fp8E4M3Fn)
    found = widen(nans, codec.small, 0, np.dtype(np.float32))
    assert found.tobytes() == np.full(nans.size, np.nan, np.float32).tobytes()


@codecs
@each("alone", [0, 1, 77])
@each("sign", [1.0, -1.0])
def test_one_infinity_among_numbers_is_noticed(codec: type[ScaledFloat], alone: int, sign: float) -> None:
    if codec is Fp8E4M3Fn:
        return  # It has none.
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    values[alone] = sign * np.inf
    codes, exponent = narrow(values, codec.small)
    assert widen(codes, codec.small, exponent, values.dtype)[alone] == sign * np.inf


# Values below the dtype's last power of two: the one beyond it is a rule of its own.
@given(codec=st.sampled_from(CODECS), values=finite_values("float32", 2.0**127 * (1 - 2.0**-24)))
def test_float32_is_rounded_as_the_slow_way_rounds_it(codec: type[ScaledFloat], values: np.ndarray) -> None:
    codes, exponent = narrow(values, codec.small)
    assert codes.tolist() == slow_narrow(values, codec, exponent).tolist()


@codecs
@each("extra", [-1, 0, 1])
def test_a_chunk_of_several_pieces_is_rounded_as_the_slow_way_rounds_it(codec: type[ScaledFloat], extra: int) -> None:
    values = np.random.default_rng(0).standard_normal(2 * _small_floats._PIECE_VALUES + extra).astype(np.float32)
    codes, exponent = narrow(values, codec.small)
    assert codes.tobytes() == slow_narrow(values, codec, exponent).tobytes()


@codecs
@each("component", WIDE)
def test_every_code_its_neighbours_and_the_ties_between_are_rounded_as_the_slow_way_rounds_them(
    codec: type[ScaledFloat], component: str
) -> None:
    codes = every_code(codec)[: codec.small.sign]
    exact = codes.view(codec.code).astype(np.float32)
    exact = exact[exact < 2.0**codec.small.exponent_max].astype(component)
    # The largest has this exponent, so that nothing is scaled; what comes in are all kinds of numbers.
    ties = (exact[:-1] + exact[1:]) / 2
    values = np.concatenate([exact, ties])
    values = np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])
    values = np.concatenate([values, -values]).astype(component)
    found, exponent = narrow(values, codec.small)
    assert exponent == codec.small.exponent_max
    if component == "float32" or codec is Fp16:
        assert found.tolist() == slow_narrow(values, codec, exponent).tolist()
    else:
        assert found.tolist() == [rounded_once(float(value), codec) for value in values]


@given(codec=st.sampled_from(CODECS), values=finite_values("float64", 2.0**1000))
def test_float64_is_rounded_once(codec: type[ScaledFloat], values: np.ndarray) -> None:
    codes, exponent = narrow(values, codec.small)
    with np.errstate(all="ignore"):
        scaled = np.ldexp(values, codec.small.exponent_max - exponent)
    assert codes.tolist() == [rounded_once(float(value), codec) for value in scaled]


@codecs
def test_a_float64_just_above_a_tie_is_rounded_up(codec: type[ScaledFloat]) -> None:
    # By way of float32 it would become the tie, and then 1.0.
    half = 2.0 ** -(codec.small.fraction_bits + 1)
    values = np.array([1 + half + 2.0**-40, 1 + half, 1.5])
    codes, exponent = narrow(values, codec.small)
    assert widen(codes, codec.small, exponent, values.dtype).tolist() == [1 + 2 * half, 1.0, 1.5]


@given(codec=st.sampled_from(CODECS), values=any_values("float32") | any_values("float64"))
def test_nan_and_infinity_become_their_codes_and_disturb_nothing(codec: type[ScaledFloat], values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        codes, exponent = narrow(values, codec.small)
        alone, exponent_alone = narrow(np.where(np.isfinite(values), values, 0).astype(values.dtype), codec.small)
    finite = np.isfinite(values)
    assert exponent == exponent_alone
    assert codes[finite].tolist() == alone[finite].tolist()
    assert (codes[np.isnan(values)] == codec.small.nan).all()
    signs = np.signbit(values[np.isinf(values)]) * codec.small.sign
    assert (codes[np.isinf(values)] == codec.small.infinity + signs).all()


@each("component", WIDE)
def test_scaling_by_a_factor_equals_ldexp(component: str) -> None:
    limits = np.finfo(component)
    values = np.concatenate(
        [
            np.random.default_rng(0).standard_normal(100).astype(component),
            np.array([limits.max, limits.tiny, limits.smallest_subnormal, 0.0, -0.0, np.inf], component),
        ]
    )
    exponents = range(limits.minexp - limits.nmant - 40, limits.maxexp - limits.minexp + 60)
    for exponent in exponents:
        with np.errstate(all="ignore"):
            expected = np.ldexp(values, exponent).astype(component)
            scaled = np.empty_like(values)
            _small_floats.scale(values, exponent, out=scaled)
        assert scaled.tobytes() == expected.tobytes()


@each("name", ["float16", "bfloat16", "float32", "float64"])
def test_formats_are_those_of_the_libraries(name: str) -> None:
    form, limits = float_format(component_dtype(name)), ml_dtypes.finfo(component_dtype(name))
    assert form.bits == limits.bits
    assert form.fraction_bits == limits.nmant
    assert form.exponent_limit == limits.maxexp
    assert form.exponent_of_unit == limits.minexp - limits.nmant
    infinity = component_dtype(name).type(np.inf)
    assert int(np.array(infinity).view(form.word)) == form.exponent_mask


@codecs
def test_small_formats_are_those_of_the_libraries(codec: type[ScaledFloat]) -> None:
    small, limits = codec.small, ml_dtypes.finfo(codec.code)
    assert (small.bits, small.fraction_bits, 1 - small.bias) == (limits.bits, limits.nmant, limits.minexp)
    # So rounding up to 2**exponent_max cannot overflow.
    assert float(limits.max) >= 2.0**small.exponent_max
    special = np.array([small.nan, small.infinity], small.word).view(codec.code).astype(np.float32)
    assert np.isnan(special[0])
    assert np.isinf(special[1]) == (codec is not Fp8E4M3Fn)
