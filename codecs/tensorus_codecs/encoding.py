"""An encoding: an optional quantizer, filter and compressor, applied to a chunk in this order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tensorus_codecs.abc import Codec, Compressor, Filter, Quantizer
from tensorus_codecs.dtypes import Kind
from tensorus_codecs.errors import InvalidPolicyError
from tensorus_codecs.registry import codec_by_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorus_codecs.dtypes import DType

__all__ = ["IDENTITY", "Encoding"]

C = TypeVar("C", bound=Codec)


@dataclass(frozen=True)
class Encoding:
    """At most one codec of each kind. Encodings compare by value and can be dictionary keys."""

    quantizer: Quantizer | None = None
    filter: Filter | None = None
    compressor: Compressor | None = None

    @property
    def codecs(self) -> list[Codec]:
        """The codecs in encoding order."""
        return [codec for codec in (self.quantizer, self.filter, self.compressor) if codec is not None]

    @property
    def lossless(self) -> Encoding:
        """This encoding without its quantizer."""
        return Encoding(filter=self.filter, compressor=self.compressor)

    @lru_cache(maxsize=4096)  # noqa: B019 - encodings are few and small
    def fitted(self, dtype: DType) -> Encoding:
        """Return this encoding with settings that default to "as the data" filled in for chunks of `dtype`."""
        # Opaque elements have no known number type: take their words, which are bytes if no integer has their width.
        number = dtype.word if dtype.kind is Kind.OPAQUE else dtype.component
        numbers_per_element = dtype.element_bytes // number.itemsize
        if self.quantizer is not None:
            number = self.quantizer.code_dtype(dtype.component)
        used_filter = None if self.filter is None else self.filter.fitted(number, numbers_per_element)
        if used_filter is not None:
            number, numbers_per_element = np.dtype(np.uint8), 1
        compressor = None if self.compressor is None else self.compressor.fitted(number, numbers_per_element)
        return Encoding(self.quantizer, used_filter, compressor)

    def to_json(self) -> list[dict[str, Any]]:
        """Return `[{"id": ..., "configuration": {...}}, ...]`; a configuration leaves out defaults."""
        return [{"id": codec.id, "configuration": codec.configuration} for codec in self.codecs]

    @classmethod
    def from_json(cls, steps: object) -> Encoding:
        """Return the encoding that `to_json` describes.

        Raises:
            UnsupportedCodecError: a codec is unknown or its library is missing.
            InvalidPolicyError: the steps are malformed or out of order, or a codec refuses its configuration.
        """
        if not isinstance(steps, list):
            raise InvalidPolicyError(f"an encoding is {steps!r}, must be a list of codecs")
        codecs = []
        for step in steps:
            # Policies come from clients as JSON, so nothing about their shape is certain.
            if (
                not isinstance(step, dict)
                or not isinstance(step.get("id"), str)
                or not isinstance(step.get("configuration", {}), dict)
                or step.keys() - {"id", "configuration"}
            ):
                raise InvalidPolicyError(
                    f"a step of an encoding is {step!r}, must have an id and may have a configuration"
                )
            codecs.append(codec_by_id(step["id"], step.get("configuration", {})))
        return cls.from_codecs(codecs)

    @classmethod
    def from_codecs(cls, codecs: Iterable[Codec]) -> Encoding:
        """Return the encoding made of `codecs`, which must be in order.

        Raises:
            InvalidPolicyError: there are two codecs of one kind, or the kinds are out of order.
        """
        chain = list(codecs)
        # Take at most one codec per kind, in order; anything left over is a second one or out of order.
        remaining = list(chain)
        encoding = cls(_take(remaining, Quantizer), _take(remaining, Filter), _take(remaining, Compressor))
        if remaining:
            raise InvalidPolicyError(
                f"encoding is {' -> '.join(codec.id for codec in chain)}, "
                "must be at most one quantizer, then one filter, then one compressor"
            )
        return encoding


IDENTITY = Encoding()
"""No codec: the canonical bytes are stored raw."""


def _take(codecs: list[Codec], kind: type[C]) -> C | None:
    """Remove and return the first codec if it is of this kind."""
    if codecs and isinstance(codecs[0], kind):
        return codecs.pop(0)  # type: ignore[return-value]  # the element just checked
    return None
