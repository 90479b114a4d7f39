"""The results of `tensorus explain`, for its tables and its plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus.types import PolicyExplanation

__all__ = ["DTypeExplanation"]


@dataclass(frozen=True)
class DTypeExplanation:
    """The measured effect of presets on the tensors of one dtype."""

    dtype: str
    tensors: int
    canonical_bytes: int
    """Canonical bytes of all these tensors."""
    sample_bytes: int
    """Canonical bytes that were examined."""
    smallest_exact: str | None
    """The exact preset that stores the fewest bytes; None if none is exact."""
    smallest_within_error: str | None
    """The preset that stores the fewest bytes within the error limit; None if none is within it."""
    explanations: list[PolicyExplanation]
    """One for each preset."""
    base: BaseExplanation | None = None
    """The same tensors with bases; None: no bases were given, or no tensor has one."""


@dataclass(frozen=True)
class BaseExplanation:
    """The measured effect of bases on the tensors of one dtype."""

    dataset: str
    """Name of the dataset that has the bases."""
    tensors: int
    """Number of tensors that have a base."""
    canonical_bytes: int
    """Canonical bytes of these tensors."""
    explanation: PolicyExplanation
    """Of the preset `lossless` with the bases."""
