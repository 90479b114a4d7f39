"""The compressors of chunk records: the bytes of one stream, which are `size`. Those of their formats are libraries."""

import struct
import warnings
import zlib

import brotli
import lz4.block
from backports import zstd

from format.words import check

with warnings.catch_warnings(record=True):
    # Of other codecs, which are imported with it.
    from numcodecs import blosc
from pcodec import standalone


def gunzip(data, size):
    """One gzip member, RFC 1952."""
    decoder = zlib.decompressobj(wbits=31)
    out = decoder.decompress(data, size + 1)
    check(decoder.eof and not decoder.unused_data, "not one gzip member")
    return out


def unlz4(data, size):
    """One LZ4 block; its decoded length is known from outside."""
    return lz4.block.decompress(data, uncompressed_size=size)


def unzstd(data, size):
    """One Zstandard frame, RFC 8878, whose window is at most 2 MiB."""
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 21})
    out = decoder.decompress(data, size + 1)
    check(decoder.eof and not decoder.unused_data, "not one Zstandard frame")
    return out


def unblosc(data, size):
    """One Blosc 1 frame: bytes 4 to 7 are the decoded length, bytes 12 to 15 that of the frame."""
    check(len(data) >= 16 and struct.unpack_from("<I4xI", data, 4) == (size, len(data)), "not one Blosc frame")
    check(data[2] >> 5 == 1, "the inner format is not LZ4")
    return blosc.decompress(data)


def unbrotli(data, _size):
    """One Brotli stream, RFC 7932."""
    return brotli.decompress(data)


def unpcodec(data, size):
    """One file of pcodec's standalone format with one chunk, whose header is checked here first."""
    check(len(data) > 12 and data[:5] == b"pco!\x03" and data[-1] == 0, "not a pcodec file")
    hint = (data[6] & 63) + 1  # bits are taken from the lowest of each byte up
    at = 6 + (6 + hint + 7) // 8
    check(at + 6 <= len(data) and data[at] == 4, "not pcodec's wrapped format 4")
    widths = {1: 4, 2: 8, 3: 4, 4: 8, 5: 4, 6: 8, 7: 2, 8: 2, 9: 2, 10: 1, 11: 1}
    count = int.from_bytes(data[at + 3 : at + 6], "little") + 1
    check(count * widths.get(data[at + 2], 0) == size, "pcodec: another number of bytes")
    return standalone.simple_decompress(bytes(data)).tobytes()


COMPRESSORS = {1: gunzip, 2: unlz4, 3: unzstd, 4: unblosc, 5: unbrotli, 6: unpcodec}


def decompress(compressor, data, size):
    """Undo the compressor of a stream of `size` decoded bytes; compressor 0 is none."""
    if compressor == 0:
        out = data
    else:
        check(size > 0, "an empty stream has no compressor")
        check(compressor in COMPRESSORS, "unknown compressor")
        out = COMPRESSORS[compressor](data, size)
    check(len(out) == size, "a stream has another length")
    return out
