"""The small tensors of one insert: checked as they arrive, and encoded many at a time.

A tensor is small if it has at most one chunk, its payload is inline however it is encoded, and one segment brings all of it.
`TensorWriter` streams the others; for a small one it would take longer than the work. A test asserts that both store the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.checksum import TensorDigest, chunk_seed, crc32c
from tensorus_codecs.chunk_record import RAW_HEADER_BYTES
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_codecs.summary import summarize, summarize_rows
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.engine.insert.totals import Totals
from tensorus_server.engine.read.payload import ENTRY_BYTES, pack_entry, raw_record
from tensorus_server.engine.validate import require_canonical, require_source_checksum
from tensorus_server.limits import INLINE_BYTES_MAX
from tensorus_server.model import Checksum, EncodingShare, Locator, StorageReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.model import Dataset, NewTensor, Segment, TensorSpec

__all__ = ["SMALL_BYTES_MAX", "SmallTensors"]

SMALL_BYTES_MAX = INLINE_BYTES_MAX - RAW_HEADER_BYTES - ENTRY_BYTES
"""A tensor of at most this size is inline, whatever its encoding, because no record is larger than that of a raw chunk."""


@dataclass(frozen=True, eq=False)
class _Kind:
    """What tensors with the same spec and plan share. A tensor is nearly always of the same kind as the one before."""

    spec: TensorSpec
    plan: ChunkPlan
    header: bytes
    """The header of a raw chunk's record; empty: the plan may encode chunks."""
    header_crc32c: int
    """See `raw_record`."""
    report: StorageReport
    """The report for a raw chunk."""


@plain_dataclass
class _Small:
    """A verified tensor that waits to be written."""

    item: int
    new: NewTensor
    kind: _Kind
    canonical: memoryview
    source_checksum: Checksum
    source_crc32c: int


