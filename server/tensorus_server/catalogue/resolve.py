"""What becomes of an insert whose id may be taken: the one rule for every catalogue.

    the id is free                                       inserted; GENERATION_MISMATCH where one was to be replaced
    `replace`, or the generation to be replaced          replaced
    the same values, with all that was asked for         already stored
    the same values, but other metadata or less exact    STORED_DIFFERENTLY
    other values                                         ALREADY_EXISTS, or GENERATION_MISMATCH

"All that was asked for": metadata, where the insert brings any, and values at least as exact as this insert would store them.
An insert that replaces asks for more: what is there must be all that it would store, so that a repeated one stores nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tensorus_codecs.presets import DEFAULT_PRESET
from tensorus_server.errors import AlreadyExistsError, GenerationMismatchError, StoredDifferentlyError
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.model import Tensor

__all__ = ["bounded_json", "crc_of_resumed", "resolve", "same_json", "validated"]

_TEXT_CHARACTERS_MAX = 200
"""Of metadata or a policy in a message: two of them fit into what `status.py` lets a message have."""

_WAY_OUT = 'insert it with on_conflict="replace" (put --replace) to replace it'


def resolve(stored: StoredTensor, existing: Tensor | None, existing_source_crc32c: int | None) -> Outcome:
    """Return what is to be done with a tensor whose id may be taken. See the module's description.

    Raises:
        AlreadyExistsError: another tensor has the id, and is not to be replaced.
        StoredDifferentlyError: the same values are there, and do not keep what was asked for.
        GenerationMismatchError: the tensor is not there in the generation that was to be replaced, or is there and must not be.
    """
    new, match = stored.new, stored.new.if_generation_match
    if existing is None:
        if match:
            raise GenerationMismatchError(
                f"there is no such tensor, generation {match} was to be replaced",
                dataset=stored.dataset.name,
                tensor=new.id,
            )
        return Outcome.INSERTED
    if match == existing.generation:
        return Outcome.REPLACED
    has_same_values = _has_same_values(stored, existing, existing_source_crc32c)
    if new.replace:
        is_done = has_same_values and _is_repeated(stored, existing) and stored.storage == existing.storage
        return Outcome.ALREADY_STORED if is_done else Outcome.REPLACED
    if match is not None:
        if has_same_values and _is_repeated(stored, existing):
            return Outcome.ALREADY_STORED
        raise GenerationMismatchError(
            f"generation is {existing.generation}, {match} was to be replaced"
            if match
            else "a tensor has this id already, and the id was to be free",
            dataset=stored.dataset.name,
            tensor=new.id,
            generation=existing.generation,
        )
    if not has_same_values:
        raise AlreadyExistsError(
            f"another tensor has this id already; {_WAY_OUT}",
            dataset=stored.dataset.name,
            tensor=new.id,
            generation=existing.generation,
        )
    _require_kept(stored, existing)
    return Outcome.ALREADY_STORED


def validated(stored: StoredTensor, existing: Tensor | None) -> Tensor:
    """Return the tensor as it would be stored, without generation and ordinal. Errors as of `resolve`."""
    outcome = resolve(stored, existing, None if existing is None else crc_of_resumed(existing))
    return stored.committed(generation=0, ordinal=0, created_us=0, outcome=outcome)


def crc_of_resumed(tensor: Tensor) -> int | None:
    """Return the CRC32C of the source of a tensor that was resumed: it is its checksum. None: it was not resumed."""
    checksum = tensor.source_checksum
    return int.from_bytes(checksum.value, "big") if checksum.algorithm == "crc32c" else None


def same_json(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two values of JSON are the same: for Python, 1 equals 1.0 and true, and NaN not even itself."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def bounded_json(value: object) -> str:
    """Return a value for a message: JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _TEXT_CHARACTERS_MAX else f"{text[:_TEXT_CHARACTERS_MAX]}..."


def _has_same_values(stored: StoredTensor, existing: Tensor, existing_source_crc32c: int | None) -> bool:
    if existing.spec != stored.new.spec:
        return False
    if existing.source_checksum.algorithm != stored.source_checksum.algorithm:
        return existing_source_crc32c == stored.source_crc32c
    return existing.source_checksum == stored.source_checksum


def _is_repeated(stored: StoredTensor, existing: Tensor) -> bool:
    """Whether the tensor that is there was inserted with the same metadata and policy."""
    policy = None if stored.new.policy is None else stored.new.policy.to_json()
    return same_json(existing.metadata, stored.new.metadata) and existing.policy == policy


def _require_kept(stored: StoredTensor, existing: Tensor) -> None:
    """Raise `StoredDifferentlyError` where the tensor that is there does not keep what the insert asks for."""
    asked, there = stored.new.metadata, existing.metadata
    if asked and not same_json(asked, there):
        raise StoredDifferentlyError(
            f"the same values are stored under this id with other metadata: {bounded_json(there)}, "
            f"this insert has {bounded_json(asked)}; {_WAY_OUT}",
            dataset=stored.dataset.name,
            tensor=stored.new.id,
            generation=existing.generation,
        )
    if not _is_as_exact(stored, existing):
        policy = (stored.new.policy or stored.dataset.policy).to_json() or {"preset": DEFAULT_PRESET}
        raise StoredDifferentlyError(
            f"the same values are stored under this id less exactly: relative error {existing.storage.relative_error:.2g}, "
            f"largest error {existing.storage.max_absolute_error:.2g}; the policy of this insert, "
            f"{bounded_json(policy)}, gives {stored.storage.relative_error:.2g} and "
            f"{stored.storage.max_absolute_error:.2g}; {_WAY_OUT}",
            dataset=stored.dataset.name,
            tensor=stored.new.id,
            generation=existing.generation,
            stored_relative_error=existing.storage.relative_error,
            stored_max_absolute_error=existing.storage.max_absolute_error,
        )


def _is_as_exact(stored: StoredTensor, existing: Tensor) -> bool:
    """Whether readers get values at least as exact as this insert would store; errors are of the whole tensor.

    What this insert would store keeps its error contract, so that it need not be looked at, but for the largest error: that may
    be larger although the relative error is smaller.
    """
    there = existing.storage
    if not there.lossy or existing.value_checksum == stored.value_checksum:
        return True
    policy = stored.new.policy or stored.dataset.policy
    is_allowed = policy.max_absolute_error is None or there.max_absolute_error <= policy.max_absolute_error
    return is_allowed and there.relative_error <= stored.storage.relative_error
