"""Collects what is measured while a tensor is stored: sizes, errors, a summary of its values, and the chunk index."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import chunk_seed
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.measure import MeasuredError
from tensorus_codecs.summary import PartialSummary
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_index import ENTRY_BYTES, ChunkIndex
from tensorus_server.chunk_table import IndexEnd
from tensorus_server.limits import INLINE_BYTES_MAX
from tensorus_server.model import EncodingShare, StorageReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.base_section import BaseSection

__all__ = ["Totals", "overhead_of", "report_of"]


class Totals:
    """The measurements of one tensor, summed up chunk by chunk."""

    def __init__(self, plan: ChunkPlan) -> None:
        """Start with no chunks."""
        self._plan = plan
        self.canonical_bytes = 0
        self.stored_bytes = 0
        self.index = ChunkIndex()
        self.details = ChunkDetails()
        self._shares: dict[Encoding, list[int]] = {}
        self._quantized_bytes = 0
        self._error = MeasuredError()
        self._lossy = False
        self._summary: PartialSummary | None = None
        self._fallbacks: dict[str, int] = {}
        self._base_reasons: dict[str, int] = {}

    def add(self, canonical_bytes: int, encoded: EncodedChunk, seeded_crc32c: int, digest: bytes | None = None) -> None:
        """Add a chunk.

        Args:
            digest: XXH3-128 of the chunk as readers get it; None: the payload will be inline, and has no chunk details.
        """
        if digest is not None:
            self.details.append(encoded, digest)
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
        if encoded.base_reason:
            self._base_reasons[encoded.base_reason] = self._base_reasons.get(encoded.base_reason, 0) + 1

    def copy(self, record: bytes, record_crc32c: int, payload_key: str, details: ChunkDetails, number: int) -> int:
        """Add a record of another payload, with its details there; return its number in this payload.

        The reports of this object do not cover it.
        """
        mine = len(self.index)
        self.index.append((len(record), record_crc32c ^ chunk_seed(payload_key, mine)))
        self.details.extend(details, number, 1)
        return mine

    def report(self, overhead_bytes: int) -> StorageReport:
        """Return the report on all chunks that were added.

        Args:
            overhead_bytes: bytes of the payload apart from its records.
        """
        return StorageReport(
            canonical_bytes=self.canonical_bytes,
            quantized_bytes=self._quantized_bytes,
            stored_bytes=overhead_bytes + self.stored_bytes,
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
        """Return all measurements except index, details, byte counts and plan."""
        return {
            "shares": [[encoding.to_json(), *amounts] for encoding, amounts in self._shares.items()],
            "quantized_bytes": self._quantized_bytes,
            "error": astuple(self._error),
            "lossy": self._lossy,
            "summary": None if self._summary is None else astuple(self._summary),
            # Copies, since a mark is saved while further chunks are added.
            "fallbacks": dict(self._fallbacks),
            "base_reasons": dict(self._base_reasons),
        }

    @classmethod
    def from_json(
        cls, plan: ChunkPlan, fields: dict[str, Any], index: ChunkIndex, details: ChunkDetails, canonical_bytes: int
    ) -> Totals:
        """Restore totals from the fields of `to_json`, and from index, details and plan of the same chunks."""
        totals = cls(plan)
        totals.index = index
        totals.details = details
        totals.canonical_bytes = canonical_bytes
        totals.stored_bytes = index.stored_bytes
        totals._shares = {Encoding.from_json(steps): amounts for steps, *amounts in fields["shares"]}
        totals._quantized_bytes = fields["quantized_bytes"]
        totals._error = MeasuredError(*fields["error"])
        totals._lossy = fields["lossy"]
        totals._summary = None if fields["summary"] is None else PartialSummary(*fields["summary"])
        totals._fallbacks = fields["fallbacks"]
        # Older versions knew no bases.
        totals._base_reasons = fields.get("base_reasons", {})
        return totals

    def _fallback_reason(self) -> str:
        reasons = [_reason(self._plan, self._fallbacks, len(self.index))]
        if self._base_reasons:
            count = sum(self._base_reasons.values())
            first = next(iter(self._base_reasons))
            reasons.append(f"{count} of {len(self.index)} chunks are stored without the base: {first}")
        return "; ".join(filter(None, reasons))


def overhead_of(details: ChunkDetails, record_bytes: int, bases: BaseSection) -> int:
    """Return the bytes of a payload apart from its records.

    Args:
        details: of its chunks.
        record_bytes: length of all records together.
        bases: of its records.
    """
    index_bytes = ENTRY_BYTES * len(details)
    if not bases and record_bytes + index_bytes <= INLINE_BYTES_MAX:
        return index_bytes
    bases_bytes = len(bases.packed(len(details))) if bases else 0
    end = IndexEnd(len(details), len(details.packed()), 0, bases_bytes=bases_bytes)
    return index_bytes + end.nbytes + end.overhead_bytes


def report_of(
    plan: ChunkPlan, details: ChunkDetails, sizes: Sequence[int], lengths: Sequence[int], overhead_bytes: int
) -> StorageReport:
    """Return the report on chunks with these details.

    Args:
        plan: the plan that they follow.
        sizes: canonical bytes of each chunk.
        lengths: length of each chunk's record.
        overhead_bytes: bytes apart from the records.
    """
    error = details.error
    return StorageReport(
        canonical_bytes=sum(sizes),
        quantized_bytes=details.quantized_bytes,
        stored_bytes=overhead_bytes + sum(lengths),
        relative_error=error.relative_error,
        max_absolute_error=error.max_absolute_error,
        lossy=details.is_lossy,
        encodings=tuple(EncodingShare(tuple(steps), *amounts) for steps, *amounts in details.shares(sizes, lengths)),
        fallback_reason=_reason(plan, details.fallbacks(), len(details)),
    )


def _reason(plan: ChunkPlan, fallbacks: dict[str, int], chunk_count: int) -> str:
    reasons = [plan.fallback_reason] if plan.fallback_reason else []
    if fallbacks:
        first = next(iter(fallbacks))
        reasons.append(f"{sum(fallbacks.values())} of {chunk_count} chunks are lossless: {first}")
    return "; ".join(reasons)
