"""Listings of tensors: the request for a page, and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from tensorus_server.filter.tree import Filter
    from tensorus_server.model import Tensor

__all__ = ["ORDER_FIELDS", "DamagedTensor", "Order", "Page", "PageRequest", "place_of", "require_intact"]

ORDER_FIELDS = ("created", "id", "nbytes", "stored_bytes")
"""The fields that listings can be sorted by. "created" is commit order."""


@dataclass(frozen=True)
class Order:
    """How a listing is sorted. Tensors with equal values are sorted by generation."""

    field: str = "created"
    """One of `ORDER_FIELDS`."""
    descending: bool = False


@dataclass(frozen=True)
class PageRequest:
    """Which tensors to list, and where the page starts."""

    filter: Filter | None = None
    """None: all tensors match."""
    order: Order = Order()
    size: int = 100
    """Largest number of tensors in the page."""
    after: tuple[str | int, int] | None = None
    """Sort value and generation of the last tensor of the previous page; None: this is the first page."""
    generation_max: int | None = None
    """Largest generation to include, so that tensors committed later are left out; None: no limit."""
    at: int | None = None
    """The generation of the state to list, which sets `generation_max`; None: the current one."""
    with_past: bool = False
    """Whether to include tensors that were replaced or deleted and are still kept, whatever the state. Not with `at`."""
    with_payloads: bool = False
    """Whether to include inline payloads."""


@dataclass(frozen=True)
class DamagedTensor:
    """A tensor of a listing whose row is damaged."""

    error: DataCorruptError
    """Names dataset, tensor and generation."""
    generation: int
    sort_value: Any
    """The value that it is sorted by. `Any`: a damaged row may hold anything."""


@dataclass(frozen=True)
class Page:
    """One page of a listing. It has fewer tensors than requested if their metadata and payloads are large."""

    tensors: list[Tensor | DamagedTensor]
    next: tuple[str | int, int] | None
    """The `after` of the next `PageRequest`; None: this is the last page."""


def require_intact(found: Tensor | DataCorruptError | None) -> Tensor | None:
    """Return a tensor that was looked up, or None if it does not exist; raise the error if it is damaged."""
    if isinstance(found, DataCorruptError):
        raise found
    return found


def place_of(tensor: Tensor | DamagedTensor, field: str) -> tuple[str | int, int]:
    """Return the tensor's sort value in an order by `field`, and its generation, for `PageRequest.after`."""
    if isinstance(tensor, DamagedTensor):
        return tensor.sort_value, tensor.generation
    values: dict[str, str | int] = {
        "created": tensor.generation,
        "id": tensor.id,
        "nbytes": tensor.storage.canonical_bytes,
        "stored_bytes": tensor.storage.stored_bytes,
    }
    return values[field], tensor.generation
