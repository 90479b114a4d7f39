"""One tensor on its way in: canonical bytes are cut into chunks, encoded in the pool, and appended in order.

    open    →  write(bytes) ...  →  seal()  →  durable, not yet visible
       └─────────────┴──────────────→  abort()

Memory held: the chunks under way (`CodecPool.depth`, and one that is being filled), and up to `INLINE_BYTES_MAX` of stored
bytes. Bytes that arrive as whole chunks are never copied: the chunk is a view of the message.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest, chunk_seed, combine_crc32c, crc32c
from tensorus_codecs.pipeline import MeasuredError, encode_chunk
from tensorus_codecs.summary import PartialSummary
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import ChecksumMismatchError, InvalidRequestError, SizeMismatchError
from tensorus_server.limits import INLINE_BYTES_MAX
from tensorus_server.model import Checksum, EncodingShare, Locator, StorageReport
from tensorus_server.payload import pack_index

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from typing_extensions import Buffer

    from tensorus_codecs.encoding import Encoding
    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_codecs.policy import ChunkPlan
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.chunk_store.abc import ChunkStore, ChunkWriter, StagedPayload
    from tensorus_server.codec_pool import CodecPool
    from tensorus_server.model import Dataset, NewTensor

__all__ = ["TensorWriter"]

_HERE_BYTES_MAX = 64 * 1024
"""Chunks up to this size are encoded on the caller's thread: handing one over costs about as much as encoding it."""

_CRC32C = "crc32c"


class TensorWriter:
    """See the module's description. One thread at a time."""

    def __init__(
        self, dataset: Dataset, new: NewTensor, plan: ChunkPlan, *, chunk_store: ChunkStore, pool: CodecPool
    ) -> None:
        """Start with no bytes.

        Args:
            plan: of the tensor's dtype.
        """
        self.new = new
        self.received_bytes = 0
        self._dataset = dataset
        self._plan = plan
        # Chunks hold whole elements, and those of a dtype that is unknown here may be, say, 3 bytes wide.
        self._chunk_bytes = plan.chunk_bytes - plan.chunk_bytes % new.spec.dtype.element_bytes
        self._pool = pool
        self._payload_key = new_payload_key()
        self._payload = _PayloadWriter(chunk_store, self._payload_key)
        self._partial = bytearray()
        self._pending: deque[tuple[memoryview, Future[EncodedChunk]]] = deque()
        self._source_digest = TensorDigest()
        self._source_crc32c = 0
        # What readers get differs from what was sent only where a quantizer may be at work.
        self._value_digest = None if plan.encoding.quantizer is None else TensorDigest()
        self._totals = _Totals(plan)

    @property
    def is_held(self) -> bool:
        """Whether everything so far is encoded and held in memory: sealing then waits neither for a codec nor for the disk."""
        return not self._pending and self._payload.is_held

    def write(self, canonical: memoryview, canonical_crc32c: int | None = None) -> None:
        """Take the next canonical bytes; waits while as many chunks are under way as may be.

        Args:
            canonical: not empty; stays in use until the chunk it belongs to is stored.
            canonical_crc32c: its CRC32C, where that is known already.

        Raises:
            SizeMismatchError: more bytes than dtype and shape need.
            StorageFullError, StoreUnavailableError: it cannot be stored.
        """
        expected = self.new.spec.canonical_bytes
        if self.received_bytes + canonical.nbytes > expected:
            raise self._size_mismatch(f"at least {self.received_bytes + canonical.nbytes}")
        self.received_bytes += canonical.nbytes
        self._source_digest.update(canonical)
        piece = crc32c(canonical) if canonical_crc32c is None else canonical_crc32c
        self._source_crc32c = combine_crc32c(self._source_crc32c, piece, canonical.nbytes)
        self._cut(canonical)

    def seal(self, source_checksum: Checksum | None) -> tuple[StoredTensor, StagedPayload | None]:
        """Encode and write the rest, verify size and checksum, and make the payload durable.

        Args:
            source_checksum: of the canonical bytes, where one came at the end.

        Returns:
            What to commit; the staged payload is None where it is inline.

        Raises:
            SizeMismatchError: fewer bytes than dtype and shape need.
            ChecksumMismatchError: the bytes are not what the checksum says.
            StorageFullError, StoreUnavailableError: it cannot be stored.
        """
        if self.received_bytes != self.new.spec.canonical_bytes:
            raise self._size_mismatch(str(self.received_bytes))
        while self._pending:
            self._store_next()
        self._require_checksum(source_checksum or self.new.source_checksum)
        index = pack_index(self._totals.index)
        self._payload.append([index])
        inline_payload, staged = self._payload.finish()
        source = Checksum(TensorDigest.ALGORITHM, self._source_digest.digest())
        value = source
        if self._value_digest is not None:
            value = Checksum(TensorDigest.ALGORITHM, self._value_digest.digest())
        stored = StoredTensor(
            dataset=self._dataset,
            new=self.new,
            chunk_bytes=self._chunk_bytes,
            source_checksum=source,
            value_checksum=value,
            storage=self._totals.report(self.new.spec.canonical_bytes, len(index)),
            values=self._totals.value_summary(),
            locator=Locator(self._payload_key, 0, self._payload.length, len(index), crc32c(index)),
            inline_payload=inline_payload,
        )
        return stored, staged

    def abort(self) -> None:
        """Drop everything. Idempotent."""
        while self._pending:
            _, future = self._pending.popleft()
            if not future.cancel():
                # An encoder at work reads a message that goes away with the stream.
                future.exception()
        self._payload.abort()

    def _cut(self, canonical: memoryview) -> None:
        """Encode whole chunks as views; keep a copy of what begins one."""
        chunk_bytes = self._chunk_bytes
        complete = self.received_bytes == self.new.spec.canonical_bytes
        while canonical.nbytes:
            if self._partial or (canonical.nbytes < chunk_bytes and not complete):
                piece = canonical[: chunk_bytes - len(self._partial)]
                self._partial += piece
                canonical = canonical[piece.nbytes :]
                if len(self._partial) == chunk_bytes or (complete and not canonical.nbytes):
                    self._encode(memoryview(bytes(self._partial)))
                    self._partial.clear()
            else:
                self._encode(canonical[:chunk_bytes])
                canonical = canonical[chunk_bytes:]

    def _encode(self, chunk: memoryview) -> None:
        dtype = self.new.spec.dtype
        if chunk.nbytes <= _HERE_BYTES_MAX and not self._pending:
            self._store(chunk, encode_chunk(chunk, dtype, self._plan))
            return
        while len(self._pending) >= self._pool.depth:
            self._store_next()
        self._pending.append((chunk, self._pool.submit(encode_chunk, chunk, dtype, self._plan)))

    def _store_next(self) -> None:
        chunk, future = self._pending.popleft()
        self._store(chunk, future.result())

    def _store(self, chunk: memoryview, encoded: EncodedChunk) -> None:
        seeded_crc32c = encoded.crc32c ^ chunk_seed(self._payload_key, len(self._totals.index))
        self._totals.add(chunk.nbytes, encoded, seeded_crc32c)
        if self._value_digest is not None:
            self._value_digest.update(chunk if encoded.decoded is None else encoded.decoded)
        self._payload.append(encoded.record)

    def _require_checksum(self, checksum: Checksum | None) -> None:
        if checksum is None:
            return
        if checksum.algorithm == TensorDigest.ALGORITHM:
            found = self._source_digest.digest()
        elif checksum.algorithm == _CRC32C:
            found = self._source_crc32c.to_bytes(4, "big")
        else:
            raise InvalidRequestError(
                f"algorithm of the source checksum is {checksum.algorithm!r}, must be {TensorDigest.ALGORITHM} or {_CRC32C}",
                dataset=self._dataset.name,
                tensor=self.new.id,
            )
        if found != checksum.value:
            raise ChecksumMismatchError(
                f"{checksum.algorithm} of the {self.received_bytes} bytes is {found.hex()}, "
                f"the source checksum is {checksum.value.hex()}",
                dataset=self._dataset.name,
                tensor=self.new.id,
                expected=checksum.value.hex(),
                found=found.hex(),
            )

    def _size_mismatch(self, sent: str) -> SizeMismatchError:
        spec = self.new.spec
        return SizeMismatchError(
            f"{sent} bytes were sent, {spec.dtype.name} of shape {list(spec.shape)} has {spec.canonical_bytes} bytes",
            dataset=self._dataset.name,
            tensor=self.new.id,
            limit=spec.canonical_bytes,
        )


