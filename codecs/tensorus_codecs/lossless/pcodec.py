"""The standalone format of pcodec, also called pco, for numbers of one type."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import numpy as np
from pcodec import ChunkConfig, PagingSpec, standalone, wrapped

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError, InvalidPolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

__all__ = ["Pcodec"]

# Version 1.0 added 8-bit numbers.
if not hasattr(ChunkConfig, "enable_8_bit"):
    raise ImportError("the library pcodec is older than 1.0", name="pcodec 1.0.3 or newer")

_TYPES = {
    "uint8": 10,
    "uint16": 7,
    "uint32": 1,
    "uint64": 2,
    "int8": 11,
    "int16": 8,
    "int32": 3,
    "int64": 4,
    "float16": 9,
    "float32": 5,
    "float64": 6,
}
"""Number type to its byte in the format. Source: `docs/format.md` of pcodec, section Standalone Format."""

_TYPE_BY_BYTE = {number: name for name, number in _TYPES.items()}

_START = b"pco!\x03"
"""Magic number and standalone version."""

_WRAPPED_MAJOR_VERSION = 4
"""The version that every 1.x library writes. The minor version is ignored: unknown features fail when they occur."""

_PREAMBLE = struct.Struct("<I")
"""Precedes each chunk: number type (8 bits), count of its numbers minus one (24 bits)."""

_END = b"\0"

_CLASSIC, _INT_MULT, _FLOAT_MULT, _FLOAT_QUANT, _DICT = range(5)
"""Modes."""

_LOOKBACK, _DELTA_MAX = 2, 3
"""Delta encodings: the one with a window, and the highest number."""

_WINDOW_MIN = 16
"""The encoder's smallest window. Otherwise it uses the next power of two from the count, up to 32768."""


@dataclass(frozen=True)
class Pcodec(Compressor):
    """One standalone file with one chunk per stream; the bytes are treated as numbers of one type.

    pcodec models the distribution of the numbers and their order. It beats every byte-wise compressor on weights, sensor
    readings, sorted ids and counters. It is bit-exact for every value, including NaN payloads and -0.0. bfloat16, float8, bool
    and opaque elements are treated as unsigned integers of their width.

    Source: https://github.com/pcodec/pcodec/blob/main/docs/format.md, standalone version 3, wrapped version 4. The decoder
    does not depend on the level.
    """

    id: ClassVar[str] = "pcodec"
    number: ClassVar[int] = 6

    level: int = 8
    """0 (fastest) to 12 (smallest). Measured on float32 weights, one core: 4: ratio 1.169 at 114 MB/s, 8: 1.205 at 80, 12:
    1.208 at 5. All decode at about 1 GB/s."""
    number_type: str = ""
    """Type of the numbers, named as in NumPy (uint32, float16, ...); empty: the type of the chunk's numbers, which a policy
    fills in. Data that is not a whole number of such values is treated as uint8."""

    def __post_init__(self) -> None:
        """Refuse a level outside 0 to 12 and a type that the format lacks."""
        self._require_integer("level", 0, 12)
        if self.number_type not in ("", *_TYPES):
            allowed = ", ".join(_TYPES)
            raise InvalidPolicyError(f"number_type of codec pcodec is {self.number_type!r}, must be one of {allowed}")

    def fitted(self, number: np.dtype[Any], numbers_per_element: int) -> Self:  # noqa: ARG002 - elements do not matter
        """Fill in the type of the numbers."""
        if self.number_type:
            return self
        return replace(self, number_type=number.name if number.name in _TYPES else f"uint{8 * number.itemsize}")

    def encode(self, data: Buffer) -> bytes:
        """Return `data` as one standalone file."""
        view = memoryview(data).cast("B")
        dtype = np.dtype(self.number_type or "uint8")
        numbers = np.frombuffer(view, dtype if view.nbytes % dtype.itemsize == 0 else np.uint8)
        # The library requires aligned numbers, so unaligned ones are copied.
        values = np.require(numbers, requirements=["ALIGNED"])
        config = ChunkConfig(
            compression_level=self.level,
            paging_spec=PagingSpec.exact_page_sizes([values.size]),
            enable_8_bit=True,
        )
        encoded: bytes = standalone.simple_compress(values, config)
        return encoded

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> memoryview:
        """Return the bytes of the decoded numbers. Every size that the library would allocate is checked first."""
        # The library accepts only `bytes`.
        stored = bytes(data)
        chunk = _parse_start(stored)
        if chunk.count * chunk.dtype.itemsize != decoded_bytes:
            _refuse(stored, f"has {chunk.count} numbers of type {chunk.dtype.name}, must be {decoded_bytes} bytes")
        _check_metadata(stored, chunk)
        # The wrapped interface decodes into this array, whose size was checked above.
        values = np.empty(chunk.count, chunk.dtype)
        with _library_errors(stored):
            file, _ = wrapped.FileDecompressor.new(stored[chunk.version_at : chunk.metadata_at])
            name = f"{chunk.dtype.kind}{8 * chunk.dtype.itemsize}"
            decompressor, metadata_bytes = file.chunk_decompressor(stored[chunk.metadata_at :], name)
            page_at = chunk.metadata_at + metadata_bytes
            progress, page_bytes = decompressor.read_page_into(stored[page_at:], chunk.count, values)
        if not progress.finished or stored[page_at + page_bytes :] != _END:
            _refuse(stored, f"does not end after {chunk.count} numbers")
        return memoryview(values.view(np.uint8))


