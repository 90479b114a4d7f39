"""Reads a tensor or a part of it: plan chunks → read and verify → decode or pass through → pieces of the result, in order.

A whole tensor, or a part that is one contiguous run of bytes, is read chunk by chunk. A chunk that lies completely inside the
run is sent as it is stored if the client accepts its codecs. Any other slice is gathered: each chunk that it touches is
decoded, and the selected values are copied out of it. Chunks are decoded in the codec pool, a few chunks ahead. If nothing
needs decoding, the caller's thread does the work.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tensorus_codecs.base import base_digest
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.chunk_record import RAW_HEADER_BYTES, pack_header, parse_record
from tensorus_codecs.coarse import COARSE_CODECS, COARSE_ERROR, has_coarse_form
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import codec_ids
from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server.catalogue.abc import DamagedTensor, PageRequest
from tensorus_server.chunk_index import IndexCache
from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.engine.read.ahead import announced, tensors_announced
from tensorus_server.engine.read.cast import Cast
from tensorus_server.engine.read.chunks import TensorChunks
from tensorus_server.engine.read.payload import damage, raw_record
from tensorus_server.engine.read.slices import SlicePlan, resolve_slices
from tensorus_server.errors import (
    DataCorruptError,
    InvalidRequestError,
    InvalidSliceError,
    StoreUnavailableError,
    TensorNotFoundError,
)
from tensorus_server.limits import PAYLOAD_BYTES_MAX
from tensorus_server.model import ByteRange, SliceSet, Tensor, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from typing_extensions import Buffer

    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_codecs.dtypes import DType
    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import ChunkReader, PayloadStore
    from tensorus_server.engine.codec_pool import CodecPool
    from tensorus_server.model import Part, Precision

__all__ = ["Piece", "ReadPlan", "TensorReader", "coarse_error", "decode_chunk", "stored_form"]

T = TypeVar("T")

_HERE_BYTES_MAX = 64 * 1024
"""Up to this size, the caller's thread decodes: the hand-over to another takes longer (measured at 1 KiB: 0.1 ms)."""


@plain_dataclass
class Piece:
    """A run of the result's canonical bytes."""

    offset: int
    """Offset of its first byte within the result."""
    decoded_length: int
    """Number of canonical bytes."""
    data: Buffer
    """The canonical bytes, or a chunk record that decodes to them."""
    crc32c: int
    """CRC32C of `data`."""
    codec_ids: tuple[str, ...] = ()
    """The codecs that decode `data`, which is a chunk record; empty: `data` is canonical."""


@dataclass(frozen=True)
class _Run:
    """The bytes of one chunk that belong to a contiguous part."""

    chunk: int
    start: int
    """First byte within the chunk."""
    stop: int
    """End within the chunk, exclusive."""
    offset: int
    """Offset within the result."""


@dataclass(frozen=True)
class _Accepted:
    """Which records may be sent as they are stored."""

    codecs: frozenset[str]
    record_bytes_max: int


