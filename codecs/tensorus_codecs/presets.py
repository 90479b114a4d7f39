"""The presets: what each name stands for, dtype by dtype.

A preset says how floats are quantized, if at all, and among which lossless encodings the automatic choice (`select.py`)
picks for everything else, and for chunks that must stay exact. What is stored remembers its encoding, never its preset, so
that a preset may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorus_codecs.dtypes import Kind
from tensorus_codecs.errors import InvalidPolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_codecs.dtypes import DType

__all__ = ["DEFAULT_PRESET", "PRESETS", "Family", "Preset", "Steps", "WeighedSteps", "family_of", "preset_by_name"]

Steps: TypeAlias = "tuple[dict[str, Any], ...]"
"""An encoding as JSON. `Any`: a codec's settings."""

WeighedSteps: TypeAlias = "tuple[Steps, float]"
"""An encoding, and what it is charged for slow decoding, as a share of the size that it reaches."""


class Family(Enum):
    """Dtypes that the same lossless encodings suit."""

    FLOATS = "floats"
    """Floats of at least 16 bits, and complex ones."""
    INTEGERS = "integers"
    """Integers of 2 to 8 bytes, and unknown dtypes as wide."""
    BYTES = "bytes"
    """One byte: integers, float8; and unknown dtypes of any other width."""
    BOOLS = "bools"


def family_of(dtype: DType) -> Family:
    """Return the family of a dtype."""
    if dtype.kind is Kind.BOOL:
        return Family.BOOLS
    if dtype.word.itemsize == 1:
        return Family.BYTES
    return Family.FLOATS if dtype.is_real else Family.INTEGERS


@dataclass(frozen=True)
class Preset:
    """A named policy."""

    description: str
    """One line for people."""
    lossless: Mapping[Family, tuple[WeighedSteps, ...]]
    """The lossless encodings to choose from; none: as it is."""
    lossy: Steps | None = None
    """Encoding of dtypes that its quantizer applies to; None: lossless for all."""
    max_relative_error: float | None = None
    """The error contract that comes with the preset; an explicit one replaces it."""
    aims: bool = False
    """Whether floats are quantized just as coarsely as the error contract allows; without a contract, not at all."""

    @property
    def typical(self) -> Steps:
        """What weights in float32 usually get."""
        if self.lossy is not None:
            return self.lossy
        candidates = self.lossless.get(Family.FLOATS, ())
        return candidates[0][0] if candidates else ()


