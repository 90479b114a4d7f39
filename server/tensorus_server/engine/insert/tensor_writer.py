"""One tensor on its way in: canonical bytes are cut into chunks, encoded in the pool, and appended in order.

    open    →  write(bytes) ...  →  seal()  →  durable, not yet visible
       └─────────────┴──────────────→  abort()  or  park(), to be resumed

A large tensor of an insert that can be resumed is marked on its way: every `MARK_EVERY_BYTES` its payload so far is made
durable, and what is needed to go on from there is saved. Marks run behind the stream, at most one at a time; the stream
waits where more than two of them, chunks under way included, would not be durable.

Memory held: the chunks under way (`CodecPool.depth`, and one that is being filled), and up to `INLINE_BYTES_MAX` of stored
bytes. Bytes that arrive as whole chunks are never copied: the chunk is a view of the message.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest, chunk_seed, combine_crc32c, crc32c
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.select import CHOOSE_EVERY_CHUNKS, narrowed
from tensorus_server.catalogue.abc import Mark, StoredTensor, Upload
from tensorus_server.chunk_store.abc import (
    PayloadBusyError,
    PayloadMissingError,
    PayloadUnreadableError,
    new_payload_key,
)
from tensorus_server.engine.footer import pack_footer
from tensorus_server.engine.insert.totals import Totals
from tensorus_server.engine.validate import require_canonical
from tensorus_server.errors import (
    ChecksumMismatchError,
    DataCorruptError,
    InvalidRequestError,
    SessionExpiredError,
    SizeMismatchError,
    StoreUnavailableError,
)
from tensorus_server.limits import INLINE_BYTES_MAX, MARK_EVERY_BYTES, RESUMABLE_BYTES_MIN
from tensorus_server.model import Checksum, Locator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from typing_extensions import Buffer

    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.chunk_store.abc import ChunkReader, ChunkWriter, StagedPayload, Staging
    from tensorus_server.engine.codec_pool import CodecPool
    from tensorus_server.engine.insert.marker import Marker
    from tensorus_server.model import Dataset, NewTensor

__all__ = ["TensorWriter"]

_HERE_BYTES_MAX = 64 * 1024
"""Chunks up to this size are encoded on the caller's thread."""

_CRC32C = "crc32c"


