"""Compressors: bytes in, bytes out. Each also has a policy for use in a chain of codecs.

Used alone, each writes the standard format of its name, which other programs can read: a gzip file, an LZ4 frame, a Zstandard
frame, a Brotli stream. Within a tensor they work on chunks, as the codecs that `policy` names. Libraries load on first use.
"""

from __future__ import annotations

import gzip
import importlib
import sys
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus.compression._chunks import array_and_dtype
from tensorus.compression._container import pack, unpack
from tensorus.compression._errors import CompressionError
from tensorus.compression._policy import plan_of
from tensorus.types import Policy
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.registry import codec_class

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BloscLZ4Compression",
    "BrotliCompression",
    "CompressionAlgorithm",
    "GZIPCompression",
    "LZ4Compression",
    "NoCompression",
    "PcodecCompression",
    "ZstdCompression",
]

_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class CompressionAlgorithm(ABC):
    """Base class of lossless compressors of bytes.

    To write your own compressor, subclass this and implement `compress` and `decompress`. `TensorCompression` accepts it; a
    store does not.
    """

    @abstractmethod
    def compress(self, data: Buffer) -> bytes:
        """Return `data` compressed.

        Raises:
            ImportError: its library is not installed; the message says how to install it.
        """

    @abstractmethod
    def decompress(self, compressed_data: Buffer) -> bytes:
        """Return the original bytes. Their size is not limited.

        Raises:
            CompressionError: the bytes are damaged, truncated, followed by other bytes, or from another algorithm.
            ImportError: its library is not installed; the message says how to install it.
        """

    # A cached_property, so that a subclass may also set the attribute.
    @cached_property
    def name(self) -> str:
        """Name in metadata, with the level, such as "gzip-6". Default: the name of the class."""
        return type(self).__name__

    @property
    def policy(self) -> Policy:
        """The equivalent policy in a store: an encoding of one codec.

        Raises:
            TypeError: it is a user's own compressor, which chunk records cannot name.
        """
        raise TypeError(
            f"{type(self).__name__} has no codec, so that no store can use it: to use your own compressor in a store, "
            "provide it as a codec of a third party, see CONTRIBUTING.md"
        )


@dataclass(frozen=True)
class NoCompression(CompressionAlgorithm):
    """No compression."""

    def compress(self, data: Buffer) -> bytes:
        """Return `data`."""
        return data if isinstance(data, bytes) else bytes(data)

    def decompress(self, compressed_data: Buffer) -> bytes:
        """Return `compressed_data`."""
        return compressed_data if isinstance(compressed_data, bytes) else bytes(compressed_data)

    @property
    def name(self) -> str:
        """See `CompressionAlgorithm`."""
        return "none"

    @property
    def policy(self) -> Policy:
        """See `CompressionAlgorithm`: an encoding of no codec."""
        return Policy(encoding=())


@dataclass(frozen=True)
class _LeveledCompression(CompressionAlgorithm):
    """A compressor with a level, which is clamped to the supported range."""

    codec_id: ClassVar[str]
    """Id of its codec."""
    level_setting: ClassVar[str] = "level"
    """Name of the level in its codec's configuration."""
    level_min: ClassVar[int] = 1
    level_max: ClassVar[int]

    compression_level: int

    def __post_init__(self) -> None:
        """Clamp the level.

        Raises:
            ValueError: the level is not an integer.
        """
        level = self.compression_level
        if isinstance(level, bool) or not isinstance(level, int):
            raise ValueError(f"compression_level of {self.codec_id} is {level!r}, must be an integer")  # noqa: TRY004 - see `CompressionConfig`
        object.__setattr__(self, "compression_level", max(self.level_min, min(self.level_max, level)))

    @property
    def name(self) -> str:
        """See `CompressionAlgorithm`."""
        return f"{self.codec_id}-{self.compression_level}"

    @property
    def policy(self) -> Policy:
        """See `CompressionAlgorithm`."""
        return Policy(encoding=[{"id": self.codec_id, "configuration": {self.level_setting: self.compression_level}}])

    def _library(self, module: str) -> Any:  # `Any`: none of these libraries has types
        """Import and return a module of its codec's library."""
        try:
            codec_class(self.codec_id)
        except UnsupportedCodecError as error:
            raise ImportError(str(error)) from error
        return importlib.import_module(module)

    def _damage(self, data: Buffer, what: object) -> CompressionError:
        nbytes = memoryview(data).nbytes
        return CompressionError(f"{self.codec_id} data of {nbytes} bytes: {what}", reason="DATA_CORRUPT")


