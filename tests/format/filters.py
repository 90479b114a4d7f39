"""The filters of chunk records: `count` words of `width` bytes from the streams; `take(size)` decompresses the next one."""

import struct

import xxhash

from format.compressors import decompress
from format.words import check, to_words


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
