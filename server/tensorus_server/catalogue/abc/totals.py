"""Sums over a whole catalogue, for people who look at a store. They are estimates: nothing is decided by them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CatalogueTotals", "SharedSizes", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """Sums over tensors. Damaged rows are included, with whatever sizes they have."""

    tensors: int
    canonical_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class SharedSizes:
    """Sums in which payloads that several tensors share are told apart."""

    unique_bytes: int
    """Canonical bytes of the tensors of all datasets, those of tensors that share a payload once."""
    unique_stored_bytes: int
    """Likewise of the stored bytes."""
    past_tensors: int
    """Replaced and deleted tensors that are kept, for snapshots or by the retention of their datasets."""
    past_stored_bytes: int
    """Stored bytes of their payloads that no current tensor has, each once."""


@dataclass(frozen=True)
class CatalogueTotals:
    """What a catalogue holds. Its parts may be of different states, if others write meanwhile."""

    datasets: int
    sizes: Sizes
    """Of the tensors of all datasets that are not deleted."""
    shared: SharedSizes
    snapshots: int
    """Number of snapshots of these datasets."""
    garbage_payloads: int
    """Payloads that wait for their deletion."""
    garbage_until_us: int | None
    """When the grace of the last of them is over, in microseconds since 1970; None: there are none."""
    uploads: int
    """Tensors of which a part is durable, and whose insert has not ended."""
    upload_bytes: int
    """Stored bytes of these parts."""
    catalogue_bytes: int
    """Size of the catalogue itself, with its log."""
