"""A second decoder of chunk records, written from docs/FORMAT.md alone.

It shares no code with the product, and uses integers, lists and `struct` only: it shows what a client in another language
has to do. Only the compressors, those of their formats, and the digest of a base are libraries. It is written to be read, and
is slow.
"""

import struct
import warnings
import zlib
from typing import NamedTuple

import brotli
import crc32c
import lz4.block
import xxhash
from backports import zstd

with warnings.catch_warnings(record=True):
    # Of other codecs, which are imported with it.
    from numcodecs import blosc
from pcodec import standalone

HEADER = struct.Struct("<8BII")


class FormatError(ValueError):
    """The bytes are no chunk record of version 1."""


def check(condition, message):
    """Raise FormatError unless the condition holds."""
    if not condition:
        raise FormatError(message)


# --- Numbers -----------------------------------------------------------------------------------------------------------


class Float(NamedTuple):
    """A binary floating-point format: the sign, then the exponent, then the fraction, from the highest bit down."""

    width: int  # bits
    fraction: int  # bits
    infinities: bool = True  # without them only the pattern with all bits set is a NaN

    @property
    def infinity(self):
        """The bits of +infinity: the exponent all ones, the fraction 0."""
        return (1 << (self.width - 1)) - (1 << self.fraction)

    @property
    def smallest(self):
        """The exponent of the smallest subnormal number: that of the smallest normal one, less the fraction's bits."""
        return 2 - (1 << (self.width - self.fraction - 2)) - self.fraction

    @property
    def working(self):
        """The precision in which values of these components are computed."""
        return FLOAT64 if self.width == 64 else FLOAT32


FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = Float(16, 10), Float(16, 7), Float(32, 23), Float(64, 52)
E4M3FN, E5M2 = Float(8, 3, infinities=False), Float(8, 2)


class Real(NamedTuple):
    """The finite number (-1)^sign * magnitude * 2^exponent; zero has a sign."""

    sign: int
    magnitude: int
    exponent: int


def is_finite(form, bits):
    """Whether the bits are neither a NaN nor an infinity."""
    magnitude = bits & ((1 << (form.width - 1)) - 1)
    return magnitude < form.infinity if form.infinities else magnitude != (1 << (form.width - 1)) - 1


def to_real(form, bits):
    """The exact value of finite bits."""
    sign = bits >> (form.width - 1)
    fraction = bits & ((1 << form.fraction) - 1)
    exponent = (bits >> form.fraction) & ((1 << (form.width - 1 - form.fraction)) - 1)
    if exponent == 0:
        return Real(sign, fraction, form.smallest)  # zero, or subnormal
    return Real(sign, fraction | 1 << form.fraction, form.smallest + exponent - 1)


def round_to(form, real):
    """The bits of the number nearest to a real, ties to even; beyond the range it is infinite."""
    sign = real.sign << (form.width - 1)
    if real.magnitude == 0:
        return sign
    # `last` is the exponent of the last bit that is kept.
    last = max(real.magnitude.bit_length() - 1 + real.exponent - form.fraction, form.smallest)
    drop = last - real.exponent
    if drop <= 0:
        significand = real.magnitude << -drop
    else:
        significand, rest = divmod(real.magnitude, 1 << drop)
        half = 1 << (drop - 1)
        significand += rest > half or (rest == half and significand & 1)
    # A significand that rounds up to the next power of two carries into the exponent, which is what it should do.
    return sign | min(((last - form.smallest) << form.fraction) + significand, form.infinity)


def multiply(left, right):
    """The exact product."""
    return Real(left.sign ^ right.sign, left.magnitude * right.magnitude, left.exponent + right.exponent)


def add(left, right):
    """The exact sum; it is -0 only where both are."""
    exponent = min(left.exponent, right.exponent)
    total = sum((-r.magnitude if r.sign else r.magnitude) << (r.exponent - exponent) for r in (left, right))
    return Real(left.sign & right.sign if total == 0 else int(total < 0), abs(total), exponent)


def convert(source, target, bits, power=0):
    """The bits in `target` of a number of `source` times 2^power, rounded once."""
    if is_finite(source, bits):
        real = to_real(source, bits)
        return round_to(target, real._replace(exponent=real.exponent + power))
    if bits & ((1 << source.fraction) - 1):  # a NaN: without a sign, with the fraction's highest bit alone
        return target.infinity | 1 << (target.fraction - 1)
    return target.infinity | bits >> (source.width - 1) << (target.width - 1)


