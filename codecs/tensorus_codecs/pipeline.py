"""Encodes a chunk into a chunk record, and decodes it again.

A quantized chunk is decoded at once and its error is compared with the contract. A chunk that breaks the contract gets the
next finer encoding (`contract.py`), and finally a lossless one. No record is larger than the record of the raw chunk.

A chunk with a base is stored as its differences to the base, which is lossless, where that is a tenth smaller than what the
plan says. An estimate decides which of the two is tried first, so that usually only one is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.base import base_digest
from tensorus_codecs.checksum import combine_crc32c, crc32c, crc32c_of_all
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, ChunkRecord, pack_header, parse_record
from tensorus_codecs.contract import finer, without_code_max
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError
from tensorus_codecs.filters.constant import Constant
from tensorus_codecs.measure import measure
from tensorus_codecs.registry import codec_by_number, codec_id
from tensorus_codecs.select import choose, choose_lossless, differences_share, sample_of
from tensorus_codecs.streams import bytes_of, decode_words, encode_words
from tensorus_codecs.summary import summarize

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words
    from tensorus_codecs.base import Base
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.measure import MeasuredError
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_codecs.streams import EncodedWords
    from tensorus_codecs.summary import PartialSummary

__all__ = ["EncodedChunk", "codec_ids", "decode_chunk", "decode_chunk_into", "decode_record", "encode_chunk"]

_CONSTANT = Encoding(filter=Constant())

_PAYING_SHARE = 0.9
"""Largest size of a chunk's differences to its base, relative to the chunk alone. A reader has to decode the base as well."""

_DOES_NOT_PAY = "the differences to the base save less than 10 %"

_DRIFT_MAX = 1.05
"""How much worse than the sample a chunk may compress before it gets a choice of its own."""


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk's record, and a report of its encoding."""

    record: tuple[Buffer, ...]
    """The record in pieces, in order. The last piece may be the caller's canonical bytes."""
    stored_bytes: int
    """Length of the record."""
    crc32c: int
    """CRC32C of the record, without a seed."""
    encoding: Encoding
    """The codecs actually used, possibly fewer than requested; without a `code_max` that an error contract required."""
    quantized_bytes: int
    """Size after the quantizer, parameters included; without a quantizer, the canonical size."""
    decoded: Buffer | None
    """The canonical bytes that readers get; None: the input."""
    error: MeasuredError | None
    """None if lossless."""
    summary: PartialSummary | None
    """Summary of the input; None for dtypes without one."""
    fallback_reason: str
    """Why the chunk is lossless although the policy is lossy; empty if the policy was followed."""
    base_reason: str = ""
    """Why the chunk is stored without its base; empty if it needs the base, or none was given."""


def encode_chunk(
    canonical: Buffer,
    dtype: DType,
    plan: ChunkPlan,
    canonical_crc32c: int | None = None,
    *,
    base: Base | None = None,
) -> EncodedChunk:
    """Encode one chunk.

    Args:
        canonical: whole elements, 1 byte to 2 MiB.
        plan: a plan for this dtype.
        canonical_crc32c: the CRC32C of `canonical`, if known; it saves a raw record a second pass.
        base: of the same length and dtype. The chunk is encoded against it where that pays; decoding then requires it.

    Returns:
        The record, in pieces to be written in order.
    """
    view = memoryview(canonical).cast("B")
    if not 1 <= view.nbytes <= CANONICAL_BYTES_MAX or view.nbytes % dtype.element_bytes:
        raise ValueError(f"a chunk is {view.nbytes} bytes, must be 1 to {CANONICAL_BYTES_MAX} and whole elements")
    if base is not None and (base.nbytes, base.dtype) != (view.nbytes, dtype):
        raise ValueError(
            f"the base of a chunk is {base.nbytes} bytes of {base.dtype.name}, must be {view.nbytes} of {dtype.name}"
        )
    # The user's values may overflow or be NaN. Codecs handle both, so NumPy must not warn.
    with np.errstate(all="ignore"):
        summary = summarize(np.frombuffer(view, dtype.component), dtype)
        encoded = _encode(view, dtype, plan) if base is None else _encode_with_base(view, dtype, plan, base)
    return replace(encoded, summary=summary, crc32c=_record_crc32c(encoded, view.nbytes, canonical_crc32c))


def decode_chunk(record: Buffer, *, base: Base | None = None) -> memoryview:
    """Return the canonical bytes of a record: a view into a raw record, otherwise new memory.

    Allocates at most a few times 2 MiB, whatever the record claims.

    Args:
        base: what the chunk was encoded against; ignored unless the record needs it (`base_digest`).

    Raises:
        BaseMissingError: the record needs a base, and none was given.
        BaseMismatchError: the chunk was encoded against another base.
        CorruptChunkError: `encode_chunk` did not write this record.
        UnsupportedCodecError: the record needs a codec whose library is not installed.
    """
    return decode_record(parse_record(record), base=base)


