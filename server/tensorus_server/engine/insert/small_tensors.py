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
from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_codecs.summary import summarize, summarize_rows
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.engine.insert.totals import Totals
from tensorus_server.engine.read.inline import pack_entry, raw_record
from tensorus_server.engine.read.payload import ENTRY_BYTES
from tensorus_server.engine.validate import is_canonical
from tensorus_server.limits import INLINE_BYTES_MAX
from tensorus_server.model import Checksum, EncodingShare, Locator, StorageReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.model import Dataset, NewTensor, Segment, TensorSpec

__all__ = ["SmallTensors"]

_CANONICAL_BYTES_MAX = INLINE_BYTES_MAX - RAW_HEADER_BYTES - ENTRY_BYTES
"""No record is larger than that of the raw chunk: what is no larger than this is inline, whatever its encoding."""


@dataclass(frozen=True, eq=False)
class _Kind:
    """What tensors of one spec and one plan have in common. The next one is nearly always of the kind of the last."""

    spec: TensorSpec
    plan: ChunkPlan
    header: bytes
    """Of the record of a raw chunk; empty: chunks of the plan may be encoded."""
    header_crc32c: int
    """See `raw_record`."""
    report: StorageReport
    """Of a raw chunk."""


@plain_dataclass
class _Small:
    """A tensor that is here, and verified."""

    item: int
    new: NewTensor
    kind: _Kind
    canonical: memoryview
    source_checksum: Checksum
    source_crc32c: int


class SmallTensors:
    """Those of one insert that are here and not yet written. One thread at a time."""

    def __init__(self, dataset: Dataset) -> None:
        """Start with none."""
        self._dataset = dataset
        self._waiting: list[_Small] = []
        self._kind: _Kind | None = None
        self.canonical_bytes = 0
        """Of all that wait."""

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    @property
    def numbers(self) -> list[int]:
        """Of the items that wait, in order."""
        return [small.item for small in self._waiting]

    def take(
        self, segment: Segment, new: NewTensor, plan: ChunkPlan, canonical: memoryview, canonical_crc32c: int | None
    ) -> bool:
        """Take a tensor that one segment brings as a whole; False where a `TensorWriter` is to be asked.

        Args:
            plan: of the tensor's dtype.
            canonical: stays in use until `write`.
            canonical_crc32c: its CRC32C, where that is known already.
        """
        kind = self._kind
        if kind is None or kind.spec is not new.spec or kind.plan is not plan:
            kind = self._kind = _kind_of(new.spec, plan)
        canonical_bytes = canonical.nbytes
        if not (segment.last and segment.offset == 0 and canonical_bytes == kind.spec.canonical_bytes):
            return False
        if not 0 < canonical_bytes <= min(_CANONICAL_BYTES_MAX, plan.chunk_bytes):
            return False
        if not is_canonical(new.spec, canonical):
            return False
        digest = TensorDigest.of(canonical)
        source = segment.source_checksum or new.source_checksum or Checksum(TensorDigest.ALGORITHM, digest)
        if source.value != digest or source.algorithm != TensorDigest.ALGORITHM:
            return False
        if canonical_crc32c is None:
            canonical_crc32c = crc32c(canonical)
        self._waiting.append(_Small(segment.item, new, kind, canonical, source, canonical_crc32c))
        self.canonical_bytes += canonical_bytes
        return True

    def write(self) -> list[StoredTensor | Exception]:
        """Encode all that wait; return what is to be committed of each, in order, or what was wrong with it.

        Whatever this raises, nothing waits afterwards.
        """
        waiting, self._waiting, self.canonical_bytes = self._waiting, [], 0
        if len(waiting) == 1 and waiting[0].kind.header:
            # Alone, without the ways of many.
            return [self._stored_raw(waiting[0], _summary(waiting[0]))]
        written: list[StoredTensor | Exception] = []
        for kind, smalls in groupby(waiting, lambda small: small.kind):
            if kind.header:
                written += self._write_raw(kind, list(smalls))
            else:
                written += map(self._write_encoded, smalls)
        return written

    def _write_raw(self, kind: _Kind, smalls: Sequence[_Small]) -> Iterator[StoredTensor]:
        """Yield tensors that are stored as they are: nothing but the summary of their values is to be worked out."""
        for small, values in zip(smalls, _summaries(kind, smalls), strict=True):
            yield self._stored_raw(small, values)

    def _stored_raw(self, small: _Small, values: ValueSummary | None) -> StoredTensor:
        kind = small.kind
        record, record_crc32c = (kind.header, small.canonical), small.source_crc32c ^ kind.header_crc32c
        return self._stored(
            small, record, record_crc32c, kind.report, values=values, value_checksum=small.source_checksum
        )

    def _write_encoded(self, small: _Small) -> StoredTensor | Exception:
        """Return a tensor that is stored as its chunk is encoded."""
        try:
            encoded = encode_chunk(small.canonical, small.new.spec.dtype, small.kind.plan)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's
            return error
        totals = Totals(small.kind.plan)
        totals.add(small.canonical.nbytes, encoded, 0)
        report, values = totals.report(ENTRY_BYTES), totals.value_summary()
        value_checksum = small.source_checksum
        if encoded.decoded is not None:
            value_checksum = Checksum(TensorDigest.ALGORITHM, TensorDigest.of(encoded.decoded))
        return self._stored(small, encoded.record, encoded.crc32c, report, values=values, value_checksum=value_checksum)

    def _stored(
        self,
        small: _Small,
        record: Iterable[Buffer],
        record_crc32c: int,
        report: StorageReport,
        *,
        values: ValueSummary | None,
        value_checksum: Checksum,
    ) -> StoredTensor:
        """Return the tensor with the payload that consists of this one record."""
        payload_key = new_payload_key()
        index = pack_entry(report.stored_bytes - ENTRY_BYTES, record_crc32c, payload_key)
        payload = b"".join((*record, index))
        return StoredTensor(
            dataset=self._dataset,
            new=small.new,
            chunk_bytes=small.kind.plan.chunk_bytes,
            source_checksum=small.source_checksum,
            value_checksum=value_checksum,
            storage=report,
            values=values,
            locator=Locator(payload_key, 0, len(payload), len(index), crc32c(index)),
            inline_payload=payload,
            source_crc32c=small.source_crc32c,
        )