def to_words(data, width):
    """The little-endian unsigned integers of `width` bytes that the bytes are."""
    check(len(data) % width == 0, "bytes are no whole words")
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def to_bytes(words, width):
    """The bytes of unsigned integers of `width` bytes."""
    return b"".join(word.to_bytes(width, "little") for word in words)


# Number of a dtype -> bytes of a component, components of an element, the component's float format if quantizers apply.
# bool, uint8, int8, uint16, int16, uint32, int32, uint64, int64
DTYPES = {number: (width, 1, None) for number, width in enumerate((1, 1, 1, 2, 2, 4, 4, 8, 8), start=1)}
# float16, bfloat16, float32, float64
DTYPES |= {10: (2, 1, FLOAT16), 11: (2, 1, BFLOAT16), 12: (4, 1, FLOAT32), 13: (8, 1, FLOAT64)}
# complex64, complex128, float8_e4m3fn, float8_e5m2
DTYPES |= {14: (4, 2, FLOAT32), 15: (8, 2, FLOAT64), 16: (1, 1, None), 17: (1, 1, None)}


def component_of(dtype, element_bytes):
    """The bytes of a component, which are those of a word, and its float format, or None."""
    check(1 <= element_bytes <= 16, "element_bytes out of range")
    if dtype == 0:
        return (element_bytes if element_bytes in {1, 2, 4, 8} else 1), None
    check(dtype in DTYPES, "unknown dtype")
    width, components, form = DTYPES[dtype]
    check(element_bytes == width * components, "element_bytes is not the dtype's")
    return width, form


# --- Compressors: the bytes of one stream, which are `size` --------------------------------------------------------------


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


# --- Filters: `count` words of `width` bytes from the streams; `take(size)` decompresses the next one ---------------------


def undo_none(_parameters, take, count, width):
    """Without a filter the one stream is the words."""
    return to_words(take(count * width), width)


def undo_planes(_parameters, take, count, width):
    """Words whose byte k, from the lowest, comes from stream k, which has one byte per word."""
    planes = [take(count) for _ in range(width)]
    return [int.from_bytes(word, "little") for word in zip(*planes, strict=True)]


def undo_rotated_planes(_parameters, take, count, width):
    """Merge the planes, then rotate every word right by one bit."""
    return [word >> 1 | (word & 1) << (8 * width - 1) for word in undo_planes(b"", take, count, width)]


def undo_delta(parameters, take, count, width):
    """Turn each z into a difference modulo 2^b, and add the word `distance` before, 0 before the first word."""
    distance, mask, words = parameters[0], (1 << 8 * width) - 1, []
    for i, z in enumerate(undo_planes(b"", take, count, width)):
        difference = z >> 1 if z % 2 == 0 else ~(z >> 1) & mask
        before = words[i - distance] if 0 < distance <= i else 0
        words.append((difference + before) & mask)
    return words


