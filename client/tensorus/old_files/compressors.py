"""Undoes the compressors of the original: gzip, an lz4 frame, or none. Block by block, with a limit on what comes out.

Which one it was says the record's metadata, by a name such as "gzip-6"; where that is gone, the first bytes do. Where both are
there, they must agree. Source: RFC 1952; https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from tensorus.old_files.errors import OldRecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["INFLATED_BYTES_MAX", "inflated"]

INFLATED_BYTES_MAX = 1024**3
"""Of one record's container. The original held a whole dataset in memory, and wrote all of it for every insert, so that its
records were far below; and a gzip stream can make a thousand bytes of one, so that there must be a limit."""

_MAGIC = {"gzip": b"\x1f\x8b", "lz4": b"\x04\x22\x4d\x18", "none": b"PK"}
"""How compressed bytes begin; of none, the container."""

_PIECE_BYTES = 256 * 1024
"""What is inflated at once."""

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""A gzip header, and a window of any size."""


def inflated(blocks: Iterable[bytes], name: str | None, bytes_max: int) -> Iterator[bytes]:
    """Yield what was compressed, in pieces.

    Args:
        blocks: the compressed bytes.
        name: the compressor's name with its level; None: not known.
        bytes_max: of all pieces together.

    Raises:
        OldRecordError: an unknown compressor, bytes that another one wrote, damaged or torn ones, or too many.
        ImportError: the record needs lz4, which is not installed; names the extra that brings it.
    """
    source = _Peeked(blocks)
    compressor = _compressor_of(source.beginning, name)
    total_bytes = 0
    for piece in _INFLATERS[compressor](source):
        total_bytes += len(piece)
        if total_bytes > bytes_max:
            raise OldRecordError(f"its {compressor} bytes inflate to more than {bytes_max} bytes, the limit")
        yield piece


class _Peeked:
    """Blocks, the first of them known before they are iterated."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self.beginning = next(self._blocks, b"")

    def __iter__(self) -> Iterator[bytes]:
        yield self.beginning
        yield from self._blocks


def _compressor_of(beginning: bytes, name: str | None) -> str:
    found = next((compressor for compressor, magic in _MAGIC.items() if beginning.startswith(magic)), None)
    if name is None and found is not None:
        return found
    if name is None:
        raise OldRecordError(
            f"its compressor is not known, and its bytes begin with {beginning[:4].hex()}, as none does"
        )
    compressor = name.partition("-")[0]
    if compressor not in _MAGIC:
        raise OldRecordError(f"its compressor is {name[:80]!r}, must be gzip, lz4 or none")
    if found != compressor:
        raise OldRecordError(f"its compressor is {name[:80]!r}, but its bytes begin with {beginning[:4].hex()}")
    return compressor


def _from_gzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        for block in blocks:
            if inflater.eof:
                raise OldRecordError("its gzip bytes go on after their end")
            yield from _gzip_pieces(inflater, block)
    except zlib.error as error:
        raise OldRecordError(f"its gzip bytes are damaged: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise OldRecordError("its gzip bytes are torn, or go on after their end")


def _gzip_pieces(inflater: zlib._Decompress, block: bytes) -> Iterator[bytes]:
    piece = inflater.decompress(block, _PIECE_BYTES)
    yield piece
    # A full piece may have left something behind, in the input or in zlib.
    while inflater.unconsumed_tail or len(piece) == _PIECE_BYTES:
        piece = inflater.decompress(inflater.unconsumed_tail, _PIECE_BYTES)
        yield piece


def _from_lz4(blocks: Iterable[bytes]) -> Iterator[bytes]:
    try:
        import lz4.frame  # noqa: PLC0415 - only records of this compressor need it
    except ImportError as error:
        raise ImportError(
            "lz4 is not installed, and records were compressed with it: pip install 'tensorus[codecs]'", name="lz4"
        ) from error
    inflater = lz4.frame.LZ4FrameDecompressor()
    try:
        for block in blocks:
            if inflater.eof:
                raise OldRecordError("its lz4 bytes go on after their end")
            yield inflater.decompress(block, _PIECE_BYTES)
            while not inflater.needs_input and not inflater.eof:
                yield inflater.decompress(b"", _PIECE_BYTES)
    except RuntimeError as error:
        raise OldRecordError(f"its lz4 bytes are damaged: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise OldRecordError("its lz4 bytes are torn, or go on after their end")


_INFLATERS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    "gzip": _from_gzip,
    "lz4": _from_lz4,
    "none": iter,
}
