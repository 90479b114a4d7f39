"""Compresses tensors with a user's own compressor, quantizer, or both.

The codes of a user's quantizer are packed losslessly (`_container.py`), with the compressor if it is one of this package. A
user's compressor takes the packed bytes. A header names the user's algorithms, so that only the same ones are used to read the
bytes, and has a CRC32C, so that damage is detected whatever they do.

Tensor compressed with a user's own algorithms, version 1. Little-endian, no padding.

 at  size  field               rule (each has a check, a message and a test that breaks it)
  0     4  magic               "TNSA"
  4     1  version             1; any other is refused before a further byte is read
  5     1  codes               0: the tensor itself is below; 1: codes of a quantizer that gave a NumPy array; 2: a torch tensor
  6     1  compression_bytes   of the compressor's name; 0: Tensorus reads the bytes below by itself
  7     1  quantization_bytes  of the quantizer's name; 0 exactly where `codes` is 0
  8     n  names               in this order, UTF-8
        4  crc32c              of everything before it, continued over everything after it
        -  payload             a compressed tensor, compressed again by the user's compressor if there is one

The bytes do not contain a quantizer's parameters; these are in `metadata["quantization_params"]`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus._arrays.canonical import as_numpy, default_kind, from_canonical
from tensorus.compression._chunks import array_and_dtype
from tensorus.compression._container import pack, unpack
from tensorus.compression._errors import CompressionError
from tensorus.compression._factories import is_ours
from tensorus.compression._policy import chain, plan_of
from tensorus.compression._quantizers import kind_of
from tensorus.types import Policy
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.measure import measure

if TYPE_CHECKING:
    from tensorus._arrays.canonical import AnyArray
    from tensorus.compression._compressors import CompressionAlgorithm
    from tensorus.compression._quantizers import QuantizationAlgorithm
    from tensorus.types import AsArray

__all__ = ["Pair", "is_foreign", "name_of"]

_MAGIC = b"TNSA"
_VERSION = 1
_START = struct.Struct("<4sBBBB")
_CRC = struct.Struct("<I")
_NAME_BYTES_MAX = 255
_TEXT = ("utf-8", "surrogatepass")
_KINDS: tuple[AsArray | None, ...] = (None, "numpy", "torch")
"""By the number in the header."""
_NO_CODECS = Policy(encoding=())


def is_foreign(data: memoryview) -> bool:
    """Whether these bytes begin like those of a `Pair`."""
    return data[: len(_MAGIC)] == _MAGIC


def name_of(algorithm: CompressionAlgorithm | QuantizationAlgorithm) -> str:
    """Return an algorithm's name.

    Raises:
        CompressionError: the name is not text of 1 to 255 bytes, or reading it raises.
    """
    try:
        name: object = algorithm.name
    except Exception as error:
        raise CompressionError(
            f"{type(algorithm).__name__} does not tell its name: {error!r}", reason="INVALID_REQUEST"
        ) from error
    if isinstance(name, str) and 0 < len(name.encode(*_TEXT)) <= _NAME_BYTES_MAX:
        return name
    raise CompressionError(
        f"name of {type(algorithm).__name__} is {name!r}, must be a text of 1 to {_NAME_BYTES_MAX} bytes",
        reason="INVALID_REQUEST",
    )


@dataclass(frozen=True)
class _Header:
    codes: AsArray | None
    compression: str
    """Name of the user's compressor; empty if there is none."""
    quantization: str
    """Name of the user's quantizer; empty if there is none."""

    @property
    def algorithms(self) -> str:
        named = (("compressor", self.compression), ("quantizer", self.quantization))
        return " and ".join(f"{kind} {name!r}" for kind, name in named if name) or "none of a user's own"