class TensorWriter:
    """See the module's description. One thread at a time."""

    def __init__(
        self,
        dataset: Dataset,
        new: NewTensor,
        plan: ChunkPlan,
        *,
        staging: Staging,
        pool: CodecPool,
        marker: Marker | None = None,
        inline: bool = True,
    ) -> None:
        """Start with no bytes.

        Args:
            plan: of the tensor's dtype.
            marker: saves marks; None: the tensor cannot be resumed.
            inline: whether it may be kept in the catalogue if it is small.
        """
        self.new = new
        self.received_bytes = 0
        self.resumed_bytes = 0
        self._dataset = dataset
        self._plan = plan
        # The same with what suits the chunks that come now.
        self._narrowed = plan
        self._begun_chunks = 0
        self._chunk_bytes = plan.chunk_bytes
        self._pool = pool
        self._marker = marker if marker is not None and new.spec.canonical_bytes > RESUMABLE_BYTES_MIN else None
        self._payload_key = new_payload_key()
        self._payload = _PayloadWriter(staging, self._payload_key, INLINE_BYTES_MAX if inline else 0)
        self._partial = bytearray()
        self._pending: deque[tuple[memoryview, int, Future[EncodedChunk]]] = deque()
        # None: the tensor was resumed, and what was received before cannot be had back from what is stored.
        self._source_digest: TensorDigest | None = TensorDigest()
        # Of the chunks that are stored: a mark needs it, and it goes on from there.
        self._source_crc32c = 0
        # What readers get differs from what was sent only where a quantizer may be at work.
        self._value_digest = None if plan.lossy is None else TensorDigest()
        self._totals = Totals(plan)
        self._marked_chunks = 0

    @classmethod
    def resume(
        cls,
        dataset: Dataset,
        new: NewTensor,
        upload: Upload,
        *,
        staging: Staging,
        pool: CodecPool,
        marker: Marker,
    ) -> TensorWriter:
        """Go on after the upload's last mark: checks and reads what is stored so far.

        Raises:
            SessionExpiredError: what the mark says is not there.
            StoreUnavailableError: another writer has it.
        """
        chunk_plan = plan(upload.policy, new.spec.dtype)
        writer = cls(dataset, new, chunk_plan, staging=staging, pool=pool, marker=marker)
        writer._resume(staging, upload)
        return writer

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
            InvalidRequestError: bytes that the dtype does not have.
            StorageFullError, StoreUnavailableError: it cannot be stored.
        """
        expected = self.new.spec.canonical_bytes
        if self.received_bytes + canonical.nbytes > expected:
            raise self._size_mismatch(f"at least {self.received_bytes + canonical.nbytes}")
        if self._marker is not None:
            self._hold_back(self._marker, canonical.nbytes)
        require_canonical(self.new.spec, canonical, self.received_bytes, dataset=self._dataset.name, tensor=self.new.id)
        self.received_bytes += canonical.nbytes
        if self._source_digest is not None:
            self._source_digest.update(canonical)
        self._cut(canonical, canonical_crc32c)

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
        if self._marker is not None:
            self._marker.wait()
        index = self._totals.index.packed()
        self._payload.append([index])
        source = value = self._source_checksum()
        if self._value_digest is not None:
            value = Checksum(TensorDigest.ALGORITHM, self._value_digest.digest())
        stored = StoredTensor(
            dataset=self._dataset,
            new=self.new,
            chunk_bytes=self._chunk_bytes,
            source_checksum=source,
            value_checksum=value,
            storage=self._totals.report(len(index)),
            values=self._totals.value_summary(),
            locator=Locator(self._payload_key, 0, self._payload.length, len(index), crc32c(index)),
            inline_payload=self._payload.inline(),
            source_crc32c=self._source_crc32c,
            upload=self._marker.upload if self._marker is not None and self._marked_chunks else None,
        )
        return stored, self._payload.finish(stored)

    def drop(self) -> None:
        """Drop everything. Idempotent."""
        self._drop_pending()
        self._payload.drop()
        if self._marker is not None and self._marked_chunks:
            self._marker.drop()

    def park(self) -> None:
        """Drop what came after the last mark, and leave the rest to be resumed; without a mark, drop everything."""
        if self._marker is not None and self._marked_chunks:
            self._marker.settle()
            if self._marker.committed_bytes:
                self._drop_pending()
                self._payload.park()
                return
        self.drop()

    def _drop_pending(self) -> None:
        while self._pending:
            *_, future = self._pending.popleft()
            # An encoder at work holds the message that it reads, and nobody waits for what it makes of it.
            future.cancel()

    def _hold_back(self, marker: Marker, more_bytes: int) -> None:
        """Wait until all but two marks' worth of what will have been received is durable.

        What a sender may have to send again must not depend on how many chunks are under way.
        """

        def is_ahead() -> bool:
            return self.received_bytes + more_bytes - marker.committed_bytes > 2 * MARK_EVERY_BYTES

        while self._pending and is_ahead():
            self._store_next()
        if is_ahead():
            marker.wait()

    def _cut(self, canonical: memoryview, canonical_crc32c: int | None) -> None:
        """Encode whole chunks as views; keep a copy of what begins one."""
        chunk_bytes = self._chunk_bytes
        complete = self.received_bytes == self.new.spec.canonical_bytes
        while canonical.nbytes:
            if self._partial or (canonical.nbytes < chunk_bytes and not complete):
                piece = canonical[: chunk_bytes - len(self._partial)]
                self._partial += piece
                canonical, canonical_crc32c = canonical[piece.nbytes :], None
                if len(self._partial) == chunk_bytes or (complete and not canonical.nbytes):
                    self._encode(memoryview(bytes(self._partial)))
                    self._partial.clear()
            elif canonical.nbytes <= chunk_bytes:
                # The segment is the chunk, or its end is: the checksum that came with it may serve.
                self._encode(canonical, canonical_crc32c)
                return
            else:
                self._encode(canonical[:chunk_bytes])
                canonical, canonical_crc32c = canonical[chunk_bytes:], None

    def _encode(self, chunk: memoryview, chunk_crc32c: int | None = None) -> None:
        dtype = self.new.spec.dtype
        known_crc32c = crc32c(chunk) if chunk_crc32c is None else chunk_crc32c
        if self._begun_chunks % CHOOSE_EVERY_CHUNKS == 0 and self.new.spec.canonical_bytes > chunk.nbytes:
            self._narrowed = narrowed(self._plan, chunk, dtype)
        self._begun_chunks += 1
        if self._is_encoded_here(chunk):
            self._store(chunk, known_crc32c, encode_chunk(chunk, dtype, self._narrowed, known_crc32c))
            return
        while len(self._pending) >= self._pool.depth:
            self._store_next()
        encoding = self._pool.submit(encode_chunk, chunk, dtype, self._narrowed, known_crc32c)
        self._pending.append((chunk, known_crc32c, encoding))

    def _is_encoded_here(self, chunk: memoryview) -> bool:
        """Whether handing the chunk over would cost about as much as encoding it.

        One that is stored as it is has just been read, for its checksums, and is in this processor's cache.
        """
        return not self._pending and (chunk.nbytes <= _HERE_BYTES_MAX or self._plan.stores_raw)

    def _store_next(self) -> None:
        chunk, chunk_crc32c, future = self._pending.popleft()
        self._store(chunk, chunk_crc32c, self._pool.result_of(future))

    def _store(self, chunk: memoryview, chunk_crc32c: int, encoded: EncodedChunk) -> None:
        seeded_crc32c = encoded.crc32c ^ chunk_seed(self._payload_key, len(self._totals.index))
        self._source_crc32c = combine_crc32c(self._source_crc32c, chunk_crc32c, chunk.nbytes)
        self._totals.add(chunk.nbytes, encoded, seeded_crc32c)
        if self._value_digest is not None:
            self._value_digest.update(chunk if encoded.decoded is None else encoded.decoded)
        self._payload.append(encoded.record)
        if self._marker is not None:
            self._mark_if_due(self._marker)

    def _mark_if_due(self, marker: Marker) -> None:
        totals = self._totals
        if totals.canonical_bytes - marker.begun_bytes < MARK_EVERY_BYTES:
            return
        if totals.canonical_bytes == self.new.spec.canonical_bytes:
            return
        marker.wait()
        request_id, item = marker.upload
        upload = Upload(
            request_id=request_id,
            item=item,
            dataset_number=self._dataset.number,
            id=self.new.id,
            spec=self.new.spec,
            policy=self.new.policy or self._dataset.policy,
            payload_key=self._payload_key,
            committed_bytes=totals.canonical_bytes,
            stored_bytes=totals.stored_bytes,
            chunk_count=len(totals.index),
            announced=self.new,
            state={"source_crc32c": self._source_crc32c, "totals": totals.to_json()},
        )
        marker.begin(self._payload.keep(), Mark(upload, totals.index.since(self._marked_chunks)))
        self._marked_chunks = len(totals.index)

    def _resume(self, staging: Staging, upload: Upload) -> None:
        assert self._marker is not None
        try:
            index = self._marker.chunks(upload)
            _require_chunks(upload, index)
            payload, reader = staging.resume(upload.payload_key, upload.stored_bytes)
        except (DataCorruptError, PayloadMissingError) as error:
            self._marker.drop()
            staging.drop_kept(upload.payload_key)
            raise SessionExpiredError(
                f"item {upload.item}: {error}", dataset=self._dataset.name, tensor=upload.id
            ) from error
        except PayloadBusyError as error:
            raise StoreUnavailableError(f"item {upload.item}: {error}", dataset=self._dataset.name) from error
        self._payload_key = upload.payload_key
        self._payload = _PayloadWriter(staging, upload.payload_key, 0, payload, upload.stored_bytes)
        self._totals = Totals.from_json(self._plan, upload.state["totals"], index, upload.committed_bytes)
        self._source_crc32c = upload.state["source_crc32c"]
        self._marked_chunks = self._begun_chunks = len(index)
        self._marker.resumed(upload.committed_bytes)
        self.received_bytes = self.resumed_bytes = upload.committed_bytes
        try:
            with reader:
                self._replay(reader, upload)
        except (PayloadMissingError, CorruptChunkError) as error:
            self.drop()
            raise SessionExpiredError(
                f"item {upload.item}: {error}", dataset=self._dataset.name, tensor=upload.id
            ) from error
        except PayloadUnreadableError as error:
            payload.park()
            raise StoreUnavailableError(
                f"item {upload.item}: what is stored cannot be read: {error}", dataset=self._dataset.name
            ) from error
        except BaseException:
            payload.park()
            raise

    def _replay(self, reader: ChunkReader, upload: Upload) -> None:
        """Take every chunk that is stored into the digests."""
        starts = accumulate((stored_bytes for stored_bytes, _ in self._totals.index), initial=0)

        def decode(chunk: tuple[int, int]) -> memoryview:
            number, start = chunk
            stored_bytes, seeded_crc32c = self._totals.index[number]
            record = reader.read(start, stored_bytes)
            if crc32c(record) ^ chunk_seed(upload.payload_key, number) != seeded_crc32c:
                raise CorruptChunkError(f"chunk {number} is not what was written")
            return decode_chunk(record)

        if self._value_digest is None:
            assert self._source_digest is not None
            digest = self._source_digest
        else:
            digest, self._source_digest = self._value_digest, None
        for canonical in self._pool.map_in_order(decode, zip(range(upload.chunk_count), starts, strict=False)):
            digest.update(canonical)

    def _source_checksum(self) -> Checksum:
        if self._source_digest is None:
            return Checksum(_CRC32C, self._source_crc32c.to_bytes(4, "big"))
        return Checksum(TensorDigest.ALGORITHM, self._source_digest.digest())

    def _require_checksum(self, checksum: Checksum | None) -> None:
        if checksum is None:
            return
        if checksum.algorithm == TensorDigest.ALGORITHM and self._source_digest is None:
            raise InvalidRequestError(
                f"{checksum.algorithm} of an item that was resumed cannot be checked where its values are quantized; "
                f"send its {_CRC32C}",
                dataset=self._dataset.name,
                tensor=self.new.id,
            )
        if checksum.algorithm == TensorDigest.ALGORITHM and self._source_digest is not None:
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


def _require_chunks(upload: Upload, index: ChunkIndex) -> None:
    """Refuse chunks that are not those of the mark. Their checksums are compared when they are read again."""
    if len(index) != upload.chunk_count or index.stored_bytes != upload.stored_bytes:
        raise DataCorruptError(
            f"the catalogue is damaged: it has {len(index)} chunks of item {upload.item}, the mark {upload.chunk_count}",
            tensor=upload.id,
        )


class _PayloadWriter:
    """Holds a payload while it may become inline; then writes it, and what follows, to the chunk store."""

    def __init__(
        self,
        staging: Staging,
        payload_key: str,
        inline_bytes_max: int,
        resumed: ChunkWriter | None = None,
        length: int = 0,
    ) -> None:
        self._staging = staging
        self._payload_key = payload_key
        self._inline_bytes_max = inline_bytes_max
        self._held: list[bytes] = []
        self._writer = resumed
        self.length = length

    @property
    def is_held(self) -> bool:
        return self._writer is None

    def append(self, buffers: Sequence[Buffer]) -> None:
        self.length += sum(memoryview(buffer).nbytes for buffer in buffers)
        if self._writer is None and self.length <= self._inline_bytes_max:
            self._held.extend(bytes(buffer) for buffer in buffers)
            return
        self._spilled().append(buffers)

    def keep(self) -> Future[None]:
        return self._spilled().keep()

    def inline(self) -> bytes | None:
        """Return the payload if it is to be kept in the catalogue."""
        return b"".join(self._held) if self._writer is None else None

    def finish(self, stored: StoredTensor) -> StagedPayload | None:
        """Return the staged payload, with a footer that tells of `stored`; None where it is inline."""
        if self._writer is None:
            return None
        # The locator's length ends before it.
        self._writer.append([pack_footer(stored, time.time_ns() // 1000)])
        return self._writer.finish()

    def park(self) -> None:
        self._held.clear()
        if self._writer is not None:
            self._writer.park()

    def drop(self) -> None:
        self._held.clear()
        if self._writer is not None:
            self._writer.drop()

    def _spilled(self) -> ChunkWriter:
        """Return the writer; the first time, hand it what was held."""
        if self._writer is None:
            self._writer = self._staging.begin(self._payload_key)
            self._writer.append(self._held)
            self._held.clear()
        return self._writer