@dataclass(frozen=True)
class _Chunk:
    """The fields before the metadata of a file's only chunk."""

    version_at: int
    """Offset of the wrapped format's version."""
    metadata_at: int
    """Offset of the chunk's metadata."""
    dtype: np.dtype[Any]
    count: int


def _parse_start(stored: bytes) -> _Chunk:
    """Parse the start of a standalone file.

    at size  field
     0    4  "pco!"
     4    1  standalone version
     5    1  number type of all chunks, or 0
     6    v  6 bits: k - 1; k bits: a hint of the count, ignored; 0 to 7 bits of padding
     6+v  2  wrapped version: major, minor
     8+v  1  number type
     9+v  3  count of the chunk's numbers, minus one
    12+v     metadata, page, 0
    """
    if stored[:5] != _START:
        _refuse(stored, f"starts with {stored[:5]!r}, must start with {_START!r}")
    # v = ceil((6 + k) / 8) bytes, where the low 6 bits of byte 6 are k - 1.
    version_at = 6 + ((stored[6] & 63) + 14) // 8 if len(stored) > 6 else len(stored)
    metadata_at = version_at + 2 + _PREAMBLE.size
    if len(stored) <= metadata_at:
        _refuse(stored, "ends before its first number")
    if stored[version_at] != _WRAPPED_MAJOR_VERSION:
        _refuse(stored, f"has wrapped version {stored[version_at]}, must be {_WRAPPED_MAJOR_VERSION}")
    (preamble,) = _PREAMBLE.unpack_from(stored, version_at + 2)
    name = _TYPE_BY_BYTE.get(preamble & 255)
    if name is None:
        _refuse(stored, f"has number type {preamble & 255}, must be one of {sorted(_TYPE_BY_BYTE)}")
    return _Chunk(version_at, metadata_at, np.dtype(name), (preamble >> 8) + 1)


def _check_metadata(stored: bytes, chunk: _Chunk) -> None:
    """Refuse a dictionary or a window larger than the numbers can use, because the library allocates the claimed size.

    The metadata begins with the mode (4 bits) and its parameters, then the delta encoding (4 bits) and its parameters.
    """
    number_bits = 8 * chunk.dtype.itemsize
    bits = _bits_at(stored, chunk.metadata_at)
    mode, bits = bits & 15, bits >> 4
    if mode == _DICT:
        # 25 bits: the length of the dictionary. Its numbers follow, then the delta encoding.
        length = bits & (1 << 25) - 1
        if length > chunk.count:
            _refuse(stored, f"has a dictionary of {length} numbers for {chunk.count}")
        bits = _bits_at(stored, chunk.metadata_at + 4 + length * chunk.dtype.itemsize)
    elif mode in {_INT_MULT, _FLOAT_MULT}:
        bits >>= number_bits
    elif mode == _FLOAT_QUANT:
        bits >>= 8
    elif mode != _CLASSIC:
        _refuse(stored, f"has mode {mode}, must be 0 to 4")
    delta = bits & 15
    if delta > _DELTA_MAX:
        _refuse(stored, f"has delta encoding {delta}, must be 0 to {_DELTA_MAX}")
    # 5 bits: log2 of the window, minus one.
    window = 2 << (bits >> 4 & 31)
    if delta == _LOOKBACK and window > max(2 * chunk.count, _WINDOW_MIN):
        _refuse(stored, f"has a window of {window} numbers for {chunk.count}")


def _bits_at(stored: bytes, at: int) -> int:
    """Return the bits at `at`, enough for a mode with its number and a delta encoding with its window."""
    return int.from_bytes(stored[at : at + 16], "little")


@contextmanager
def _library_errors(stored: bytes) -> Iterator[None]:
    """Turn the library's errors, and panics of its Rust code, into `CorruptChunkError`."""
    try:
        yield
    except BaseException as error:
        # A panic's class derives from BaseException, so `except Exception` misses it, and it cannot be imported.
        if not isinstance(error, RuntimeError) and type(error).__name__ != "PanicException":
            raise
        raise CorruptChunkError(f"pcodec stream of {len(stored)} bytes: {error}") from error


def _refuse(stored: bytes, rule: str) -> NoReturn:
    raise CorruptChunkError(f"pcodec stream of {len(stored)} bytes {rule}")
