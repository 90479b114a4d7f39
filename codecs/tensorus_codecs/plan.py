"""Turns a policy into a plan for the chunks of one tensor.

Three rules hold for every policy:

* Integers and bools are never lossy: a quantizer that does not apply to a dtype is left out.
* A chunk that would break the error contract gets the next finer encoding that keeps it, and finally a lossless one.
* A preset's codec is left out if its library is missing. The plan says so if nothing replaces the codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_codecs.contract import ErrorContract
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.policy import CHUNK_BYTES_DEFAULT
from tensorus_codecs.presets import DEFAULT_PRESET, DELTA, family_of, preset_by_name

if TYPE_CHECKING:
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.presets import Preset, Steps

__all__ = ["Candidate", "Choice", "ChunkPlan", "plan"]


@dataclass(frozen=True)
class Candidate:
    """A lossless encoding that the automatic choice tries."""

    encoding: Encoding
    """Has no quantizer."""
    penalty: float = 0.0
    """Penalty for slow decoding, as a share of the encoded size."""


@dataclass(frozen=True)
class Choice:
    """The encoding chosen for a chunk and for similar ones."""

    encoding: Encoding
    """With or without a quantizer."""
    share: float
    """Encoded size of the sample divided by its canonical size."""


@dataclass(frozen=True)
class ChunkPlan:
    """How the pipeline encodes every chunk of one tensor."""

    lossy: Encoding | None
    """The encoding to try first; None: lossless."""
    contract: ErrorContract
    """Error bounds for every chunk."""
    lossless: tuple[Candidate, ...]
    """Lossless candidates, at least one."""
    automatic: bool
    """Whether the encoding depends on the chunk: as one value, or losslessly if that is no larger."""
    targets_contract: bool
    """Whether `lossy` is made as coarse as the contract allows."""
    chunk_bytes: int
    """Canonical bytes per chunk: whole elements, even of an opaque dtype of, say, 3 bytes."""
    delta: Encoding = IDENTITY
    """The encoding to try first for a chunk with a base."""
    fallback_reason: str = ""
    """Why the plan differs from the policy; empty if it does not."""
    choice: Choice | None = None
    """The choice made for chunks like these; None: choose for each chunk."""

    @property
    def stores_raw(self) -> bool:
        """Whether every chunk is stored raw."""
        return self.lossy is None and not self.automatic and not self.lossless[0].encoding.codecs


# Cached because the tensors of a dataset usually ask for the same plan. Policies and dtypes are hashable values.
@lru_cache(maxsize=1024)
def plan(policy: StoragePolicy, dtype: DType) -> ChunkPlan:
    """Return the plan of `policy` for tensors of `dtype`."""
    reasons: list[str] = []
    contract = ErrorContract(policy.max_relative_error, policy.max_absolute_error)
    automatic = targets_contract = False
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
        automatic = name != "none"
        # An explicit contract replaces the preset's own, even if it is less strict.
        if contract.is_empty:
            contract = ErrorContract(preset.max_relative_error)
        lossless = _candidates(preset, dtype, reasons)
        lossy = _lossy(preset, dtype, reasons)
        targets_contract = preset.targets_contract
        if targets_contract and contract.is_empty:
            # The preset `auto` quantizes only as far as the user allows; without a bound, not at all.
            lossy = None
    chunk_bytes = policy.chunk_bytes or CHUNK_BYTES_DEFAULT
    return ChunkPlan(
        lossy=lossy,
        contract=contract,
        lossless=lossless,
        automatic=automatic,
        targets_contract=targets_contract,
        chunk_bytes=chunk_bytes - chunk_bytes % dtype.element_bytes,
        # Codes alone are already much smaller than words, so a missing compressor is left out.
        delta=_available(DELTA, []) or _available(DELTA[:1], []) or IDENTITY,
        fallback_reason="; ".join(dict.fromkeys(reasons)),
    )


def _lossy(preset: Preset, dtype: DType, reasons: list[str]) -> Encoding | None:
    """Return the preset's lossy encoding if it has one that applies to `dtype`."""
    encoding = None if preset.lossy is None else _available(preset.lossy, reasons)
    if encoding is None or encoding.quantizer is None or not encoding.quantizer.applies_to(dtype):
        return None
    return encoding


def _candidates(preset: Preset, dtype: DType, reasons: list[str]) -> tuple[Candidate, ...]:
    """Return the preset's lossless encodings for `dtype` whose libraries are installed, at least one."""
    missing: list[str] = []
    candidates = []
    for steps, penalty in preset.lossless.get(family_of(dtype), ()):
        encoding = _available(steps, missing)
        if encoding is not None:
            candidates.append(Candidate(encoding.fitted(dtype), penalty))
    # A missing library matters only if no other candidate is left.
    if not candidates:
        reasons.extend(missing)
    return tuple(candidates) or (Candidate(IDENTITY),)


def _available(steps: Steps, reasons: list[str]) -> Encoding | None:
    try:
        return Encoding.from_json(list(steps))
    except UnsupportedCodecError as error:
        reasons.append(str(error))
        return None
