"""Collects the measurements of compressing one tensor, chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_codecs.measure import MeasuredError

if TYPE_CHECKING:
    from tensorus_codecs.pipeline import EncodedChunk

__all__ = ["Report"]


class Report:
    """Totals over the added chunks."""

    def __init__(self, plan_reason: str) -> None:
        """Start with no chunks.

        Args:
            plan_reason: why the plan differs from the request; empty if it does not.
        """
        self._plan_reason = plan_reason
        self._chunks = 0
        self._shares: dict[tuple[str, ...], list[int]] = {}
        self._error = MeasuredError()
        self._lossy = False
        self._fallbacks: list[str] = []

    def add(self, canonical_bytes: int, encoded: EncodedChunk) -> None:
        """Add a chunk."""
        self._chunks += 1
        codecs = tuple(codec.id for codec in encoded.encoding.codecs)
        share = self._shares.setdefault(codecs, [0, 0, 0])
        for position, amount in enumerate((1, canonical_bytes, encoded.stored_bytes)):
            share[position] += amount
        if encoded.error is not None:
            self._lossy = True
            self._error += encoded.error
        if encoded.fallback_reason:
            self._fallbacks.append(encoded.fallback_reason)

    def to_metadata(self) -> dict[str, Any]:
        """Return the measurements under the keys of `TensorCompression.compress_tensor`. `Any`: text, numbers, lists."""
        return {
            "encodings": [
                {"codecs": list(codecs), "chunks": chunks, "canonical_bytes": canonical, "stored_bytes": stored}
                for codecs, (chunks, canonical, stored) in self._shares.items()
            ],
            "lossy": self._lossy,
            "fallback": self._fallback(),
            "relative_error": self._error.relative_error,
            "max_absolute_error": self._error.max_absolute_error,
        }

    def _fallback(self) -> str | None:
        reasons = [self._plan_reason] if self._plan_reason else []
        if self._fallbacks:
            reasons.append(f"{len(self._fallbacks)} of {self._chunks} chunks are lossless: {self._fallbacks[0]}")
        return "; ".join(reasons) or None
