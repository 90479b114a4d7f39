"""The chunks of a tensor that is being edited: decoded, or as records to be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import CodecError, CorruptChunkError
from tensorus_codecs.measure import MeasuredError
from tensorus_codecs.pipeline import EncodedChunk, codec_ids
from tensorus_codecs.summary import summarize
from tensorus_server.engine.insert.encoded import Encoded
from tensorus_server.engine.read.payload import damage

if TYPE_CHECKING:
    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_server.engine.read.chunks import TensorChunks
    from tensorus_server.model import Tensor

__all__ = ["BaseChunks"]


class BaseChunks:
    """See the module's description. Thread-safe."""

    def __init__(self, tensor: Tensor, chunks: TensorChunks) -> None:
        """Read the chunks of `tensor` through `chunks`."""
        self.tensor = tensor
        self.chunks = chunks
        self._chunk_count = -(-tensor.spec.canonical_bytes // tensor.chunk_bytes)

    @property
    def has_details(self) -> bool:
        """Whether there are chunk details; without them, the tensor has to be written anew."""
        return self.chunks.own.index.end is not None

    def decoded(self, chunk: int) -> memoryview:
        """Return the canonical bytes of a chunk; empty if the tensor ends before it.

        Raises:
            DataCorruptError: the chunk is damaged.
            UnsupportedCodecError: a codec is not installed.
        """
        if chunk >= self._chunk_count:
            return memoryview(b"")
        record, _ = self.chunks.read_record(chunk)
        return self._decode(chunk, record)[1]

    def as_encoded(self, chunk: int) -> Encoded:
        """Return a chunk as if it had been encoded again to the same record. Errors as of `decoded`.

        For payloads without chunk details. What they do not tell is estimated from the report on the whole tensor: each chunk
        gets its relative and its largest error.
        """
        data, record_crc32c = self.chunks.read_record(chunk)
        record, canonical = self._decode(chunk, data)
        values = np.frombuffer(canonical, self.tensor.spec.dtype.component)
        with np.errstate(all="ignore"):
            summary = summarize(values, self.tensor.spec.dtype)
        storage = self.tensor.storage
        error, quantized_bytes = None, canonical.nbytes
        if record.quantizer:
            quantized_bytes = max(1, storage.quantized_bytes * canonical.nbytes // storage.canonical_bytes)
            count = values.size if summary is None else summary.finite_count
            rms = 0.0 if summary is None or not count else (summary.total_of_squares / count) ** 0.5
            error = MeasuredError(count, storage.relative_error * rms, rms, storage.max_absolute_error)
        encoded = EncodedChunk(
            record=(data,),
            stored_bytes=len(data),
            crc32c=record_crc32c,
            encoding=self._encoding(record),
            quantized_bytes=quantized_bytes,
            decoded=None,
            error=error,
            summary=summary,
            fallback_reason="",
        )
        return Encoded.of(encoded, canonical)

    def _decode(self, chunk: int, data: bytes) -> tuple[ChunkRecord, memoryview]:
        try:
            record = parse_record(data)
        except CorruptChunkError as error:
            raise damage(self.tensor, f"chunk {chunk}: {error}", chunk=chunk) from error
        canonical = self.chunks.decode(chunk, record)
        expected = min(self.tensor.chunk_bytes, self.tensor.spec.canonical_bytes - chunk * self.tensor.chunk_bytes)
        if canonical.nbytes != expected:
            raise damage(
                self.tensor, f"chunk {chunk} has {canonical.nbytes} canonical bytes, expected {expected}", chunk=chunk
            )
        return record, canonical

    def _encoding(self, record: ChunkRecord) -> Encoding:
        """Return the encoding of a record, with its settings if the tensor's report has them."""
        ids = codec_ids(record)
        for share in self.tensor.storage.encodings:
            if tuple(step["id"] for step in share.encoding) == ids:
                return Encoding.from_json(list(share.encoding))
        try:
            return Encoding.from_json([{"id": codec_id, "configuration": {}} for codec_id in ids])
        except CodecError:
            return Encoding()
