"""Streams one tensor into the store: its canonical bytes are cut into chunks, encoded in the pool, and appended in order.

    open    →  write(bytes) ...  →  seal()  →  durable, not yet visible
       └─────────────┴──────────────→  drop()  or  park(), to be resumed

Whole small tensors do not come here: see `SmallTensors`. A streamed tensor may become inline, too, if it compresses well.

A large tensor of an insert that can be resumed gets marks: every `MARK_EVERY_BYTES`, its payload is made durable, and the state
that `resume` needs is saved. At most one mark is in flight while the stream continues. The stream waits if more than two marks'
worth of bytes, including the chunks in flight, would not be durable.

What is stored is not read again when the tensor is resumed, since that may be as much as the tensor. The digest of all bytes
cannot go on then. The values get the tensor digest instead, from the saved digests of the chunks, and the source its CRC32C.

Memory: the chunks in flight (`CodecPool.depth`, and one that is being filled), and at most `INLINE_BYTES_MAX` of stored bytes.
Bytes that arrive as whole chunks are not copied: the chunk is a view of the message.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest, chunk_seed, combine_crc32c, crc32c
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.pipeline import encode_chunk
from tensorus_protos.digest import TENSOR_DIGEST, tensor_digest
from tensorus_server.base_section import BaseSection
from tensorus_server.catalogue.abc import Mark, StoredTensor, Upload
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_store.abc import (
    PayloadBusyError,
    PayloadMissingError,
    PayloadUnreadableError,
    new_payload_key,
)
from tensorus_server.engine.insert.content import content_digest
from tensorus_server.engine.insert.encoded import Encoded
from tensorus_server.engine.insert.payload_writer import PayloadWriter
from tensorus_server.engine.insert.resuming import Choices, needs_base, require_chunks, require_last_record
from tensorus_server.engine.insert.totals import Totals
from tensorus_server.engine.validate import require_canonical, require_source_checksum
from tensorus_server.errors import (
    DataCorruptError,
    NotFoundError,
    SessionExpiredError,
    SizeMismatchError,
    StoreUnavailableError,
)
from tensorus_server.limits import INLINE_BYTES_MAX, MARK_EVERY_BYTES, RESUMABLE_BYTES_MIN
from tensorus_server.model import Checksum, Locator

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.chunk_store.abc import StagedPayload, Staging
    from tensorus_server.engine.codec_pool import CodecPool
    from tensorus_server.engine.insert.delta_base import DeltaBase
    from tensorus_server.engine.insert.marker import Marker
    from tensorus_server.model import Dataset, NewTensor

__all__ = ["TensorWriter"]

_HERE_BYTES_MAX = 64 * 1024
"""Chunks up to this size are encoded on the caller's thread."""

_CRC32C = "crc32c"


