"""Collects what is measured while a tensor is stored: sizes, errors, a summary of its values, and the chunk index."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from tensorus_codecs.encoding import Encoding
from tensorus_codecs.measure import MeasuredError
from tensorus_codecs.summary import PartialSummary
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.model import EncodingShare, StorageReport

if TYPE_CHECKING:
    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.summary import ValueSummary

__all__ = ["Totals"]


class Totals:
    """The measurements of one tensor, summed up chunk by chunk."""

    def __init__(self, plan: ChunkPlan) -> None:
        """Start with no chunks."""
        self._plan = plan
        self.canonical_bytes = 0
        self.stored_bytes = 0
        self.index = ChunkIndex()
        self._shares: dict[Encoding, list[int]] = {}
        self._quantized_bytes = 0
        self._error = MeasuredError()
        self._lossy = False
        self._summary: PartialSummary | None = None
        self._fallbacks: dict[str, int] = {}

    def add(self, canonical_bytes: int, encoded: EncodedChunk, seeded_crc32c: int) -> None:
        """Add a chunk."""
        self.canonical_bytes += canonical_bytes
        self.stored_bytes += encoded.stored_bytes
        self.index.append((encoded.stored_bytes, seeded_crc32c))
        share = self._shares.setdefault(encoded.encoding, [0, 0, 0])
        for position, amount in enumerate((1, canonical_bytes, encoded.stored_bytes)):
            share[position] += amount
        self._quantized_bytes += encoded.quantized_bytes
        if encoded.error is not None:
            self._lossy = True
            self._error += encoded.error
        if encoded.summary is not None:
            self._summary = (self._summary or PartialSummary()) + encoded.summary
        if encoded.fallback_reason:
            self._fallbacks[encoded.fallback_reason] = self._fallbacks.get(encoded.fallback_reason, 0) + 1

    def report(self, index_bytes: int) -> StorageReport:
        """Return the report on all chunks that were added."""
        return StorageReport(
            canonical_bytes=self.canonical_bytes,
            quantized_bytes=self._quantized_bytes,
            stored_bytes=index_bytes + self.stored_bytes,
            relative_error=self._error.relative_error,
            max_absolute_error=self._error.max_absolute_error,
            lossy=self._lossy,
            encodings=tuple(
                EncodingShare(tuple(encoding.to_json()), *share) for encoding, share in self._shares.items()
            ),
            fallback_reason=self._fallback_reason(),
        )

    def value_summary(self) -> ValueSummary | None:
        """Return the summary of all values that were added; None for dtypes without one."""
        return None if self._summary is None else self._summary.finish()

    def to_json(self) -> dict[str, Any]:
        """Return all measurements except the index, the byte counts and the plan."""
        return {
            "shares": [[encoding.to_json(), *amounts] for encoding, amounts in self._shares.items()],
            "quantized_bytes": self._quantized_bytes,
            "error": astuple(self._error),
            "lossy": self._lossy,
            "summary": None if self._summary is None else astuple(self._summary),
            "fallbacks": self._fallbacks,
        }

    @classmethod
    def from_json(cls, plan: ChunkPlan, fields: dict[str, Any], index: ChunkIndex, canonical_bytes: int) -> Totals:
        """Restore totals from the fields of `to_json`, and from the index and plan of the same chunks."""
        totals = cls(plan)
        totals.index = index
        totals.canonical_bytes = canonical_bytes
        totals.stored_bytes = index.stored_bytes
        totals._shares = {Encoding.from_json(steps): amounts for steps, *amounts in fields["shares"]}
        totals._quantized_bytes = fields["quantized_bytes"]
        totals._error = MeasuredError(*fields["error"])
        totals._lossy = fields["lossy"]
        totals._summary = None if fields["summary"] is None else PartialSummary(*fields["summary"])
        totals._fallbacks = fields["fallbacks"]
        return totals

    def _fallback_reason(self) -> str:
        reasons = [self._plan.fallback_reason] if self._plan.fallback_reason else []
        if self._fallbacks:
            first = next(iter(self._fallbacks))
            reasons.append(f"{sum(self._fallbacks.values())} of {len(self.index)} chunks are lossless: {first}")
        return "; ".join(reasons)