class _PayloadWriter:
    """Holds a payload while it may become inline; then writes it, and what follows, to the chunk store."""

    def __init__(self, chunk_store: ChunkStore, payload_key: str) -> None:
        self._chunk_store = chunk_store
        self._payload_key = payload_key
        self._held: list[bytes] = []
        self._writer: ChunkWriter | None = None
        self.length = 0

    @property
    def is_held(self) -> bool:
        return self._writer is None

    def append(self, buffers: Sequence[Buffer]) -> None:
        self.length += sum(memoryview(buffer).nbytes for buffer in buffers)
        if self._writer is None and self.length <= INLINE_BYTES_MAX:
            self._held.extend(bytes(buffer) for buffer in buffers)
            return
        if self._writer is None:
            self._writer = self._chunk_store.begin(self._payload_key)
            self._writer.append(self._held)
            self._held.clear()
        self._writer.append(buffers)

    def finish(self) -> tuple[bytes | None, StagedPayload | None]:
        """Return the inline payload, or the staged one."""
        if self._writer is None:
            return b"".join(self._held), None
        return None, self._writer.finish()

    def abort(self) -> None:
        self._held.clear()
        if self._writer is not None:
            self._writer.abort()


class _Totals:
    """What was measured, chunk by chunk."""

    def __init__(self, plan: ChunkPlan) -> None:
        self._plan = plan
        self.index: list[tuple[int, int]] = []
        self._shares: dict[Encoding, list[int]] = {}
        self._quantized_bytes = 0
        self._error = MeasuredError()
        self._lossy = False
        self._summary: PartialSummary | None = None
        self._fallbacks: dict[str, int] = {}

    def add(self, canonical_bytes: int, encoded: EncodedChunk, seeded_crc32c: int) -> None:
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

    def report(self, canonical_bytes: int, index_bytes: int) -> StorageReport:
        return StorageReport(
            canonical_bytes=canonical_bytes,
            quantized_bytes=self._quantized_bytes,
            stored_bytes=index_bytes + sum(stored_bytes for stored_bytes, _ in self.index),
            relative_error=self._error.relative_error,
            max_absolute_error=self._error.max_absolute_error,
            lossy=self._lossy,
            encodings=tuple(
                EncodingShare(tuple(encoding.to_json()), *share) for encoding, share in self._shares.items()
            ),
            fallback_reason=self._fallback_reason(),
        )

    def value_summary(self) -> ValueSummary | None:
        return None if self._summary is None else self._summary.finish()

    def _fallback_reason(self) -> str:
        reasons = [self._plan.fallback_reason] if self._plan.fallback_reason else []
        if self._fallbacks:
            first = next(iter(self._fallbacks))
            reasons.append(f"{sum(self._fallbacks.values())} of {len(self.index)} chunks are lossless: {first}")
        return "; ".join(reasons)
