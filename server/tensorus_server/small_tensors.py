"""Small tensors of one insert on the short way: whole ones of one chunk, whose payloads are kept in the catalogue.

What `TensorWriter` does for tensors of any size takes longer than the bytes of a small one are worth. This does the same for
many small ones at a time, with the same checks. It takes only those for which all of them hold: whatever is unusual or wrong is
for the general way, which knows every error. A test holds that both ways store and measure the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.chunk_record import RAW_HEADER_BYTES
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.summary import summarize_rows
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.inline import pack_entry, raw_header
from tensorus_server.limits import INLINE_BYTES_MAX
from tensorus_server.model import Checksum, EncodingShare, Locator, StorageReport
from tensorus_server.payload import ENTRY_BYTES
from tensorus_server.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.model import Dataset, NewTensor, Segment

__all__ = ["SmallTensors"]

_CANONICAL_BYTES_MAX = INLINE_BYTES_MAX - RAW_HEADER_BYTES - ENTRY_BYTES
"""No record is larger than that of the raw chunk: what is no larger than this is inline, whatever its encoding."""


@dataclass(frozen=True)
class _Small:
    """A tensor that is here, and verified."""

    item: int
    new: NewTensor
    plan: ChunkPlan
    canonical: memoryview
    source_checksum: Checksum
    source_crc32c: int


class SmallTensors:
    """Those of one insert that are here and not yet written. One thread at a time."""

    def __init__(self, dataset: Dataset) -> None:
        """Start with none."""
        self._dataset = dataset
        self._waiting: list[_Small] = []
        self.canonical_bytes = 0
        """Of all that wait."""

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def take(
        self, segment: Segment, new: NewTensor, plan: ChunkPlan, canonical: memoryview, canonical_crc32c: int | None
    ) -> bool:
        """Take a tensor that one segment brings as a whole; False where a `TensorWriter` is to be asked.

        Args:
            plan: of the tensor's dtype.
            canonical: stays in use until `write`.
            canonical_crc32c: its CRC32C, where that is known already.
        """
        if not (segment.last and segment.offset == 0 and canonical.nbytes == new.spec.canonical_bytes):
            return False
        if not 0 < canonical.nbytes <= min(_CANONICAL_BYTES_MAX, _chunk_bytes(new, plan)):
            return False
        source = Checksum(TensorDigest.ALGORITHM, _digest(canonical))
        if (segment.source_checksum or new.source_checksum or source) != source:
            return False
        if canonical_crc32c is None:
            canonical_crc32c = crc32c(canonical)
        self._waiting.append(_Small(segment.item, new, plan, canonical, source, canonical_crc32c))
        self.canonical_bytes += canonical.nbytes
        return True

    def write(self) -> list[tuple[int, StoredTensor | Exception]]:
        """Encode all that wait; return what is to be committed of each item, or what was wrong with it."""
        waiting, self._waiting, self.canonical_bytes = self._waiting, [], 0
        written: list[tuple[int, StoredTensor | Exception]] = []
        for are_raw, smalls in groupby(waiting, lambda small: _stores_raw(small.plan)):
            if are_raw:
                written += self._write_raw(list(smalls))
            else:
                written += map(self._write_encoded, smalls)
        return written

    def _write_raw(self, smalls: Sequence[_Small]) -> Iterator[tuple[int, StoredTensor]]:
        """Yield tensors that are stored as they are: nothing but the summary of their values is to be worked out."""
        for small, values in zip(smalls, _summaries(smalls), strict=True):
            canonical = small.canonical
            header = raw_header(small.new.spec.dtype, canonical.nbytes)
            record_crc32c = crc32c(canonical, crc32c(header))
            report = _raw_report(canonical.nbytes, small.plan.fallback_reason)
            yield small.item, self._stored(small, (header, canonical), record_crc32c, report, values=values)

    def _write_encoded(self, small: _Small) -> tuple[int, StoredTensor | Exception]:
        """Return a tensor that is stored as its chunk is encoded."""
        try:
            encoded = encode_chunk(small.canonical, small.new.spec.dtype, small.plan)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            return small.item, error
        totals = Totals(small.plan)
        totals.add(small.canonical.nbytes, encoded, 0)
        report, values = totals.report(ENTRY_BYTES), totals.value_summary()
        return small.item, self._stored(
            small, encoded.record, encoded.crc32c, report, values=values, decoded=encoded.decoded
        )

    def _stored(
        self,
        small: _Small,
        record: Iterable[Buffer],
        record_crc32c: int,
        report: StorageReport,
        *,
        values: ValueSummary | None,
        decoded: Buffer | None = None,
    ) -> StoredTensor:
        """Return the tensor with the payload that consists of this one record."""
        source = value = small.source_checksum
        if decoded is not None:
            value = Checksum(TensorDigest.ALGORITHM, _digest(decoded))
        payload_key = new_payload_key()
        index = pack_entry(report.stored_bytes - ENTRY_BYTES, record_crc32c, payload_key)
        payload = b"".join((*record, index))
        return StoredTensor(
            dataset=self._dataset,
            new=small.new,
            chunk_bytes=_chunk_bytes(small.new, small.plan),
            source_checksum=source,
            value_checksum=value,
            storage=report,
            values=values,
            locator=Locator(payload_key, 0, len(payload), len(index), crc32c(index)),
            inline_payload=payload,
            source_crc32c=small.source_crc32c,
        )


def _chunk_bytes(new: NewTensor, plan: ChunkPlan) -> int:
    # Chunks hold whole elements, as in `TensorWriter`.
    return plan.chunk_bytes - plan.chunk_bytes % new.spec.dtype.element_bytes


def _digest(data: Buffer) -> bytes:
    digest = TensorDigest()
    digest.update(data)
    return digest.digest()


def _summaries(smalls: Iterable[_Small]) -> Iterator[ValueSummary | None]:
    """Yield the summary of each tensor's values; neighbours of one dtype and size are looked at together."""
    for (dtype, _), found in groupby(smalls, lambda small: (small.new.spec.dtype, small.canonical.nbytes)):
        run = [small.canonical for small in found]
        rows = np.frombuffer(b"".join(run), dtype.component).reshape(len(run), -1)
        # The values are the user's: overflow and NaN are handled where they can occur, and warn nobody.
        with np.errstate(all="ignore"):
            summaries = summarize_rows(rows, dtype)
        for summary in summaries:
            yield None if summary is None else summary.finish()


def _stores_raw(plan: ChunkPlan) -> bool:
    """Whether every chunk of the plan is stored as it is."""
    return plan.lossy is None and not plan.chooses and not plan.lossless[0].encoding.codecs


@lru_cache(maxsize=1024)
def _raw_report(canonical_bytes: int, fallback_reason: str) -> StorageReport:
    """Return what storing does to a tensor of one raw chunk: the same for all of a size."""
    record_bytes = RAW_HEADER_BYTES + canonical_bytes
    return StorageReport(
        canonical_bytes=canonical_bytes,
        quantized_bytes=canonical_bytes,
        stored_bytes=record_bytes + ENTRY_BYTES,
        relative_error=0.0,
        max_absolute_error=0.0,
        lossy=False,
        encodings=(EncodingShare((), 1, canonical_bytes, record_bytes),),
        fallback_reason=fallback_reason,
    )
