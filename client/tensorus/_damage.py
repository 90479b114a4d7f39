"""Handling of damaged items among intact ones: raise the first error, or pass each error to a callback."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tensorus.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["OnDamaged", "intact", "tell"]

T = TypeVar("T")

OnDamaged: TypeAlias = "Callable[[DataCorruptError], object] | None"
"""Called with the error of each damaged item, after which the iteration continues. None: the error is raised."""


def intact(found: Iterable[T | DataCorruptError], on_damaged: OnDamaged) -> Iterator[T]:
    """Yield the items that are not damaged.

    Raises:
        DataCorruptError: an item is damaged, and `on_damaged` is None; raised when the iteration reaches it.
    """
    for one in found:
        if isinstance(one, DataCorruptError):
            tell(one, on_damaged)
        else:
            yield one


def tell(error: DataCorruptError, on_damaged: OnDamaged) -> None:
    """Pass the error to `on_damaged`; raise it if that is None."""
    if on_damaged is None:
        raise error
    on_damaged(error)
