"""Zigzag: signed differences as unsigned numbers, so that small differences of either sign become small numbers.

z = 2 d for d from 0 to 2**(bits-1) - 1, and 2**(bits+1) - 1 - 2 d above, where d is a difference modulo 2**bits: 0, -1, 1,
-2, 2 become 0, 1, 2, 3, 4.

Source: Protocol Buffers, Encoding, signed integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tensorus_codecs.abc import Words

__all__ = ["undo_zigzag", "zigzag"]


def zigzag(differences: Words) -> None:
    """Replace every difference by its zigzag number."""
    signed = differences.view(f"<i{differences.itemsize}")
    # The arithmetic shift yields all ones for negative differences, and zeros otherwise.
    negative = signed >> signed.dtype.type(8 * differences.itemsize - 1)
    differences <<= differences.dtype.type(1)
    differences ^= negative.view(differences.dtype)


def undo_zigzag(numbers: Words) -> None:
    """Replace every zigzag number by its difference."""
    one = numbers.dtype.type(1)
    sign = numbers & one
    numbers >>= one
    # The negated sign is all ones if the lowest bit was set.
    numbers ^= np.negative(sign, out=sign)
