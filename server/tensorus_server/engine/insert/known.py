"""Inserts of tensors whose bytes the store has already, so that nobody needs to send them.

For each announced tensor there are four cases:

    a stored tensor has its content digest               a row is committed that shares the payload, or as of `conflicts.py`
    the same values have its id                          already stored, if that is known to satisfy the request
    other values have its id, and may not be replaced    the error of an insert
    otherwise                                            missing: its bytes must be inserted
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.errors import CodecError
from tensorus_server.catalogue.abc import NotSharedError, StoredTensor
from tensorus_server.catalogue.conflicts import resolve_conflict
from tensorus_server.engine.insert.content import content_digest
from tensorus_server.engine.insert.plans import Plans
from tensorus_server.engine.validate import require_announced, require_known_count
from tensorus_server.errors import EngineError, InvalidRequestError
from tensorus_server.model import Locator, Outcome, StorageReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import Catalogue, EqualTensor
    from tensorus_server.engine.insert.content import EqualTensors
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import Checksum, Dataset, NewTensor, Tensor

__all__ = ["insert_known"]

_DIGEST_BYTES = 16

_NOTHING = StorageReport(0, 0, 0, 0.0, 0.0, lossy=False, encodings=(), fallback_reason="")
"""The report of a tensor without bytes here; no decision depends on it."""


def insert_known(
    catalogue: Catalogue,
    equals: EqualTensors,
    dataset: Dataset,
    announced: Sequence[NewTensor],
    *,
    is_visible: Callable[[str], bool] | None = None,
) -> list[Tensor | Exception | None]:
    """Insert tensors of which only the source checksums are known, as far as the store has their bytes.

    All rows are committed in one transaction; a tensor that fails does not affect the others.

    Args:
        is_visible: whether bytes in the dataset with a name count as known; None: in all.

    Returns:
        For each tensor, in order: the tensor as it is visible now, the error that an insert of it would raise, or None if its
        bytes are missing.

    Raises:
        LimitExceededError: there are too many tensors.
    """
    require_known_count(len(announced), dataset=dataset.name)
    outcomes: list[Tensor | Exception | None] = [None] * len(announced)
    digests: dict[int, bytes] = {}
    plans = Plans(dataset)
    for place, new in enumerate(announced):
        try:
            digests[place] = _checked_digest(new, dataset, plans)
        except (EngineError, CodecError) as error:
            outcomes[place] = error
    found = equals.find(list(digests.values()))
    if is_visible is not None:
        seen = {key: [equal for equal in known if is_visible(equal.tensor.dataset)] for key, known in found.items()}
        found = {digest: known for digest, known in seen.items() if known}
    shared = [place for place, digest in digests.items() if digest in found]
    group = [_sharing(dataset, announced[place], digests[place], found[digests[place]]) for place in shared]
    if group:
        for place, outcome in zip(shared, catalogue.tensors.commit(group), strict=True):
            outcomes[place] = None if isinstance(outcome, NotSharedError) else outcome
    rest = [place for place in digests if outcomes[place] is None]
    existing = catalogue.tensors.get(dataset.name, [announced[place].id for place in rest])
    for place, stored in zip(rest, existing, strict=True):
        try:
            outcomes[place] = _by_id(dataset, announced[place], stored)
        except EngineError as error:
            outcomes[place] = error
    return outcomes


def _checked_digest(new: NewTensor, dataset: Dataset, plans: Plans) -> bytes:
    """Return a tensor's content digest. Errors are those of an insert, and of a source checksum that is none or another one."""
    if new.edit is not None:
        raise InvalidRequestError("an edit has no bytes that the store may know", dataset=dataset.name, tensor=new.id)
    require_announced(new, dataset)
    checksum, policy = new.source_checksum, new.policy or dataset.policy
    digest = None
    if checksum is not None and len(checksum.value) == _DIGEST_BYTES:
        digest = content_digest(new.spec, policy, plans.of(new).chunk_bytes, checksum)
    if digest is None:
        raise InvalidRequestError(
            f"a tensor of InsertKnown needs a source_checksum of {TensorDigest.ALGORITHM}, {_DIGEST_BYTES} bytes",
            dataset=dataset.name,
            tensor=new.id,
        )
    return digest


def _sharing(dataset: Dataset, new: NewTensor, digest: bytes, equals: Sequence[EqualTensor]) -> StoredTensor:
    """Return a tensor to commit that has no payload of its own."""
    tensor = equals[0].tensor
    return StoredTensor(
        dataset=dataset,
        new=new,
        chunk_bytes=tensor.chunk_bytes,
        source_checksum=tensor.source_checksum,
        value_checksum=tensor.value_checksum,
        storage=tensor.storage,
        values=tensor.values,
        locator=tensor.locator,
        inline_payload=None,
        source_crc32c=equals[0].source_crc32c,
        content=digest,
        equals=tuple(equals),
        has_payload=False,
    )


def _by_id(dataset: Dataset, new: NewTensor, existing: Tensor | DataCorruptError | None) -> Tensor | None:
    """Return the stored tensor with the id, if it satisfies the request; None if that depends on the bytes.

    Raises:
        AlreadyExistsError, StoredDifferentlyError, GenerationMismatchError: as of `resolve_conflict`.
    """
    source = new.source_checksum
    assert source is not None
    if isinstance(existing, Exception) or (
        existing is not None and existing.source_checksum.algorithm != source.algorithm
    ):
        return None
    if existing is not None and existing.spec == new.spec and existing.source_checksum == source:
        policy = None if new.policy is None else new.policy.to_json()
        has_same_policy = policy is not None and policy == existing.policy
        # What another policy, or the dataset's, which may have changed since, makes of the values is not known.
        if not has_same_policy and (new.replace or existing.storage.lossy):
            return None
    outcome = resolve_conflict(_like(dataset, new, source, existing), existing, None)
    if existing is None or outcome is not Outcome.ALREADY_STORED:
        return None
    return replace(existing, outcome=outcome)


def _like(dataset: Dataset, new: NewTensor, source: Checksum, existing: Tensor | None) -> StoredTensor:
    """Return the announced tensor, as if it were stored like the existing one."""
    return StoredTensor(
        dataset=dataset,
        new=new,
        chunk_bytes=0,
        source_checksum=source,
        value_checksum=source if existing is None else existing.value_checksum,
        storage=_NOTHING if existing is None else existing.storage,
        values=None,
        locator=Locator("", 0, 0, 0, 0),
        inline_payload=None,
        source_crc32c=0,
    )