@lru_cache(maxsize=1024)
def _kind_of(spec: TensorSpec, plan: ChunkPlan) -> _Kind:
    """Return the kind, the same one for the same spec and plan: neighbours of one kind are encoded together."""
    header, header_crc32c = b"", 0
    if plan.stores_raw and 0 < spec.canonical_bytes <= _CANONICAL_BYTES_MAX:
        header, header_crc32c = raw_record(spec.dtype, spec.canonical_bytes)
    return _Kind(
        spec,
        plan,
        header,
        header_crc32c,
        _raw_report(spec.canonical_bytes, plan.fallback_reason),
    )


def _summary(small: _Small) -> ValueSummary | None:
    """Return the summary of one tensor's values."""
    dtype = small.kind.spec.dtype
    with np.errstate(all="ignore"):
        summary = summarize(np.frombuffer(small.canonical, dtype.component), dtype)
    return None if summary is None else summary.finish()


def _summaries(kind: _Kind, smalls: Sequence[_Small]) -> Iterator[ValueSummary | None]:
    """Yield the summary of each tensor's values; all are looked at together."""
    dtype = kind.spec.dtype
    joined = b"".join([small.canonical for small in smalls])
    rows = np.frombuffer(joined, dtype.component).reshape(len(smalls), -1)
    # The values are the user's: overflow and NaN are handled where they can occur, and warn nobody.
    with np.errstate(all="ignore"):
        summaries = summarize_rows(rows, dtype)
    for summary in summaries:
        yield None if summary is None else summary.finish()


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