class Pair:
    """A compressor and a quantizer, at least one of which is a user's own.

    Exceptions of a user's code become the cause of a CompressionError.
    """

    def __init__(self, compression: CompressionAlgorithm, quantization: QuantizationAlgorithm) -> None:
        self._compression = compression
        self._quantization = quantization
        self._compresses = not is_ours(compression)
        self._quantizes = not is_ours(quantization)

    def compress(
        self, tensor: Any, array: AnyArray
    ) -> tuple[bytes, dict[str, Any]]:  # `Any`: torch need not be installed
        """Return the compressed tensor, and the part of its metadata that depends on these algorithms.

        Args:
            tensor: the tensor, for the quantizer.
            array: its values.

        Raises:
            CompressionError: an algorithm raised, or returned an invalid result.
            ImportError: the library of a compressor is not installed.
        """
        codes, params = self._quantized(tensor) if self._quantizes else (array, None)
        try:
            stored, dtype = array_and_dtype(codes)
        except (TypeError, ValueError) as error:
            raise self._failed("quantizer", f"gave codes that are no tensor: {error}") from error
        policy = chain(
            _NO_CODECS if self._quantizes else self._quantization.policy,
            _NO_CODECS if self._compresses else self._compression.policy,
        )
        payload, report = pack(stored, dtype, plan_of(policy, dtype))
        details = {**report.to_metadata(), "encodings": []}
        if params is not None:
            restored = self._dequantized(from_canonical(unpack(payload), kind_of(codes)), params)
            details |= {"quantization_params": params, **self._measured(array, restored)}
        if self._compresses:
            payload = self._ran("compressor", "compress", payload)
        return _with_header(self._header(kind_of(codes) if self._quantizes else None), payload), details

    def decompress(
        self, data: memoryview, metadata: object, as_: AsArray | None
    ) -> Any:  # `Any`: torch need not be installed
        """Return the tensor that a pair with the same names compressed.

        Raises:
            CompressionError: the bytes are damaged or need other algorithms, or parameters are missing.
        """
        header, payload = _parsed(data)
        here = self._header(header.codes)
        if header != here:
            raise CompressionError(
                f"compressed tensor needs {header.algorithms}; this object has {here.algorithms}",
                reason="INVALID_REQUEST",
            )
        if header.compression:
            payload = memoryview(self._ran("compressor", "decompress", bytes(payload)))
        try:
            array = unpack(payload)
        except CompressionError as error:
            if not header.compression or error.reason != "DATA_CORRUPT":
                raise
            raise self._failed("compressor", f"gave back other bytes than it took: {error}") from error
        if header.codes is None:
            return from_canonical(array, as_ or default_kind())
        params = metadata.get("quantization_params") if isinstance(metadata, Mapping) else None
        if not isinstance(params, Mapping):
            raise CompressionError(
                f"quantizer {header.quantization!r} needs metadata['quantization_params'], as compressing returned them: "
                f"they are a {type(params).__name__}, must be a dict",
                reason="INVALID_REQUEST",
            )
        values = self._dequantized(from_canonical(array, header.codes), params)
        if as_ is None:
            return values
        try:
            return from_canonical(as_numpy(values), as_)
        except (TypeError, ValueError) as error:
            raise self._failed("quantizer", f"gave values that are no tensor: {error}") from error

    def _header(self, codes: AsArray | None) -> _Header:
        return _Header(
            codes,
            name_of(self._compression) if self._compresses else "",
            name_of(self._quantization) if self._quantizes else "",
        )

    def _quantized(self, tensor: Any) -> tuple[Any, dict[str, Any]]:  # `Any`: whatever a user's code takes and gives
        made: object = self._called("quantizer", "quantize", tensor)
        if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
            return made[0], dict(made[1])
        raise self._failed("quantizer", "did not give codes and a dict of parameters")

    def _dequantized(self, codes: Any, params: Mapping[str, Any]) -> Any:  # `Any`: likewise
        return self._called("quantizer", "dequantize", codes, dict(params))

    def _ran(self, kind: str, method: str, data: bytes) -> bytes:
        made: object = self._called(kind, method, data)
        if not isinstance(made, (bytes, bytearray, memoryview)):
            raise self._failed(kind, f"gave a {type(made).__name__}, must give bytes")
        return bytes(made)

    def _called(self, kind: str, method: str, *arguments: Any) -> Any:  # `Any`: likewise
        algorithm = self._compression if kind == "compressor" else self._quantization
        try:
            return getattr(algorithm, method)(*arguments)
        except Exception as error:
            raise self._failed(kind, f"failed to {method}: {type(error).__name__}: {error}") from error

    def _failed(self, kind: str, what: str) -> CompressionError:
        algorithm = self._compression if kind == "compressor" else self._quantization
        return CompressionError(f"{kind} {name_of(algorithm)!r} {what}", reason="INVALID_REQUEST")

    def _measured(self, array: AnyArray, restored: object) -> dict[str, Any]:
        """Return the measured effect of quantizing on the values, in the form of metadata."""
        try:
            found = as_numpy(restored)
        except (TypeError, ValueError) as error:
            raise self._failed("quantizer", f"gave values that are no tensor: {error}") from error
        if found.shape != array.shape:
            raise self._failed("quantizer", f"gave back shape {found.shape} of a tensor of shape {array.shape}")
        if found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=") and _bits(found) == _bits(array):
            return {"lossy": False, "relative_error": 0.0, "max_absolute_error": 0.0}
        off = measure(_numbers(array, found), _numbers(found, array))
        return {"lossy": True, "relative_error": off.relative_error, "max_absolute_error": off.max_absolute_error}


