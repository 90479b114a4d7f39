"""Codes of whole tensors as in Tensorus 0.1: int8 with one scale, or half precision. Encodes and decodes them.

    int8   scale = (max - min) / 255, code = clip(round(v / scale) + zero_point, -128, 127), v ~ (code - zero_point) * scale
    fp16   code = v as half precision

Parameters are plain, JSON-compatible values: `original_dtype`, `original_shape` and, for int8, `scale`, a float, and
`zero_point`, an int. The arithmetic is float32 for floats of up to 32 bits, and float64 for others.

For int8 the zero point is that of 0.1, trunc(-128 - min / scale), if every value is then within half a step of a code.
Otherwise it is -128 - round(min / scale), which need not fit in 8 bits if all values are far from zero. 0.1 never wrote such
parameters. Their values are computed exactly (`_exact_values`), since neither float32 nor float64 has enough digits. All other
parameters are read as an import reads those of 0.1 (`old_files/quantizers.py`). One case there does not follow the formula: if
scale is 1 and every code is the zero point, all values are the zero point.

The components of a complex tensor form an additional axis of 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeGuard

import ml_dtypes
import numpy as np

from tensorus.compression._codes import parameter, wrong_parameters
from tensorus.compression._errors import QuantizationError
from tensorus_codecs.dtypes import Kind, dtype_by_name
from tensorus_codecs.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus._arrays.canonical import AnyArray
    from tensorus_codecs.dtypes import DType

__all__ = ["IntCodes", "components", "half_codes", "int8_codes", "simple_values"]

_CODE_MIN, _CODE_MAX = -128, 127
_STEPS = 255.0


@dataclass(frozen=True)
class IntCodes:
    """The int8 codes of a tensor, with their parameters."""

    codes: AnyArray
    """int8, in the tensor's shape."""
    scale: float
    zero_point: int