def take_bits(take, count):
    """A stream of `count` bits, from the lowest of each byte up; those after them are 0."""
    bits = [byte >> i & 1 for byte in take(-(-count // 8)) for i in range(8)]
    check(not any(bits[count:]), "bits after the last word")
    return bits[:count]


def undo_bitmap(parameters, take, count, width):
    """Put the next word that is not 0 wherever a bit is 1, and 0 elsewhere; their number is the parameter."""
    bits = take_bits(take, count)
    check(sum(bits) == int.from_bytes(parameters, "little"), "bitmap: another number of words")
    words = undo_rotated_planes(b"", take, sum(bits), width)
    check(all(words), "bitmap: a word is 0")
    following = iter(words)
    return [next(following) if bit else 0 for bit in bits]


def undo_packbits(_parameters, take, count, width):
    """A word of one byte per bit."""
    check(width == 1, "packbits: words of more than one byte")
    return take_bits(take, count)


def undo_constant(parameters, _take, count, width):
    """The element of the parameters, over and over; there are no streams."""
    element = to_words(parameters, width)
    check(1 <= len(parameters) <= 16 and count % len(element) == 0, "constant: no whole elements")
    return element * (count // len(element))


def undo_bf16_planes(_parameters, take, count, width):
    """Word = high * 2^16 + low as a signed number, modulo 2^32: planes of the rotated highs first, then those of the lows."""
    check(width == 4, "bf16_planes: words of another width")
    highs = undo_rotated_planes(b"", take, count, 2)
    lows = undo_planes(b"", take, count, 2)
    return [((high << 16) + low - (low >> 15 << 16)) & 0xFFFFFFFF for high, low in zip(highs, lows, strict=True)]


def undo_int_delta(parameters, take, count, width, base):
    """Add a difference to every word of the base; it is what a code means, or the next that is listed."""
    digest, code_bits, plane_count, listed_count = struct.unpack("<16sBBI", parameters)
    check(base is not None and len(base) == count * width, "int_delta: no base, or one of another length")
    check(xxhash.xxh3_128_digest(base) == digest, "int_delta: another base")
    check(code_bits <= 2 and plane_count <= width, "int_delta: wrong parameters")
    check(
        listed_count * 4 <= count * 3 if code_bits else listed_count == count,
        "int_delta: a wrong number of listed words",
    )
    mask, listed_code = (1 << 8 * width) - 1, (1 << code_bits) - 1
    codes = take_codes(take, count, code_bits)
    planes = [take(listed_count) for _ in range(plane_count)] + [bytes(listed_count)] * (width - plane_count)
    numbers = [int.from_bytes(number, "little") + listed_code for number in zip(*planes, strict=True)]
    check(codes.count(listed_code) == listed_count and max(numbers, default=0) <= mask, "int_delta: wrong listed words")
    listed, words = iter(numbers), []
    for code, before in zip(codes, to_words(base, width), strict=True):
        if code == listed_code:
            z = next(listed)
            difference = z >> 1 if z % 2 == 0 else ~(z >> 1)
        else:
            difference = 0 if code_bits == 1 else code - 1
        words.append((before + difference) & mask)
    return words


def take_codes(take, count, code_bits):
    """A stream of codes of so many bits, from the lowest of each byte up; without bits, every code is 0."""
    bits = take_bits(take, count * code_bits)
    return [sum(bits[i * code_bits + k] << k for k in range(code_bits)) for i in range(count)]


FILTERS = (undo_none, undo_planes, undo_rotated_planes, undo_delta, undo_bitmap, undo_packbits, undo_constant)
FILTERS += (undo_bf16_planes,)
FILTER_BYTES = ({0}, {0}, {0}, {1}, {4}, {0}, range(1, 17), {0, 4})  # of the parameters

INT_DELTA, INT_DELTA_BYTES = 8, 22  # the one filter with a base


# --- Quantizers: the components' bits from the parameters and the codes, which are unsigned integers ---------------------


def split(data, *sizes):
    """Parts of these sizes, which are all there is."""
    check(len(data) == sum(sizes), "the parameters have another length")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def block_header(data, count):
    """The head that all block quantizers share: block size, variant (or reserved), exceptions; and the number of blocks."""
    check(len(data) >= 8, "the parameters end early")
    block_size, variant, exception_count = struct.unpack_from("<HHI", data)
    check(block_size in {32, 64, 128, 256}, "a wrong block size")
    return block_size, variant, exception_count, -(-count // block_size)


def to_scales(data):
    """One bfloat16 scale, positive and normal, per started block."""
    scales = to_words(data, 2)
    check(all(0x0080 <= scale < BFLOAT16.infinity for scale in scales), "a scale is not positive and normal")
    return [to_real(BFLOAT16, scale) for scale in scales]


def to_nibbles(codes, count):
    """Two codes per byte, the first in the low half; an odd one out leaves the last high half 0."""
    nibbles = [nibble for byte in codes for nibble in (byte & 15, byte >> 4)]
    check(not any(nibbles[count:]), "a code after the last")
    return nibbles[:count]


def undo_exponent(data, codes, form, code_bits):
    """fp16 and fp8_e5m2: value = code * 2^(e - 15)."""
    check(len(data) == 2, "the parameters have another length")
    power, code_form = struct.unpack("<h", data)[0] - 15, FLOAT16 if code_bits == 16 else E5M2
    return [convert(form.working, form, convert(code_form, form.working, code, power)) for code in codes]


def undo_fp8_e4m3fn(data, codes, form, _code_bits):
    """Value = code * 2^(e - 8); code 0x7f is an exception; 0xff is not used."""
    width = form.width // 8
    e, exceptions = split(data, 2, width * codes.count(0x7F))
    check(0xFF not in codes, "code 0xff")
    power = struct.unpack("<h", e)[0] - 8
    values = [convert(form.working, form, convert(E4M3FN, form.working, code, power)) for code in codes]
    raw = iter(to_words(exceptions, width))
    return [next(raw) if code == 0x7F else value for code, value in zip(codes, values, strict=True)]


def undo_bf16(data, codes, form, _code_bits):
    """Codes are bfloat16 values."""
    check(not data, "bf16 has no parameters")
    return [convert(BFLOAT16, form, code) for code in codes]


def undo_bitround(data, codes, _form, _code_bits):
    """Codes are the components' bits."""
    check(not data, "bitround has no parameters")
    return codes


def undo_int_block(data, codes, form, code_bits):
    """int4_block, int8_block, int16_block: value = code * scale (+ midpoint); the lowest code is an exception."""
    width, lowest = form.width // 8, 1 << (code_bits - 1)  # as unsigned bits; those from here up are negative
    block_size, variant, exception_count, blocks = block_header(data, len(codes))
    check(code_bits > 4 or (block_size < 256 and variant == 0), "a wrong block size, or reserved bits")
    check(variant <= 1, "an unknown variant")
    sizes = 8, 2 * blocks, variant * blocks * form.working.width // 8, exception_count * width
    _, scales, midpoints, exceptions = split(data, *sizes)
    scales, midpoints = to_scales(scales), to_words(midpoints, form.working.width // 8)
    check(all(is_finite(form.working, midpoint) for midpoint in midpoints), "a midpoint is not finite")
    check(codes.count(lowest) == exception_count, "another number of exceptions")
    values, raw = [], iter(to_words(exceptions, width))
    for i, code in enumerate(codes):
        number = code - 2 * lowest if code >= lowest else code
        value = multiply(Real(int(number < 0), abs(number), 0), scales[i // block_size])
        if variant == 1:
            value = add(value, to_real(form.working, midpoints[i // block_size]))
        values.append(next(raw) if code == lowest else convert(form.working, form, round_to(form.working, value)))
    return values


NF4_LEVELS = struct.pack(
    "<16f",
    *(-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1),
)


def undo_nf4(data, codes, form, _code_bits):
    """Value = level of the code * scale; exceptions have positions, and code 7 there."""
    width, levels = form.width // 8, [to_real(FLOAT32, level) for level in to_words(NF4_LEVELS, 4)]
    block_size, reserved, exception_count, blocks = block_header(data, len(codes))
    check(block_size < 256 and reserved == 0, "a wrong block size, or reserved bits")
    _, scales, positions, exceptions = split(data, 8, 2 * blocks, 4 * exception_count, width * exception_count)
    scales, positions = to_scales(scales), to_words(positions, 4)
    products = [multiply(levels[code], scales[i // block_size]) for i, code in enumerate(codes)]
    values = [convert(form.working, form, round_to(form.working, product)) for product in products]
    check(positions == sorted(set(positions)) and all(p < len(codes) for p in positions), "positions do not ascend")
    for position, exception in zip(positions, to_words(exceptions, width), strict=True):
        check(codes[position] == 7, "an exception's code is not 7")
        values[position] = exception
    return values


WIDE, ANY = (FLOAT32, FLOAT64), (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)

# number -> the component formats it applies to, bits of a code (None: the component's own), undo
QUANTIZERS = {
    1: (WIDE, 16, undo_exponent),
    2: (ANY, 8, undo_int_block),
    3: (WIDE, 16, undo_bf16),
    4: (ANY, 4, undo_int_block),
    5: (ANY, 4, undo_nf4),
    6: (ANY, 8, undo_fp8_e4m3fn),
    7: (ANY, 8, undo_exponent),
    8: (ANY, None, undo_bitround),
    9: (ANY, 16, undo_int_block),
}


# --- The record ----------------------------------------------------------------------------------------------------------


def undo_streams(number, parameters, streams, count, width, *, base=None):
    """The words: undo the filter, which says how long each stream is when decompressed."""
    check(number < len(FILTERS) or number == INT_DELTA, "unknown filter")
    lengths = {INT_DELTA_BYTES} if number == INT_DELTA else FILTER_BYTES[number]
    check(len(parameters) in lengths, "the filter's parameters have another length")
    remaining = iter(streams)

    def take(size):
        stream = next(remaining, None)
        check(stream is not None, "too few streams")
        return decompress(*stream, size)

    if number == INT_DELTA:
        words = undo_int_delta(parameters, take, count, width, base)
    else:
        words = FILTERS[number](parameters, take, count, width)
    check(next(remaining, None) is None, "too many streams")
    return words


def decode(record, base=None):
    """The canonical bytes of a chunk record; FormatError where it breaks a rule of the format.

    `base` is the bytes that the chunk was encoded against, which only the filter int_delta needs.
    """
    check(len(record) >= HEADER.size, "shorter than a header")
    fields = HEADER.unpack_from(record)
    version, dtype, element_bytes, quantizer, filter_number, flags, n, filter_bytes, size, quantizer_bytes = fields
    check(version == 1, "not version 1")
    check(flags == int(quantizer != 0), "flags are not as the quantizer says")
    width, form = component_of(dtype, element_bytes)
    check(1 <= size <= 2097152 and size % element_bytes == 0, "canonical_bytes are no whole elements")
    check(len(record) <= HEADER.size + 5 + size, "larger than the raw bytes")
    check(n <= 9 and HEADER.size + 5 * n <= len(record), "another number of streams")
    heads = [struct.unpack_from("<BI", record, HEADER.size + 5 * i) for i in range(n)]
    sizes = quantizer_bytes, filter_bytes, *(length for _, length in heads)
    quantizer_parameters, filter_parameters, *encoded = split(record[HEADER.size + 5 * n :], *sizes)
    streams = [(compressor, stream) for (compressor, _), stream in zip(heads, encoded, strict=True)]

    count = size // width
    if quantizer == 0:
        check(not quantizer_parameters, "parameters without a quantizer")
        return to_bytes(undo_streams(filter_number, filter_parameters, streams, count, width, base=base), width)
    check(filter_number != INT_DELTA, "a quantizer before int_delta")
    check(quantizer in QUANTIZERS, "unknown quantizer")
    forms, code_bits, undo = QUANTIZERS[quantizer]
    check(form in forms, "the quantizer does not apply to the dtype")
    code_bits = code_bits or form.width
    word_width, words = max(code_bits // 8, 1), -(-count // 2) if code_bits == 4 else count
    codes = undo_streams(filter_number, filter_parameters, streams, words, word_width)
    codes = to_nibbles(codes, count) if code_bits == 4 else codes
    return to_bytes(undo(quantizer_parameters, codes, form, code_bits), width)


# --- The coarse form -----------------------------------------------------------------------------------------------------


def coarse_length(head, record_bytes):
    """The length of the start of a record that has a coarse form; None for one that has none.

    `head` is its first 40 bytes, and `record_bytes` its length according to the chunk index.
    """
    if len(head) < 40:
        return None
    version, dtype, _, quantizer, filter_number, _, n, filter_bytes, _, _ = HEADER.unpack_from(head)
    if (version, quantizer, filter_number, n, filter_bytes) != (1, 0, 7, 4, 4) or dtype not in {12, 14}:
        return None
    sizes = [struct.unpack_from("<BI", head, HEADER.size + 5 * i)[1] for i in range(n)]
    check(40 + sum(sizes) == record_bytes, "the sizes do not add up to the record")
    return 40 + sizes[0] + sizes[1]


def decode_coarse(start, record_bytes, record_crc32c):
    """The canonical bytes of the coarse form; FormatError where its start is damaged.

    `start` has the length that `coarse_length` says, and `record_crc32c` is that of the whole record.
    """
    tail = bytes(record_bytes - len(start))  # crc(A + B) = crc(A + zeros) ^ crc(zeros) ^ crc(B)
    tail_crc32c = int.from_bytes(start[36:40], "little")
    found = crc32c.crc32c(start + tail) ^ crc32c.crc32c(tail) ^ tail_crc32c
    check(found == record_crc32c, "the start of the record is damaged")
    size = HEADER.unpack_from(start)[8]
    heads = [struct.unpack_from("<BI", start, HEADER.size + 5 * i) for i in range(2)]
    fraction, exponent = split(start[40:], *(length for _, length in heads))
    streams = [(heads[0][0], fraction), (heads[1][0], exponent)]
    highs = undo_streams(2, b"", streams, size // 4, 2)
    return to_bytes([high << 16 for high in highs], 4)
