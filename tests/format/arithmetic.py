"""The arithmetic of numbers in any binary floating-point format, in integers: exact, then rounded once."""

from typing import NamedTuple


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