class SmallTensors:
    """The small tensors of one insert that wait to be written. Not thread-safe."""

    def __init__(self, dataset: Dataset) -> None:
        """Start empty."""
        self._dataset = dataset
        self._waiting: list[_Small] = []
        self._kind: _Kind | None = None
        self.canonical_bytes = 0
        """Canonical bytes of all waiting tensors."""

    def __len__(self) -> int:
        """Return the number of waiting tensors."""
        return len(self._waiting)

    @property
    def numbers(self) -> list[int]:
        """The item numbers of the waiting tensors, in order."""
        return [small.item for small in self._waiting]

    def take(
        self, segment: Segment, new: NewTensor, plan: ChunkPlan, canonical: memoryview, canonical_crc32c: int | None
    ) -> bool:
        """Check a small tensor that this segment holds completely, and add it; return False if the tensor is not such a one.

        Args:
            plan: the plan for the tensor's dtype.
            canonical: the segment's canonical bytes; must not change until `write`.
            canonical_crc32c: their CRC32C, if it is known.

        Raises:
            InvalidRequestError: the bytes are invalid for the dtype, or the algorithm of the source checksum is unknown.
            ChecksumMismatchError: the bytes are not what the source checksum says.
        """
        kind = self._kind
        if kind is None or kind.spec is not new.spec or kind.plan is not plan:
            kind = self._kind = _kind_of(new.spec, plan)
        canonical_bytes = canonical.nbytes
        if not (segment.last and segment.offset == 0 and canonical_bytes == kind.spec.canonical_bytes):
            return False
        if canonical_bytes > min(SMALL_BYTES_MAX, plan.chunk_bytes):
            return False
        dataset = self._dataset.name
        require_canonical(new.spec, canonical, 0, dataset=dataset, tensor=new.id)
        digest = TensorDigest.of(canonical)
        if canonical_crc32c is None:
            canonical_crc32c = crc32c(canonical)
        checksum = segment.source_checksum or new.source_checksum
        if checksum is not None:
            require_source_checksum(checksum, new, digest=digest, crc32c=canonical_crc32c, dataset=dataset)
        source = Checksum(TensorDigest.ALGORITHM, digest)
        self._waiting.append(_Small(segment.item, new, kind, canonical, source, canonical_crc32c))
        self.canonical_bytes += canonical_bytes
        return True

    def write(self) -> list[StoredTensor | Exception]:
        """Encode all waiting tensors; return for each, in order, the tensor to commit or its error.

        Afterwards no tensor waits, even if this raises.
        """
        waiting, self._waiting, self.canonical_bytes = self._waiting, [], 0
        if len(waiting) == 1 and waiting[0].kind.header:
            # For a single tensor, grouping would take longer than the work.
            return [self._stored_raw(waiting[0], _summary(waiting[0]))]
        written: list[StoredTensor | Exception] = []
        for kind, smalls in groupby(waiting, lambda small: small.kind):
            if kind.header:
                written += self._write_raw(kind, list(smalls))
            else:
                written += map(self._write_encoded, smalls)
        return written

    def _write_raw(self, kind: _Kind, smalls: Sequence[_Small]) -> Iterator[StoredTensor]:
        """Yield tensors whose bytes are stored unchanged; only the summaries of their values are computed."""
        for small, values in zip(smalls, _summaries(kind, smalls), strict=True):
            yield self._stored_raw(small, values)

    def _stored_raw(self, small: _Small, values: ValueSummary | None) -> StoredTensor:
        kind, payload_key = small.kind, new_payload_key()
        record_bytes, record_crc32c = kind.report.stored_bytes - ENTRY_BYTES, small.source_crc32c ^ kind.header_crc32c
        index = pack_entry(record_bytes, record_crc32c, payload_key)
        payload = b"".join((kind.header, small.canonical, index))
        return self._stored(
            small, payload_key, payload, index, kind.report, values=values, value_checksum=small.source_checksum
        )

    def _write_encoded(self, small: _Small) -> StoredTensor | Exception:
        """Encode a tensor's chunk; return the tensor or its error. An empty tensor has no chunk."""
        payload_key, totals = new_payload_key(), Totals(small.kind.plan)
        record: tuple[Buffer, ...] = ()
        value_checksum = small.source_checksum
        if small.canonical.nbytes:
            try:
                encoded = encode_chunk(small.canonical, small.new.spec.dtype, small.kind.plan)
            except Exception as error:  # noqa: BLE001 - any error here concerns only this item
                return error
            totals.add(small.canonical.nbytes, encoded, encoded.crc32c ^ chunk_seed(payload_key, 0))
            record = encoded.record
            if encoded.decoded is not None:
                value_checksum = Checksum(TensorDigest.ALGORITHM, TensorDigest.of(encoded.decoded))
        index = totals.index.packed()
        return self._stored(
            small,
            payload_key,
            b"".join((*record, index)),
            index,
            totals.report(len(index)),
            values=totals.value_summary(),
            value_checksum=value_checksum,
        )

    def _stored(
        self,
        small: _Small,
        payload_key: str,
        payload: bytes,
        index: bytes,
        report: StorageReport,
        *,
        values: ValueSummary | None,
        value_checksum: Checksum,
    ) -> StoredTensor:
        """Return the tensor with this payload."""
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
    """Return the kind; the same object for the same spec and plan, because `write` groups neighbours by it."""
    header, header_crc32c = b"", 0
    if plan.stores_raw and 0 < spec.canonical_bytes <= SMALL_BYTES_MAX:
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
    """Yield the summary of each tensor's values; NumPy processes all of them at once."""
    dtype = kind.spec.dtype
    joined = b"".join([small.canonical for small in smalls])
    rows = np.frombuffer(joined, dtype.component).reshape(len(smalls), -1)
    # The values are the user's. Overflow and NaN are handled where they can occur, and must cause no warnings.
    with np.errstate(all="ignore"):
        summaries = summarize_rows(rows, dtype)
    for summary in summaries:
        yield None if summary is None else summary.finish()


def _raw_report(canonical_bytes: int, fallback_reason: str) -> StorageReport:
    """Return the report for a tensor of one raw chunk, which depends only on its size."""
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