@dataclass(frozen=True)
class GZIPCompression(_LeveledCompression):
    """Writes one gzip file without a name and timestamp."""

    codec_id: ClassVar[str] = "gzip"
    level_max: ClassVar[int] = 9

    compression_level: int = 6
    """1 (fastest) to 9 (smallest)."""

    def compress(self, data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        return gzip.compress(memoryview(data), self.compression_level, mtime=0)

    def decompress(self, compressed_data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        if not memoryview(compressed_data).nbytes:
            # The standard library accepts empty data as a file without members.
            raise self._damage(compressed_data, "the data is empty")
        try:
            return gzip.decompress(compressed_data)
        except (OSError, EOFError, zlib.error) as error:
            raise self._damage(compressed_data, error) from error


@dataclass(frozen=True)
class LZ4Compression(_LeveledCompression):
    """Writes one LZ4 frame with a content checksum. Within a tensor: LZ4 blocks, since records have lengths and checksums."""

    codec_id: ClassVar[str] = "lz4"
    level_max: ClassVar[int] = 12

    compression_level: int = 1
    """1 and 2: fast; 3 to 12: increasingly slow and small."""

    def compress(self, data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        frame: bytes = self._library("lz4.frame").compress(
            data, compression_level=self.compression_level, content_checksum=True
        )
        return frame

    def decompress(self, compressed_data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        decompressor = self._library("lz4.frame").LZ4FrameDecompressor()
        try:
            decoded: bytes = decompressor.decompress(compressed_data)
        except (RuntimeError, ValueError) as error:
            raise self._damage(compressed_data, error) from error
        if not decompressor.eof:
            raise self._damage(compressed_data, "the frame is not complete")
        if decompressor.unused_data:
            raise self._damage(compressed_data, f"{len(decompressor.unused_data)} bytes follow the frame")
        return decoded


@dataclass(frozen=True)
class ZstdCompression(_LeveledCompression):
    """Writes one Zstandard frame with a content checksum."""

    codec_id: ClassVar[str] = "zstd"
    level_max: ClassVar[int] = 22

    compression_level: int = 3
    """1 (fastest) to 22 (smallest)."""

    def compress(self, data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        zstd = self._library(_ZSTD)
        parameter = zstd.CompressionParameter
        options = {parameter.compression_level: self.compression_level, parameter.checksum_flag: 1}
        frame: bytes = zstd.compress(data, options=options)
        return frame

    def decompress(self, compressed_data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        zstd = self._library(_ZSTD)
        try:
            decoded: bytes = zstd.decompress(compressed_data)
        except zstd.ZstdError as error:
            raise self._damage(compressed_data, error) from error
        return decoded


@dataclass(frozen=True)
class BrotliCompression(_LeveledCompression):
    """Writes one Brotli stream. The format has no checksum, so damage may go undetected; within a tensor it is detected."""

    codec_id: ClassVar[str] = "brotli"
    level_setting: ClassVar[str] = "quality"
    level_min: ClassVar[int] = 0
    level_max: ClassVar[int] = 11

    compression_level: int = 11
    """Brotli's quality, 0 (fastest) to 11 (smallest, and by far the slowest)."""

    def compress(self, data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        stream: bytes = self._library("brotli").compress(data, quality=self.compression_level)
        return stream

    def decompress(self, compressed_data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        brotli = self._library("brotli")
        try:
            decoded: bytes = brotli.decompress(compressed_data)
        except brotli.error as error:
            raise self._damage(compressed_data, error) from error
        return decoded


class _ChunkedCompression(CompressionAlgorithm):
    """A compressor of numbers. Used alone, it compresses bytes as a tensor of uint8; see `_container.py`."""

    def compress(self, data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        array, dtype = array_and_dtype(np.frombuffer(data, np.uint8))
        compressed, _ = pack(array, dtype, plan_of(self.policy, dtype))
        return compressed

    def decompress(self, compressed_data: Buffer) -> bytes:
        """See `CompressionAlgorithm`."""
        array = unpack(compressed_data)
        if array.dtype != np.uint8 or array.ndim != 1:
            raise CompressionError(
                f"compressed data is a tensor of {array.dtype.name}, shape {array.shape}, must be bytes",
                reason="DATA_CORRUPT",
            )
        return array.tobytes()


@dataclass(frozen=True)
class BloscLZ4Compression(_ChunkedCompression):
    """Bit shuffle, then LZ4. The fastest compressor, and on numbers smaller than LZ4 alone."""

    @property
    def name(self) -> str:
        """See `CompressionAlgorithm`."""
        return "blosc_lz4"

    @property
    def policy(self) -> Policy:
        """See `CompressionAlgorithm`."""
        return Policy(encoding=["blosc_lz4"])


@dataclass(frozen=True)
class PcodecCompression(_ChunkedCompression, _LeveledCompression):
    """Models the distribution and sequence of numbers. The smallest for most tensors, and slow."""

    codec_id: ClassVar[str] = "pcodec"
    level_min: ClassVar[int] = 0
    level_max: ClassVar[int] = 12

    compression_level: int = 8
    """0 (fastest) to 12 (smallest)."""
