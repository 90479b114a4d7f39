"""bfloat16 scales found the slow way, and what a narrow dtype adds to a quantizer's error."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorus_codecs.abc import Quantized, Values

SCALE_MIN = 2.0**-126
"""float32's smallest normal number."""

_HEADER = struct.Struct("<HHI")

_ROUNDING = {
    # Half a unit in the last place of level * scale: relative, and absolute among subnormal numbers.
    "float16": (2.0**-11, 2.0**-25),
    "bfloat16": (2.0**-8, 2.0**-134),
    "float32": (0.0, 0.0),
    "float64": (0.0, 0.0),
}


@dataclass(frozen=True)
class BlockParameters:
    """Parameters of a quantizer in blocks, read by hand: header, scales, and what follows."""

    block_size: int
    reserved: int
    exception_count: int
    scales: np.ndarray[Any, Any]
    rest: bytes


def block_parameters(quantized: Quantized, count: int) -> BlockParameters:
    """Return the parameters of `count` values."""
    block_size, reserved, exception_count = _HEADER.unpack_from(quantized.parameters)
    block_count = math.ceil(count / block_size)
    bits = struct.unpack_from(f"<{block_count}H", quantized.parameters, _HEADER.size)
    scales = np.array([bfloat16_value(bit_pattern) for bit_pattern in bits])
    rest = quantized.parameters[_HEADER.size + 2 * block_count :]
    return BlockParameters(block_size, reserved, exception_count, scales, rest)


def scale_per_value(quantized: Quantized, count: int) -> np.ndarray[Any, Any]:
    """Return the scale of each of `count` values, as float64."""
    parameters = block_parameters(quantized, count)
    return np.repeat(parameters.scales, parameters.block_size)[:count]


def magnitude_limit(component: str) -> float:
    """Return the largest magnitude that is no exception."""
    return 2.0**15 if component == "float16" else 2.0**127


def own_rounding(component: str, decoded: Values) -> np.ndarray[Any, Any]:
    """Return by how much rounding to this dtype may change values that are decoded to `decoded`."""
    relative, absolute = _ROUNDING[component]
    return np.maximum(np.abs(decoded.astype(np.float64)) * relative * (1 + relative), absolute)


def bfloat16_value(bits: int) -> float:
    """Return the bfloat16 of these bits."""
    (value,) = struct.unpack("<f", struct.pack("<I", bits << 16))
    return value


def smallest_bfloat16_not_below(value: float) -> float:
    """Return it by counting up from the bfloat16 that truncation gives."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    bits = max((bits >> 16) - 1, 0)
    while bfloat16_value(bits) < value:
        bits += 1
    return bfloat16_value(bits)


def unpacked(codes: Values, count: int) -> list[int]:
    """Return the nibbles of `codes`, low ones first, as they are: 0 to 15."""
    return [nibble for byte in codes.tolist() for nibble in (byte & 15, byte >> 4)][:count]
