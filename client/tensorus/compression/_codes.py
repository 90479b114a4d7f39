"""The codes of a whole tensor, and the parameters to restore its values.

A tensor is quantized chunk by chunk, as in a store, so the additional memory is its codes and one chunk. Parameters are plain,
JSON-compatible values:

    original_dtype   such as "torch.float32"
    original_shape   a list of sizes
    codec            id of the quantizer; None: the tensor passed through unchanged, and there are no further keys
    chunk_bytes      canonical bytes per chunk; the last one may be shorter
    parameters       the quantizer's parameters for each chunk, in Base64

Codes have the tensor's shape; complex elements add an axis of 2; codes that share a byte form one row of bytes.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tensorus._arrays.canonical import empty_canonical
from tensorus.compression._chunks import chunks_of, dtype_text
from tensorus.compression._errors import QuantizationError
from tensorus_codecs.abc import Quantizer
from tensorus_codecs.dtypes import Kind, dtype_by_name
from tensorus_codecs.errors import CodecError
from tensorus_codecs.measure import measure
from tensorus_codecs.policy import CHUNK_BYTES_DEFAULT
from tensorus_codecs.registry import codec_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus_codecs.contract import ErrorContract
    from tensorus_codecs.dtypes import DType

__all__ = [
    "Broken",
    "Codes",
    "Params",
    "block_parameters",
    "decode_codes",
    "encode_codes",
    "is_passed",
    "parameter",
    "parameters_of",
    "wrong_parameters",
]

Params: TypeAlias = "dict[str, Any]"
"""See the module's description. `Any`: text, numbers, lists of these."""

_PREFIX = "torch."
_BLOCKS = struct.Struct("<HHI")
"""Start of an integer quantizer's parameters: block_size, variant (1: affine), exception_count."""


@dataclass(frozen=True)
class Codes:
    """The result of quantizing a tensor."""

    codes: AnyArray
    """See the module's description."""
    parameters: list[bytes]
    """One entry per chunk."""


@dataclass(frozen=True)
class Broken:
    """States that a quantizer is too coarse for an error contract."""

    reason: str
    """A message for people."""
    excess: float
    """The error of a chunk divided by its limit."""


def encode_codes(array: AnyArray, dtype: DType, quantizer: Quantizer, contract: ErrorContract) -> Codes | Broken:
    """Return the codes of an array, or the reason why its first failing chunk breaks the contract.

    Args:
        array: the array.
        dtype: its dtype.
        quantizer: a quantizer that applies to `dtype`.
        contract: the error bounds.

    Raises:
        TooManyExceptionsError: a chunk has too many values that the quantizer cannot code.
    """
    component = dtype.component
    chunk_count = CHUNK_BYTES_DEFAULT // component.itemsize
    chunk_codes = quantizer.code_count(chunk_count)
    count = _value_count(dtype, array.shape)
    codes = np.empty(_code_count(type(quantizer), count, chunk_count), quantizer.code_dtype(component))
    parameters: list[bytes] = []
    with np.errstate(all="ignore"):
        for chunk in chunks_of(array, CHUNK_BYTES_DEFAULT):
            values = np.frombuffer(chunk, component)
            quantized = quantizer.encode(values)
            if not contract.is_empty:
                decoded = quantizer.decode(quantized.codes, quantized.parameters, component, values.size)
                error = measure(values, decoded)
                reason = contract.broken_by(quantizer.id, error)
                if reason:
                    return Broken(reason, contract.excess(error))
            start = len(parameters) * chunk_codes
            codes[start : start + quantized.codes.size] = quantized.codes
            parameters.append(quantized.parameters)
    shown_shape = _shown_shape(type(quantizer), dtype, array.shape, chunk_count)
    return Codes(codes.view(_shown_dtype(type(quantizer), dtype)).reshape(shown_shape), parameters)


