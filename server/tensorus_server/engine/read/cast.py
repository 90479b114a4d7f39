"""Casts values to another dtype, for reads with `as_dtype`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.dtypes import Kind
from tensorus_server.errors import InvalidRequestError
from tensorus_server.model import TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tensorus_codecs.dtypes import DType

__all__ = ["Cast"]

_REAL_KINDS = frozenset({Kind.BOOL, Kind.INTEGER, Kind.FLOAT})


@dataclass(frozen=True)
class Cast:
    """A cast from a real dtype to a floating one, or from one complex dtype to the other.

    It rounds to nearest. Values beyond the target's range become infinite, or NaN if it has no infinity (float8_e4m3fn).
    """

    source: DType
    target: DType

    def __post_init__(self) -> None:
        """Refuse other pairs of dtypes.

        Raises:
            InvalidRequestError: names both.
        """
        real = self.source.kind in _REAL_KINDS and self.target.kind is Kind.FLOAT
        both_complex = self.source.kind is Kind.COMPLEX and self.target.kind is Kind.COMPLEX
        if not (real or both_complex):
            raise InvalidRequestError(
                f"as_dtype is {self.target.name}, the tensor is {self.source.name}: real dtypes are cast to floating ones, "
                "complex ones to complex ones"
            )

    def spec(self, spec: TensorSpec) -> TensorSpec:
        """Return the spec of a tensor of `spec` after the cast."""
        return TensorSpec(self.target, spec.shape)

    def values(self, canonical: Buffer) -> memoryview:
        """Cast whole elements; return the target's canonical bytes."""
        with np.errstate(all="ignore"):
            # The cast is by component: a complex element has two.
            cast = np.frombuffer(canonical, self.source.component).astype(self.target.component)
        return memoryview(cast.view(np.uint8)).cast("B")

    def offset(self, offset: int) -> int:
        """Return the byte offset after the cast of the element at byte `offset` before it."""
        return offset // self.source.element_bytes * self.target.element_bytes
