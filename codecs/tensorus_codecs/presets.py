"""The presets, and what each of them does per dtype.

A preset defines how floats are quantized, if at all. It also lists the lossless encodings from which the automatic choice
(`select.py`) picks for other dtypes and for chunks that must stay exact. A chunk record names its encoding and not its
preset, so the definition of a preset may change.
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

__all__ = [
    "DEFAULT_PRESET",
    "DELTA",
    "PRESETS",
    "Family",
    "Preset",
    "Steps",
    "WeighedSteps",
    "family_of",
    "preset_by_name",
]

Steps: TypeAlias = "tuple[dict[str, Any], ...]"
"""An encoding as JSON. `Any`: a codec's settings."""

WeighedSteps: TypeAlias = "tuple[Steps, float]"
"""An encoding, and its penalty for slow decoding as a share of the encoded size."""


_SINGLE_BYTES = 4


class Family(Enum):
    """Groups of dtypes that share their lossless encodings."""

    FLOATS = "floats"
    """Floats of 16 or 64 bits, and complex128."""
    SINGLES = "singles"
    """float32 and complex64."""
    INTEGERS = "integers"
    """Integers of 2, 4 or 8 bytes, and unknown dtypes of these widths."""
    BYTES = "bytes"
    """Integers and floats of one byte, and unknown dtypes of any other width."""
    BOOLS = "bools"


def family_of(dtype: DType) -> Family:
    """Return the family of a dtype."""
    if dtype.kind is Kind.BOOL:
        return Family.BOOLS
    if dtype.word.itemsize == 1:
        return Family.BYTES
    if not dtype.is_real:
        return Family.INTEGERS
    return Family.SINGLES if dtype.word.itemsize == _SINGLE_BYTES else Family.FLOATS


@dataclass(frozen=True)
class Preset:
    """A named policy."""

    description: str
    """One line for people."""
    lossless: Mapping[Family, tuple[WeighedSteps, ...]]
    """The lossless encodings to choose from; without any, chunks are stored raw."""
    lossy: Steps | None = None
    """The encoding of dtypes that its quantizer applies to; None: lossless for all dtypes."""
    max_relative_error: float | None = None
    """The preset's own error contract; an explicit one replaces it."""
    targets_contract: bool = False
    """Whether floats are quantized as coarsely as the error contract allows. Without a contract they stay lossless."""

    @property
    def typical(self) -> Steps:
        """The encoding that float32 weights usually get."""
        if self.lossy is not None:
            return self.lossy
        candidates = self.lossless.get(Family.SINGLES, ())
        return candidates[0][0] if candidates else ()


def preset_by_name(name: str) -> Preset:
    """Return the preset.

    Raises:
        InvalidPolicyError: no preset has this name.
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

# Penalties for slow decoding. The full extra decoding time, relative to Huffman-coded planes, would be the upper bound; these
# are below it. Repetitions decode nearly as fast, differences must be added up one by one.
_REPEATS = 0.02
_SPARSE = 0.02
_SUMS = 0.04

_AS_IT_IS = _same_for_all()


def _floats(filter_id: str) -> tuple[WeighedSteps, ...]:
    """Return the automatic encodings of floats, with this filter for values without structure."""
    return (
        ((_step(filter_id), _HUFFMAN), 0.0),
        ((_step("planes"), _HUFFMAN), 0.0),
        ((_ZSTD_1,), _REPEATS),
        ((_step("bitmap"), _HUFFMAN), _SPARSE),
        ((_step("delta"), _HUFFMAN), _SUMS),
    )


_AUTOMATIC: dict[Family, tuple[WeighedSteps, ...]] = {
    Family.FLOATS: _floats("rotated_planes"),
    Family.SINGLES: _floats("bf16_planes"),
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

# Measured on twenty kinds of values: pcodec is the smallest or within 2 % of it, except for repetitions (zstd), sparse masks
# with runs (packed bits) and multi-channel images (differences). Brotli never wins and is ten times slower.
_ARCHIVE_FLOATS: tuple[WeighedSteps, ...] = (
    ((_PCODEC,), 0.0),
    ((_step("rotated_planes"), _HUFFMAN), 0.0),
    ((_ZSTD_19,), 0.0),
    ((_step("bitmap"), _ZSTD_19), 0.0),
)

_ARCHIVE: dict[Family, tuple[WeighedSteps, ...]] = {
    Family.FLOATS: _ARCHIVE_FLOATS,
    Family.SINGLES: _ARCHIVE_FLOATS,
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
    "none": Preset("raw: no codec", {}),
    "fast": Preset("lossless; bit shuffling, then lz4", _same_for_all(_step("blosc_lz4"))),
    "lossless": Preset("lossless; chosen by the values, mostly byte planes", _AUTOMATIC),
    "archive": Preset("lossless; the smallest of the slow encodings", _ARCHIVE),
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
        "the smallest encoding that keeps the given error; without one, lossless",
        _AUTOMATIC,
        (_step("int8_block"), _step("rotated_planes"), _HUFFMAN),
        targets_contract=True,
    ),
    "fp16_only": Preset("half precision with an exponent per chunk", {}, (_step("fp16"),)),
    "int8_only": Preset("8-bit blocks of 64", {}, (_step("int8_block"),)),
}
"""Every preset by name. Every preset but `none` stores a constant chunk as its one value."""

DELTA: Steps = (_step("int_delta"), _HUFFMAN)
"""The encoding of a chunk with a base, for every preset and dtype."""

DEFAULT_PRESET = "lossless"
"""The preset of a dataset that names none."""
