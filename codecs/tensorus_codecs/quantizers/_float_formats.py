"""Bit layouts of floating-point formats: sign, exponent and fraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FloatFormat", "float_format"]


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format: sign, biased exponent, fraction, from the highest bit down. Source: IEEE 754, 3.4."""

    word: np.dtype[Any]
    """Unsigned integer as wide as the format."""
    fraction_bits: int
    """Number of fraction bits, without the implicit leading one."""
    bias: int
    """Stored exponent minus real exponent. The smallest normal number is 2**(1 - bias)."""

    @property
    def bits(self) -> int:
        """Width of the format."""
        return 8 * self.word.itemsize

    @property
    def sign(self) -> int:
        """Mask of the sign bit."""
        return 1 << (self.bits - 1)

    @property
    def exponent_mask(self) -> int:
        """Mask of the exponent's bits; in IEEE 754 formats, also the bits of infinity."""
        return self.sign - (1 << self.fraction_bits)

    @property
    def exponent_limit(self) -> int:
        """In IEEE 754 formats, finite numbers are below 2**exponent_limit."""
        return self.bias + 1

    @property
    def exponent_of_unit(self) -> int:
        """The smallest subnormal number is 2**exponent_of_unit."""
        return 1 - self.bias - self.fraction_bits


_FORMATS = {
    "float16": FloatFormat(np.dtype("<u2"), 10, 15),
    "bfloat16": FloatFormat(np.dtype("<u2"), 7, 127),
    "float32": FloatFormat(np.dtype("<u4"), 23, 127),
    "float64": FloatFormat(np.dtype("<u8"), 52, 1023),
}


def float_format(component: np.dtype[Any]) -> FloatFormat:
    """Return the format of float16, bfloat16, float32 or float64."""
    return _FORMATS[component.name]
