"""Quotas: what one principal may store, have open and transfer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Quota", "Usage"]


@dataclass(frozen=True)
class Quota:
    """The limits of one principal; None: no limit. Rates are per process that serves."""

    principal: str
    stored_bytes: int | None = None
    """In the datasets that the principal owns."""
    tensors: int | None = None
    """Likewise."""
    streams: int | None = None
    """Open at the same time, in one process."""
    calls_per_s: float | None = None
    bytes_per_s: int | None = None
    """Received and sent."""


@dataclass(frozen=True)
class Usage:
    """What the datasets of one owner hold."""

    stored_bytes: int = 0
    tensors: int = 0
