"""Makes a tensor's values of the codes that the original stored, and says what they are worth.

The original quantized like this, where `clamp` is to -128 ... 127 and `trunc` drops the fraction:

    int8   v constant:  scale = 1, zero_point = clamp(trunc(v)), every code q = zero_point
           otherwise:   scale = (max v - min v) / 255, zero_point = clamp(trunc(-128 - min v / scale)),
                        q = clamp(round(v / scale) + zero_point)
           int8:        q = v, scale = 1, zero_point = 0
    fp16   q = v as half precision

and read back `zero_point` wherever scale was 1, `(q - zero_point) * scale` elsewhere, in float32, truncated where the dtype is
an integer's. So an int8 tensor, and one whose range is 255, came back constant, although their codes have the values. Where
the range lies beyond zero, `zero_point` was clamped, and so were the codes at one end: what they were is lost. The rest is as
the original gave it, but rounded where it truncated, and of float64 computed in float64, which differs by up to 2**-23 of a
value: float32 rounds the scale and the product.

Whether the values are those that were inserted is told by dtype, shape, parameters and codes. They are, in these cases; in any
other they count as lossy:

    fp16, int8   no elements; bool
    fp16         float16; float8, whose values half precision has; integers up to 2047; bfloat16 where the size of every code is
                 above 2**-17 and finite, where half precision has every bit of it
    int8         int8; integers where scale is 1; integers where scale < 1/3 and nothing is saturated: their code is off by at
                 most 1/2, as it was rounded, and 1, as it was clamped when `zero_point` had been truncated, and so their value
                 by less than 1/2; constant integers from -127 to 126

Source: `tensorus/compression.py` of Tensorus 0.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tensorus.old_files.errors import OldRecordError
from tensorus.old_files.pt_tensors import old_dtype
from tensorus.old_files.pt_values import kind_of
from tensorus_codecs.dtypes import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus.old_files.pt_tensors import Array
    from tensorus_codecs.dtypes import DType

__all__ = ["Restored", "Worth", "dequantized"]

Worth: TypeAlias = Literal["imported", "repaired", "lossy"]
"""What a tensor's values are worth. imported: they are as they were inserted. repaired: likewise, though the original gave
others. lossy: some are not, since the original lost something before it wrote."""

_CODE_MIN, _CODE_MAX = -128, 127

_HALF_INTEGER_MAX = 2047
"""Integers up to here are their own in half precision, and nothing else is rounded to them."""

_HALF_EXACT = frozenset({"float8_e4m3fn", "float8_e5m2"})
"""Dtypes whose every value is one of half precision. A NaN stays one, though perhaps with other bits."""

_HALF_BFLOAT16_MIN = 2.0**-17
"""Half precision has steps of 2**-24 or finer, and bfloat16 has 8 bits: beyond this, none of them is lost."""

_EXACT_SCALE_MAX = 1 / 3
"""Below it, integers can be told from codes that are off by 3/2."""


@dataclass(frozen=True)
class Restored:
    """A tensor's values."""

    array: Array
    worth: Worth = "imported"
    reason: str = ""
    """What is to be said of it."""
    saturated_count: int = 0
    """Elements that lay beyond what their code could say, and are lost."""


def dequantized(codes: Array, quantizer: str, parameters: Mapping[Any, object]) -> Restored:
    """Return the values.

    Args:
        codes: what the record's container holds.
        quantizer: "none", "fp16" or "int8".
        parameters: what the record's metadata says beside it; any of it may be missing, or of any kind.

    Raises:
        OldRecordError: an unknown quantizer, parameters without which the values are lost, or codes of another quantizer.
    """
    if quantizer == "none":
        return Restored(codes)
    if not codes.size and "original_dtype" in parameters and quantizer in {"fp16", "int8"}:
        return Restored(np.empty(codes.shape, old_dtype(parameters["original_dtype"]).numpy))
    if quantizer == "fp16":
        return _from_half(codes, parameters)
    if quantizer == "int8":
        return _from_int8(codes, parameters)
    raise OldRecordError(f"its quantizer is {quantizer[:80]!r}, must be none, fp16 or int8")


def _from_half(codes: Array, parameters: Mapping[Any, object]) -> Restored:
    if "original_dtype" not in parameters:
        return Restored(codes, "lossy", f"its dtype before it was quantized is not known: {codes.dtype.name} as stored")
    dtype = old_dtype(parameters["original_dtype"])
    if codes.dtype == dtype.numpy:
        return Restored(codes)
    if codes.dtype != np.float16:
        raise OldRecordError(f"its codes are {codes.dtype.name}, must be float16 for the quantizer fp16")
    lost_count = int(np.count_nonzero(~np.isfinite(codes)))
    if dtype.kind in {Kind.BOOL, Kind.INTEGER}:
        values = _to_integers(codes.astype(np.float64), dtype)
        rounded_count = int(np.count_nonzero(np.abs(codes) > _HALF_INTEGER_MAX)) - lost_count
        if not rounded_count and not lost_count:
            return Restored(values)
        reason = f"half precision: of {codes.size} integers, {rounded_count} may be rounded, {lost_count} are lost"
        return Restored(values, "lossy", reason)
    if dtype.name in _HALF_EXACT or (dtype.name == "bfloat16" and _keeps_bfloat16(codes)):
        with np.errstate(invalid="ignore"):
            return Restored(codes.astype(dtype.numpy))
    reason = "half precision"
    if lost_count:
        reason += f"; {lost_count} of {codes.size} values are not finite: they were not, or were beyond 65504"
    if dtype.kind is Kind.COMPLEX:
        reason += "; imaginary parts are lost"
    with np.errstate(all="ignore"):
        return Restored(codes.astype(dtype.numpy), "lossy", reason)


