"""One chunk in, one chunk record out, and back.

Encoding measures what it did: a quantized chunk is decoded at once, its error is compared with the contract, and a chunk
that breaks it is stored losslessly. No record is larger than that of the raw chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, ChunkRecord, Stream, pack_header, parse_record
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError
from tensorus_codecs.registry import codec_by_number, codec_id
from tensorus_codecs.summary import summarize

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

    from tensorus_codecs.abc import Values, Words
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import ChunkPlan
    from tensorus_codecs.summary import PartialSummary

__all__ = ["EncodedChunk", "MeasuredError", "codec_ids", "decode_chunk", "decode_record", "encode_chunk"]

_BLOCK_VALUES = 32768
"""Errors are summed in float64 over blocks that stay in the cache."""

_SQUARES_FIT = (1e-280, 1e300)
"""Sums of squares to which nothing was lost below float64's normal numbers, nor above its largest."""

_UNCOMPRESSED = 0


@dataclass(frozen=True)
class MeasuredError:
    """What a quantizer did to some values; `a + b` is over both.

    Means instead of sums: their squares stay in float64's range wherever the values do.
    """

    count: int = 0
    """Finite values."""
    rms_error: float = 0.0
    """Root of the mean of (v - decoded)**2 over finite values."""
    rms_value: float = 0.0
    """Root of the mean of v**2 over finite values."""
    max_absolute_error: float = 0.0
    """Largest |v - decoded|; infinite where a value became NaN or infinite, or one of these a number."""

    def __add__(self, other: MeasuredError) -> MeasuredError:
        """Return what was done to the values of both."""
        count = self.count + other.count
        mine, theirs = (math.sqrt(part.count / count) if count else 0.0 for part in (self, other))
        return MeasuredError(
            count,
            math.hypot(self.rms_error * mine, other.rms_error * theirs),
            math.hypot(self.rms_value * mine, other.rms_value * theirs),
            max(self.max_absolute_error, other.max_absolute_error),
        )

    @property
    def relative_error(self) -> float:
        """L2 norm of the error over L2 norm of the values; infinite where only the latter is zero."""
        if self.rms_error == 0:
            return 0.0
        return self.rms_error / self.rms_value if self.rms_value > 0 else math.inf


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk's record, and what encoding did to it."""

    record: tuple[Buffer, ...]
    """The record's bytes in order; the last piece may be the caller's own canonical bytes."""
    stored_bytes: int
    """Of the record."""
    crc32c: int
    """Of the record, not seeded."""
    encoding: Encoding
    """What was done, which may be less than what was asked for."""
    quantized_bytes: int
    """After the quantizer, parameters included; the canonical bytes where there was none."""
    decoded: Buffer | None
    """The canonical bytes that readers get; None: those that came in."""
    error: MeasuredError | None
    """None where lossless."""
    summary: PartialSummary | None
    """Of the values that came in; None for dtypes without."""
    fallback_reason: str
    """Why the chunk is lossless although it should not be; empty where it is as asked."""


def encode_chunk(canonical: Buffer, dtype: DType, plan: ChunkPlan) -> EncodedChunk:
    """Encode one chunk.

    Args:
        canonical: whole elements, 1 byte to 2 MiB.
        plan: of this dtype.

    Returns:
        The record, in pieces that must be written one after the other.
    """
    view = memoryview(canonical).cast("B")
    if not 1 <= view.nbytes <= CANONICAL_BYTES_MAX or view.nbytes % dtype.element_bytes:
        raise ValueError(f"a chunk is {view.nbytes} bytes, must be 1 to {CANONICAL_BYTES_MAX} and whole elements")
    # The values are the user's: overflow and NaN are handled where they can occur, and warn nobody.
    with np.errstate(all="ignore"):
        summary = summarize(np.frombuffer(view, dtype.component), dtype)
        encoded, fallback_reason = None, ""
        if plan.encoding.quantizer is not None:
            encoded, fallback_reason = _encode_lossy(view, dtype, plan)
        if encoded is None:
            lossless = plan.encoding if plan.encoding.quantizer is None else plan.lossless
            encoded = _encode_lossless(view, dtype, lossless)
    return replace(encoded, summary=summary, fallback_reason=fallback_reason)


