"""What a policy means for the chunks of one tensor.

The rules that no policy changes:

* integers, bools and complex integers are never lossy; a quantizer that does not apply to a dtype is left out
* a chunk that would break the error contract gets the next finer encoding that keeps it, at last a lossless one
* a codec of a preset whose library is missing is left out; the plan says so where nothing takes its place
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_codecs.contract import ErrorContract
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.policy import CHUNK_BYTES_DEFAULT
from tensorus_codecs.presets import DEFAULT_PRESET, family_of, preset_by_name

if TYPE_CHECKING:
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.presets import Preset, Steps

__all__ = ["Candidate", "Choice", "ChunkPlan", "plan"]


@dataclass(frozen=True)
class Candidate:
    """A lossless encoding to choose from."""

    encoding: Encoding
    """Without a quantizer."""
    charge: float = 0.0
    """What slow decoding counts as, as a share of the size that it reaches."""


@dataclass(frozen=True)
class Choice:
    """What was found to suit a chunk, and those like it."""

    encoding: Encoding
    """With a quantizer or without."""
    share: float
    """Bytes that the sample became, over its canonical bytes."""


@dataclass(frozen=True)
class ChunkPlan:
    """What the pipeline does with every chunk of one tensor."""

    lossy: Encoding | None
    """To be tried first; None: lossless."""
    contract: ErrorContract
    """What every chunk keeps."""
    lossless: tuple[Candidate, ...]
    """To choose from otherwise, at least one."""
    chooses: bool
    """Whether the chunk decides: it may be stored as one value, or losslessly where that is not larger."""
    aims: bool
    """Whether `lossy` is made as coarse as the contract allows."""
    chunk_bytes: int
    """Canonical bytes per chunk: whole elements, also of a dtype that is unknown here and, say, 3 bytes wide."""
    fallback_reason: str = ""
    """Why this is not what the policy names; empty where it is."""
    choice: Choice | None = None
    """What was chosen for chunks like these; None: each chunk is looked at."""

    @property
    def stores_raw(self) -> bool:
        """Whether every chunk is stored as it is."""
        return self.lossy is None and not self.chooses and not self.lossless[0].encoding.codecs


@lru_cache(maxsize=1024)
def plan(policy: StoragePolicy, dtype: DType) -> ChunkPlan:
    """Return what `policy` means for tensors of `dtype`."""
    reasons: list[str] = []
    contract = ErrorContract(policy.max_relative_error, policy.max_absolute_error)
    chooses = aims = False
    lossless: tuple[Candidate, ...]
    if policy.encoding is not None:
        lossy = policy.encoding if policy.encoding.quantizer is not None else None
        lossless = (Candidate(policy.encoding.lossless.fitted(dtype)),)
        if lossy is not None and lossy.quantizer is not None and not lossy.quantizer.applies_to(dtype):
            reasons.append(f"{lossy.quantizer.id} does not apply to {dtype.name}, which stays lossless")
            lossy = None
    else:
        name = policy.preset or DEFAULT_PRESET
        preset = preset_by_name(name)
        chooses = name != "none"
        if contract.is_empty:
            contract = ErrorContract(preset.max_relative_error)
        lossless = _candidates(preset, dtype, reasons)
        lossy = _lossy(preset, dtype, reasons)
        aims = preset.aims
        if aims and contract.is_empty:
            lossy = None
    chunk_bytes = policy.chunk_bytes or CHUNK_BYTES_DEFAULT
    return ChunkPlan(
        lossy=lossy,
        contract=contract,
        lossless=lossless,
        chooses=chooses,
        aims=aims,
        chunk_bytes=chunk_bytes - chunk_bytes % dtype.element_bytes,
        fallback_reason="; ".join(dict.fromkeys(reasons)),
    )


def _lossy(preset: Preset, dtype: DType, reasons: list[str]) -> Encoding | None:
    """Return the preset's lossy encoding where it has one that applies to `dtype`."""
    encoding = None if preset.lossy is None else _available(preset.lossy, reasons)
    if encoding is None or encoding.quantizer is None or not encoding.quantizer.applies_to(dtype):
        return None
    return encoding


def _candidates(preset: Preset, dtype: DType, reasons: list[str]) -> tuple[Candidate, ...]:
    """Return the preset's lossless encodings for `dtype` whose libraries are installed."""
    missing: list[str] = []
    candidates = []
    for steps, charge in preset.lossless.get(family_of(dtype), ()):
        encoding = _available(steps, missing)
        if encoding is not None:
            candidates.append(Candidate(encoding.fitted(dtype), charge))
    if not candidates:
        reasons.extend(missing)
    return tuple(candidates) or (Candidate(IDENTITY),)


def _available(steps: Steps, reasons: list[str]) -> Encoding | None:
    try:
        return Encoding.from_json(list(steps))
    except UnsupportedCodecError as error:
        reasons.append(str(error))
        return None
