"""The quantizers of chunk records: components' bits from the parameters and the codes, which are unsigned integers."""

import struct

from format.arithmetic import (
    BFLOAT16,
    E4M3FN,
    E5M2,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Real,
    add,
    convert,
    is_finite,
    multiply,
    round_to,
    to_real,
)
from format.words import check, split, to_words


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