def decode_chunk(record: Buffer) -> memoryview:
    """Return the canonical bytes of a record: for a raw chunk a view of its end, otherwise fresh memory.

    Allocates at most a few times 2 MiB, whatever the record claims.

    Raises:
        CorruptChunkError: the record is not one that `encode_chunk` wrote.
        UnsupportedCodecError: it needs a codec whose library is not installed.
    """
    return decode_record(parse_record(record))


def decode_record(record: ChunkRecord) -> memoryview:
    """Return the canonical bytes of a parsed record. See `decode_chunk`."""
    dtype = record.dtype
    quantizer = codec_by_number(Quantizer, record.quantizer) if record.quantizer else None
    if quantizer is None:
        return _bytes_of(_decode_words(record, dtype.word, record.canonical_bytes // dtype.word.itemsize))
    if not quantizer.applies_to(dtype):
        raise CorruptChunkError(f"chunk record: quantizer {quantizer.id} does not apply to {dtype.name}")
    count = record.canonical_bytes // dtype.component.itemsize
    words = _decode_words(record, np.dtype(f"<u{quantizer.code_dtype.itemsize}"), count)
    with np.errstate(all="ignore"):
        values = quantizer.decode(words.view(quantizer.code_dtype), record.parameters, dtype.component)
    return _bytes_of(values)


def codec_ids(record: ChunkRecord) -> tuple[str, ...]:
    """Return the ids of the codecs that decoding the record takes, in the order in which they encoded it.

    Raises:
        CorruptChunkError: a number in it belongs to no codec.
    """
    numbers = [(Quantizer, record.quantizer), (Filter, record.filter)]
    numbers += [(Compressor, number) for number in dict.fromkeys(stream.compressor for stream in record.streams)]
    return tuple(codec_id(kind, number) for kind, number in numbers if number)


def _encode_lossy(view: memoryview, dtype: DType, plan: ChunkPlan) -> tuple[EncodedChunk | None, str]:
    """Return the quantized chunk, or None and the reason why it must be lossless."""
    quantizer = plan.encoding.quantizer
    assert quantizer is not None
    values = np.frombuffer(view, dtype.component)
    try:
        quantized = quantizer.encode(values)
    except TooManyExceptionsError as reason:
        return None, str(reason)
    decoded = quantizer.decode(quantized.codes, quantized.parameters, dtype.component)
    error = _measure(values, decoded)
    for name, measured, allowed in (
        ("relative error", error.relative_error, plan.max_relative_error),
        ("absolute error", error.max_absolute_error, plan.max_absolute_error),
    ):
        if allowed is not None and not measured <= allowed:
            return None, f"{name} of {quantizer.id} would be {measured:.3g}, the policy allows {allowed:.3g}"
    words = quantized.codes.view(f"<u{quantizer.code_dtype.itemsize}")
    encoded = _assemble(view, dtype, plan.encoding, words, quantized.parameters)
    if encoded.encoding.quantizer is None:
        return encoded, ""
    return replace(encoded, decoded=_bytes_of(decoded), error=error), ""


def _encode_lossless(view: memoryview, dtype: DType, encoding: Encoding) -> EncodedChunk:
    return _assemble(view, dtype, encoding, np.frombuffer(view, dtype.word), b"")


def _assemble(view: memoryview, dtype: DType, encoding: Encoding, words: Words, parameters: bytes) -> EncodedChunk:
    """Filter and compress the words and build the record; the raw chunk's where that is not larger."""
    streams, used_filter = _encode_words(words, encoding)
    compressed = any(stream.compressor != _UNCOMPRESSED for stream in streams)
    used = Encoding(encoding.quantizer, used_filter, encoding.compressor if compressed else None)
    record = ChunkRecord(
        dtype,
        used.quantizer.number if used.quantizer else 0,
        used.filter.number if used.filter else 0,
        view.nbytes,
        parameters,
        streams,
    )
    payload_bytes = len(parameters) + sum(memoryview(stream.data).nbytes for stream in streams)
    header = pack_header(record)
    if used.codecs and len(header) + payload_bytes > view.nbytes:
        return _assemble(view, dtype, Encoding(), np.frombuffer(view, dtype.word), b"")
    pieces = (header, *((parameters,) if parameters else ()), *(stream.data for stream in streams))
    crc = 0
    for piece in pieces:
        crc = crc32c(piece, crc)
    return EncodedChunk(
        record=pieces,
        stored_bytes=len(header) + payload_bytes,
        crc32c=crc,
        encoding=used,
        quantized_bytes=words.nbytes + len(parameters),
        decoded=None,
        error=None,
        summary=None,
        fallback_reason="",
    )


def _encode_words(words: Words, encoding: Encoding) -> tuple[list[Stream], Filter | None]:
    """Return the streams and the filter that made them: none where no stream of it shrank."""
    if encoding.filter is not None:
        streams = [_compress(data, encoding.compressor) for data in encoding.filter.encode(words)]
        if any(stream.compressor != _UNCOMPRESSED for stream in streams):
            return streams, encoding.filter
        return [Stream(_UNCOMPRESSED, _bytes_of(words))], None
    return [_compress(_bytes_of(words), encoding.compressor)], None


def _compress(data: memoryview, compressor: Compressor | None) -> Stream:
    if compressor is not None:
        encoded = compressor.encode(data)
        if encoded is not None and len(encoded) < data.nbytes:
            return Stream(compressor.number, encoded)
    return Stream(_UNCOMPRESSED, data)


def _bytes_of(array: Values) -> memoryview:
    return memoryview(array.view(np.uint8)).cast("B")


def _decode_words(record: ChunkRecord, word: np.dtype[Any], count: int) -> Words:
    """Return `count` words: those of a single stream without copying, where it is stored as it is."""
    total_bytes = count * word.itemsize
    if record.filter:
        filter_class = codec_by_number(Filter, record.filter)
        lengths = filter_class.stream_lengths(word.itemsize, count)
        if len(lengths) != len(record.streams):
            raise CorruptChunkError(
                f"chunk record: {len(record.streams)} streams, {filter_class.id} has {len(lengths)}"
            )
        words = np.empty(count, word)
        decoded = [_decompress(stream, length) for stream, length in zip(record.streams, lengths, strict=True)]
        filter_class.decode(decoded, words)
        return words
    if len(record.streams) != 1:
        raise CorruptChunkError(f"chunk record: {len(record.streams)} streams without a filter, must be 1")
    return np.frombuffer(memoryview(_decompress(record.streams[0], total_bytes)), word)


def _decompress(stream: Stream, decoded_bytes: int) -> Buffer:
    if stream.compressor != _UNCOMPRESSED:
        return codec_by_number(Compressor, stream.compressor).decode(stream.data, decoded_bytes)
    stored = memoryview(stream.data).nbytes
    if stored != decoded_bytes:
        raise CorruptChunkError(f"chunk record: a stream without compressor is {stored} bytes, must be {decoded_bytes}")
    return stream.data


def _measure(values: Values, decoded: Values) -> MeasuredError:
    measured = MeasuredError()
    for start in range(0, values.size, _BLOCK_VALUES):
        block = slice(start, start + _BLOCK_VALUES)
        measured += _measure_block(values[block], decoded[block])
    return measured


def _measure_block(values: Values, decoded: Values) -> MeasuredError:
    values, decoded = values.astype(np.float64), decoded.astype(np.float64)
    errors = decoded - values
    largest = float(np.abs(errors).max())
    if not math.isfinite(largest):
        irregular = ~np.isfinite(values)
        kept = np.isnan(values) == np.isnan(decoded)
        kept &= ~np.isinf(values) | (values == decoded)
        if not kept[irregular].all() or not np.isfinite(decoded[~irregular]).all():
            return MeasuredError(values.size, math.inf, 1.0, math.inf)
        values, errors = values[~irregular], errors[~irregular]
        largest = float(np.abs(errors).max(initial=0.0))
    return MeasuredError(values.size, _root_mean_square(errors), _root_mean_square(values), largest)


def _root_mean_square(numbers: npt.NDArray[np.float64]) -> float:
    if numbers.size == 0:
        return 0.0
    total_of_squares = float(np.einsum("i,i->", numbers, numbers))
    if _SQUARES_FIT[0] < total_of_squares < _SQUARES_FIT[1]:
        return math.sqrt(total_of_squares / numbers.size)
    largest = float(np.abs(numbers).max())
    if largest == 0:
        return 0.0
    scaled = numbers / largest
    return largest * math.sqrt(float(np.einsum("i,i->", scaled, scaled)) / numbers.size)
