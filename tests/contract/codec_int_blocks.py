"""`int8_block` and `int16_block` found the slow way, from the formulas of `IntBlock`: codes, parameters, values, bounds."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.codec_scales import (
    SCALE_MIN,
    block_parameters,
    magnitude_limit,
    own_rounding,
    smallest_bfloat16_not_below,
)
from tensorus_codecs.abc import Quantized, Values

SYMMETRIC, AFFINE = 0, 1


@dataclass(frozen=True)
class IntBlockParameters:
    """The parameters of a chunk, read by hand."""

    block_size: int
    variant: int
    exception_count: int
    scales: np.ndarray[Any, Any]
    """float64, per block."""
    middles: np.ndarray[Any, Any]
    """float32 or float64, per block; none where symmetric."""
    exceptions: bytes


def work_type(component: np.dtype[Any]) -> Any:
    """Return the precision that values of dtype `component` are worked in."""
    return np.float64 if component == np.float64 else np.float32


def int_block_parameters(quantized: Quantized, component: np.dtype[Any]) -> IntBlockParameters:
    """Return the parameters as the docstring lays them out."""
    found = block_parameters(quantized, quantized.codes.size)
    work = np.dtype(work_type(component)).newbyteorder("<")
    middle_count = found.scales.size if found.reserved == AFFINE else 0
    middles = np.frombuffer(found.rest, work, middle_count)
    exceptions = found.rest[middles.nbytes :]
    return IntBlockParameters(
        found.block_size, found.reserved, found.exception_count, found.scales, middles, exceptions
    )


@dataclass(frozen=True)
class SlowCodes:
    """What a slow encoder makes of a chunk."""

    codes: list[int]
    scales: list[float]
    middles: list[Any]
    exceptions: bytes


def slow_encode(
    values: Values, block_size: int, *, affine: bool, code_max: int = 127, spread: int = 1, exception: int = -128
) -> SlowCodes:
    """Return the codes of `values`, one after the other, from the docstring's formulas: c is `code_max`, u is `spread`."""
    work = work_type(values.dtype)
    limit = magnitude_limit(values.dtype.name)
    codes, scales, middles, exceptions = [], [], [], []
    for start in range(0, values.size, block_size):
        block = values[start : start + block_size]
        regular = [work(value) for value in block if abs(float(value)) <= limit] or [work(0)]
        middle = work(0)
        if affine:
            middle = work(max(regular) / work(2) + min(regular) / work(2)) + work(0)
            middles.append(middle)
        largest = max(abs(value - middle) for value in regular)
        scale = max(smallest_bfloat16_not_below(float(largest / work(code_max * spread))), SCALE_MIN)
        scales.append(scale)
        for value in block:
            if abs(float(value)) <= limit:
                codes.append(spread * round(float((work(value) - middle) / work(scale * spread))))
            else:
                codes.append(exception)
                exceptions.append(value)
    return SlowCodes(codes, scales, middles, np.array(exceptions, values.dtype).tobytes())


def slow_decode(quantized: Quantized, component: np.dtype[Any]) -> Values:
    """Return the values, one after the other, from the docstring's formulas."""
    parameters = int_block_parameters(quantized, component)
    work = work_type(component)
    exceptions = iter(np.frombuffer(parameters.exceptions, component))
    decoded = np.empty(quantized.codes.size, component)
    smallest = int(np.iinfo(quantized.codes.dtype).min)
    with np.errstate(all="ignore"):
        for index, code in enumerate(quantized.codes.tolist()):
            block = index // parameters.block_size
            value = work(code) * work(parameters.scales[block])
            if parameters.variant == AFFINE:
                value += parameters.middles[block]
            decoded[index] = next(exceptions) if code == smallest else np.array(value).astype(component)
    assert next(exceptions, None) is None
    return decoded


def error_bound(values: Values, quantized: Quantized, code_max: int = 127, spread: int = 1) -> np.ndarray[Any, Any]:
    """Return how far each decoded value may be from `values`, as the docstring bounds it."""
    parameters = int_block_parameters(quantized, values.dtype)
    block = np.arange(values.size) // parameters.block_size
    scales = parameters.scales[block]
    steps = scales * spread
    if parameters.variant == SYMMETRIC:
        return steps * (0.5 + code_max * 2.0**-23) + own_rounding(values.dtype.name, quantized.codes * scales)
    middles = parameters.middles[block].astype(np.float64)
    unit = 2.0**-53 if values.dtype == np.float64 else 2.0**-24
    rounding = own_rounding(values.dtype.name, quantized.codes * scales + middles)
    return steps * (0.5 + code_max * 2.0**-22) + unit * np.abs(middles) + rounding


def is_affine(values: Values, block_size: int) -> bool:
    """Return whether blocks' ranges add up to less than 1.2 times their largest magnitudes, and no value is zero."""
    limit = magnitude_limit(values.dtype.name)
    ranges, magnitudes = [], []
    for start in range(0, values.size, block_size):
        block = [float(value) for value in values[start : start + block_size] if abs(float(value)) <= limit] or [0.0]
        ranges.append(max(block) / 2 - min(block) / 2)
        magnitudes.append(max(map(abs, block)) / 2)
    return math.fsum(ranges) < 1.2 * math.fsum(magnitudes) and all(float(value) != 0 for value in values)


def pack_parameters(
    block_size: int = 64,
    variant: int = SYMMETRIC,
    exception_count: int = 0,
    scales: tuple[int, ...] = (0x3F80,),
    rest: bytes = b"",
) -> bytes:
    """Return parameters packed by hand: bits of the scales, then midpoints and exceptions as `rest`."""
    header = struct.pack("<HHI", block_size, variant, exception_count)
    return header + struct.pack(f"<{len(scales)}H", *scales) + rest
