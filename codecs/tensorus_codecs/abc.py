"""The three kinds of codec, and how a chunk is encoded.

Encoding one chunk
    canonical bytes ── as an array of components (a complex element is two) ──▶ quantizer? ──▶ codes, parameters
    codes           ── as unsigned words, perhaps with those of a base ──▶ filter? ──▶ byte streams, parameters
    each stream     ──▶ compressor? ──▶ encoded stream, or the stream unchanged if it did not shrink
    everything      ──▶ chunk record (`chunk_record.py`)

Decoding reverses the steps and needs only the record, and the base of a `BaseFilter` (`base.py`). A decoder never sees the
encoder's settings (level, block size) unless the codec writes them into its parameters. That is why decoding is a class method.

Rules for every codec
    * `id` names it for people and on the wire; `number` names it in the chunk record. Neither is ever reused, and its meaning
      never changes. Two ids may share a number only if one decoder reads both.
    * A codec is a frozen dataclass. Its fields are its configuration; `configuration` and `from_configuration` are inverses
      and survive JSON.
    * Encoding and decoding are pure and thread-safe. Decoding is bit-for-bit deterministic on every machine, and so is
      encoding by quantizers and filters. A compressor's output may differ between versions of its library.
    * Decoding checks its memory needs against the declared length before it allocates anything, and raises
      `CorruptChunkError` for any bytes that no encoder wrote.
    * The pipeline turns NumPy's floating-point warnings off: codecs must handle overflow and NaN themselves.
    * Heavy work releases the GIL and uses one thread. Callers of this package run one chunk per thread.
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

__all__ = [
    "BaseFilter",
    "Codec",
    "Compressor",
    "Configuration",
    "Filter",
    "Filtered",
    "Quantized",
    "Quantizer",
    "Values",
    "Words",
]

Configuration: TypeAlias = "dict[str, bool | int | float | str]"
"""A codec's settings, as JSON writes them."""

Values: TypeAlias = npt.NDArray[Any]
"""Components, shape (n,), n >= 1. The element type is a `DType.component`, which NumPy's type hints cannot express."""

Words: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Unsigned integers of 1, 2, 4 or 8 bytes, little-endian, shape (n,)."""


@dataclasses.dataclass(frozen=True)
class Codec(ABC):
    """Base of the three kinds: names, and a configuration that survives JSON."""

    id: ClassVar[str]
    """Name for people and on the wire."""
    number: ClassVar[int]
    """Name in the chunk record, 1 to 255 within its kind; a record writes 0 for "no codec"."""

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
        """Return the codec with these settings and defaults for the rest.

        Raises:
            InvalidPolicyError: a key is unknown, or the codec refuses a value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in configuration:
            if key not in known:
                allowed = ", ".join(sorted(known)) or "none"
                raise InvalidPolicyError(f"codec {cls.id} has no setting {key!r}; its settings: {allowed}")
        return cls(**configuration)

    def fitted(self, number: np.dtype[Any], numbers_per_element: int) -> Self:  # noqa: ARG002 - for those that override it
        """Return this codec with settings that default to "as the data" filled in for the numbers it will encode.

        Args:
            number: dtype of one number: a component, a quantizer's code, or a byte of a filter's stream.
            numbers_per_element: 2 for a complex dtype, else 1; more if an opaque element is several bytes.
        """
        return self

    def _require_integer(self, name: str, low: int, high: int) -> None:
        """Refuse the setting `name` unless it is an integer from `low` to `high`, both included."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidPolicyError(f"{name} of codec {self.id} is {value!r}, must be an integer from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Quantized:
    """One chunk after quantization."""

    codes: Values
    """Shape (`code_count(n)`,), of `code_dtype`."""
    parameters: bytes
    """Scales, exceptions and anything else decoding needs; the quantizer defines the layout."""


class Quantizer(Codec):
    """Stores values in fewer bits, with a bounded error."""

    @classmethod
    @abstractmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Whether this quantizer makes `dtype` smaller and `dtype` may be rounded (integers and bools may not)."""

    @classmethod
    @abstractmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:
        """Return the little-endian dtype of the codes of values of dtype `component`."""

    @classmethod
    def code_count(cls, count: int) -> int:
        """Return the number of codes for `count` values: one each, unless several values share a byte."""
        return count

    @abstractmethod
    def encode(self, values: Values) -> Quantized:
        """Return codes and parameters for `values`, shape (n,), n >= 1: one chunk in row-major order.

        Raises:
            TooManyExceptionsError: too many values cannot be encoded within the error bound.
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
        """Decode into `values`, shape (n,). Override this if the codec can do so without a temporary array."""
        values[:] = cls.decode(codes, parameters, values.dtype, values.size)


@dataclasses.dataclass(frozen=True)
class Filtered:
    """One chunk after filtering."""

    streams: Sequence[memoryview]
    """At most 9 byte streams."""
    parameters: bytes = b""
    """What decoding needs besides the streams, at most 255 bytes (239 with a base); the filter defines the layout."""
    coarse_streams: int = 0
    """Streams at the start that are a coarse form of the words. If there are any, the CRC32C of the other streams, as they are
    stored, is added to the parameters as 4 bytes, so that the start of a record can be verified alone (`coarse.py`)."""


class Filter(Codec):
    """Rearranges words into byte streams that compress better. Lossless."""

    @abstractmethod
    def encode(self, words: Words) -> Filtered | None:
        """Return the streams for `words`, shape (n,), n >= 1; None if the filter does not suit these words."""

    @classmethod
    @abstractmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return the length in bytes of each stream, given that it was made from `count` words of `word_bytes` bytes.

        Whatever the parameters claim, the sum exceeds the size of the words by at most `count` / 8 + 1 bytes: this bounds
        what a decoder allocates.

        Raises:
            CorruptChunkError: the parameters are not this filter's, or do not match the words.
        """

    @classmethod
    @abstractmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:
        """Decode `streams` into `words`, shape (n,). The caller has checked the streams' lengths.

        Raises:
            CorruptChunkError: this filter did not write these streams.
        """


class BaseFilter(Filter):
    """A filter that stores how words differ from those of a base: other words, of the same number and width.

    The pipeline uses it only with a base, and puts the base's digest, 16 bytes, in front of its parameters. `encode` and
    `decode` take zeros as the base.
    """

    @abstractmethod
    def encode_against(self, words: Words, base: Words) -> Filtered | None:
        """Return the streams for `words`, shape (n,), n >= 1; None if the filter does not suit them."""

    @classmethod
    @abstractmethod
    def decode_against(cls, streams: Sequence[Buffer], parameters: bytes, words: Words, base: Words) -> None:
        """Decode `streams` into `words`, shape (n,), given the base that they were encoded against.

        Raises:
            CorruptChunkError: as `decode`.
        """

    def encode(self, words: Words) -> Filtered | None:
        """Return the streams for `words` against zeros."""
        return self.encode_against(words, np.zeros_like(words))

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:
        """Decode streams that `encode` returned."""
        cls.decode_against(streams, parameters, words, np.zeros_like(words))


class Compressor(Codec):
    """Stores the same bytes in fewer bytes. Lossless."""

    @abstractmethod
    def encode(self, data: Buffer) -> bytes | None:
        """Return `data`, at least one byte, compressed. The result may be larger; None means that it is not worth trying."""

    @classmethod
    @abstractmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> Buffer:
        """Return exactly `decoded_bytes` bytes, without allocating more even if `data` claims to be longer.

        Raises:
            CorruptChunkError: this compressor did not write `data`, or `data` decodes to another length.
        """
