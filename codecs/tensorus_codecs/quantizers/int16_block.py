"""Sixteen-bit integers with one scale per block of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tensorus_codecs.quantizers._int_block import IntBlock

__all__ = ["Int16Block"]


@dataclass(frozen=True)
class Int16Block(IntBlock):
    """Int16 codes, -32767 to 32767, with -32768 for exceptions: between `int8_block` and `fp16` in accuracy. See `IntBlock`.

    With a smaller `code_max`, codes are spread over all 16 bits: they are multiples of the largest power of two that keeps
    them in range, so that their upper byte holds everything that a compressor can use.
    """

    id: ClassVar[str] = "int16_block"
    number: ClassVar[int] = 9
    code: ClassVar[np.dtype[Any]] = np.dtype("<i2")
    spreads: ClassVar[bool] = True