class ReadPlan:
    """Which bytes of a tensor to read, and the spec of the result; checked against the tensor's shape."""

    def __init__(
        self, tensor: Tensor, part: Part, as_dtype: DType | None = None, precision: Precision | None = None
    ) -> None:
        """Plan to read `part`.

        Args:
            as_dtype: the dtype to cast values to; None: no cast.
            precision: how exact the values must be; None: as stored.

        Raises:
            InvalidSliceError: the part is outside the tensor.
            InvalidRequestError: the values cannot be cast to that dtype, or the part has no precision.
        """
        spec = tensor.spec
        self.coarse_error = coarse_error(tensor, precision)
        self.cast = None if as_dtype is None or as_dtype == spec.dtype else Cast(spec.dtype, as_dtype)
        self.slices: SlicePlan | None = None
        self.first, self.length = 0, spec.canonical_bytes
        self.result = spec
        if isinstance(part, ByteRange):
            self.first, self.length = _checked_range(part, tensor)
            self.result = TensorSpec(dtype_by_name("uint8"), (self.length,))
        elif isinstance(part, SliceSet):
            selected = resolve_slices(part, spec.shape, dataset=tensor.dataset, tensor=tensor.id)
            slices = SlicePlan(spec.shape, selected, tensor.chunk_bytes // spec.dtype.element_bytes)
            self.result = TensorSpec(spec.dtype, slices.result_shape)
            run = slices.contiguous()
            if run is None:
                self.slices = slices
            else:
                self.first, self.length = (amount * spec.dtype.element_bytes for amount in run)
        if precision is not None and isinstance(part, ByteRange):
            raise InvalidRequestError(
                "precision does not apply to a byte range, which has the bytes of the stored values"
            )
        if self.cast is not None:
            if isinstance(part, ByteRange):
                raise InvalidRequestError("as_dtype does not apply to a byte range, which has no dtype to cast from")
            self.result = self.cast.spec(self.result)

    def runs(self, chunk_bytes: int) -> Iterator[_Run]:
        """Yield, for each chunk, its bytes that belong to the contiguous part."""
        end = self.first + self.length
        if self.length == 0:
            return
        for chunk in range(self.first // chunk_bytes, (end - 1) // chunk_bytes + 1):
            begin = chunk * chunk_bytes
            start, stop = max(self.first - begin, 0), min(end - begin, chunk_bytes)
            yield _Run(chunk, start, stop, begin + start - self.first)


def coarse_error(tensor: Tensor, precision: Precision | None) -> float:
    """Return an upper bound of the relative error that reading at this precision makes; 0: every chunk is read exactly."""
    if precision is None or not any(_has_coarse_form(tensor, share.encoding) for share in tensor.storage.encodings):
        return 0.0
    return COARSE_ERROR


class TensorReader:
    """Reads tensors. All streams share one reader."""

    def __init__(self, catalogue: Catalogue, payloads: PayloadStore, pool: CodecPool) -> None:
        """Read from `payloads`, and decode in `pool`."""
        self._catalogue = catalogue
        self._payloads = payloads
        self._pool = pool
        self._indexes = IndexCache()

    def announced(self, items: Iterable[T], tensor_of: Callable[[T], Tensor | None]) -> Iterator[T]:
        """Yield items after the payloads of their tensors were announced: see `tensors_announced`."""
        return tensors_announced(self._payloads, items, tensor_of)

    def read(
        self,
        tensor: Tensor,
        plan: ReadPlan,
        accepted_codecs: frozenset[str] = frozenset(),
        *,
        record_bytes_max: int = PAYLOAD_BYTES_MAX,
    ) -> Iterator[Piece]:
        """Yield the pieces of the planned part; their lengths add up to the result's canonical bytes.

        The payload is opened for the first piece and stays open until the last, so the read succeeds even if the tensor is
        deleted meanwhile.

        Args:
            tensor: must have its inline payload, if it is stored inline.
            accepted_codecs: ids of the codecs that the client can decode.
            record_bytes_max: larger records are always decoded.

        Raises:
            DataCorruptError: stored bytes are damaged.
            TensorNotFoundError: the tensor was deleted before its payload was opened.
            StoreUnavailableError: the payload cannot be opened now.
            UnsupportedCodecError: a codec that the tensor needs is not installed.
        """
        if plan.result.canonical_bytes == 0:
            return
        if plan.cast is not None:
            for piece in self._read(tensor, plan, _Accepted(frozenset(), record_bytes_max)):
                data = plan.cast.values(piece.data)
                yield Piece(plan.cast.offset(piece.offset), data.nbytes, data, crc32c(data))
            return
        yield from self._read(tensor, plan, _Accepted(accepted_codecs, record_bytes_max))

    def _read(self, tensor: Tensor, plan: ReadPlan, accepted: _Accepted) -> Iterator[Piece]:
        with self.chunks(tensor) as chunks:
            if plan.slices is not None:
                yield from self._gather(tensor, chunks, plan.slices, coarse=plan.coarse_error > 0)
            else:
                yield from self._run_through(tensor, chunks, plan, accepted)

    @contextmanager
    def chunks(self, tensor: Tensor) -> Iterator[TensorChunks]:
        """Open the chunks of a tensor. Errors as of `read`."""
        with self._open(tensor, tensor.locator.key) as reader:
            chunks = TensorChunks(tensor, reader, partial(self._open, tensor), self._indexes)
            try:
                yield chunks
            finally:
                chunks.close()

    def _run_through(
        self, tensor: Tensor, chunks: TensorChunks, plan: ReadPlan, accepted: _Accepted
    ) -> Iterator[Piece]:
        coarse = plan.coarse_error > 0

        def work(run: _Run) -> Piece:
            return _read_run(tensor, chunks, run, accepted, coarse=coarse)

        runs = plan.runs(tensor.chunk_bytes)
        if not coarse:
            runs = announced(chunks, runs, lambda run: run.chunk)
        if plan.length > _HERE_BYTES_MAX and _has_codec_work(tensor, accepted, coarse=coarse):
            yield from self._pool.map_in_order(work, runs)
        else:
            # Measured on 2 cores: the hand-over to another thread costs more than the overlap gains.
            yield from map(work, runs)

    def _gather(self, tensor: Tensor, chunks: TensorChunks, slices: SlicePlan, *, coarse: bool) -> Iterator[Piece]:
        element_bytes = tensor.spec.dtype.element_bytes

        def work(chunk: int) -> list[Piece]:
            record = _coarse_record(tensor, chunks, chunk) if coarse else None
            if record is None:
                stored, _ = chunks.read_record(chunk)
                record = _parse(tensor, chunk, stored)
            canonical = chunks.decode(chunk, record)
            values = np.frombuffer(canonical, np.dtype((np.void, element_bytes)))
            pieces = []
            for found in slices.pieces(chunk, values):
                data = np.ascontiguousarray(found.values).reshape(-1).view(np.uint8)
                pieces.append(Piece(found.offset * element_bytes, data.nbytes, data, crc32c(data)))
            return pieces

        numbers = iter(slices.chunks())
        if not coarse:
            numbers = announced(chunks, numbers, lambda chunk: chunk)
        for pieces in self._pool.map_in_order(work, numbers):
            yield from pieces

    def _open(self, tensor: Tensor, key: str) -> ChunkReader:
        if tensor.inline_payload is not None and key == tensor.locator.key:
            return BytesReader(tensor.inline_payload)
        try:
            return self._payloads.open(key)
        except PayloadMissingError as error:
            current = self._current(tensor)
            if current is None:
                raise TensorNotFoundError("the tensor was deleted", dataset=tensor.dataset, tensor=tensor.id) from error
            if isinstance(current, Tensor) and key == tensor.locator.key != current.locator.key:
                # The payload was moved to another pack since the row was read, and no more than that.
                return self._open(current, current.locator.key)
            raise DataCorruptError(
                "the payload is missing from the chunk store", dataset=tensor.dataset, tensor=tensor.id
            ) from error
        except StoreUnavailableError as error:
            # This may be damage, or only too many open files, so it is not reported as damage: a retry may succeed.
            facts = {**error.facts, "dataset": tensor.dataset, "tensor": tensor.id}
            raise StoreUnavailableError(f"the payload cannot be opened: {error}", **facts) from error

    def _current(self, tensor: Tensor) -> Tensor | DataCorruptError | None:
        """Return the tensor as it is now, also if it was replaced or deleted and is kept; None: it is gone."""
        (current,) = self._catalogue.tensors.by_generation(tensor.dataset, [tensor.generation])
        if current is not None:
            return current
        before = tensor.generation - 1
        request = PageRequest(size=1, after=(before, before), generation_max=tensor.generation, with_past=True)
        found = self._catalogue.tensors.page(tensor.dataset, request).tensors
        if not found:
            return None
        return found[0].error if isinstance(found[0], DamagedTensor) else found[0]


def decode_chunk(tensor: Tensor, chunks: TensorChunks, chunk: int, record: bytes) -> memoryview:
    """Return the canonical bytes of a chunk.

    Args:
        chunks: the tensor's chunks, which have the bases of the chunk, if it needs any.
        record: the chunk's record, with a verified checksum.

    Raises:
        DataCorruptError: the record is not one of this chunk, or does not decode.
        UnsupportedCodecError: it needs a codec that is not installed.
    """
    return chunks.decode(chunk, _parse(tensor, chunk, record))


def _checked_range(part: ByteRange, tensor: Tensor) -> tuple[int, int]:
    available = tensor.spec.canonical_bytes
    length = max(available - part.offset, 0) if part.length is None else part.length
    if part.offset > available or part.offset + length > available:
        raise InvalidSliceError(
            f"byte range is {part.offset} to {part.offset + length}, the tensor has {available} bytes",
            dataset=tensor.dataset,
            tensor=tensor.id,
            limit=available,
        )
    return part.offset, length


def _has_coarse_form(tensor: Tensor, encoding: Sequence[Mapping[str, Any]]) -> bool:
    return has_coarse_form(tensor.spec.dtype, (step["id"] for step in encoding))


def _has_codec_work(tensor: Tensor, accepted: _Accepted, *, coarse: bool) -> bool:
    for share in tensor.storage.encodings:
        ids = [step["id"] for step in share.encoding]
        if coarse and has_coarse_form(tensor.spec.dtype, ids):
            ids[:1] = COARSE_CODECS
        if not accepted.codecs.issuperset(ids):
            return True
    return False


def _read_run(tensor: Tensor, chunks: TensorChunks, run: _Run, accepted: _Accepted, *, coarse: bool) -> Piece:
    """Return the run's bytes; a whole chunk in its stored form, or in its coarse form if `coarse`, if the client takes that."""
    if coarse:
        coarse_record = _coarse_record(tensor, chunks, run.chunk)
        if coarse_record is not None:
            return _coarse_piece(tensor, chunks, run, coarse_record, accepted)
    record, record_crc32c = chunks.read_record(run.chunk)
    chunk_bytes = _chunk_bytes(tensor, run.chunk)
    if run.stop - run.start == chunk_bytes:
        codecs = accepted.codecs if len(record) <= accepted.record_bytes_max else frozenset()
        piece = stored_form(
            tensor, chunk_bytes, memoryview(record), record_crc32c, codecs, chunk=run.chunk, offset=run.offset
        )
        if piece is not None:
            return piece
    return _decoded_piece(chunks, run, _parse(tensor, run.chunk, record))


def _coarse_piece(tensor: Tensor, chunks: TensorChunks, run: _Run, record: ChunkRecord, accepted: _Accepted) -> Piece:
    if run.stop - run.start == record.canonical_bytes and accepted.codecs:
        ids = _codec_ids(tensor, run.chunk, record)
        if accepted.codecs.issuperset(ids):
            data = b"".join((pack_header(record), *(stream.data for stream in record.streams)))
            if len(data) <= accepted.record_bytes_max:
                return Piece(run.offset, record.canonical_bytes, data, crc32c(data), ids)
    return _decoded_piece(chunks, run, record)


def _decoded_piece(chunks: TensorChunks, run: _Run, record: ChunkRecord) -> Piece:
    part = chunks.decode(run.chunk, record)[run.start : run.stop]
    return Piece(run.offset, part.nbytes, part, crc32c(part))


def _coarse_record(tensor: Tensor, chunks: TensorChunks, chunk: int) -> ChunkRecord | None:
    record = chunks.read_coarse(chunk)
    if record is not None:
        _require_fit(tensor, chunk, record)
    return record


def stored_form(
    tensor: Tensor,
    chunk_bytes: int,
    record: memoryview,
    record_crc32c: int,
    accepted_codecs: frozenset[str],
    *,
    chunk: int = 0,
    offset: int = 0,
) -> Piece | None:
    """Return a whole chunk without decoding it: its values if they are raw, or else its record; None if it must be decoded.

    Args:
        chunk_bytes: canonical bytes of the chunk.
        record: its record, which was verified.
        record_crc32c: the record's CRC32C.
        accepted_codecs: ids of the codecs that the client can decode.
        chunk: the chunk's number.
        offset: its offset within the result.

    Raises:
        DataCorruptError: the record breaks a rule of the format, or belongs to another chunk.
        UnsupportedCodecError: no package that is installed here has the codec.
    """
    header, header_crc32c = raw_record(tensor.spec.dtype, chunk_bytes)
    if len(record) == RAW_HEADER_BYTES + chunk_bytes and record[:RAW_HEADER_BYTES] == header:
        # The CRC32C of the values, without a pass over them: see `raw_record`.
        return Piece(offset, chunk_bytes, record[RAW_HEADER_BYTES:], record_crc32c ^ header_crc32c)
    if not accepted_codecs:
        return None
    parsed = _parse(tensor, chunk, record)
    ids = _codec_ids(tensor, chunk, parsed)
    # No codecs: a raw record of another dtype of the same width, such as one from before this version knew the dtype. A base,
    # which the client has not got, is needed whatever the client accepts.
    if not ids or not accepted_codecs.issuperset(ids) or base_digest(parsed) is not None:
        return None
    return Piece(offset, chunk_bytes, record, record_crc32c, ids)


def _chunk_bytes(tensor: Tensor, chunk: int) -> int:
    """Return the number of canonical bytes of a chunk; the last one may be shorter than the others."""
    return min(tensor.chunk_bytes, tensor.spec.canonical_bytes - chunk * tensor.chunk_bytes)


def _parse(tensor: Tensor, chunk: int, data: Buffer) -> ChunkRecord:
    """Parse a record and check that it fits this chunk of this tensor."""
    try:
        record = parse_record(data)
    except CorruptChunkError as error:
        raise damage(tensor, f"chunk {chunk}: {error}", chunk=chunk) from error
    _require_fit(tensor, chunk, record)
    return record


def _require_fit(tensor: Tensor, chunk: int, record: ChunkRecord) -> None:
    expected = _chunk_bytes(tensor, chunk)
    if record.canonical_bytes != expected or record.dtype.element_bytes != tensor.spec.dtype.element_bytes:
        raise damage(
            tensor,
            f"chunk {chunk} has {record.canonical_bytes} canonical bytes of {record.dtype.name}, "
            f"expected {expected} of {tensor.spec.dtype.name}",
            chunk=chunk,
        )


def _codec_ids(tensor: Tensor, chunk: int, record: ChunkRecord) -> tuple[str, ...]:
    try:
        return codec_ids(record)
    except UnsupportedCodecError:
        # Also raised for unknown codec numbers. That is not damage: a third-party package may provide the codec.
        raise
    except CorruptChunkError as error:
        raise damage(tensor, f"chunk {chunk}: {error}", chunk=chunk) from error
