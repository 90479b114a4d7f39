"""Hypothesis strategies of the values that are hard for a quantizer, and of bytes of every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tensorus_codecs.abc import Values
from tensorus_codecs.dtypes import DTYPES, DType, Kind, opaque_dtype

_COUNT_MAX = 300
"""More than one block of every size of `int8_block`."""

OPAQUE = [opaque_dtype(90 + element_bytes, 8 * element_bytes) for element_bytes in (1, 2, 3, 4, 5, 8, 12, 16)]
"""Types that a newer version may know."""

EVERY_DTYPE: list[DType] = [*DTYPES, *OPAQUE]


@st.composite
def finite_values(draw: st.DrawFn, component: str, magnitude_max: float) -> Values:
    """Draw floats of any magnitude up to `magnitude_max`: subnormal, huge, constant, or all of it side by side."""
    dtype = np.dtype(component)
    limits = np.finfo(dtype)
    exponent = st.integers(int(limits.minexp) - int(limits.nmant), int(limits.maxexp))
    count = draw(st.integers(1, _COUNT_MAX))
    low, high = sorted((draw(exponent), draw(exponent)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with np.errstate(all="ignore"):
        values = np.ldexp(random.uniform(0.5, 1, count), random.integers(low, high + 1, count)).astype(dtype)
    values[~(values <= magnitude_max)] = magnitude_max
    values[random.random(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = values[0]
    values *= random.choice(np.array([-1, 1], dtype), count)
    width = 8 * dtype.itemsize
    awkward = st.floats(-magnitude_max, magnitude_max, width=width, allow_nan=False)  # type: ignore[call-overload]  # any width
    for value in draw(st.lists(awkward, max_size=8)):
        values[draw(st.integers(0, count - 1))] = value
    return values


@st.composite
def clustered_values(draw: st.DrawFn, component: str, magnitude_max: float) -> Values:
    """Draw floats that keep together, around another centre every few values, within a few units in the last place or many."""
    dtype = np.dtype(component)
    # A narrow dtype's values are those of float32, rounded.
    drawn_as = np.dtype(np.float64) if dtype.itemsize == 8 else np.dtype(np.float32)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = 8 * drawn_as.itemsize
    centre = st.floats(-magnitude_max, magnitude_max, width=width, allow_nan=False)  # type: ignore[call-overload]  # any width
    parts = []
    for drawn in draw(st.lists(st.tuples(centre, st.integers(0, 60)), min_size=1, max_size=6)):
        middle, spread_bits = drawn_as.type(drawn[0]), drawn[1]
        steps = random.integers(-(2**spread_bits), 2**spread_bits + 1, int(random.integers(1, _COUNT_MAX // 6)))
        with np.errstate(all="ignore"):
            parts.append((middle + steps * np.float64(np.spacing(np.abs(middle)))).astype(dtype))
    values = np.concatenate(parts)
    values[~(values <= magnitude_max)] = magnitude_max
    values[~(values >= -magnitude_max)] = -magnitude_max
    return values


@st.composite
def any_values(draw: st.DrawFn, component: str) -> Values:
    """Draw floats of any bits: NaNs with payloads and infinities among them."""
    width = np.dtype(component).itemsize
    count = draw(st.integers(1, _COUNT_MAX))
    bits = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).bytes(count * width)
    values = np.frombuffer(bits, component).copy()
    drawn = draw(st.lists(st.floats(width=8 * width), max_size=8))  # type: ignore[arg-type]  # any width
    values[: len(drawn)] = drawn[:count]
    return values


@st.composite
def chunk_bytes(draw: st.DrawFn, dtype: DType, elements_max: int = 200) -> bytes:
    """Draw canonical bytes of `dtype`: of one of the kinds below, or what Hypothesis thinks of."""
    size = draw(st.integers(1, elements_max)) * dtype.element_bytes
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "few symbols", "repeated", "sparse", "counting", "drawn"]))
    if kind == "noise":
        data = random.bytes(size)
    elif kind == "few symbols":
        data = random.choice(np.frombuffer(draw(st.binary(min_size=1, max_size=4)), np.uint8), size).tobytes()
    elif kind == "repeated":
        data = random.bytes(dtype.element_bytes) * (size // dtype.element_bytes)
    elif kind == "sparse":
        words = np.frombuffer(random.bytes(size), dtype.word)
        data = np.where(random.random(words.size) < draw(st.floats(0, 1)), words, 0).astype(dtype.word).tobytes()
    elif kind == "counting":
        steps = random.integers(0, draw(st.integers(1, 300)), size // dtype.word.itemsize)
        data = np.cumsum(steps).astype(dtype.word).tobytes()
    else:
        drawn = draw(st.binary(min_size=1, max_size=size))
        data = (drawn * size)[:size]
    return bytes(byte & 1 for byte in data) if dtype.kind is Kind.BOOL else data


def nan_bits(component: str, payloads: list[int]) -> np.ndarray[Any, Any]:
    """Return NaNs with these payloads, negative ones where the payload is negative."""
    width = 8 * np.dtype(component).itemsize
    fraction_bits = int(np.finfo(component).nmant)
    exponent = (2 ** (width - 1) - 1) ^ (2**fraction_bits - 1)
    sign = [2 ** (width - 1) if payload < 0 else 0 for payload in payloads]
    bits = [top | exponent | abs(payload) for top, payload in zip(sign, payloads, strict=True)]
    return np.array(bits, f"<u{width // 8}").view(component)
