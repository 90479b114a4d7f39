"""Decides the outcome of an insert whose id may be taken. The rule is the same for every catalogue.

    the id is free                                         inserted; GENERATION_MISMATCH if a generation was to be replaced
    `replace` is set, or the generation matches            replaced
    the same values are stored, and satisfy the request    already stored
    the same values are stored, and do not satisfy it      STORED_DIFFERENTLY
    other values are stored                                ALREADY_EXISTS, or GENERATION_MISMATCH
    it is an edit, and the tensor has changed since        STORE_BUSY: the client repeats it

A stored tensor satisfies a request if it has the same metadata, unless the request has none, and if its values are at least as
exact as this insert would store them. An insert that replaces requires more: it stores nothing only if the stored tensor equals
the one that it would store.

A copy is stored already if the tensor that has the id has the same values and metadata; otherwise it must replace it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tensorus_codecs.presets import DEFAULT_PRESET
from tensorus_server.errors import (
    AlreadyExistsError,
    GenerationMismatchError,
    StoreBusyError,
    StoredDifferentlyError,
)
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.model import Tensor

__all__ = ["bounded_json", "crc_of_resumed", "resolve_conflict", "resolve_copy", "same_json", "validated"]

_TEXT_CHARACTERS_MAX = 200
"""Characters of metadata or a policy in a message. Two of them fit into the longest message that `status.py` sends."""

_WAY_OUT = 'insert it with on_conflict="replace" (put --replace) to replace it'

_WAY_OUT_OF_COPY = "pass replace=True (cp and mv: --replace) to replace it"


def resolve_conflict(stored: StoredTensor, existing: Tensor | None, existing_source_crc32c: int | None) -> Outcome:
    """Return what to do with a tensor; see the module's description.

    Args:
        existing: the tensor that has the id; None: the id is free.
        existing_source_crc32c: CRC32C of the canonical bytes that its writer sent; None: unknown.

    Raises:
        AlreadyExistsError: another tensor has the id, and must not be replaced.
        StoredDifferentlyError: the same values are stored, but do not satisfy the request.
        GenerationMismatchError: the tensor does not have the generation to be replaced, or exists although the id must be free.
        StoreBusyError: an edit was made for another generation than the tensor has now.
    """
    new, match = stored.new, stored.new.if_generation_match
    if stored.changes is not None:
        if existing is None or existing.generation != stored.changes:
            # Even if the values are the same: of two equal appends, both count.
            raise StoreBusyError(
                "the tensor has changed meanwhile; repeat the edit",
                dataset=stored.dataset.name,
                tensor=new.id,
            )
        return Outcome.CHANGED
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


def resolve_copy(stored: StoredTensor, existing: Tensor | None, existing_source_crc32c: int | None) -> Outcome:
    """Return what to do with a copy of a tensor.

    Args:
        existing, existing_source_crc32c: see `resolve_conflict`.

    Raises:
        AlreadyExistsError: another tensor has the id, and must not be replaced.
        StoredDifferentlyError: one with the same values, but other metadata or another error, has the id.
    """
    if existing is None:
        return Outcome.INSERTED
    has_same_values = _has_same_values(stored, existing, existing_source_crc32c)
    is_equal = (
        has_same_values and _are_read_alike(stored, existing) and same_json(existing.metadata, stored.new.metadata)
    )
    if stored.new.replace:
        is_done = is_equal and _is_repeated(stored, existing) and stored.storage == existing.storage
        return Outcome.ALREADY_STORED if is_done else Outcome.REPLACED
    if is_equal:
        return Outcome.ALREADY_STORED
    kind, what = AlreadyExistsError, "another tensor has this id already"
    if has_same_values:
        kind, what = (
            StoredDifferentlyError,
            "the same values are stored under this id with other metadata or another error",
        )
    raise kind(
        f"{what}; {_WAY_OUT_OF_COPY}",
        dataset=stored.dataset.name,
        tensor=stored.new.id,
        generation=existing.generation,
    )


def validated(stored: StoredTensor, existing: Tensor | None) -> Tensor:
    """Return the tensor as it would be stored, with generation and ordinal 0. Raises the errors of `resolve_conflict`."""
    outcome = resolve_conflict(stored, existing, None if existing is None else crc_of_resumed(existing))
    return stored.committed(generation=0, ordinal=0, created_us=0, outcome=outcome)


def crc_of_resumed(tensor: Tensor) -> int | None:
    """Return the CRC32C of the bytes that a tensor's writer sent, if that is its source checksum; None otherwise.

    It is for a tensor whose insert was resumed.
    """
    checksum = tensor.source_checksum
    return int.from_bytes(checksum.value, "big") if checksum.algorithm == "crc32c" else None


def same_json(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two JSON values are the same. In Python, 1 equals 1.0 and true, and NaN does not equal itself."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def bounded_json(value: object) -> str:
    """Return a value as JSON for a message, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _TEXT_CHARACTERS_MAX else f"{text[:_TEXT_CHARACTERS_MAX]}..."


def _are_read_alike(stored: StoredTensor, existing: Tensor) -> bool:
    """Whether readers get the same values of both, which were sent with the same values."""
    if existing.value_checksum == stored.value_checksum:
        return True
    # What was resumed has another kind of checksum, or one of other chunks.
    are_comparable = (
        existing.value_checksum.algorithm == stored.value_checksum.algorithm
        and existing.chunk_bytes == stored.chunk_bytes
    )
    return not are_comparable and not existing.storage.lossy and not stored.storage.lossy


def _has_same_values(stored: StoredTensor, existing: Tensor, existing_source_crc32c: int | None) -> bool:
    if existing.spec != stored.new.spec:
        return False
    if existing.source_checksum.algorithm != stored.source_checksum.algorithm:
        return existing_source_crc32c == stored.source_crc32c
    return existing.source_checksum == stored.source_checksum


def _is_repeated(stored: StoredTensor, existing: Tensor) -> bool:
    """Whether the existing tensor was inserted with the same metadata and policy."""
    policy = None if stored.new.policy is None else stored.new.policy.to_json()
    return same_json(existing.metadata, stored.new.metadata) and existing.policy == policy


def _require_kept(stored: StoredTensor, existing: Tensor) -> None:
    """Raise `StoredDifferentlyError` if the existing tensor does not satisfy the request."""
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
    """Whether the existing values are at least as exact as those that this insert would store. Compares whole tensors.

    This insert's own values are within its error contract, so a relative error that is no larger is within it, too. The largest
    error is checked separately, because it may be larger although the relative error is smaller.
    """
    there = existing.storage
    if not there.lossy or existing.value_checksum == stored.value_checksum:
        return True
    policy = stored.new.policy or stored.dataset.policy
    is_allowed = policy.max_absolute_error is None or there.max_absolute_error <= policy.max_absolute_error
    return is_allowed and there.relative_error <= stored.storage.relative_error
