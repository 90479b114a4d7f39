"""The error contract: what it allows, and which encoding to try next where a chunk would break it.

The ladder, from coarse to fine; each chunk gets the first rung that keeps the promise:

    int4_block, nf4
    → int8_block with as many codes as the measured error asks for, in blocks of 64 at last
    → with a compressor: int16_block with as many codes as it takes → bitround with as many bits as it takes
      without: bf16 → fp16
    → lossless
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import TooManyExceptionsError
from tensorus_codecs.filters.planes import Planes, RotatedPlanes
from tensorus_codecs.measure import measure
from tensorus_codecs.quantizers._int_block import IntBlock
from tensorus_codecs.quantizers.bf16 import Bf16
from tensorus_codecs.quantizers.bitround import BitRound
from tensorus_codecs.quantizers.fp16 import Fp16
from tensorus_codecs.quantizers.int4_block import Int4Block
from tensorus_codecs.quantizers.int8_block import Int8Block
from tensorus_codecs.quantizers.int16_block import Int16Block
from tensorus_codecs.quantizers.nf4 import Nf4

if TYPE_CHECKING:
    from tensorus_codecs.abc import Quantizer, Values
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.measure import MeasuredError

__all__ = ["ErrorContract", "aimed", "finer", "reported"]

_INT4_CODE_MAX = 7
_INT8_CODE_MAX = Int8Block.largest_code()
_INT16_CODE_MAX = Int16Block.largest_code()
_BLOCK_SIZE = 64
"""The most exact one that the ladder uses."""

_SPARE = 1.03
"""More codes than the error of a sample asks for: a chunk that breaks the contract after all is encoded twice."""

_BITROUND_RELATIVE_ERROR = 0.21
"""Relative L2 error of keeping no mantissa bit of Gaussian values, measured; every bit kept halves it."""

_MANTISSA_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
_DROPPED_BITS_MIN = 2
"""Rounding fewer bits away costs exactness and saves next to nothing."""


@dataclass(frozen=True)
class ErrorContract:
    """What every chunk must keep. None: no bound."""

    max_relative_error: float | None = None
    """L2 norm of the error over L2 norm of the chunk, at most."""
    max_absolute_error: float | None = None
    """Largest error of a component, at most."""

    @property
    def is_empty(self) -> bool:
        """Whether it allows everything."""
        return self.max_relative_error is None and self.max_absolute_error is None

    def excess(self, error: MeasuredError) -> float:
        """Return how many times what is allowed `error` is: above 1, it breaks the contract."""
        found = 0.0
        for measured, allowed in (
            (error.relative_error, self.max_relative_error),
            (error.max_absolute_error, self.max_absolute_error),
        ):
            if allowed is not None and measured:
                found = max(found, measured / allowed if allowed else math.inf)
        return found

    def broken_by(self, quantizer_id: str, error: MeasuredError) -> str:
        """Return in which way `error` breaks it, for people; empty where it keeps it."""
        for name, measured, allowed in (
            ("relative error", error.relative_error, self.max_relative_error),
            ("absolute error", error.max_absolute_error, self.max_absolute_error),
        ):
            if allowed is not None and not measured <= allowed:
                return f"{name} of {quantizer_id} would be {measured:.3g}, the policy allows {allowed:.3g}"
        return ""


def finer(first: Encoding, failed: Quantizer, excess: float, contract: ErrorContract, dtype: DType) -> Encoding | None:
    """Return the next rung of the ladder above `failed`, whose error was `excess` times what is allowed; None: lossless.

    Args:
        first: the encoding at the ladder's foot, of which the filter and the compressor are kept.
    """
    quantizer: Quantizer | None = failed
    while quantizer is not None and math.isfinite(excess):
        quantizer = _next(quantizer, excess, contract, dtype, compressed=first.compressor is not None)
        if quantizer is not None and quantizer.applies_to(dtype):
            return _with(first, quantizer)
    return None


def reported(encoding: Encoding) -> Encoding:
    """Return `encoding` without the number of codes that was found for one chunk: chunks are to be counted together."""
    quantizer = encoding.quantizer
    if not isinstance(quantizer, IntBlock):
        return encoding
    return replace(encoding, quantizer=replace(quantizer, code_max=0))


def aimed(encoding: Encoding, sample: Values, contract: ErrorContract, dtype: DType) -> list[Encoding]:
    """Return `encoding` with quantizers that keep the contract for `sample`, each just about as coarse as that allows.

    Args:
        encoding: its compressor codes by how often symbols occur; its quantizer does not matter.
        sample: components, shape (n,), n >= 1.
    """
    found: list[Quantizer] = []
    code_max = _least_codes(sample, contract)
    if code_max is not None:
        found.append(_int_block(code_max))
    keep_bits = _first_keep_bits(contract)
    while keep_bits <= _keep_bits_max(dtype):
        if contract.excess(_error_of(BitRound(keep_bits=keep_bits), sample)) <= 1:
            # Values that lie close together may be half way between two of these, and meet with one bit more.
            found += [BitRound(keep_bits=bits) for bits in (keep_bits, keep_bits + 1)]
            break
        keep_bits += 1
    return [_with(encoding, quantizer) for quantizer in found]


def _with(encoding: Encoding, quantizer: Quantizer) -> Encoding:
    """Return `encoding` with another quantizer; rotated planes are for codes that are floats."""
    integers = isinstance(quantizer, IntBlock) and isinstance(encoding.filter, RotatedPlanes)
    return Encoding(quantizer, Planes() if integers else encoding.filter, encoding.compressor)


def _least_codes(sample: Values, contract: ErrorContract) -> int | None:
    """Return the smallest `code_max` of blocks of 64 that keeps the contract for `sample`; None where none does."""
    try:
        excess = contract.excess(_error_of(Int8Block(), sample))
    except TooManyExceptionsError:
        return None
    code_max = math.ceil(_INT8_CODE_MAX * excess * _SPARE) if math.isfinite(excess) else _INT16_CODE_MAX + 1
    return max(1, code_max) if code_max <= _INT16_CODE_MAX else None


def _error_of(quantizer: Quantizer, values: Values) -> MeasuredError:
    quantized = quantizer.encode(values)
    return measure(values, quantizer.decode(quantized.codes, quantized.parameters, values.dtype, values.size))


def _int_block(code_max: int) -> Quantizer:
    kind = Int8Block if code_max <= _INT8_CODE_MAX else Int16Block
    return kind(block_size=_BLOCK_SIZE, code_max=code_max)


def _next(
    quantizer: Quantizer, excess: float, contract: ErrorContract, dtype: DType, *, compressed: bool
) -> Quantizer | None:
    if isinstance(quantizer, (Int4Block, Nf4)):
        return _int_block(min(math.ceil(_INT4_CODE_MAX * excess * _SPARE), _INT8_CODE_MAX))
    if isinstance(quantizer, IntBlock):
        # The error is proportional to the step.
        used = quantizer.code_max or quantizer.largest_code()
        code_max = max(used + 1, math.ceil(used * excess * _SPARE))
        if code_max <= quantizer.largest_code():
            return replace(quantizer, code_max=code_max)
        if quantizer.block_size > _BLOCK_SIZE:
            return replace(quantizer, block_size=_BLOCK_SIZE, code_max=0)
        if compressed and code_max <= _INT16_CODE_MAX:
            return _int_block(code_max)
    if isinstance(quantizer, Fp16) and not compressed:
        return None
    if isinstance(quantizer, Bf16) and not compressed:
        return Fp16()
    if not compressed:
        return Bf16()
    keep_bits = _first_keep_bits(contract)
    if isinstance(quantizer, BitRound):
        keep_bits = quantizer.keep_bits + max(1, math.ceil(math.log2(excess)))
    return BitRound(keep_bits=keep_bits) if keep_bits <= _keep_bits_max(dtype) else None


def _first_keep_bits(contract: ErrorContract) -> int:
    """Return how many bits a relative bound takes; 7, as bfloat16 has, where there is none."""
    if contract.max_relative_error is None:
        return 7
    if contract.max_relative_error == 0:
        return max(_MANTISSA_BITS.values())
    return max(0, math.ceil(math.log2(_BITROUND_RELATIVE_ERROR / contract.max_relative_error)))


def _keep_bits_max(dtype: DType) -> int:
    return _MANTISSA_BITS.get(dtype.component.name, 0) - _DROPPED_BITS_MIN
