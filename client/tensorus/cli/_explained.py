"""What `tensorus explain` found out, for its tables and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus.types import PolicyExplanation

__all__ = ["DTypeExplanation"]


@dataclass(frozen=True)
class DTypeExplanation:
    """What presets would do to the tensors of one dtype."""

    dtype: str
    tensors: int
    canonical_bytes: int
    """Of all these tensors."""
    sample_bytes: int
    """As many of these were looked at."""
    smallest_exact: str | None
    """The preset; None: none is exact."""
    smallest_within_error: str | None
    """The preset, of those with a small enough error; None: there is none."""
    explanations: list[PolicyExplanation]
    """Of each preset."""