def _keeps_bfloat16(codes: Array) -> bool:
    return bool(np.all(np.isfinite(codes) & (np.abs(codes) > _HALF_BFLOAT16_MIN)))


def _from_int8(codes: Array, parameters: Mapping[Any, object]) -> Restored:
    if codes.dtype != np.int8:
        raise OldRecordError(f"its codes are {codes.dtype.name}, must be int8 for the quantizer int8")
    dtype = old_dtype(parameters.get("original_dtype"))
    if dtype.name == "int8":
        return Restored(codes, "repaired", "int8 tensors were read back as zeros; the codes are the values")
    scale, zero_point = _parameter(parameters, "scale"), _parameter(parameters, "zero_point")
    # As an int: NumPy would widen the codes to compare them with a float.
    if scale == 1 and zero_point.is_integer() and bool(np.all(codes == int(zero_point))):
        return _constant(codes, zero_point, dtype)
    saturated_count = _saturated_count(codes, zero_point)
    array = _scaled(codes, scale, zero_point, dtype)
    if saturated_count:
        reason = f"{_steps(scale)}; {saturated_count} of {codes.size} values were beyond the codes and are lost"
        return Restored(array, "lossy", reason, saturated_count)
    if scale == 1:
        worth: Worth = "repaired" if dtype.kind is Kind.INTEGER else "lossy"
        return Restored(
            array, worth, "a range of 255 was read back as a constant; the codes are the values, in steps of 1"
        )
    if dtype.kind is Kind.BOOL:
        # The two values have the two outermost codes.
        return Restored(array)
    if dtype.kind is Kind.INTEGER and 0 < scale < _EXACT_SCALE_MAX:
        if np.array_equal(array, np.trunc(_differences(codes, scale, zero_point, np.float32))):
            return Restored(array)
        return Restored(array, "repaired", "integers were truncated when they were read back; they are rounded")
    return Restored(array, "lossy", _steps(scale))


def _steps(scale: float) -> str:
    if not math.isfinite(scale):
        return f"8-bit codes in steps of {scale}: the finite values are lost"
    return f"8-bit codes in steps of {scale:.3g}"


def _constant(codes: Array, zero_point: float, dtype: DType) -> Restored:
    values = np.full(codes.shape, zero_point, np.float64)
    array = _to_integers(values, dtype) if dtype.kind in {Kind.BOOL, Kind.INTEGER} else values.astype(dtype.numpy)
    if dtype.kind in {Kind.BOOL, Kind.INTEGER} and _CODE_MIN < zero_point < _CODE_MAX:
        return Restored(array)
    return Restored(array, "lossy", "a constant, of which only the integer part within -128 to 127 was kept")


def _saturated_count(codes: Array, zero_point: float) -> int:
    """Return how many codes stand where clamping puts everything beyond; none where the other end is reached, too."""
    if codes.size and zero_point == _CODE_MIN and codes.min() > _CODE_MIN:
        return int(np.count_nonzero(codes == _CODE_MAX))
    if codes.size and zero_point == _CODE_MAX and codes.max() < _CODE_MAX:
        return int(np.count_nonzero(codes == _CODE_MIN))
    return 0


def _scaled(codes: Array, scale: float, zero_point: float, dtype: DType) -> Array:
    """Return `(codes - zero_point) * scale`, in float32 as the original did, or in float64 where the dtype has more to hold."""
    wide = dtype.kind in {Kind.BOOL, Kind.INTEGER} or dtype.component.itemsize == 8
    values = _differences(codes, scale, zero_point, np.float64 if wide else np.float32)
    with np.errstate(all="ignore"):
        return _to_integers(values, dtype) if dtype.kind in {Kind.BOOL, Kind.INTEGER} else values.astype(dtype.numpy)


def _differences(codes: Array, scale: float, zero_point: float, precision: type[np.float32 | np.float64]) -> Array:
    with np.errstate(all="ignore"):
        values = codes.astype(precision)
        np.subtract(values, precision(zero_point), out=values)
        np.multiply(values, precision(scale), out=values)
    return values


def _to_integers(values: Array, dtype: DType) -> Array:
    """Return float64 values rounded to integers; beyond the dtype, its nearest; where they are not finite, its smallest.

    The smallest is what x86 processors, and so the original, make of them. Takes `values` for its own use.
    """
    if dtype.kind is Kind.BOOL:
        return np.asarray(np.rint(values) != 0)
    limits = np.iinfo(dtype.numpy)
    np.rint(values, out=values)
    # The largest float64 within an integer of 64 bits is below its largest.
    highest = float(limits.max) if dtype.element_bytes < 8 else float(np.nextafter(float(limits.max), 0.0))
    values[~np.isfinite(values)] = float(limits.min)
    np.clip(values, float(limits.min), highest, out=values)
    return values.astype(dtype.numpy)


def _parameter(parameters: Mapping[Any, object], name: str) -> float:
    value = parameters.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OldRecordError(
            f"its {name} is a {kind_of(value)}; without it int8 codes cannot be read, and its values are lost"
        )
    try:
        return float(value)
    except OverflowError as error:
        raise OldRecordError(f"its {name} is an integer beyond every float") from error