def preset_by_name(name: str) -> Preset:
    """Return the preset.

    Raises:
        InvalidPolicyError: there is none of this name.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidPolicyError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return preset


def _step(codec_id: str, **configuration: bool | int) -> dict[str, Any]:
    return {"id": codec_id, "configuration": configuration}


def _same_for_all(*steps: dict[str, Any]) -> dict[Family, tuple[WeighedSteps, ...]]:
    return dict.fromkeys(Family, ((steps, 0.0),))


_HUFFMAN = _step("zstd", huffman_only=True)
_ZSTD_1 = _step("zstd", level=1)
_ZSTD_19 = _step("zstd", level=19)
_PCODEC = _step("pcodec")

# Charges are between what was measured as the extra time of decoding, in the time of Huffman-coded planes, and nothing:
# repetitions cost little, differences are added up one by one.
_REPEATS = 0.02
_SPARSE = 0.02
_SUMS = 0.04

_AS_IT_IS = _same_for_all()

_AUTOMATIC: dict[Family, tuple[WeighedSteps, ...]] = {
    Family.FLOATS: (
        ((_step("rotated_planes"), _HUFFMAN), 0.0),
        ((_step("planes"), _HUFFMAN), 0.0),
        ((_ZSTD_1,), _REPEATS),
        ((_step("bitmap"), _HUFFMAN), _SPARSE),
        ((_step("delta"), _HUFFMAN), _SUMS),
    ),
    Family.INTEGERS: (
        ((_step("planes"), _ZSTD_1), 0.0),
        ((_step("delta", distance=0), _HUFFMAN), 0.0),
        ((_ZSTD_1,), _REPEATS),
        ((_step("bitmap"), _HUFFMAN), _SPARSE),
        ((_step("delta"), _ZSTD_1), _SUMS),
    ),
    Family.BYTES: (
        ((_HUFFMAN,), 0.0),
        ((_ZSTD_1,), _REPEATS),
        ((_step("bitmap"), _HUFFMAN), _SPARSE),
        ((_step("delta"), _HUFFMAN), _SUMS),
        ((_step("delta", distance=3), _HUFFMAN), _SUMS),
        ((_step("delta", distance=4), _HUFFMAN), _SUMS),
    ),
    Family.BOOLS: (
        ((_step("packbits"), _HUFFMAN), 0.0),
        ((_step("packbits"), _ZSTD_1), _REPEATS),
        ((_ZSTD_1,), _REPEATS),
    ),
}

# Measured on twenty kinds of values: pcodec is the smallest of all or within 2 % of it, but for what repeats (zstd), for sparse
# masks in runs (packed bits), and for pictures of several channels (differences). Brotli is never ahead, and ten times slower.
_ARCHIVE: dict[Family, tuple[WeighedSteps, ...]] = {
    Family.FLOATS: (
        ((_PCODEC,), 0.0),
        ((_step("rotated_planes"), _HUFFMAN), 0.0),
        ((_ZSTD_19,), 0.0),
        ((_step("bitmap"), _ZSTD_19), 0.0),
    ),
    Family.INTEGERS: (
        ((_PCODEC,), 0.0),
        ((_step("planes"), _ZSTD_19), 0.0),
        ((_step("delta"), _ZSTD_19), 0.0),
        ((_ZSTD_19,), 0.0),
        ((_step("bitmap"), _ZSTD_19), 0.0),
    ),
    Family.BYTES: (
        ((_PCODEC,), 0.0),
        ((_ZSTD_19,), 0.0),
        ((_step("delta"), _ZSTD_19), 0.0),
        ((_step("delta", distance=3), _ZSTD_19), 0.0),
        ((_step("delta", distance=4), _ZSTD_19), 0.0),
        ((_step("bitmap"), _ZSTD_19), 0.0),
    ),
    Family.BOOLS: (((_PCODEC,), 0.0), ((_step("packbits"), _ZSTD_19), 0.0), ((_ZSTD_19,), 0.0)),
}

PRESETS: Mapping[str, Preset] = {
    "none": Preset("as it is", {}),
    "fast": Preset("lossless; bits side by side, then lz4", _same_for_all(_step("blosc_lz4"))),
    "lossless": Preset("lossless; chosen by what the values are, mostly byte planes", _AUTOMATIC),
    "archive": Preset("lossless; the smallest of the slow ones", _ARCHIVE),
    "balanced": Preset(
        "half precision with an exponent per chunk, then lossless",
        _AUTOMATIC,
        (_step("fp16"), _step("rotated_planes"), _HUFFMAN),
    ),
    "bf16": Preset("bfloat16, then lossless", _AUTOMATIC, (_step("bf16"), _step("rotated_planes"), _HUFFMAN)),
    "maximum": Preset(
        "8-bit blocks of 128, then lossless; relative error at most 1 %",
        _AUTOMATIC,
        (_step("int8_block", block_size=128, code_max=96), _step("rotated_planes"), _HUFFMAN),
        max_relative_error=1e-2,
    ),
    "extreme": Preset(
        "4-bit blocks of 32, then lossless",
        _AUTOMATIC,
        (_step("int4_block"), _step("rotated_planes"), _HUFFMAN),
    ),
    "auto": Preset(
        "the smallest that keeps the given error; without one, lossless",
        _AUTOMATIC,
        (_step("int8_block"), _step("rotated_planes"), _HUFFMAN),
        aims=True,
    ),
    "fp16_only": Preset("half precision with an exponent per chunk", {}, (_step("fp16"),)),
    "int8_only": Preset("8-bit blocks of 64", {}, (_step("int8_block"),)),
}
"""Every preset by name. In every one but `none`, a chunk of one value is stored as that value."""

DEFAULT_PRESET = "lossless"
"""Of a dataset that names none."""
