"""The quantizers of Tensorus 0.1: int8 with one scale for the tensor, and half precision.

Used alone they take what they took, integers and bools among it, and give what they gave (`_simple_codes.py`). When tensors are
compressed they are codecs like all others: int8 has a scale per block, half precision an exponent per chunk, and integers and
bools stay lossless.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus._arrays import from_canonical
from tensorus.compression._chunks import dtype_text
from tensorus.compression._codes import parameters_of
from tensorus.compression._errors import QuantizationError
from tensorus.compression._quantizers import CodecQuantization, kind_of, taken
from tensorus.compression._simple_codes import components, half_codes, int8_codes, simple_values
from tensorus_codecs.measure import measure

if TYPE_CHECKING:
    from tensorus._arrays import AnyArray
    from tensorus.compression._codes import Params
    from tensorus_codecs.dtypes import DType

__all__ = ["FP16Quantization", "INT8Quantization"]


@dataclass(frozen=True, kw_only=True)
class _SimpleQuantization(CodecQuantization):
    """Used alone, a quantizer of Tensorus 0.1, which takes tensors as a whole, integers and bools among them."""

    def _require_bounds(self, array: AnyArray, dtype: DType, codes: AnyArray, params: Params) -> None:
        """Refuse codes that are off by more than the bounds allow.

        Raises:
            QuantizationError: they are; says by how much.
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
    """Used alone: eight-bit integers with one scale, so that `(codes - zero_point) * scale` is the tensor.

    `quantize` gives int8 codes of the tensor's shape, and in the parameters `scale`, a float, and `zero_point`, an int. No
    value is off by more than half a scale, beside the rounding of its dtype; integers and bools are rounded when they are
    read. NaN and infinity are refused. int8 and float8 tensors pass, with a scale of 1.0 and a zero point of 0.

    `scale` is (max - min) / 255. `zero_point` is from -128 to 127 where zero is within the tensor's range; elsewhere it may
    be any integer. Constants are exact. Those that are integers from -128 to 127 have scale 1.0, and the value for a zero
    point and for every code, as in Tensorus 0.1: the formula does not hold for these, and `dequantize` knows them.

    When tensors are compressed, it is `INT8BlockQuantization` with the defaults of that.
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
    """Used alone: the tensor in half precision, whatever its dtype. float16 passes.

    Finite values beyond 65504 become infinite, with a RuntimeWarning that counts them; values below 2**-25 become zero.

    When tensors are compressed, half precision has a power of two per chunk, so that nothing overflows or vanishes: no value is
    off by more than 2**-11 of itself, or 2**-39 of the largest in its chunk.
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
                "TensorCompression and stores keep an exponent, and lose none of them",
                RuntimeWarning,
                stacklevel=2,
            )
        return from_canonical(codes, kind), params


def _described(array: AnyArray) -> Params:
    return {"original_dtype": dtype_text(array), "original_shape": list(array.shape)}
