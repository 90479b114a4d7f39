"""A second decoder of chunk records, written from docs/FORMAT.md alone.

It shares no code with the product, and uses integers, lists and `struct` only: it shows what a client in another language
has to do. Only the compressors, those of their formats, and the digest of a base are libraries. It is written to be read, and
is slow.

Here are the dtypes, the record and its coarse form; the steps of decoding are in modules of their own:

    compressors, filters, quantizers   undo the steps of an encoding
    arithmetic                         the numbers of quantizers
    words                              bytes as words
"""

import struct

import crc32c

from format.arithmetic import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from format.filters import INT_DELTA, undo_streams
from format.quantizers import QUANTIZERS, to_nibbles
from format.words import check, split, to_bytes

HEADER = struct.Struct("<8BII")

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