def parameters_of(array: AnyArray, codec_id: str | None, parameters: Sequence[bytes] = ()) -> Params:
    """Return the parameters of a tensor as plain values."""
    described: Params = {
        "original_dtype": dtype_text(array),
        "original_shape": list(array.shape),
        "codec": codec_id,
    }
    if codec_id is not None:
        described["chunk_bytes"] = CHUNK_BYTES_DEFAULT
        described["parameters"] = [base64.b64encode(of_chunk).decode("ascii") for of_chunk in parameters]
    return described


def block_parameters(parameters: bytes, dtype: DType) -> tuple[list[float], list[float]]:
    """Return the scales and the zero points of a chunk's blocks.

    Args:
        parameters: parameters of `IntBlock`, which defines their layout: `_BLOCKS`, bfloat16 scales, as many midpoints if
            affine, then exceptions.
        dtype: dtype of the tensor.
    """
    _, affine, exception_count = _BLOCKS.unpack_from(parameters)
    component = dtype.component
    middle = np.dtype("<f8" if component.itemsize == 8 else "<f4")
    blocks_bytes = len(parameters) - _BLOCKS.size - exception_count * component.itemsize
    count = blocks_bytes // (2 + (middle.itemsize if affine else 0))
    # bfloat16 is the upper half of float32.
    scales = (np.frombuffer(parameters, "<u2", count, _BLOCKS.size).astype(np.uint32) << np.uint32(16)).view(np.float32)
    middles = np.frombuffer(parameters, middle, count, _BLOCKS.size + 2 * count) if affine else np.zeros(count)
    return scales.tolist(), middles.tolist()


def is_passed(array: AnyArray, params: Mapping[str, Any]) -> bool:  # `Any`: plain values
    """Whether the tensor passed through without being quantized, according to its parameters.

    Raises:
        QuantizationError: the parameters are incomplete, or belong to another tensor.
    """
    if parameter(params, "codec", (str, type(None))) is not None:
        return False
    original, found = parameter(params, "original_dtype", str), dtype_text(array)
    if original != found:
        raise wrong_parameters(
            f"original_dtype is {original!r} of a tensor that was not quantized, and this one is {found!r}"
        )
    return True


