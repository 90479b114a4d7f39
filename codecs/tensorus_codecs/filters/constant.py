"""Chunks whose elements are all equal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tensorus_codecs.abc import Filter, Filtered
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["Constant"]

_ELEMENT_BYTES_MAX = 16
"""Width of the widest dtype, complex128."""


@dataclass(frozen=True)
class Constant(Filter):
    """No streams: the parameters hold one element, which decoding repeats to the end of the chunk.

    Elements are compared bit by bit: a NaN equals the same NaN, and -0.0 differs from 0.0.
    """

    id: ClassVar[str] = "constant"
    number: ClassVar[int] = 6

    element_words: int = 0
    """Words per element, up to 16: 2 for complex dtypes, 1 for most others; an opaque element whose words are bytes has as
    many words as bytes. 0: as in the chunk's dtype, which a policy fills in."""

    def __post_init__(self) -> None:
        """Refuse elements wider than any dtype's."""
        self._require_integer("element_words", 0, _ELEMENT_BYTES_MAX)

    def fitted(self, number: np.dtype[Any], numbers_per_element: int) -> Self:  # noqa: ARG002 - a word is a number
        """Fill in the number of words per element."""
        return self if self.element_words else replace(self, element_words=numbers_per_element)

    def encode(self, words: Words) -> Filtered | None:
        """Return the element; None if the elements differ, or the words are not whole elements."""
        period = self.element_words or 1
        if words.size % period or period * words.itemsize > _ELEMENT_BYTES_MAX:
            return None
        element = words[:period]
        # Cheap test first: in nearly every chunk that is not constant, the last element differs from the first.
        if not np.array_equal(words[-period:], element) or not bool((words.reshape(-1, period) == element).all()):
            return None
        return Filtered([], element.tobytes())

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return an empty list: there are no streams."""
        element_bytes = len(parameters)
        # `decode` reshapes the words to whole elements, which fails unless they divide evenly.
        if (
            not 1 <= element_bytes <= _ELEMENT_BYTES_MAX
            or element_bytes % word_bytes
            or count * word_bytes % element_bytes
        ):
            raise CorruptChunkError(
                f"constant has an element of {element_bytes} bytes, "
                f"{count} words of {word_bytes} bytes are not a multiple of it"
            )
        return []

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:  # noqa: ARG003 - there are none
        """Repeat the element."""
        element = np.frombuffer(parameters, words.dtype)
        words.reshape(-1, element.size)[:] = element
