"""What becomes of damaged tensors among others: the first one is raised, or each is handed to whoever wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tensorus.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["OnDamaged", "intact", "tell"]

T = TypeVar("T")

OnDamaged: TypeAlias = "Callable[[DataCorruptError], object] | None"
"""Called with the error of each damaged one, and the others go on; None: it is raised."""


def intact(found: Iterable[T | DataCorruptError], on_damaged: OnDamaged) -> Iterator[T]:
    """Yield what is not damaged.

    Raises:
        DataCorruptError: at the place of a damaged one, where nobody wants to know.
    """
    for one in found:
        if isinstance(one, DataCorruptError):
            tell(one, on_damaged)
        else:
            yield one


def tell(error: DataCorruptError, on_damaged: OnDamaged) -> None:
    """Tell whoever wants to know; raise the error where nobody does."""
    if on_damaged is None:
        raise error
    on_damaged(error)
