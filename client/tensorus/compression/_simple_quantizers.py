"""The quantizers of Tensorus 0.1: int8 with one scale for the tensor, and half precision.

Used alone, they accept what they accepted in 0.1, including integers and bools, and return the same results
(`_simple_codes.py`). When tensors are compressed, they are ordinary codecs: int8 has a scale per block, half precision has an
exponent per chunk, and integers and bools stay lossless.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus._arrays.canonical import from_canonical
from tensorus.compression._chunks import dtype_text
from tensorus.compression._codes import parameters_of
from tensorus.compression._errors import QuantizationError
from tensorus.compression._quantizers import CodecQuantization, kind_of, taken
from tensorus.compression._simple_codes import components, half_codes, int8_codes, simple_values
from tensorus_codecs.measure import measure

if TYPE_CHECKING:
    from tensorus._arrays.canonical import AnyArray
    from tensorus.compression._codes import Params
    from tensorus_codecs.dtypes import DType

__all__ = ["FP16Quantization", "INT8Quantization"]


@dataclass(frozen=True, kw_only=True)
class _SimpleQuantization(CodecQuantization):
    """A quantizer of Tensorus 0.1. Used alone, it quantizes whole tensors, including integers and bools."""

    def _require_bounds(self, array: AnyArray, dtype: DType, codes: AnyArray, params: Params) -> None:
        """Refuse codes whose error exceeds the bounds.

        Raises:
            QuantizationError: the error exceeds a bound; the message names both.
        """
        if self.contract.is_empty or not array.size:
            return
        values, decoded = components(array), components(simple_values(codes, params))
        if not dtype.is_real:
            values, decoded = values.astype(np.float64), decoded.astype(np.float64)
        reason = self.contract.broken_by(self.name, measure(values.reshape(-1), decoded.reshape(-1)))
        if reason:
            raise QuantizationError(reason, reason="INVALID_REQUEST")


@dataclass(frozen=True, kw_only=True)
class INT8Quantization(_SimpleQuantization):
    """Used alone: eight-bit integers with one scale, so that the tensor is approximately `(codes - zero_point) * scale`.

    `quantize` returns int8 codes in the shape of the tensor, and the parameters `scale`, a float, and `zero_point`, an int. The
    error is at most half a scale, plus the rounding of the dtype; integers and bools are rounded on dequantizing. NaN and
    infinity are refused. int8 and float8 tensors pass through, with a scale of 1.0 and a zero point of 0.

    `scale` is (max - min) / 255. `zero_point` is from -128 to 127 if zero is within the range of the tensor; otherwise it may
    be any integer. Constants are exact. A constant that is an integer from -128 to 127 has a scale of 1.0, and its value is
    also the zero point and every code, as in Tensorus 0.1. The formula does not hold for these; `dequantize` handles them.

    When tensors are compressed, it acts as `INT8BlockQuantization` with default settings.
    """

    label: ClassVar[str] = "int8"
    codec_id: ClassVar[str] = "int8_block"

    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """See `QuantizationAlgorithm`."""
        array, dtype = taken(tensor)
        if dtype.element_bytes == 1 and (dtype.is_real or dtype.name == "int8"):
            return tensor, {"scale": 1.0, "zero_point": 0, **parameters_of(array, None)}
        made = int8_codes(components(array))
        params = {"scale": made.scale, "zero_point": made.zero_point, **_described(array)}
        self._require_bounds(array, dtype, made.codes, params)
        return from_canonical(made.codes, kind_of(tensor)), params


@dataclass(frozen=True, kw_only=True)
class FP16Quantization(_SimpleQuantization):
    """Used alone: converts a tensor of any dtype to half precision. float16 tensors pass through.

    Finite values beyond 65504 become infinite, with a RuntimeWarning that counts them; values below 2**-25 become zero.

    When tensors are compressed, every chunk has a power of two as a factor, so that nothing overflows or vanishes: the error of
    a value is at most 2**-11 of itself, or 2**-39 of the largest value in its chunk.
    """

    label: ClassVar[str] = "fp16"
    codec_id: ClassVar[str] = "fp16"

    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """See `QuantizationAlgorithm`."""
        array, dtype = taken(tensor)
        if dtype.name == "float16":
            return tensor, parameters_of(array, None)
        kind = kind_of(tensor)
        codes, lost_count = half_codes(components(array), by_way_of_float32=kind == "torch")
        params = _described(array)
        self._require_bounds(array, dtype, codes, params)
        if lost_count:
            warnings.warn(
                f"{lost_count} of {codes.size} values are beyond 65504, the largest of half precision, and become infinite; "
                "TensorCompression and stores keep an exponent per chunk, which avoids this",
                RuntimeWarning,
                stacklevel=2,
            )
        return from_canonical(codes, kind), params


def _described(array: AnyArray) -> Params:
    return {"original_dtype": dtype_text(array), "original_shape": list(array.shape)}
