"""Quantizers: a tensor in, codes and parameters out. Each also has a policy for use in a chain of codecs.

Used alone, a quantizer takes a torch tensor, or anything that converts to a NumPy array, and returns codes of the same kind, on
the CPU (`_codes.py`). When tensors are compressed, quantizers work on chunks, as the codecs that `policy` names.

Some tensors cannot be quantized. Floats that already have as few bits pass through unchanged. Integers and bools are never made
lossy: they pass through if they have as few bits (`passed`), and are refused otherwise.

The quantizers of Tensorus 0.1, int8 and fp16, are in `_simple_quantizers.py`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from tensorus._arrays.canonical import from_canonical
from tensorus.compression._chunks import array_and_dtype
from tensorus.compression._codes import Broken, block_parameters, decode_codes, encode_codes, is_passed, parameters_of
from tensorus.compression._errors import QuantizationError
from tensorus.compression._simple_codes import simple_values
from tensorus.errors import UnsupportedDTypeError
from tensorus.types import Policy
from tensorus_codecs.abc import Quantizer
from tensorus_codecs.contract import ErrorContract, finer
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import InvalidPolicyError, TooManyExceptionsError
from tensorus_codecs.quantizers.int4_block import Int4Block
from tensorus_codecs.registry import codec_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus.compression._codes import Params
    from tensorus.types import AsArray
    from tensorus_codecs.dtypes import DType

__all__ = [
    "AutoQuantization",
    "BF16Quantization",
    "BitRoundQuantization",
    "CodecQuantization",
    "FP8E4M3FNQuantization",
    "FP8E5M2Quantization",
    "INT4BlockQuantization",
    "INT8BlockQuantization",
    "NF4Quantization",
    "NoQuantization",
    "QuantizationAlgorithm",
    "kind_of",
    "taken",
]

_BOUNDS = ("max_relative_error", "max_absolute_error")
_OF_CODECS = frozenset({"codec", "chunk_bytes", "parameters"})
"""Parameters that only `_codes.py` returns."""
_NARROW = frozenset({"bool", "uint8", "int8", "uint16", "int16"})
"""Dtypes of at most 16 bits, except floats."""


class QuantizationAlgorithm(ABC):
    """Base class of quantizers, which reduce the bits per value at a bounded error.

    To write your own quantizer, subclass this and implement `quantize` and `dequantize`. `TensorCompression` accepts it; a
    store does not.
    """

    @abstractmethod
    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """Return codes and the parameters for `dequantize`; a tensor that passes through is returned unchanged.

        Returns:
            Codes in the shape of the tensor; complex elements add an axis of 2; codes that share a byte form one row of bytes.
            Parameters as plain, JSON-compatible values: `original_dtype`, such as "torch.float32"; `original_shape`, a list.
            `INT8Quantization` adds `scale` and `zero_point`, `FP16Quantization` nothing. Others add `codec` (None if the tensor
            passed through), `chunk_bytes`, and `parameters`, the codec's parameters for each chunk.

        Raises:
            QuantizationError: integers or bools; too many values without a code; an error above the bounds.
            TypeError: `tensor` is not a tensor.
        """

    @abstractmethod
    def dequantize(self, quantized_tensor: Any, params: Mapping[str, Any]) -> Any:  # `Any`: likewise
        """Return the tensor in its original dtype and shape.

        Quantizers of this package read each other's codes, and those of Tensorus 0.1.

        Raises:
            QuantizationError: the parameters are damaged, or do not belong to these codes.
        """

    # A cached_property, so that a subclass may also set the attribute.
    @cached_property
    def name(self) -> str:
        """Name in metadata, such as "int8". Default: the name of the class."""
        return type(self).__name__

    @property
    def policy(self) -> Policy:
        """The equivalent policy in a store: an encoding of one codec, and error bounds.

        Raises:
            TypeError: it is a user's own quantizer, which chunk records cannot name.
        """
        raise TypeError(
            f"{type(self).__name__} has no codec, so that no store can use it: to use your own quantizer in a store, "
            "provide it as a codec of a third party, see CONTRIBUTING.md"
        )


class _ByParameters(QuantizationAlgorithm):
    """Dequantizes according to the parameters, whichever class of this package returned them."""

    def dequantize(self, quantized_tensor: Any, params: Mapping[str, Any]) -> Any:  # `Any`: torch need not be installed
        """See `QuantizationAlgorithm`."""
        codes, _ = taken(quantized_tensor)
        if _is_simple(params):
            native = codes.astype(codes.dtype.newbyteorder("="), copy=False)
            values = simple_values(native, params)
            passed = values is native
        else:
            passed = is_passed(codes, params)
            values = codes if passed else decode_codes(codes, params)
        return quantized_tensor if passed else from_canonical(values, kind_of(quantized_tensor))


@dataclass(frozen=True)
class NoQuantization(_ByParameters):
    """No quantization."""

    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """Return `tensor`."""
        array, _ = taken(tensor)
        return tensor, parameters_of(array, None)

    def dequantize(self, quantized_tensor: Any, params: Mapping[str, Any]) -> Any:  # `Any`: likewise
        """See `QuantizationAlgorithm`; without parameters, `quantized_tensor`."""
        if params == {}:
            return quantized_tensor
        return super().dequantize(quantized_tensor, params)

    @property
    def name(self) -> str:
        """See `QuantizationAlgorithm`."""
        return "none"

    @property
    def policy(self) -> Policy:
        """See `QuantizationAlgorithm`: an encoding of no codec."""
        return Policy(encoding=())


@dataclass(frozen=True, kw_only=True)
class _BoundedQuantization(_ByParameters):
    """A quantizer with an error contract."""

    label: ClassVar[str]
    """Name of the quantizer."""

    max_relative_error: float | None = None
    """Limit of L2 norm of the error divided by L2 norm of the values, for every chunk. When compressing, a chunk that would
    exceed it gets a more exact encoding, as a last resort a lossless one; `quantize` raises instead. None: no limit."""
    max_absolute_error: float | None = None
    """Limit of the error of every element; enforced in the same way."""

    def __post_init__(self) -> None:
        """Validate the bounds.

        Raises:
            ValueError: a bound is invalid; the message names it.
        """
        for key in _BOUNDS:
            bound = getattr(self, key)
            if bound is None:
                continue
            if (
                isinstance(bound, bool)
                or not isinstance(bound, (int, float))
                or not (math.isfinite(bound) and bound >= 0)
            ):
                raise ValueError(f"{key} of {self.label} is {bound!r}, must be a finite number that is not negative")

    @property
    def name(self) -> str:
        """See `QuantizationAlgorithm`."""
        return self.label

    @property
    def contract(self) -> ErrorContract:
        """The bounds in the form of the codecs."""
        return ErrorContract(self.max_relative_error, self.max_absolute_error)


@dataclass(frozen=True, kw_only=True)
class CodecQuantization(_BoundedQuantization):
    """A quantizer that is one codec. Its fields except the bounds are the codec's settings."""

    codec_id: ClassVar[str]
    """Id of its codec."""
    passed: ClassVar[frozenset[str]] = frozenset()
    """Integer and bool dtypes that pass through."""

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            ValueError: a setting is invalid; the message names it, its value and the allowed values.
        """
        super().__post_init__()
        try:
            self.quantizer  # noqa: B018 - evaluated for its errors
        except InvalidPolicyError as error:
            raise ValueError(str(error)) from error

    @property
    def quantizer(self) -> Quantizer:
        """The codec with these settings."""
        settings = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in _BOUNDS
        }
        codec = codec_class(self.codec_id).from_configuration(settings)
        assert isinstance(codec, Quantizer)
        return codec

    @property
    def policy(self) -> Policy:
        """See `QuantizationAlgorithm`."""
        step = {"id": self.codec_id, "configuration": self.quantizer.configuration}
        return Policy(
            encoding=[step], max_relative_error=self.max_relative_error, max_absolute_error=self.max_absolute_error
        )

    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """See `QuantizationAlgorithm`."""
        array, dtype = taken(tensor)
        if not self.quantizer.applies_to(dtype):
            if not (dtype.is_real or dtype.name in self.passed):
                raise QuantizationError(
                    f"{self.name} does not apply to {dtype.name}: integers and bools are never made lossy",
                    reason="UNSUPPORTED_DTYPE",
                )
            return tensor, parameters_of(array, None)
        try:
            codes = encode_codes(array, dtype, self.quantizer, self.contract)
        except TooManyExceptionsError as error:
            raise QuantizationError(str(error), reason="INVALID_REQUEST") from error
        if isinstance(codes, Broken):
            raise QuantizationError(codes.reason, reason="INVALID_REQUEST")
        params = {**parameters_of(array, self.codec_id, codes.parameters), **self._readable(dtype, codes.parameters)}
        return from_canonical(codes.codes, kind_of(tensor)), params

    def _readable(self, dtype: DType, parameters: Sequence[bytes]) -> Params:  # noqa: ARG002 - for those that override it
        """Return the parameters of the chunks in readable form, for people and other programs."""
        return {}


@dataclass(frozen=True, kw_only=True)
class INT8BlockQuantization(CodecQuantization):
    """Eight-bit integers with a scale and a zero point per block of values.

    value = code * scale + zero_point. Code -128 marks a value that is stored unchanged (NaN, infinity). The error is at most
    half a scale, plus float32 rounding. Codes are int8; int8 tensors pass through.

    Additional parameters, for people and other programs: `scale`, one per block of `block_size` values, in row-major order;
    `zero_point`, likewise, in the unit of the values, or 0 for all. If a tensor passed through, they are 1.0 and 0.
    """

    label: ClassVar[str] = "int8_block"
    codec_id: ClassVar[str] = "int8_block"
    passed: ClassVar[frozenset[str]] = frozenset({"int8"})

    block_size: int = 64
    """Values per scale: 32, 64, 128 or 256. Smaller is more exact and larger."""
    code_max: int = 0
    """Largest code; 0 means 127. A smaller value is coarser, and compresses better."""
    variant: str = "auto"
    """"symmetric": zero points are 0; "affine": for values far from zero; "auto": whichever suits the chunk."""

    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """See `QuantizationAlgorithm`."""
        codes, params = super().quantize(tensor)
        return codes, {"scale": 1.0, "zero_point": 0, **params}

    def _readable(self, dtype: DType, parameters: Sequence[bytes]) -> Params:
        scales: list[float] = []
        zero_points: list[float] = []
        for of_chunk in parameters:
            of_blocks = block_parameters(of_chunk, dtype)
            scales += of_blocks[0]
            zero_points += of_blocks[1]
        return {"scale": scales, "zero_point": zero_points if any(zero_points) else 0, "block_size": self.block_size}


@dataclass(frozen=True, kw_only=True)
class BF16Quantization(CodecQuantization):
    """bfloat16: the range of float32, and an error of at most 2**-8 of each value. Dtypes of up to 16 bits pass through."""

    label: ClassVar[str] = "bf16"
    codec_id: ClassVar[str] = "bf16"
    passed: ClassVar[frozenset[str]] = _NARROW


@dataclass(frozen=True, kw_only=True)
class FP8E4M3FNQuantization(CodecQuantization):
    """float8 with 3 bits of fraction and a power of two per chunk. Codes are float8_e4m3fn."""

    label: ClassVar[str] = "fp8_e4m3fn"
    codec_id: ClassVar[str] = "fp8_e4m3fn"


@dataclass(frozen=True, kw_only=True)
class FP8E5M2Quantization(CodecQuantization):
    """float8 with 2 bits of fraction and a wider range, and a power of two per chunk. Codes are float8_e5m2."""

    label: ClassVar[str] = "fp8_e5m2"
    codec_id: ClassVar[str] = "fp8_e5m2"


@dataclass(frozen=True, kw_only=True)
class INT4BlockQuantization(CodecQuantization):
    """Four-bit integers with a scale for each block of values. Codes are a row of bytes, two codes in each."""

    label: ClassVar[str] = "int4_block"
    codec_id: ClassVar[str] = "int4_block"

    block_size: int = 32
    """Values per scale: 32, 64 or 128. Smaller is more exact and larger."""


@dataclass(frozen=True, kw_only=True)
class NF4Quantization(CodecQuantization):
    """NormalFloat4: 16 levels for normally distributed values. Codes are a row of bytes, two codes in each."""

    label: ClassVar[str] = "nf4"
    codec_id: ClassVar[str] = "nf4"

    block_size: int = 64
    """Values per scale: 32, 64 or 128. Smaller is more exact and larger."""


@dataclass(frozen=True, kw_only=True)
class BitRoundQuantization(CodecQuantization):
    """Values rounded to fewer fraction bits. Codes are values of the same dtype: a compressor makes them smaller."""

    label: ClassVar[str] = "bitround"
    codec_id: ClassVar[str] = "bitround"

    keep_bits: int = 7
    """Bits of the fraction that are kept, 0 to 52; 7 are bfloat16's."""


