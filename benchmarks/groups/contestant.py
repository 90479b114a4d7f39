"""Something that encodes chunks and decodes them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Contestant"]


@dataclass(frozen=True)
class Contestant:
    """A codec as the benchmark calls it."""

    name: str
    encode: Callable[[memoryview], bytes]
    decode: Callable[[bytes], object]
