"""Values of one dtype as those of another, for readers that ask for it."""

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
    """From any real dtype to a floating one, and from a complex dtype to the other.

    Rounds to nearest; what is beyond the target becomes infinite, or NaN where it has no infinity (float8_e4m3fn).
    """

    source: DType
    target: DType

    def __post_init__(self) -> None:
        """Refuse dtypes that have no such cast.

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
        """Return what a tensor of `spec` becomes."""
        return TensorSpec(self.target, spec.shape)

    def values(self, canonical: Buffer) -> memoryview:
        """Return whole elements in the target's canonical bytes."""
        with np.errstate(all="ignore"):
            # Components: a complex element is two.
            cast = np.frombuffer(canonical, self.source.component).astype(self.target.component)
        return memoryview(cast.view(np.uint8)).cast("B")

    def offset(self, offset: int) -> int:
        """Return where the element at byte `offset` begins among the target's."""
        return offset // self.source.element_bytes * self.target.element_bytes