def components(array: AnyArray) -> AnyArray:
    """Return the array in native byte order; complex elements become an axis of 2. A view if possible."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind != "c":
        return array
    return np.ascontiguousarray(array).reshape(-1).view(array.real.dtype).reshape(*array.shape, 2)


def half_codes(values: AnyArray, *, by_way_of_float32: bool) -> tuple[AnyArray, int]:
    """Return values in half precision, and the number of finite values that became infinite.

    Args:
        values: the values.
        by_way_of_float32: round float64 twice, as torch does; NumPy rounds once.
    """
    with np.errstate(all="ignore"):
        codes = (values.astype(np.float32) if by_way_of_float32 else values).astype(np.float16)
    infinite = np.isinf(codes)
    if values.dtype.kind not in "biu":
        infinite &= np.isfinite(values)
    return codes, int(np.count_nonzero(infinite))


def int8_codes(values: AnyArray) -> IntCodes:
    """Return the codes of real numbers, integers or bools.

    Raises:
        QuantizationError: some values are NaN or infinite; the message tells how many.
    """
    if values.dtype.kind not in "biu":
        irregular_count = values.size - int(np.count_nonzero(np.isfinite(values)))
        if irregular_count:
            raise QuantizationError(
                f"{irregular_count} of {values.size} values are NaN or infinite, and int8 has no code for them",
                reason="INVALID_REQUEST",
            )
        if values.dtype.itemsize < 4:
            values = values.astype(np.float32)
    if not values.size:
        return IntCodes(np.empty(values.shape, np.int8), 1.0, 0)
    low, high = values.min().item(), values.max().item()
    if low == high:
        return _constant(low, values.shape)
    return _spread(values, low, high)


def _constant(value: float, shape: tuple[int, ...]) -> IntCodes:
    if value == int(value) and _CODE_MIN <= value <= _CODE_MAX:
        # As in 0.1, whose rule for scale 1 restores the value.
        return IntCodes(np.full(shape, int(value), np.int8), 1.0, int(value))
    scale = float(abs(value))
    if scale != abs(value):
        # An integer that no float represents exactly.
        return IntCodes(np.ones(shape, np.int8), 1.0, 1 - int(value))
    return IntCodes(np.full(shape, 1 if value > 0 else -1, np.int8), scale, 0)


def _spread(values: AnyArray, low: float, high: float) -> IntCodes:
    work = np.dtype(np.float32 if values.dtype == np.float32 else np.float64)
    scale = _scale(low, high, work)
    start, stop = Fraction(low) / Fraction(scale), Fraction(high) / Fraction(scale)
    zero_point = int(_CODE_MIN - low / scale)
    if not (start + zero_point >= _CODE_MIN - 0.5 and stop + zero_point <= _CODE_MAX + 0.5):
        zero_point = _CODE_MIN - round(start)
    with np.errstate(all="ignore"):
        if _CODE_MIN <= zero_point <= _CODE_MAX:
            steps = values.astype(work, copy=False) / work.type(scale)
            np.rint(steps, out=steps)
            steps += work.type(zero_point)
        else:
            # Count from the smallest value, since these differences lose no digits.
            steps = _above(values, low) / scale + float(start + zero_point - _CODE_MIN)
            np.rint(steps, out=steps)
            steps += _CODE_MIN
    return IntCodes(np.clip(steps, _CODE_MIN, _CODE_MAX, out=steps).astype(np.int8), scale, zero_point)


def _scale(low: float, high: float, work: np.dtype[Any]) -> float:
    """Return the step; if it is subnormal in `work`, a step that `work` can represent and that covers the range."""
    span = high - low
    if math.isinf(span):
        return high / _STEPS - low / _STEPS
    scale = span / _STEPS
    if scale >= float(np.finfo(work).smallest_normal):
        return scale
    with np.errstate(under="ignore"):
        found = work.type(scale)
    while float(found) * _STEPS < span:
        found = np.nextafter(found, work.type(1))
    return float(found)


def _above(values: AnyArray, low: float) -> AnyArray:
    """Return `values - low` as float64."""
    if values.dtype.kind in "iu":
        # Modulo 2**64, so that no difference overflows.
        return (values.astype(np.uint64) - np.uint64(int(low) % 2**64)).astype(np.float64)
    return np.asarray(values.astype(np.float64) - low)


def simple_values(codes: AnyArray, params: Mapping[str, Any]) -> AnyArray:  # `Any`: checked
    """Return the values of codes, or `codes` themselves if they were not quantized.

    Args:
        codes: the codes.
        params: their parameters, from this module or from 0.1, which may lack `original_shape`.

    Raises:
        QuantizationError: the parameters are incomplete, or do not belong to these codes.
    """
    dtype = _original_dtype(params)
    shape = params.get("original_shape")
    if dtype.kind is Kind.COMPLEX and isinstance(shape, (list, tuple)) and codes.shape == (*shape, 2):
        parts = _real_values(
            codes, {**params, "original_shape": list(codes.shape)}, dtype_by_name(dtype.component.name)
        )
        return np.ascontiguousarray(parts).view(dtype.numpy)[..., 0]
    return _real_values(codes, params, dtype)


def _original_dtype(params: Mapping[str, Any]) -> DType:
    text = parameter(params, "original_dtype", str)
    try:
        return dtype_by_name(text.removeprefix("torch."))
    except CodecError as error:
        raise wrong_parameters(f"original_dtype: {error}") from error


def _real_values(codes: AnyArray, params: Mapping[str, Any], dtype: DType) -> AnyArray:
    if "scale" not in params and codes.dtype != np.int8:
        return _old_values(codes, "fp16", params, dtype)
    scale, zero_point = params.get("scale"), params.get("zero_point")
    if dtype.name == "int8" or not (_is_number(scale) and math.isfinite(scale) and isinstance(zero_point, int)):
        return _old_values(codes, "int8", params, dtype)
    if not _CODE_MIN <= zero_point <= _CODE_MAX:
        return _exact_values(codes, Fraction(scale), zero_point, dtype)
    if scale == 1:
        _require_whole(codes, zero_point, params.get("original_shape"))
    values = _old_values(codes, "int8", params, dtype)
    if dtype.kind is not Kind.FLOAT:
        return values
    # Half a step beyond the largest finite number must not become infinite.
    limit = dtype.numpy.type(_largest(dtype))
    return np.asarray(np.clip(values, -limit, limit)).astype(dtype.numpy, copy=False)


def _old_values(codes: AnyArray, quantizer: str, params: Mapping[str, Any], dtype: DType) -> AnyArray:
    # Imported late: quantizing and compressing do not need these modules.
    from tensorus.old_files import OldDataError  # noqa: PLC0415
    from tensorus.old_files.quantizers import dequantized  # noqa: PLC0415

    try:
        return dequantized(codes, quantizer, {**params, "original_dtype": f"torch.{dtype.name}"}).array
    except OldDataError as error:
        raise wrong_parameters(str(error)) from error


def _exact_values(codes: AnyArray, scale: Fraction, zero_point: int, dtype: DType) -> AnyArray:
    """Return `(codes - zero_point) * scale`, rounded once, and clipped to the dtype's finite range."""
    if codes.dtype != np.int8:
        raise wrong_parameters(f"codes are {codes.dtype.name}, must be int8 where there is a scale")
    # In the order of the codes' bits.
    exact = [(code - zero_point) * scale for code in (*range(_CODE_MAX + 1), *range(_CODE_MIN, 0))]
    if dtype.kind is Kind.BOOL:
        table = np.array([round(value) != 0 for value in exact])
    elif dtype.kind is Kind.INTEGER:
        limits = np.iinfo(dtype.numpy)
        table = np.array([min(max(round(value), limits.min), limits.max) for value in exact], dtype.numpy)
    else:
        limit = Fraction(_largest(dtype))
        table = np.array([float(min(max(value, -limit), limit)) for value in exact]).astype(dtype.numpy)
    return np.asarray(table[codes.view(np.uint8)])


def _require_whole(codes: AnyArray, zero_point: int, shape: object) -> None:
    """Refuse a part of the codes that is ambiguous: a constant and a range of 255 have the same scale.

    Raises:
        QuantizationError: the codes are such a part.
    """
    if not isinstance(shape, (list, tuple)) or not all(isinstance(size, int) for size in shape):
        return
    if codes.size != math.prod(shape) and bool(np.all(codes == zero_point)):
        raise wrong_parameters(
            f"{codes.size} of {math.prod(shape)} codes, all of them the zero point {zero_point}, do not say with a scale of 1 "
            "whether they are of a constant tensor; dequantize all codes"
        )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _largest(dtype: DType) -> float:
    return float(ml_dtypes.finfo(dtype.component).max)  # type: ignore[no-untyped-call]  # NumPy's own has no bfloat16