@dataclass(frozen=True, kw_only=True)
class AutoQuantization(_BoundedQuantization):
    """The coarsest quantizer within the bounds: 4-bit blocks, 8-bit blocks, bfloat16, half precision, or none.

    Compressing chooses for every chunk, so a tensor is stored in mixed precision; if a compressor follows, it also tries
    intermediate numbers of codes. `quantize` chooses once for the whole tensor. Without bounds, and for integers and bools,
    nothing is quantized.
    """

    label: ClassVar[str] = "auto"

    @property
    def policy(self) -> Policy:
        """See `QuantizationAlgorithm`: the coarsest codec; the bounds replace it by a finer one if necessary."""
        if self.contract.is_empty:
            return Policy(encoding=())
        return Policy(
            encoding=[Int4Block.id],
            max_relative_error=self.max_relative_error,
            max_absolute_error=self.max_absolute_error,
        )

    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """See `QuantizationAlgorithm`."""
        array, dtype = taken(tensor)
        coarsest = Encoding(Int4Block())
        quantizer: Quantizer | None = None if self.contract.is_empty else coarsest.quantizer
        while quantizer is not None and quantizer.applies_to(dtype):
            try:
                codes = encode_codes(array, dtype, quantizer, self.contract)
            except TooManyExceptionsError:
                break
            if not isinstance(codes, Broken):
                params = parameters_of(array, quantizer.id, codes.parameters)
                return from_canonical(codes.codes, kind_of(tensor)), params
            encoding = finer(coarsest, quantizer, codes.excess, self.contract, dtype)
            quantizer = None if encoding is None else encoding.quantizer
        return tensor, parameters_of(array, None)


def taken(tensor: object) -> tuple[AnyArray, DType]:
    """Return `array_and_dtype`; raise `QuantizationError` for a dtype that Tensorus lacks."""
    try:
        return array_and_dtype(tensor)
    except UnsupportedDTypeError as error:
        raise QuantizationError(str(error), reason=error.reason) from error


def _is_simple(params: object) -> bool:
    return isinstance(params, Mapping) and _OF_CODECS.isdisjoint(params)


def kind_of(tensor: object) -> AsArray:
    """Return "torch" for a torch tensor, "numpy" for everything else."""
    torch = sys.modules.get("torch")
    return "torch" if torch is not None and isinstance(tensor, torch.Tensor) else "numpy"