def decode_codes(codes: AnyArray, params: Mapping[str, Any]) -> AnyArray:
    """Return the values of codes: new, little-endian, row-major.

    Args:
        codes: codes from `encode_codes`.
        params: their parameters from `parameters_of`.

    Raises:
        QuantizationError: the parameters are damaged, or do not belong to these codes.
    """
    dtype, shape = _original(params)
    quantizer = _quantizer(params, dtype)
    component = dtype.component
    chunk_count = parameter(params, "chunk_bytes", int) // component.itemsize
    parameters = parameter(params, "parameters", list)
    count = _value_count(dtype, shape)
    if chunk_count <= 0 or len(parameters) != -(-count // chunk_count):
        raise wrong_parameters(
            f"they are of {len(parameters)} chunks, {count} values in chunks of {chunk_count} have others"
        )
    shown_dtype, shown_shape = _shown_dtype(quantizer, dtype), _shown_shape(quantizer, dtype, shape, chunk_count)
    if codes.dtype.newbyteorder("<") != shown_dtype or codes.shape != shown_shape:
        raise wrong_parameters(
            f"codes are {codes.dtype.name}, shape {codes.shape}; "
            f"{quantizer.id} of {dtype.name}, shape {shape}, has {shown_dtype.name}, shape {shown_shape}"
        )
    array = _empty(dtype, shape)
    values = array.reshape(-1).view(component)
    _decode_chunks(_flat(codes).view(quantizer.code_dtype(component)), values, quantizer, chunk_count, parameters)
    return array


def _decode_chunks(
    codes: AnyArray, values: AnyArray, quantizer: type[Quantizer], chunk_count: int, parameters: Sequence[Any]
) -> None:
    """Fill `values`, shape (n,), from the codes of n values."""
    code_start = 0
    for number, text in enumerate(parameters):
        chunk = values[number * chunk_count : (number + 1) * chunk_count]
        code_stop = code_start + quantizer.code_count(chunk.size)
        try:
            raw = base64.b64decode(text, validate=True)
            with np.errstate(all="ignore"):
                chunk[:] = quantizer.decode(codes[code_start:code_stop], raw, chunk.dtype, chunk.size)
        except (CodecError, TypeError, ValueError) as error:
            raise wrong_parameters(f"those of chunk {number} cannot be read: {error}") from error
        code_start = code_stop


def _empty(dtype: DType, shape: tuple[int, ...]) -> AnyArray:
    try:
        return empty_canonical(dtype.name, shape)
    except ValueError as error:
        raise wrong_parameters(f"original_shape is {shape}: {error}") from error


def _flat(codes: AnyArray) -> AnyArray:
    """Return codes in the form of the quantizer: dense, little-endian, shape (n,)."""
    return np.ascontiguousarray(codes, codes.dtype.newbyteorder("<")).reshape(-1)


def _value_count(dtype: DType, shape: tuple[int, ...]) -> int:
    """Return the number of real components of a tensor."""
    return math.prod(shape) * (dtype.element_bytes // dtype.component.itemsize)


def _code_count(quantizer: type[Quantizer], count: int, chunk_count: int) -> int:
    """Return the number of codes of `count` values in chunks of `chunk_count`."""
    whole, rest = divmod(count, chunk_count)
    return whole * quantizer.code_count(chunk_count) + quantizer.code_count(rest)


def _original(params: Mapping[str, Any]) -> tuple[DType, tuple[int, ...]]:
    text, shape = parameter(params, "original_dtype", str), parameter(params, "original_shape", (list, tuple))
    try:
        dtype = dtype_by_name(text.removeprefix(_PREFIX))
    except CodecError as error:
        raise wrong_parameters(f"original_dtype: {error}") from error
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        raise wrong_parameters(f"original_shape is {shape!r}, must be sizes that are not negative")
    return dtype, tuple(shape)


def _quantizer(params: Mapping[str, Any], dtype: DType) -> type[Quantizer]:
    codec_id = parameter(params, "codec", str)
    try:
        found = codec_class(codec_id)
    except CodecError as error:
        raise wrong_parameters(f"codec: {error}") from error
    if not issubclass(found, Quantizer) or not found.applies_to(dtype):
        raise wrong_parameters(f"codec is {codec_id!r}, which does not quantize {dtype.name}")
    return found


def parameter(params: Mapping[str, Any], key: str, kinds: type | tuple[type, ...]) -> Any:  # `Any`: as `kinds` says
    """Return one of the parameters.

    Raises:
        QuantizationError: it is missing or has a wrong type, or `params` is not a dict.
    """
    if not isinstance(params, Mapping):
        raise wrong_parameters(f"they are a {type(params).__name__}, must be a dict")
    if key not in params:
        raise wrong_parameters(f"{key} is missing")
    found = params[key]
    if not isinstance(found, kinds) or isinstance(found, bool):
        raise wrong_parameters(f"{key} is {found!r}, of another type than it was")
    return found


def _shown_dtype(quantizer: type[Quantizer], dtype: DType) -> np.dtype[Any]:
    """Return the dtype of returned codes. Codes that are the bits of values are returned as these values."""
    code_dtype = quantizer.code_dtype(dtype.component)
    is_bits = code_dtype.kind == "u" and code_dtype.itemsize == dtype.component.itemsize
    return dtype.component if is_bits else code_dtype


def _shown_shape(quantizer: type[Quantizer], dtype: DType, shape: tuple[int, ...], chunk_count: int) -> tuple[int, ...]:
    if quantizer.code_count(2) < 2:
        return (_code_count(quantizer, _value_count(dtype, shape), chunk_count),)
    return (*shape, 2) if dtype.kind is Kind.COMPLEX else shape


def wrong_parameters(what: str) -> QuantizationError:
    """Return the error for invalid parameters."""
    return QuantizationError(f"quantization parameters: {what}", reason="INVALID_REQUEST")