class TensorWriter:
    """See the module's description. Not thread-safe."""

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
        delta_base: DeltaBase | None = None,
    ) -> None:
        """Start with no bytes.

        Args:
            plan: the plan for the tensor's dtype, with the chunk size of the base.
            marker: saves marks; None: the tensor cannot be resumed.
            inline: whether its payload may be inline.
            delta_base: what chunks are compared with, which this object closes; None: each chunk is stored by itself.
        """
        self.new = new
        self.received_bytes = 0
        self.resumed_bytes = 0
        self._dataset = dataset
        self._plan = plan
        self._choices = Choices(plan)
        self._begun_chunks = 0
        self._chunk_bytes = plan.chunk_bytes
        # How many of the bytes that are sent belong in the next chunk.
        self._piece_bytes = plan.chunk_bytes
        self._pool = pool
        self._marker = marker if marker is not None and new.spec.canonical_bytes > RESUMABLE_BYTES_MIN else None
        self._payload_key = new_payload_key()
        self._payload = PayloadWriter(staging, self._payload_key, INLINE_BYTES_MAX if inline else 0)
        self._partial = bytearray()
        self._pending: deque[tuple[memoryview, int, Future[Encoded]]] = deque()
        # None: the tensor was resumed, so the digest of all bytes is unknown.
        self._source_digest: TensorDigest | None = TensorDigest()
        # CRC32C of the source of all stored chunks. Marks save it, so that a resumed tensor continues from there.
        self._source_crc32c = 0
        # Readers get other values than were sent only if a quantizer may be used. None also if the tensor was resumed.
        self._value_digest = None if plan.lossy is None else TensorDigest()
        self._totals = Totals(plan)
        self._delta_base = delta_base
        self._bases = BaseSection()
        self._marked_chunks = 0

    @classmethod
    def resume(
        cls,
        dataset: Dataset,
        new: NewTensor,
        plan: ChunkPlan,
        upload: Upload,
        *,
        staging: Staging,
        pool: CodecPool,
        marker: Marker,
        delta_base: DeltaBase | None = None,
    ) -> TensorWriter:
        """Continue after the upload's last mark; of what is stored, only the last chunk is read, and verified.

        Arguments as of the constructor.

        Raises:
            SessionExpiredError: the payload is missing, too short or another one, or its chunks have another base.
            StoreUnavailableError: they cannot be read, or another writer has the payload.
        """
        writer = cls(dataset, new, plan, staging=staging, pool=pool, marker=marker, delta_base=delta_base)
        try:
            writer._resume(staging, upload)
        except BaseException:
            writer._close_base()
            raise
        return writer

    @property
    def is_held(self) -> bool:
        """Whether all bytes so far are encoded and in memory, so that `seal` waits neither for a codec nor for the disk."""
        return not self._pending and self._payload.is_held

    def write(self, canonical: memoryview, canonical_crc32c: int | None = None) -> None:
        """Add the next canonical bytes; blocks while the maximum number of chunks is in flight.

        Args:
            canonical: not empty; must not change until its chunks are stored.
            canonical_crc32c: its CRC32C, if it is known.

        Raises:
            SizeMismatchError: these are more bytes than dtype and shape need.
            InvalidRequestError: the bytes are invalid for the dtype.
            StorageFullError, StoreUnavailableError: they cannot be stored.
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
            source_checksum: the checksum of the canonical bytes, if the last segment brought one.

        Returns:
            The tensor to commit, and its staged payload, which is None if it is inline.

        Raises:
            SizeMismatchError: there were fewer bytes than dtype and shape need.
            InvalidRequestError, ChecksumMismatchError: see `require_source_checksum`.
            StorageFullError, StoreUnavailableError: the payload cannot be stored.
        """
        self._complete(source_checksum)
        self._close_base()
        if self._marker is not None:
            self._marker.wait()
        overhead_bytes, index = self._append_index()
        source, value = self._checksums()
        inline, content = self._payload.inline(), None
        if inline is None:
            policy = self.new.policy or self._dataset.policy
            content = content_digest(self.new.spec, policy, self._chunk_bytes, source)
        stored = StoredTensor(
            dataset=self._dataset,
            new=self.new,
            chunk_bytes=self._chunk_bytes,
            source_checksum=source,
            value_checksum=value,
            storage=self._totals.report(overhead_bytes),
            values=self._totals.value_summary(),
            locator=Locator(self._payload_key, 0, self._payload.length, len(index), crc32c(index)),
            inline_payload=inline,
            source_crc32c=self._source_crc32c,
            content=content,
            bases=self._bases.keys,
            upload=self._marker.upload if self._marker is not None and self._marked_chunks else None,
        )
        return stored, self._payload.finish(stored)

    def _complete(self, source_checksum: Checksum | None) -> None:
        """Verify the size, encode and write the rest, and verify the checksum. Errors as of `seal`."""
        if self.received_bytes != self.new.spec.canonical_bytes:
            raise self._size_mismatch(str(self.received_bytes))
        while self._pending:
            self._store_next()
        self._require_checksum(source_checksum or self.new.source_checksum)

    def _append_index(self) -> tuple[int, bytes]:
        """Append what follows the records; return its length, and the chunk index with its end."""
        index = self._totals.index.packed()
        if self._payload.has_room(len(index)):
            # Inline payloads are small enough to be read as a whole, and have no chunk details.
            self._payload.append([index])
            return len(index), index
        return self._payload.append_end(self._totals, self._bases)

    def drop(self) -> None:
        """Drop everything. Idempotent."""
        self._drop_pending()
        self._close_base()
        self._payload.drop()
        if self._marker is not None and self._marked_chunks:
            self._marker.drop()

    def park(self) -> None:
        """Keep the payload up to the last mark, so that it can be resumed; drop the rest. Without a mark, drop everything."""
        if self._marker is not None and self._marked_chunks:
            self._marker.settle()
            if self._marker.committed_bytes:
                self._drop_pending()
                self._close_base()
                self._payload.park()
                return
        self.drop()

    def _drop_pending(self) -> None:
        while self._pending:
            *_, future = self._pending.popleft()
            # Nobody needs the result. An encoder that has started keeps its message in memory until it ends.
            future.cancel()

    def _close_base(self) -> None:
        if self._delta_base is not None:
            self._delta_base.close()

    def _hold_back(self, marker: Marker, more_bytes: int) -> None:
        """Wait until all received bytes and these are durable, except for two marks' worth.

        So the number of bytes that a sender may have to send again does not depend on the number of chunks in flight.
        """

        def is_ahead() -> bool:
            return self.received_bytes + more_bytes - marker.committed_bytes > 2 * MARK_EVERY_BYTES

        while self._pending and is_ahead():
            self._store_next()
        if is_ahead():
            marker.wait()

    def _cut(self, canonical: memoryview, canonical_crc32c: int | None) -> None:
        """Cut the bytes into chunks and encode these. Whole chunks are views; the beginning of a chunk is copied."""
        complete = self.received_bytes == self.new.spec.canonical_bytes
        while canonical.nbytes:
            chunk_bytes = self._piece_bytes
            if self._partial or (canonical.nbytes < chunk_bytes and not complete):
                piece = canonical[: chunk_bytes - len(self._partial)]
                self._partial += piece
                canonical, canonical_crc32c = canonical[piece.nbytes :], None
                if len(self._partial) == chunk_bytes or (complete and not canonical.nbytes):
                    self._encode(memoryview(bytes(self._partial)))
                    self._partial.clear()
            elif canonical.nbytes <= chunk_bytes:
                # The chunk is the whole segment or its end. If it is the whole, its checksum may be known.
                self._encode(canonical, canonical_crc32c)
                return
            else:
                self._encode(canonical[:chunk_bytes])
                canonical, canonical_crc32c = canonical[chunk_bytes:], None

    def _encode(self, chunk: memoryview, chunk_crc32c: int | None = None) -> None:
        dtype = self.new.spec.dtype
        known_crc32c = crc32c(chunk) if chunk_crc32c is None else chunk_crc32c
        number, self._begun_chunks = self._begun_chunks, self._begun_chunks + 1
        chunk_plan = self._plan
        if self.new.spec.canonical_bytes > chunk.nbytes:
            chunk_plan = self._choices.plan(number, chunk, dtype)
        if self._is_encoded_here(chunk):
            self._store(chunk, known_crc32c, _encoded(chunk, dtype, chunk_plan, known_crc32c))
            return
        while len(self._pending) >= self._pool.depth:
            self._store_next()
        if self._delta_base is None:
            encoding = self._pool.submit(_encoded, chunk, dtype, chunk_plan, known_crc32c)
        else:
            encoding = self._pool.submit(self._delta_base.encode, number, chunk, chunk_plan, known_crc32c)
        self._pending.append((chunk, known_crc32c, encoding))

    def _is_encoded_here(self, chunk: memoryview) -> bool:
        """Whether to encode the chunk on this thread, because the hand-over would take about as long as the encoding.

        A raw chunk has just been read for its checksums, so it is in this processor's cache. A chunk with a base has to be
        read as well.
        """
        return (
            self._delta_base is None
            and not self._pending
            and (chunk.nbytes <= _HERE_BYTES_MAX or self._plan.stores_raw)
        )

    def _store_next(self) -> None:
        chunk, chunk_crc32c, future = self._pending.popleft()
        self._store(chunk, chunk_crc32c, self._pool.result_of(future))

    def _store(self, chunk: memoryview, chunk_crc32c: int, encoding: Encoded) -> None:
        self._source_crc32c = combine_crc32c(self._source_crc32c, chunk_crc32c, chunk.nbytes)
        if self._value_digest is not None:
            decoded = encoding.chunk.decoded
            self._value_digest.update(chunk if decoded is None else decoded)
        self._append_record(encoding)
        if self._marker is not None:
            self._mark_if_due(self._marker)

    def _append_record(self, encoding: Encoded) -> None:
        encoded = encoding.chunk
        if encoding.base is not None:
            # A payload that others may need as their base outlives its row, and so does one with bases.
            self._payload.spilled()
            self._bases.add(len(self._totals.index), encoding.base)
        seeded_crc32c = encoded.crc32c ^ chunk_seed(self._payload_key, len(self._totals.index))
        self._totals.add(encoding.canonical_bytes, encoded, seeded_crc32c, encoding.digest)
        self._payload.append(encoded.record)

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
            state={
                "source_crc32c": self._source_crc32c,
                "totals": totals.to_json(),
                "base": self._base_generation,
                "choice": self._choices.to_json(len(totals.index)),
            },
        )
        new_details = ChunkDetails()
        new_details.extend(totals.details, self._marked_chunks, len(totals.index) - self._marked_chunks)
        marker.begin(self._payload.keep(), Mark(upload, totals.index.since(self._marked_chunks), new_details))
        self._marked_chunks = len(totals.index)

    @property
    def _base_generation(self) -> int | None:
        return None if self._delta_base is None else self._delta_base.tensor.generation

    def _resume(self, staging: Staging, upload: Upload) -> None:
        assert self._marker is not None
        try:
            if upload.state.get("base") != self._base_generation:
                raise DataCorruptError("the base was replaced or deleted")
            index, details = self._marker.chunks(upload)
            require_chunks(upload, index, details)
            if self._delta_base is not None:
                for number in details.chunks_with(needs_base):
                    self._bases.add(number, self._delta_base.place(number))
            payload, reader = staging.resume(upload.payload_key, upload.stored_bytes)
        except (DataCorruptError, NotFoundError, PayloadMissingError) as error:
            self._marker.drop()
            staging.drop_kept(upload.payload_key)
            raise self._expired(upload, error) from error
        except PayloadBusyError as error:
            raise StoreUnavailableError(f"item {upload.item}: {error}", dataset=self._dataset.name) from error
        self._payload_key = upload.payload_key
        self._payload = PayloadWriter(staging, upload.payload_key, 0, payload, upload.stored_bytes)
        self._totals = Totals.from_json(self._plan, upload.state["totals"], index, details, upload.committed_bytes)
        self._source_crc32c = upload.state["source_crc32c"]
        self._source_digest = self._value_digest = None
        self._marked_chunks = self._begun_chunks = len(index)
        self._choices.resume(len(index), upload.state.get("choice"))
        self._marker.resumed(upload.committed_bytes)
        self.received_bytes = self.resumed_bytes = upload.committed_bytes
        try:
            with reader:
                require_last_record(upload, index, reader)
        except (PayloadMissingError, CorruptChunkError) as error:
            self.drop()
            raise self._expired(upload, error) from error
        except PayloadUnreadableError as error:
            payload.park()
            raise StoreUnavailableError(
                f"item {upload.item}: what is stored cannot be read: {error}", dataset=self._dataset.name
            ) from error
        except BaseException:
            payload.park()
            raise

    def _expired(self, upload: Upload, error: Exception) -> SessionExpiredError:
        return SessionExpiredError(f"item {upload.item}: {error}", dataset=self._dataset.name, tensor=upload.id)

    def _checksums(self) -> tuple[Checksum, Checksum]:
        """Return the source checksum and the value checksum."""
        if self._source_digest is None:
            spec, digests = self.new.spec, self._totals.details.digests
            dtype = spec.dtype
            value = tensor_digest(dtype.number, 8 * dtype.element_bytes, spec.shape, self._chunk_bytes, digests)
            source = self._source_crc32c.to_bytes(4, "big")
            return Checksum(_CRC32C, source), Checksum(TENSOR_DIGEST, value)
        checksum = Checksum(TensorDigest.ALGORITHM, self._source_digest.digest())
        if self._value_digest is None:
            return checksum, checksum
        return checksum, Checksum(TensorDigest.ALGORITHM, self._value_digest.digest())

    def _require_checksum(self, checksum: Checksum | None) -> None:
        if checksum is not None:
            digest = None if self._source_digest is None else self._source_digest.digest()
            require_source_checksum(
                checksum, self.new, digest=digest, crc32c=self._source_crc32c, dataset=self._dataset.name
            )

    def _size_mismatch(self, sent: str) -> SizeMismatchError:
        spec = self.new.spec
        return SizeMismatchError(
            f"{sent} bytes were sent, {spec.dtype.name} of shape {list(spec.shape)} has {spec.canonical_bytes} bytes",
            dataset=self._dataset.name,
            tensor=self.new.id,
            limit=spec.canonical_bytes,
        )


def _encoded(chunk: memoryview, dtype: DType, plan: ChunkPlan, chunk_crc32c: int) -> Encoded:
    encoded = encode_chunk(chunk, dtype, plan, chunk_crc32c)
    return Encoded.of(encoded, chunk)