def decode_chunk_into(record: Buffer, target: memoryview, *, base: Base | None = None) -> None:
    """Decode a record into `target`. Allocating new memory costs more than most codecs.

    Args:
        target: writable bytes, as many as the canonical bytes. Its content is undefined after an error.
        base: as for `decode_chunk`.

    Raises:
        BaseMissingError, BaseMismatchError: as `decode_chunk`.
        CorruptChunkError: as `decode_chunk`, or the record decodes to another length.
        UnsupportedCodecError: as `decode_chunk`.
    """
    parsed = parse_record(record)
    # Check first: the decoders below take the number of values from the record, not from the target.
    if parsed.canonical_bytes != target.nbytes:
        raise CorruptChunkError(f"chunk record decodes to {parsed.canonical_bytes} bytes, {target.nbytes} are expected")
    _decode(parsed, target, base)


def decode_record(record: ChunkRecord, *, base: Base | None = None) -> memoryview:
    """Return the canonical bytes of a parsed record. See `decode_chunk`."""
    return _decode(record, None, base)


def _decode(record: ChunkRecord, target: memoryview | None, base: Base | None) -> memoryview:
    """Return the canonical bytes, in `target` if given, otherwise without unnecessary copies."""
    dtype = record.dtype
    quantizer = codec_by_number(Quantizer, record.quantizer) if record.quantizer else None
    if quantizer is None:
        words = None if target is None else np.frombuffer(target, dtype.word)
        return bytes_of(decode_words(record, dtype.word, record.canonical_bytes // dtype.word.itemsize, words, base))
    # An encoder never quantizes such a dtype, and the quantizer's arithmetic may not be defined for it.
    if not quantizer.applies_to(dtype):
        raise CorruptChunkError(f"chunk record: quantizer {quantizer.id} does not apply to {dtype.name}")
    if base_digest(record) is not None:
        raise CorruptChunkError(
            f"chunk record: quantizer {quantizer.id} before a filter that needs a base, which is lossless"
        )
    count = record.canonical_bytes // dtype.component.itemsize
    code_dtype = quantizer.code_dtype(dtype.component)
    codes = decode_words(record, np.dtype(f"<u{code_dtype.itemsize}"), quantizer.code_count(count)).view(code_dtype)
    with np.errstate(all="ignore"):
        if target is None:
            return bytes_of(quantizer.decode(codes, record.quantizer_parameters, dtype.component, count))
        quantizer.decode_into(codes, record.quantizer_parameters, np.frombuffer(target, dtype.component))
    return target


def codec_ids(record: ChunkRecord) -> tuple[str, ...]:
    """Return the ids of the codecs that decoding the record requires, in encoding order.

    Raises:
        CorruptChunkError: a number in the record belongs to no codec.
    """
    numbers = [(Quantizer, record.quantizer), (Filter, record.filter)]
    numbers += [(Compressor, number) for number in dict.fromkeys(stream.compressor for stream in record.streams)]
    return tuple(codec_id(kind, number) for kind, number in numbers if number)


def _encode(view: memoryview, dtype: DType, plan: ChunkPlan) -> EncodedChunk:
    words = np.frombuffer(view, dtype.word)
    if not plan.automatic:
        if plan.lossy is None:
            return _lossless(view, dtype, words, plan.lossless[0].encoding)
        return _encode_lossy(view, dtype, plan, plan.lossy)
    # A constant chunk shrinks to one element, so nothing else is tried.
    if _is_constant(words, dtype, plan):
        return _lossless(view, dtype, words, _CONSTANT.fitted(dtype))
    choice = plan.choice or choose(plan, view, dtype)
    if choice.encoding.quantizer is not None:
        return _encode_lossy(view, dtype, plan, choice.encoding)
    encoded = encode_words(words, choice.encoding)
    if plan.choice is not None and encoded.stored_bytes > _DRIFT_MAX * choice.share * view.nbytes:
        # The plan's choice was made for another chunk and does not suit this one: choose again.
        return _encode(view, dtype, replace(plan, choice=None))
    return _assembled(view, dtype, choice.encoding, encoded)


def _is_constant(words: Words, dtype: DType, plan: ChunkPlan) -> bool:
    """Whether `plan` stores these words as one element."""
    constant = _CONSTANT.fitted(dtype).filter
    return plan.automatic and constant is not None and constant.encode(words) is not None


def _encode_with_base(view: memoryview, dtype: DType, plan: ChunkPlan, base: Base) -> EncodedChunk:
    """Return the chunk as its differences to `base` if that pays, otherwise encoded as `plan` says."""
    words = np.frombuffer(view, dtype.word)
    plain_share = _plain_share(view, dtype, plan)
    delta = None
    if not _is_constant(words, dtype, plan) and differences_share(words, base.words) <= plain_share:
        delta = _assembled(view, dtype, plan.delta, encode_words(words, plan.delta, base))
        if delta.stored_bytes <= _PAYING_SHARE * plain_share * view.nbytes:
            return delta
    plain = _encode(view, dtype, plan)
    if delta is not None and delta.stored_bytes <= _PAYING_SHARE * plain.stored_bytes:
        return delta
    return replace(plain, base_reason=_DOES_NOT_PAY)


def _plain_share(view: memoryview, dtype: DType, plan: ChunkPlan) -> float:
    """Return the encoded size of the chunk without a base, divided by its canonical size: measured, or estimated."""
    if plan.stores_raw:
        return 1.0
    # A choice without alternatives was not measured, and says 1.
    if plan.choice is not None and plan.choice.share < 1:
        return plan.choice.share
    sample = bytes_of(sample_of(np.frombuffer(view, dtype.component)))
    return _encode(sample, dtype, plan).stored_bytes / sample.nbytes


def _lossless(view: memoryview, dtype: DType, words: Words, encoding: Encoding, reason: str = "") -> EncodedChunk:
    return replace(_assembled(view, dtype, encoding, encode_words(words, encoding)), fallback_reason=reason)


def _encode_lossy(view: memoryview, dtype: DType, plan: ChunkPlan, first: Encoding) -> EncodedChunk:
    """Return the chunk in the coarsest encoding that keeps the contract, starting the ladder at `first`."""
    values = np.frombuffer(view, dtype.component)
    encoding: Encoding | None = first
    reason = ""
    while encoding is not None and encoding.quantizer is not None:
        quantizer = encoding.quantizer
        try:
            quantized = quantizer.encode(values)
        except TooManyExceptionsError as exceptions:
            reason = str(exceptions)
            break
        decoded = quantizer.decode(quantized.codes, quantized.parameters, dtype.component, values.size)
        error = measure(values, decoded)
        broken = plan.contract.broken_by(quantizer.id, error)
        if not broken:
            words = quantized.codes.view(f"<u{quantized.codes.itemsize}")
            fitted = encoding.fitted(dtype)
            encoded = encode_words(words, fitted)
            chunk = _assembled(view, dtype, fitted, encoded, parameters=quantized.parameters, code_bytes=words.nbytes)
            if chunk.encoding.quantizer is None:
                # The quantized record would have been larger than the raw one, so the chunk is exact.
                return chunk
            found = chunk.encoding if encoding == plan.lossy else without_code_max(chunk.encoding)
            return replace(chunk, encoding=found, decoded=bytes_of(decoded), error=error)
        # Report why the requested encoding failed, not why a later rung did.
        reason = reason or broken
        encoding = finer(first, quantizer, plan.contract.excess(error), plan.contract, dtype)
    words = np.frombuffer(view, dtype.word)
    return _lossless(view, dtype, words, choose_lossless(plan, words).encoding, reason)


def _record_crc32c(encoded: EncodedChunk, canonical_bytes: int, canonical_crc32c: int | None) -> int:
    """Return the CRC32C of the record. For a raw record it is combined from the header's and the canonical bytes' CRCs."""
    if canonical_crc32c is not None and not encoded.encoding.codecs:
        header, _ = encoded.record
        return combine_crc32c(crc32c(header), canonical_crc32c, canonical_bytes)
    return crc32c_of_all(encoded.record)


def _assembled(
    view: memoryview,
    dtype: DType,
    encoding: Encoding,
    encoded: EncodedWords,
    *,
    parameters: bytes = b"",
    code_bytes: int | None = None,
) -> EncodedChunk:
    """Return the chunk with its record, which is raw if encoding saves less than the header costs.

    `encode_chunk` adds the checksum and the summary.
    """
    # Report what was used: a filter or compressor that saved nothing was left out.
    used = Encoding(encoding.quantizer, encoded.filter, encoding.compressor if encoded.is_compressed else None)
    record = ChunkRecord(
        dtype,
        used.quantizer.number if used.quantizer else 0,
        used.filter.number if used.filter else 0,
        view.nbytes,
        parameters,
        encoded.filter_parameters,
        encoded.streams,
    )
    header = pack_header(record)
    stored_bytes = len(header) + len(parameters) + encoded.stored_bytes
    # Without codecs the record is the raw one already, so this recurses at most once.
    if used.codecs and stored_bytes > view.nbytes:
        return _assembled(view, dtype, IDENTITY, encode_words(np.frombuffer(view, dtype.word), IDENTITY))
    pieces = (header, *((record.parameters,) if record.parameters else ()), *(stream.data for stream in record.streams))
    return EncodedChunk(
        record=pieces,
        stored_bytes=stored_bytes,
        crc32c=0,
        encoding=used,
        quantized_bytes=(view.nbytes if code_bytes is None else code_bytes) + len(parameters),
        decoded=None,
        error=None,
        summary=None,
        fallback_reason="",
    )
