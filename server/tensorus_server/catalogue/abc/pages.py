"""Listings of tensors: what is asked for, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from tensorus_server.filter.tree import Filter
    from tensorus_server.model import Tensor

__all__ = ["ORDER_FIELDS", "DamagedTensor", "Order", "Page", "PageRequest", "place_of", "require_intact"]

ORDER_FIELDS = ("created", "id", "nbytes", "stored_bytes")
"""What tensors can be listed by. "created" is the order of their commits."""


@dataclass(frozen=True)
class Order:
    """How a listing is sorted; ties by generation."""

    field: str = "created"
    """One of `ORDER_FIELDS`."""
    descending: bool = False


@dataclass(frozen=True)
class PageRequest:
    """Which tensors, and from where on."""

    filter: Filter | None = None
    """None: all."""
    order: Order = Order()
    size: int = 100
    """Tensors of the page, at most."""
    after: tuple[str | int, int] | None = None
    """Sort value and generation of the last tensor of the page before; None: from the start."""
    generation_max: int | None = None
    """Tensors committed later are left out; None: none is."""
    with_payloads: bool = False
    """Whether inline payloads come along."""


@dataclass(frozen=True)
class DamagedTensor:
    """A tensor of a listing whose row is not what was written."""

    error: DataCorruptError
    """Names dataset, tensor and generation."""
    generation: int
    sort_value: Any
    """What it is sorted by. `Any`: the row may be wrong about it."""


@dataclass(frozen=True)
class Page:
    """Some tensors of a listing: fewer than asked for where their metadata and payloads are large."""

    tensors: list[Tensor | DamagedTensor]
    """Damaged ones in their places."""
    next: tuple[str | int, int] | None
    """For `PageRequest.after`; None: this was the last page."""


def require_intact(found: Tensor | DataCorruptError | None) -> Tensor | None:
    """Return the tensor, or None where there is none; raise the error of a damaged one."""
    if isinstance(found, DataCorruptError):
        raise found
    return found


def place_of(tensor: Tensor | DamagedTensor, field: str) -> tuple[str | int, int]:
    """Return sort value and generation of a tensor in an order by `field`: for `PageRequest.after`."""
    if isinstance(tensor, DamagedTensor):
        return tensor.sort_value, tensor.generation
    values: dict[str, str | int] = {
        "created": tensor.generation,
        "id": tensor.id,
        "nbytes": tensor.storage.canonical_bytes,
        "stored_bytes": tensor.storage.stored_bytes,
    }
    return values[field], tensor.generation
