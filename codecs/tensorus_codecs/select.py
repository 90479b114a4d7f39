"""The automatic choice: which of a plan's encodings suits a chunk.

Every candidate encodes a sample of the chunk, and the smallest wins, after a small charge for slow decoding. Looking at the
bytes instead (entropy, what LZ4 makes of them) calls every tensor of floats incompressible.

Choosing costs about as much as encoding a quarter of a chunk, so a writer chooses for one chunk in `CHOOSE_EVERY_CHUNKS` and
hands the plan with its choice to all of them. That is `narrowed`; it looks at one chunk and nothing else, so that the same
tensor is stored in the same way however many threads encode it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.contract import aimed
from tensorus_codecs.encoding import IDENTITY
from tensorus_codecs.errors import TooManyExceptionsError
from tensorus_codecs.plan import Choice
from tensorus_codecs.streams import encode_words

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tensorus_codecs.abc import Values, Words
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.encoding import Encoding
    from tensorus_codecs.plan import ChunkPlan

__all__ = ["CHOOSE_EVERY_CHUNKS", "choose", "choose_lossless", "narrowed", "sample_of"]

CHOOSE_EVERY_CHUNKS = 16
"""How many chunks one choice serves: 16 MiB of a tensor, unless the policy says otherwise."""

_SLICE_BYTES = 16 * 1024
_SLICES = 4
"""Spread over the chunk: its ends may differ from its middle."""

_CHOICE_BYTES_MIN = 16 * 1024
"""Smaller chunks get the first candidate: looking at them costs more than it saves."""

_WORTHWHILE_SHARE = 0.97
"""Above it, a lossless encoding is not worth the time of its decoder."""


def narrowed(plan: ChunkPlan, canonical: Buffer, dtype: DType) -> ChunkPlan:
    """Return `plan` with what suits the chunk `canonical`, for chunks like it.

    Where the plan aims at an error, every chunk is looked at: how coarse it may be is its own.
    """
    if plan.aims or not plan.chooses:
        return plan
    with np.errstate(all="ignore"):
        return replace(plan, choice=choose(plan, memoryview(canonical).cast("B"), dtype))


def choose(plan: ChunkPlan, view: memoryview, dtype: DType) -> Choice:
    """Return the encoding of `plan` that makes a sample of the chunk smallest; a lossless one where that is no larger."""
    if view.nbytes < _CHOICE_BYTES_MIN and not plan.aims:
        encoding = plan.lossless[0].encoding if plan.lossy is None else plan.lossy
        return Choice(encoding, 1.0)
    words = np.frombuffer(view, dtype.word)
    if plan.lossy is None:
        return choose_lossless(plan, words)
    sample = sample_of(np.frombuffer(view, dtype.component))
    best = choose_lossless(plan, words)
    for encoding in aimed(plan.lossy, sample, plan.contract, dtype) if plan.aims else [plan.lossy]:
        try:
            share = _lossy_share(encoding, sample, dtype)
        except TooManyExceptionsError:
            # Encoding the chunk will say why it cannot be quantized.
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
    charged = [share * (1 + candidate.charge) for share, candidate in zip(shares, plan.lossless, strict=True)]
    best = int(np.argmin(charged))
    if shares[best] > _WORTHWHILE_SHARE:
        return Choice(IDENTITY, 1.0)
    return Choice(plan.lossless[best].encoding, shares[best])


def sample_of(numbers: Values) -> Values:
    """Return evenly spread slices of `numbers`, shape (n,), in one array; all of them where they are few."""
    if numbers.nbytes <= _SLICES * _SLICE_BYTES:
        return numbers
    length = _SLICE_BYTES // numbers.itemsize
    # An even start, so that a complex number is not torn; the last slice is the end of the chunk.
    starts = [(numbers.size - length) * part // (_SLICES - 1) & ~1 for part in range(_SLICES)]
    return np.concatenate([numbers[start : start + length] for start in starts])


def _lossy_share(encoding: Encoding, sample: Values, dtype: DType) -> float:
    """Return the share of its canonical bytes that `sample` takes.

    Raises:
        TooManyExceptionsError: its quantizer refuses it.
    """
    assert encoding.quantizer is not None
    quantized = encoding.quantizer.encode(sample)
    words = quantized.codes.view(f"<u{quantized.codes.itemsize}")
    stored_bytes = encode_words(words, encoding.fitted(dtype)).stored_bytes + len(quantized.parameters)
    return stored_bytes / sample.nbytes
