"""Eight-bit integers with one scale per block of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tensorus_codecs.quantizers._int_block import IntBlock

__all__ = ["Int8Block"]


@dataclass(frozen=True)
class Int8Block(IntBlock):
    """Int8 codes, -127 to 127, with -128 for exceptions. See `IntBlock`."""

    id: ClassVar[str] = "int8_block"
    number: ClassVar[int] = 2
    code: ClassVar[np.dtype[Any]] = np.dtype("i1")
