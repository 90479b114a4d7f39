"""The automatic choice: picks the encoding of a plan that suits a chunk.

Every candidate encodes a sample of the chunk. The smallest result wins, after a small penalty for slow decoding. Cheaper
estimates (byte entropy, LZ4's output size) report every float tensor as incompressible.

A choice costs about as much as encoding a quarter of a chunk. So a writer chooses once per `CHOOSE_EVERY_CHUNKS` chunks
(`narrowed`) and gives the narrowed plan to all of them. The choice depends on that one chunk only, so a tensor is stored the
same way no matter how many threads encode it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.contract import encodings_within
from tensorus_codecs.encoding import IDENTITY
from tensorus_codecs.errors import TooManyExceptionsError
from tensorus_codecs.filters._zigzag import zigzag
from tensorus_codecs.plan import Choice
from tensorus_codecs.streams import encode_words

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tensorus_codecs.abc import Values, Words
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.encoding import Encoding
    from tensorus_codecs.plan import ChunkPlan

__all__ = ["CHOOSE_EVERY_CHUNKS", "choose", "choose_lossless", "differences_share", "narrowed", "sample_of"]

CHOOSE_EVERY_CHUNKS = 16
"""Number of chunks that share a choice: 16 MiB of a tensor with the default chunk size."""

_SLICE_BYTES = 16 * 1024
_SLICES = 4
"""Slices in a sample, spread over the chunk because its ends may differ from its middle."""

_CHOICE_BYTES_MIN = 16 * 1024
"""Smaller chunks get the first candidate: a choice costs more than it saves."""

_ENTROPY_SAMPLE_WORDS = 2048
"""Enough for the entropy of a byte: random bytes measure 7.9 bits."""

_WORTHWHILE_SHARE = 0.97
"""A lossless encoding that leaves a larger share than this is not worth its decoding time."""


def narrowed(plan: ChunkPlan, canonical: Buffer, dtype: DType) -> ChunkPlan:
    """Return `plan` with the encoding chosen for the chunk `canonical`, to be used for similar chunks.

    A plan that targets its contract is returned unchanged: the right coarseness differs from chunk to chunk.
    """
    if plan.targets_contract or not plan.automatic:
        return plan
    with np.errstate(all="ignore"):
        return replace(plan, choice=choose(plan, memoryview(canonical).cast("B"), dtype))


def choose(plan: ChunkPlan, view: memoryview, dtype: DType) -> Choice:
    """Return the encoding of `plan` that makes a sample of the chunk smallest; a lossless one wins a tie."""
    # A plan that targets its contract has no fixed quantizer, so even a small chunk needs a choice.
    if view.nbytes < _CHOICE_BYTES_MIN and not plan.targets_contract:
        encoding = plan.lossless[0].encoding if plan.lossy is None else plan.lossy
        return Choice(encoding, 1.0)
    words = np.frombuffer(view, dtype.word)
    if plan.lossy is None:
        return choose_lossless(plan, words)
    sample = sample_of(np.frombuffer(view, dtype.component))
    best = choose_lossless(plan, words)
    for encoding in (
        encodings_within(plan.lossy, sample, plan.contract, dtype) if plan.targets_contract else [plan.lossy]
    ):
        try:
            share = _lossy_share(encoding, sample, dtype)
        except TooManyExceptionsError:
            # Keep the lossy choice: encoding the chunk then records why it cannot be quantized.
            return Choice(encoding, 1.0)
        if share < best.share:
            best = Choice(encoding, share)
    return best


def choose_lossless(plan: ChunkPlan, words: Words) -> Choice:
    """Return the plan's lossless encoding that makes a sample of `words` smallest."""
    if len(plan.lossless) == 1 or words.nbytes < _CHOICE_BYTES_MIN:
        return Choice(plan.lossless[0].encoding, 1.0)
    sample = sample_of(words)
    shares = [encode_words(sample, candidate.encoding).stored_bytes / sample.nbytes for candidate in plan.lossless]
    penalized = [share * (1 + candidate.penalty) for share, candidate in zip(shares, plan.lossless, strict=True)]
    best = int(np.argmin(penalized))
    # The penalty only ranks candidates. Whether encoding pays at all depends on the size alone.
    if shares[best] > _WORTHWHILE_SHARE:
        return Choice(IDENTITY, 1.0)
    return Choice(plan.lossless[best].encoding, shares[best])


def sample_of(numbers: Values) -> Values:
    """Return evenly spread slices of `numbers`, shape (n,), as one array; short arrays are returned whole."""
    if numbers.nbytes <= _SLICES * _SLICE_BYTES:
        return numbers
    length = _SLICE_BYTES // numbers.itemsize
    # Starts are even so that no complex number is split. The last slice is the end of the chunk.
    starts = [(numbers.size - length) * part // (_SLICES - 1) & ~1 for part in range(_SLICES)]
    return np.concatenate([numbers[start : start + length] for start in starts])


def differences_share(words: Words, base: Words) -> float:
    """Estimate the encoded size of the differences between `words` and `base`, divided by the size of `words`.

    The estimate is the entropy of each byte plane of evenly spaced differences. It takes a twentieth of the time of encoding
    them.
    """
    step = max(1, words.size // _ENTROPY_SAMPLE_WORDS)
    numbers = words[::step] - base[::step]
    zigzag(numbers)
    planes = numbers.view(np.uint8).reshape(-1, numbers.itemsize)
    bits = 0.0
    for plane in planes.T:
        counts = np.bincount(plane)
        counts = counts[counts > 0]
        bits += math.log2(numbers.size) - float((counts * np.log2(counts)).sum()) / numbers.size
    return bits / (8 * numbers.itemsize)


def _lossy_share(encoding: Encoding, sample: Values, dtype: DType) -> float:
    """Return the encoded size of `sample` divided by its canonical size.

    Raises:
        TooManyExceptionsError: the quantizer refuses the sample.
    """
    assert encoding.quantizer is not None
    quantized = encoding.quantizer.encode(sample)
    words = quantized.codes.view(f"<u{quantized.codes.itemsize}")
    stored_bytes = encode_words(words, encoding.fitted(dtype)).stored_bytes + len(quantized.parameters)
    return stored_bytes / sample.nbytes
