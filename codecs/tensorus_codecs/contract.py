"""The error contract: what it allows, and which encoding to try next if a chunk would break it.

The ladder, from coarse to fine. Each chunk gets the first rung that keeps the contract:

    int4_block, nf4
    → int8_block with as many codes as the measured error requires, finally in blocks of 64
    → with a compressor: int16_block with as many codes as needed → bitround with as many bits as needed
      without one: bf16 → fp16
    → lossless
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import TooManyExceptionsError
from tensorus_codecs.filters.bf16_planes import Bf16Planes
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

__all__ = ["ErrorContract", "encodings_within", "finer", "without_code_max"]

_INT4_CODE_MAX = 7
_INT8_CODE_MAX = Int8Block.largest_code()
_INT16_CODE_MAX = Int16Block.largest_code()
_BLOCK_SIZE = 64
"""The smallest, and so most exact, block size on the ladder."""

_CODE_MARGIN = 1.03
"""Factor on the number of codes that a sample's error requires. A chunk that still breaks the contract is encoded twice."""

_BITROUND_RELATIVE_ERROR = 0.21
"""Relative L2 error of Gaussian values that keep no mantissa bit (measured). Every bit kept halves it."""

_MANTISSA_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
_DROPPED_BITS_MIN = 2
"""Dropping fewer bits costs accuracy and saves almost nothing."""


@dataclass(frozen=True)
class ErrorContract:
    """Error bounds that every chunk must keep. None: no bound."""

    max_relative_error: float | None = None
    """Upper bound of the L2 norm of the error divided by the L2 norm of the chunk."""
    max_absolute_error: float | None = None
    """Upper bound of the error of any component."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no bound."""
        return self.max_relative_error is None and self.max_absolute_error is None

    def excess(self, error: MeasuredError) -> float:
        """Return `error` divided by the allowed error; above 1, it breaks the contract."""
        found = 0.0
        for measured, allowed in (
            (error.relative_error, self.max_relative_error),
            (error.max_absolute_error, self.max_absolute_error),
        ):
            if allowed is not None and measured:
                found = max(found, measured / allowed if allowed else math.inf)
        return found

    def broken_by(self, quantizer_id: str, error: MeasuredError) -> str:
        """Return a sentence that says how `error` breaks the contract; empty if it does not."""
        for name, measured, allowed in (
            ("relative error", error.relative_error, self.max_relative_error),
            ("absolute error", error.max_absolute_error, self.max_absolute_error),
        ):
            # `not <=` instead of `>`, so that a NaN error breaks the contract.
            if allowed is not None and not measured <= allowed:
                return f"{name} of {quantizer_id} would be {measured:.3g}, the policy allows {allowed:.3g}"
        return ""


def finer(first: Encoding, failed: Quantizer, excess: float, contract: ErrorContract, dtype: DType) -> Encoding | None:
    """Return the next rung of the ladder after `failed`, whose error was `excess` times the allowed one; None: lossless.

    Args:
        first: the encoding on the lowest rung; its filter and compressor are kept.
    """
    # An infinite excess (a value turned into NaN, or a bound of 0) gives no estimate of the codes needed: go lossless.
    quantizer: Quantizer | None = failed
    while quantizer is not None and math.isfinite(excess):
        quantizer = _next(quantizer, excess, contract, dtype, compressed=first.compressor is not None)
        if quantizer is not None and quantizer.applies_to(dtype):
            return _with(first, quantizer)
    return None


def without_code_max(encoding: Encoding) -> Encoding:
    """Return `encoding` without the `code_max` computed for one chunk, so that reports count such chunks together."""
    quantizer = encoding.quantizer
    if not isinstance(quantizer, IntBlock):
        return encoding
    return replace(encoding, quantizer=replace(quantizer, code_max=0))


def encodings_within(encoding: Encoding, sample: Values, contract: ErrorContract, dtype: DType) -> list[Encoding]:
    """Return variants of `encoding` whose quantizers keep the contract for `sample`, each about as coarse as possible.

    Args:
        encoding: its compressor is an entropy coder; its quantizer is replaced.
        sample: components, shape (n,), n >= 1.
    """
    found: list[Quantizer] = []
    code_max = _smallest_code_max(sample, contract)
    if code_max is not None:
        found.append(_int_block(code_max))
    keep_bits = _first_keep_bits(contract)
    while keep_bits <= _keep_bits_max(dtype):
        if contract.excess(_error_of(BitRound(keep_bits=keep_bits), sample)) <= 1:
            # Clustered values may lie half way between two representable ones, and be exact with one bit more.
            found += [BitRound(keep_bits=bits) for bits in (keep_bits, keep_bits + 1)]
            break
        keep_bits += 1
    return [_with(encoding, quantizer) for quantizer in found]


def _with(encoding: Encoding, quantizer: Quantizer) -> Encoding:
    """Return `encoding` with another quantizer. Rotated planes suit float codes only, so integer codes get plain planes."""
    integers = isinstance(quantizer, IntBlock) and isinstance(encoding.filter, RotatedPlanes | Bf16Planes)
    return Encoding(quantizer, Planes() if integers else encoding.filter, encoding.compressor)


def _smallest_code_max(sample: Values, contract: ErrorContract) -> int | None:
    """Return the smallest `code_max` that keeps the contract for `sample` in blocks of 64; None if no `code_max` does."""
    try:
        excess = contract.excess(_error_of(Int8Block(), sample))
    except TooManyExceptionsError:
        return None
    code_max = math.ceil(_INT8_CODE_MAX * excess * _CODE_MARGIN) if math.isfinite(excess) else _INT16_CODE_MAX + 1
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
    # Four bits allow no further codes, so the next rung has eight.
    if isinstance(quantizer, (Int4Block, Nf4)):
        return _int_block(min(math.ceil(_INT4_CODE_MAX * excess * _CODE_MARGIN), _INT8_CODE_MAX))
    if isinstance(quantizer, IntBlock):
        # The error is proportional to the step.
        used = quantizer.code_max or quantizer.largest_code()
        code_max = max(used + 1, math.ceil(used * excess * _CODE_MARGIN))
        if code_max <= quantizer.largest_code():
            return replace(quantizer, code_max=code_max)
        # All codes are in use: smaller blocks have smaller scales.
        if quantizer.block_size > _BLOCK_SIZE:
            return replace(quantizer, block_size=_BLOCK_SIZE, code_max=0)
        # Using only some of the 16-bit codes saves space only if an entropy coder follows.
        if compressed and code_max <= _INT16_CODE_MAX:
            return _int_block(code_max)
    if isinstance(quantizer, Fp16) and not compressed:
        return None
    if isinstance(quantizer, Bf16) and not compressed:
        return Fp16()
    if not compressed:
        return Bf16()
    # Each further bit halves the error.
    keep_bits = _first_keep_bits(contract)
    if isinstance(quantizer, BitRound):
        keep_bits = quantizer.keep_bits + max(1, math.ceil(math.log2(excess)))
    return BitRound(keep_bits=keep_bits) if keep_bits <= _keep_bits_max(dtype) else None


def _first_keep_bits(contract: ErrorContract) -> int:
    """Return the number of mantissa bits that the relative bound requires; 7, as in bfloat16, if there is no such bound."""
    if contract.max_relative_error is None:
        return 7
    if contract.max_relative_error == 0:
        return max(_MANTISSA_BITS.values())
    return max(0, math.ceil(math.log2(_BITROUND_RELATIVE_ERROR / contract.max_relative_error)))


def _keep_bits_max(dtype: DType) -> int:
    return _MANTISSA_BITS.get(dtype.component.name, 0) - _DROPPED_BITS_MIN
