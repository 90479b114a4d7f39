"""What a dataset or an insert asks of the codecs, and what that means for one dtype.

A policy names a preset or an explicit encoding, and may carry an error contract. `plan` turns it into what the pipeline
does with each chunk. The rules that no policy changes:

    * integers, bools and complex integers are never lossy; a quantizer that does not apply to a dtype is left out
    * a chunk that would break the error contract is stored losslessly instead
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedCodecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_codecs.dtypes import DType

__all__ = [
    "CHUNK_BYTES_DEFAULT",
    "CHUNK_BYTES_MIN",
    "DEFAULT_PRESET",
    "PRESETS",
    "ChunkPlan",
    "Preset",
    "StoragePolicy",
    "plan",
    "preset_by_name",
]

CHUNK_BYTES_DEFAULT = 1024 * 1024
"""Large enough for a compressor and for the transport, small enough that a slice reads little. Measured: messages of 1 MiB
move fastest through grpcio."""

CHUNK_BYTES_MIN = 4096
"""One page; smaller chunks spend more on their records than they save."""

_CHUNK_ALIGNMENT = 16
"""The widest element, so that a chunk of any dtype is whole elements."""


@dataclass(frozen=True)
class Preset:
    """A named policy."""

    description: str
    """One line for people."""
    lossy: tuple[dict[str, Any], ...] | None
    """Encoding of dtypes that its quantizer applies to, as JSON; None: lossless for all."""
    floats: tuple[dict[str, Any], ...]
    """Lossless encoding of all other float and complex dtypes, and of chunks that the quantizer cannot keep to the contract."""
    others: tuple[dict[str, Any], ...]
    """Lossless encoding of the rest."""
    max_relative_error: float | None = None
    """The error contract that comes with the preset; an explicit one replaces it."""


def _step(codec_id: str, **configuration: bool | int) -> dict[str, Any]:
    return {"id": codec_id, "configuration": configuration}


_HUFFMAN = _step("zstd", huffman_only=True)
_PLANES_FOR_FLOATS = (_step("rotated_planes"), _HUFFMAN)
_PLANES_FOR_OTHERS = (_step("planes"), _step("zstd", level=1))

PRESETS: Mapping[str, Preset] = {
    "none": Preset("as it is", None, (), ()),
    "fast": Preset("lossless; bits side by side, then lz4", None, (_step("blosc_lz4"),), (_step("blosc_lz4"),)),
    "lossless": Preset(
        "lossless; byte planes, each as compressible as it is", None, _PLANES_FOR_FLOATS, _PLANES_FOR_OTHERS
    ),
    "balanced": Preset(
        "half precision with an exponent per chunk, then lossless",
        (_step("fp16"), _step("rotated_planes"), _HUFFMAN),
        _PLANES_FOR_FLOATS,
        _PLANES_FOR_OTHERS,
    ),
    "bf16": Preset(
        "bfloat16, then lossless",
        (_step("bf16"), _step("rotated_planes"), _HUFFMAN),
        _PLANES_FOR_FLOATS,
        _PLANES_FOR_OTHERS,
    ),
    "maximum": Preset(
        "8-bit blocks of 128, then lossless; relative error at most 1 %",
        (_step("int8_block", block_size=128), _HUFFMAN),
        _PLANES_FOR_FLOATS,
        _PLANES_FOR_OTHERS,
        max_relative_error=1e-2,
    ),
    "fp16_only": Preset("half precision with an exponent per chunk", (_step("fp16"),), (), ()),
    "int8_only": Preset("8-bit blocks of 64", (_step("int8_block"),), (), ()),
}
"""Every preset by name. A stored tensor remembers its encoding, never its preset, so a preset may change."""

DEFAULT_PRESET = "lossless"
"""Of a dataset that names none."""


@dataclass(frozen=True)
class StoragePolicy:
    """How tensors are to be stored. At most one of `preset` and `encoding`; neither: the default preset."""

    preset: str | None = None
    """A name in `PRESETS`."""
    encoding: Encoding | None = None
    """An explicit chain of codecs."""
    max_relative_error: float | None = None
    """L2 norm of the error over L2 norm of the chunk, at most; finite, >= 0."""
    max_absolute_error: float | None = None
    """Largest error of an element (of its real and its imaginary part, where complex), at most; finite, >= 0."""
    chunk_bytes: int | None = None
    """Canonical bytes per chunk: a multiple of 16 from 4096 to 2 MiB; None: 1 MiB."""

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            InvalidPolicyError: names the key, the value and what is allowed.
        """
        if self.preset is not None and self.encoding is not None:
            raise InvalidPolicyError(f"policy has both preset {self.preset!r} and an encoding, must have at most one")
        if self.preset is not None:
            preset_by_name(self.preset)
        for name in ("max_relative_error", "max_absolute_error"):
            bound = getattr(self, name)
            if bound is not None and not (math.isfinite(bound) and bound >= 0):
                raise InvalidPolicyError(f"{name} of a policy is {bound}, must be finite and not negative")
        if self.chunk_bytes is not None and not (
            CHUNK_BYTES_MIN <= self.chunk_bytes <= CANONICAL_BYTES_MAX and self.chunk_bytes % _CHUNK_ALIGNMENT == 0
        ):
            raise InvalidPolicyError(
                f"chunk_bytes of a policy is {self.chunk_bytes}, must be a multiple of {_CHUNK_ALIGNMENT} "
                f"from {CHUNK_BYTES_MIN} to {CANONICAL_BYTES_MAX} bytes"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        fields = {
            "preset": self.preset,
            "encoding": None if self.encoding is None else self.encoding.to_json(),
            "max_relative_error": self.max_relative_error,
            "max_absolute_error": self.max_absolute_error,
            "chunk_bytes": self.chunk_bytes,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StoragePolicy:
        """Return the policy that `to_json` describes. Raises as the constructor and `Encoding.from_json` do."""
        known = dict(fields)
        encoding = known.pop("encoding", None)
        return cls(encoding=None if encoding is None else Encoding.from_json(encoding), **known)


@dataclass(frozen=True)
class ChunkPlan:
    """What the pipeline does with every chunk of one tensor."""

    encoding: Encoding
    """To be tried first."""
    max_relative_error: float | None
    """The error contract of each chunk."""
    max_absolute_error: float | None
    """The error contract of each chunk."""
    lossless: Encoding
    """For chunks that break the contract, or that the quantizer refuses."""
    chunk_bytes: int
    """Canonical bytes per chunk."""
    fallback_reason: str
    """Why `encoding` is not what the policy names; empty where it is."""


def preset_by_name(name: str) -> Preset:
    """Return the preset.

    Raises:
        InvalidPolicyError: there is none of this name.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidPolicyError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return preset


@lru_cache(maxsize=1024)
def plan(policy: StoragePolicy, dtype: DType) -> ChunkPlan:
    """Return what `policy` means for tensors of `dtype`.

    A codec of a preset whose library is missing is left out, and the plan says so: storing succeeds, and the record of the
    tensor tells.
    """
    reasons: list[str] = []
    max_relative_error = policy.max_relative_error
    if policy.encoding is not None:
        encoding, lossless = policy.encoding, policy.encoding.lossless
        if encoding.quantizer is not None and not encoding.quantizer.applies_to(dtype):
            reasons.append(f"{encoding.quantizer.id} does not apply to {dtype.name}, which stays lossless")
            encoding = lossless
    else:
        preset = preset_by_name(policy.preset or DEFAULT_PRESET)
        if max_relative_error is None:
            max_relative_error = preset.max_relative_error
        lossless = _available(preset.floats if dtype.is_real else preset.others, reasons)
        encoding = lossless
        if preset.lossy is not None:
            lossy = _available(preset.lossy, reasons)
            if lossy.quantizer is not None and lossy.quantizer.applies_to(dtype):
                encoding = lossy
    return ChunkPlan(
        encoding=_fitted(encoding, dtype),
        max_relative_error=max_relative_error,
        max_absolute_error=policy.max_absolute_error,
        lossless=_fitted(lossless, dtype),
        chunk_bytes=policy.chunk_bytes or CHUNK_BYTES_DEFAULT,
        fallback_reason="; ".join(dict.fromkeys(reasons)),
    )


def _available(steps: tuple[dict[str, Any], ...], reasons: list[str]) -> Encoding:
    try:
        return Encoding.from_json(list(steps))
    except UnsupportedCodecError as error:
        reasons.append(str(error))
        return IDENTITY


def _fitted(encoding: Encoding, dtype: DType) -> Encoding:
    """Return `encoding` for words of this dtype: without a filter that has nothing to do, and with their width filled in."""
    word_bytes = dtype.word.itemsize if encoding.quantizer is None else encoding.quantizer.code_dtype.itemsize
    # Planes of single bytes are the bytes.
    used_filter = None if word_bytes == 1 else encoding.filter
    compressor = encoding.compressor
    if compressor is not None and getattr(compressor, "word_bytes", None) == 0:
        # What a filter makes are bytes; and wider words than 8 bytes are several.
        width = 1 if used_filter is not None or word_bytes not in {1, 2, 4, 8} else word_bytes
        compressor = replace(compressor, word_bytes=width)  # type: ignore[call-arg]  # a field of this codec
    return Encoding(encoding.quantizer, used_filter, compressor)
