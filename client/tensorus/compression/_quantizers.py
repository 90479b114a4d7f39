"""Quantizers: a tensor in, its codes and their parameters out, and what each is in a chain of codecs.

Used alone, a quantizer takes a torch tensor or anything that becomes a NumPy array, and gives codes of the same kind, on the
CPU (`_codes.py`). When tensors are compressed, quantizers work on chunks, as the codecs that `policy` names.

A tensor that a quantizer does not apply to: floats that have as few bits already pass as they are. Integers and bools are never
made lossy: they pass where they have as few bits (`passed`), and are refused elsewhere.

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

from tensorus._arrays import from_canonical
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

    from tensorus._arrays import AnyArray
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
"""Parameters that only `_codes.py` gives."""
_NARROW = frozenset({"bool", "uint8", "int8", "uint16", "int16"})
"""Dtypes of at most 16 bits that are no floats."""


class QuantizationAlgorithm(ABC):
    """Fewer bits per value, at a bounded error.

    A quantizer of your own is a subclass with `quantize` and `dequantize`. `TensorCompression` takes it; a store does not.
    """

    @abstractmethod
    def quantize(self, tensor: Any) -> tuple[Any, Params]:  # `Any`: torch need not be installed
        """Return codes and the parameters that `dequantize` takes; a tensor that passes is returned as it is.

        Returns:
            Codes of the tensor's shape, complex elements with another axis of 2; those that share a byte are a row of bytes.
            Parameters as plain values, which JSON keeps: `original_dtype`, such as "torch.float32"; `original_shape`, a list.
            `INT8Quantization` adds `scale` and `zero_point`, `FP16Quantization` nothing. Others add `codec`, None where the
            tensor passed; `chunk_bytes`; and `parameters`, what the codec needs for each chunk.

        Raises:
            QuantizationError: integers or bools; too many values that cannot be coded; an error above what is allowed.
            TypeError: it is no tensor.
        """

    @abstractmethod
    def dequantize(self, quantized_tensor: Any, params: Mapping[str, Any]) -> Any:  # `Any`: likewise
        """Return the tensor, in its dtype and shape. The quantizers here read what any of them made, and what 0.1 made.

        Raises:
            QuantizationError: the parameters are damaged, or not those of these codes.
        """

    # Of this kind of property, since a subclass may just as well set the attribute.
    @cached_property
    def name(self) -> str:
        """What metadata calls it, such as "int8"; the class's name unless a subclass says otherwise."""
        return type(self).__name__

    @property
    def policy(self) -> Policy:
        """What it is in a store: an encoding of one codec, and how large its error may be.

        Raises:
            TypeError: it is none of this module's, so that no chunk record could say how it was quantized.
        """
        raise TypeError(
            f"{type(self).__name__} has no codec, so that no store can use it: quantizers of your own are "
            "codecs of third parties there, see CONTRIBUTING.md"
        )


class _ByParameters(QuantizationAlgorithm):
    """Dequantizes by what the parameters say, whichever of these classes made them."""

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
    """Values as they are."""

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
    """What all that quantize share: an error contract."""

    label: ClassVar[str]
    """Its name."""

    max_relative_error: float | None = None
    """L2 norm of the error over L2 norm, at most, for every chunk. Compressing takes a finer encoding for a chunk that would
    break it, at last a lossless one; quantizing alone is refused. None: no bound."""
    max_absolute_error: float | None = None
    """Largest error of an element, at most; likewise."""

    def __post_init__(self) -> None:
        """Refuse a bound that is none.

        Raises:
            ValueError: names it.
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
        """The bounds, as the codecs take them."""
        return ErrorContract(self.max_relative_error, self.max_absolute_error)


@dataclass(frozen=True, kw_only=True)
class CodecQuantization(_BoundedQuantization):
    """One codec; its settings are the fields beside the bounds."""

    codec_id: ClassVar[str]
    """Of its codec."""
    passed: ClassVar[frozenset[str]] = frozenset()
    """Dtypes of integers and bools that pass."""

    def __post_init__(self) -> None:
        """Refuse settings that the codec does not have.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        try:
            self.quantizer  # noqa: B018 - made for its errors
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
        """Return what the chunks' parameters say, for people and other programs."""
        return {}


@dataclass(frozen=True, kw_only=True)
class INT8BlockQuantization(CodecQuantization):
    """Eight-bit integers, with a scale and a zero point for each block of values.

    value = code * scale + zero_point, where the code is not -128, which marks a value that is kept as it is (NaN, infinity).
    No value is off by more than half a scale, but for the rounding of float32. Codes are int8; int8 passes.

    Further parameters, for people and other programs: `scale`, one for each block of `block_size` values, row by row;
    `zero_point`, the same, in the unit of the values, or 0 for all. Where a tensor passed they are 1.0 and 0.
    """

    label: ClassVar[str] = "int8_block"
    codec_id: ClassVar[str] = "int8_block"
    passed: ClassVar[frozenset[str]] = frozenset({"int8"})

    block_size: int = 64
    """Values per scale: 32, 64, 128 or 256. Smaller is more exact and larger."""
    code_max: int = 0
    """Largest code; 0: 127. Fewer are coarser, and smaller where a compressor follows."""
    variant: str = "auto"
    """"symmetric", zero points are 0; "affine", for values that keep away from zero; "auto": whichever suits the chunk."""

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
    """bfloat16: the range of float32, and no value is off by more than 2**-8 of itself. Tensors of at most 16 bits pass."""

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
    """NormalFloat4: 16 levels for values that are distributed normally. Codes are a row of bytes, two codes in each."""

    label: ClassVar[str] = "nf4"
    codec_id: ClassVar[str] = "nf4"

    block_size: int = 64
    """Values per scale: 32, 64 or 128. Smaller is more exact and larger."""


@dataclass(frozen=True, kw_only=True)
class BitRoundQuantization(CodecQuantization):
    """Values rounded to fewer bits of fraction. Codes are values of the same dtype: a compressor makes them smaller."""

    label: ClassVar[str] = "bitround"
    codec_id: ClassVar[str] = "bitround"

    keep_bits: int = 7
    """Bits of the fraction that are kept, 0 to 52; 7 are bfloat16's."""


@dataclass(frozen=True, kw_only=True)
class AutoQuantization(_BoundedQuantization):
    """The coarsest quantizer that keeps the bounds: 4-bit blocks, 8-bit blocks, bfloat16, half precision, or none.

    Compressing chooses for every chunk, so that a tensor is stored in mixed precision, and goes on between these with as many
    codes as it takes where a compressor follows. Quantizing alone chooses for the tensor. Without bounds, and for integers and
    bools, nothing is quantized.
    """

    label: ClassVar[str] = "auto"

    @property
    def policy(self) -> Policy:
        """See `QuantizationAlgorithm`: the coarsest codec, which the bounds replace by a finer one."""
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
    """Return `array_and_dtype`; a dtype that Tensorus does not have is a QuantizationError."""
    try:
        return array_and_dtype(tensor)
    except UnsupportedDTypeError as error:
        raise QuantizationError(str(error), reason=error.reason) from error


def _is_simple(params: object) -> bool:
    return isinstance(params, Mapping) and _OF_CODECS.isdisjoint(params)


def kind_of(tensor: object) -> AsArray:
    """Return which library's array this is; "numpy" for all but torch's."""
    torch = sys.modules.get("torch")
    return "torch" if torch is not None and isinstance(tensor, torch.Tensor) else "numpy"
