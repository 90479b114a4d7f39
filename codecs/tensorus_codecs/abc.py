"""The three kinds of codec, and the life of a chunk.

Encoding one chunk
    canonical bytes ── as an array of components (a complex element is two) ──▶ quantizer? ──▶ codes, parameters
    codes           ── as unsigned words ──▶ filter? ──▶ one or more byte streams
    each stream     ──▶ compressor? ──▶ encoded stream, or the stream as it is where it did not shrink
    everything      ──▶ chunk record (`chunk_record.py`)

Decoding goes back the same way and needs nothing but the record: an encoder's settings (level, block size) never matter to
a decoder, unless the codec writes them into its parameters. So decoding is a class method.

Rules for every codec
    * `id` is its name for people and on the wire; `number` is its name in the chunk record. Neither is ever reused, and
      what they mean never changes. Two ids may share a number only where one decoder reads both.
    * A codec is a frozen dataclass; its fields are its configuration, and `configuration` and `from_configuration` are
      inverses through JSON.
    * Encoding and decoding are pure, deterministic to the bit on every machine, and safe in many threads at once.
    * Decoding is bounded by the length that it is told, before anything is allocated, and raises `CorruptChunkError` for
      any bytes that no encoder wrote.
    * The pipeline calls codecs with NumPy's floating-point warnings off: overflow and NaN are theirs to handle.
    * Heavy work releases the GIL and uses one thread: parallel work is one chunk per thread, above this package.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from tensorus_codecs.errors import InvalidPolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from typing_extensions import Buffer

    from tensorus_codecs.dtypes import DType

__all__ = ["Codec", "Compressor", "Configuration", "Filter", "Quantized", "Quantizer", "Values", "Words"]

Configuration: TypeAlias = "dict[str, bool | int | float | str]"
"""A codec's settings, as JSON writes them."""

Values: TypeAlias = npt.NDArray[Any]
"""Components, shape (n,), n >= 1. The element type is one of `DType.component`, which NumPy's types cannot say."""

Words: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Unsigned integers of 1, 2, 4 or 8 bytes, little-endian, shape (n,)."""


@dataclasses.dataclass(frozen=True)
class Codec(ABC):
    """What the three kinds share: names, and a configuration that survives JSON."""

    id: ClassVar[str]
    """Name for people and on the wire."""
    number: ClassVar[int]
    """Name in the chunk record, 1 to 255 within its kind; 0 means that there is none."""

    @property
    def configuration(self) -> Configuration:
        """The settings that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, object]) -> Self:
        """Return the codec with these settings, defaults for the rest.

        Raises:
            InvalidPolicyError: an unknown key, or a value that the codec refuses.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in configuration:
            if key not in known:
                allowed = ", ".join(sorted(known)) or "none"
                raise InvalidPolicyError(f"codec {cls.id} has no setting {key!r}; its settings: {allowed}")
        return cls(**configuration)

    def _require_integer(self, name: str, low: int, high: int) -> None:
        """Refuse the setting `name` unless it is an integer from `low` to `high`, both included."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidPolicyError(f"{name} of codec {self.id} is {value!r}, must be an integer from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of one chunk."""

    codes: Values
    """Shape (n,), of the quantizer's code dtype."""
    parameters: bytes
    """Scales, exceptions and whatever else decoding needs; laid out by the quantizer."""


class Quantizer(Codec):
    """Fewer bits per value, at a bounded error."""

    code_dtype: ClassVar[np.dtype[Any]]
    """Little-endian dtype of the codes, one code per component."""

    @classmethod
    @abstractmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Whether this quantizer makes `dtype` smaller without touching what must stay exact (integers, bools)."""

    @abstractmethod
    def encode(self, values: Values) -> Quantized:
        """Return codes and parameters of `values`, shape (n,), n >= 1, row-major order of one chunk.

        Raises:
            TooManyExceptionsError: too many values cannot be coded within the bound.
        """

    @classmethod
    @abstractmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any]) -> Values:
        """Return the values, shape (n,), dtype `component`.

        Raises:
            CorruptChunkError: the parameters do not fit the codes.
        """


class Filter(Codec):
    """Rearranges words into byte streams that compress better. Lossless, and never changes the number of bytes."""

    @abstractmethod
    def encode(self, words: Words) -> list[memoryview]:
        """Return the streams of `words`, shape (n,), n >= 1; their lengths add up to the words' bytes."""

    @classmethod
    @abstractmethod
    def stream_lengths(cls, word_bytes: int, count: int) -> list[int]:
        """Return the bytes of each stream that `count` words of `word_bytes` bytes become."""

    @classmethod
    @abstractmethod
    def decode(cls, streams: Sequence[Buffer], words: Words) -> None:
        """Write the words of `streams`, whose lengths are right, into `words`, shape (n,)."""


class Compressor(Codec):
    """Fewer bytes for the same bytes."""

    @abstractmethod
    def encode(self, data: Buffer) -> bytes | None:
        """Return `data`, at least one byte, compressed; it may have grown. None: not worth trying."""

    @classmethod
    @abstractmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> Buffer:
        """Return exactly `decoded_bytes` bytes, allocating no more than these whatever `data` claims.

        Raises:
            CorruptChunkError: `data` is not this compressor's, or decodes to another length.
        """
