"""Compares the tensors of a dataset with those of its copy, both listed by id, without holding either list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus.errors import DataCorruptError, DatasetNotFoundError, TensorusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus._backend import Backend, Listing
    from tensorus.types import TensorInfo

__all__ = ["has_same_checksum", "is_same_kind", "listed", "pairs"]


def pairs(
    source: Iterator[TensorInfo | DataCorruptError],
    copies: Iterator[TensorInfo | DataCorruptError],
    on_damaged: Callable[[DataCorruptError], None],
) -> Iterator[tuple[TensorInfo, TensorInfo | None]]:
    """Yield each tensor of the source with the one that the destination has under its id.

    Args:
        source: in the order of the ids, by code point, as stores list them.
        copies: in the same order.
        on_damaged: called for each damaged row of the source.

    Raises:
        TensorusError: a store lists its tensors in another order.
    """
    listed_copies = _ascending(copies, lambda _: None)
    copy = next(listed_copies, None)
    for info in _ascending(source, on_damaged):
        while copy is not None and copy.id < info.id:
            copy = next(listed_copies, None)
        yield info, copy if copy is not None and copy.id == info.id else None


def _ascending(
    listed: Iterator[TensorInfo | DataCorruptError], on_damaged: Callable[[DataCorruptError], None]
) -> Iterator[TensorInfo]:
    last: str | None = None
    for one in listed:
        if isinstance(one, DataCorruptError):
            on_damaged(one)
            continue
        if last is not None and one.id <= last:
            raise TensorusError(f"a store does not list its tensors by id: {one.id!r} comes after {last!r}")
        last = one.id
        yield one


def listed(backend: Backend, listing: Listing) -> Iterator[TensorInfo | DataCorruptError]:
    """Yield the tensors of a listing; none if the dataset does not exist."""
    try:
        yield from backend.list_tensors(listing)
    except DatasetNotFoundError:
        return


def is_same_kind(one: TensorInfo, other: TensorInfo) -> bool:
    """Return whether two tensors have the same dtype and shape."""
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def has_same_checksum(one: TensorInfo, other: TensorInfo) -> bool:
    """Return whether two tensors are known to have the same values. False says nothing if one of them was edited."""
    return is_same_kind(one, other) and one.value_checksum == other.value_checksum
