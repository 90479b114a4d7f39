"""The three kinds of codec, and the life of a chunk.

Encoding one chunk
    canonical bytes ── as an array of components (a complex element is two) ──▶ quantizer? ──▶ codes, parameters
    codes           ── as unsigned words ──▶ filter? ──▶ byte streams, parameters
    each stream     ──▶ compressor? ──▶ encoded stream, or the stream as it is where it did not shrink
    everything      ──▶ chunk record (`chunk_record.py`)

Decoding goes back the same way and needs nothing but the record: an encoder's settings (level, block size) never matter to
a decoder, unless the codec writes them into its parameters. So decoding is a class method.

Rules for every codec
    * `id` is its name for people and on the wire; `number` is its name in the chunk record. Neither is ever reused, and
      what they mean never changes. Two ids may share a number only where one decoder reads both.
    * A codec is a frozen dataclass; its fields are its configuration, and `configuration` and `from_configuration` are
      inverses through JSON.
    * Encoding and decoding are pure and safe in many threads at once. Decoding is deterministic to the bit on every machine,
      and so are quantizers and filters; what a compressor writes may differ between versions of its library.
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

__all__ = ["Codec", "Compressor", "Configuration", "Filter", "Filtered", "Quantized", "Quantizer", "Values", "Words"]

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

    def fitted(self, number: np.dtype[Any], numbers_per_element: int) -> Self:  # noqa: ARG002 - for those that override it
        """Return this codec with what it left open filled in for the numbers that it will work on.

        Args:
            number: dtype of one number: a component, a quantizer's code, or a byte of a filter's stream.
            numbers_per_element: 2 for a complex dtype, else 1; more where an opaque element is several bytes.
        """
        return self

    def _require_integer(self, name: str, low: int, high: int) -> None:
        """Refuse the setting `name` unless it is an integer from `low` to `high`, both included."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidPolicyError(f"{name} of codec {self.id} is {value!r}, must be an integer from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of one chunk."""

    codes: Values
    """Shape (`code_count(n)`,), of `code_dtype`."""
    parameters: bytes
    """Scales, exceptions and whatever else decoding needs; laid out by the quantizer."""


class Quantizer(Codec):
    """Fewer bits per value, at a bounded error."""

    @classmethod
    @abstractmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Whether this quantizer makes `dtype` smaller without touching what must stay exact (integers, bools)."""

    @classmethod
    @abstractmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:
        """Return the little-endian dtype of the codes of values of dtype `component`."""

    @classmethod
    def code_count(cls, count: int) -> int:
        """Return how many codes `count` values become: one each, unless several share a byte."""
        return count

    @abstractmethod
    def encode(self, values: Values) -> Quantized:
        """Return codes and parameters of `values`, shape (n,), n >= 1, row-major order of one chunk.

        Raises:
            TooManyExceptionsError: too many values cannot be coded within the bound.
        """

    @classmethod
    @abstractmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:
        """Return the values, shape (count,), dtype `component`.

        Args:
            codes: shape (`code_count(count)`,), of `code_dtype(component)`.

        Raises:
            CorruptChunkError: the parameters do not fit the codes.
        """

    @classmethod
    def decode_into(cls, codes: Values, parameters: bytes, values: Values) -> None:
        """Write what `decode` returns into `values`, shape (n,): override it where that takes no array in between."""
        values[:] = cls.decode(codes, parameters, values.dtype, values.size)


@dataclasses.dataclass(frozen=True)
class Filtered:
    """What a filter makes of one chunk."""

    streams: Sequence[memoryview]
    """At most 9, of bytes."""
    parameters: bytes = b""
    """What decoding needs beside the streams, at most 255 bytes; laid out by the filter."""


class Filter(Codec):
    """Rearranges words into byte streams that compress better. Lossless."""

    @abstractmethod
    def encode(self, words: Words) -> Filtered | None:
        """Return the streams of `words`, shape (n,), n >= 1; None where these words are not of the kind it is for."""

    @classmethod
    @abstractmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return the bytes of each stream that `count` words of `word_bytes` bytes became.

        They are at most `count` / 8 + 1 bytes more than the words in all, whatever the parameters claim.

        Raises:
            CorruptChunkError: the parameters are not this filter's, or do not fit the words.
        """

    @classmethod
    @abstractmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:
        """Write the words of `streams`, whose lengths are right, into `words`, shape (n,).

        Raises:
            CorruptChunkError: the streams are not what this filter made.
        """


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