def _bits(array: AnyArray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _numbers(array: AnyArray, other: AnyArray) -> AnyArray:
    """Return the components as float64, shape (n,); those of complex numbers where either array has them."""
    if "c" in {array.dtype.kind, other.dtype.kind}:
        return array.astype(np.complex128, order="C").reshape(-1).view(np.float64)
    return array.astype(np.float64).reshape(-1)


def _with_header(header: _Header, payload: bytes) -> bytes:
    names = [name.encode(*_TEXT) for name in (header.compression, header.quantization)]
    start = _START.pack(_MAGIC, _VERSION, _KINDS.index(header.codes), *map(len, names)) + b"".join(names)
    return b"".join((start, _CRC.pack(crc32c(payload, crc32c(start))), payload))


def _parsed(data: memoryview) -> tuple[_Header, memoryview]:
    if data.nbytes < _START.size:
        raise _damage(f"is {data.nbytes} bytes, its header has at least {_START.size + _CRC.size}")
    _, version, codes, *lengths = _START.unpack_from(data)
    if version != _VERSION:
        raise _damage(f"has version {version}, this version of Tensorus reads {_VERSION}")
    crc_at = _START.size + sum(lengths)
    if data.nbytes < crc_at + _CRC.size:
        raise _damage(f"is {data.nbytes} bytes, its header has {crc_at + _CRC.size}")
    (expected,) = _CRC.unpack_from(data, crc_at)
    payload = data[crc_at + _CRC.size :]
    found = crc32c(payload, crc32c(data[:crc_at]))
    if found != expected:
        raise _damage(f"has CRC32C {found:08x}, must be {expected:08x}")
    if codes >= len(_KINDS) or bool(codes) != bool(lengths[1]):
        raise _damage(
            f"has codes of kind {codes} and {lengths[1]} bytes of a quantizer's name, which do not go together"
        )
    names_at = _START.size + lengths[0]
    try:
        names = (str(data[_START.size : names_at], *_TEXT), str(data[names_at:crc_at], *_TEXT))
    except UnicodeDecodeError as error:
        raise _damage(f"has names that are no UTF-8: {error.reason}") from error
    return _Header(_KINDS[codes], *names), payload


def _damage(what: str) -> CompressionError:
    return CompressionError(f"compressed tensor {what}", reason="DATA_CORRUPT")
