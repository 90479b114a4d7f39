"""The base of an insert: a stored tensor with nearly the same values, to which chunks are stored as differences if that pays.

Chunk i is compared with the base's chunk i, so dtype, shape and chunk size must be the same. A chunk is stored by itself where
its base is in the catalogue, or has `BASE_DEPTH_MAX` bases before it, or where differences are not smaller. The record of a
chunk that is stored as differences needs the base's record as long as it exists: see `base_section.py`.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus_codecs.base import Base
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.pipeline import encode_chunk
from tensorus_server.base_section import BasePlace
from tensorus_server.chunk_table import BASE_DEPTH_MAX
from tensorus_server.engine.insert.encoded import Encoded
from tensorus_server.engine.insert.small_tensors import SMALL_BYTES_MAX
from tensorus_server.engine.read.reader import decode_chunk
from tensorus_server.errors import DataCorruptError, InvalidBaseError
from tensorus_server.model import Read

if TYPE_CHECKING:
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.engine.insert.options import Find, InsertServices
    from tensorus_server.engine.read.reader import TensorReader
    from tensorus_server.model import Dataset, NewTensor, Tensor, TensorReference

__all__ = ["DeltaBase", "find_base", "opened_base", "plan_with_base", "referenced"]

_SMALL = "the tensor is stored without the base: it is small"

_IN_CATALOGUE = "the base is small and stored in the catalogue"

_TOO_DEEP = f"the base has {BASE_DEPTH_MAX} bases before it"

_UNREADABLE = "the base cannot be read"

_log = logging.getLogger(__name__)


def find_base(services: InsertServices, dataset: Dataset, new: NewTensor) -> Tensor | None:
    """Return the base of an announced tensor, with its inline payload; None if it was announced without one.

    Raises:
        DatasetNotFoundError, TensorNotFoundError: the base does not exist.
        SnapshotNotFoundError, StateNotKeptError: the state that should have it is not known, or not kept.
        DataCorruptError: its row is damaged.
        InvalidBaseError: it has another dtype or shape.
    """
    if new.base is None:
        return None
    base = referenced(services.find, replace(new.base, dataset=new.base.dataset or dataset.name))
    if base.spec != new.spec:
        raise InvalidBaseError(
            f"the base is {base.spec.dtype.name} of shape {list(base.spec.shape)}, must be {new.spec.dtype.name} of shape "
            f"{list(new.spec.shape)} as the tensor",
            dataset=dataset.name,
            tensor=new.id,
            base_dataset=base.dataset,
            base=base.id,
        )
    return base


def referenced(find: Find, named: TensorReference) -> Tensor:
    """Return the tensor that a reference names, with its inline payload.

    Args:
        find: `Engine.find`.
        named: names its dataset.

    Raises:
        DatasetNotFoundError, TensorNotFoundError, SnapshotNotFoundError, StateNotKeptError, DataCorruptError: see `find_base`.
    """
    (found,) = find(named.dataset, [Read(named.id)], with_payloads=True)
    if named.at is not None:
        # A tensor that has not changed since a generation is the one of that state, whatever is kept of the dataset.
        since = named.at.generation
        if not isinstance(found, Exception) and since is not None and found.generation <= since:
            return found
        (found,) = find(named.dataset, [Read(named.id)], with_payloads=True, at=named.at)
    if isinstance(found, Exception):
        raise found
    return found


def plan_with_base(plan: ChunkPlan, base: Tensor, chunk_bytes: int | None) -> tuple[ChunkPlan, bool]:
    """Return the plan of a tensor that has a base, and whether its chunks are compared with the base.

    Args:
        plan: the plan of its policy.
        chunk_bytes: the chunk size that the policy demands; None: none.
    """
    if base.spec.canonical_bytes <= SMALL_BYTES_MAX:
        return _with_reason(plan, _SMALL), False
    if chunk_bytes is None:
        return replace(plan, chunk_bytes=base.chunk_bytes), True
    if plan.chunk_bytes == base.chunk_bytes:
        return plan, True
    sizes = f"its chunks have {base.chunk_bytes} bytes, the policy demands {plan.chunk_bytes}"
    return _with_reason(plan, f"the tensor is stored without the base: {sizes}"), False


def opened_base(plan: ChunkPlan, base: Tensor, reader: TensorReader) -> tuple[ChunkPlan, DeltaBase | None]:
    """Open a base; without it, if its payload is missing or damaged: the values that arrive are intact, and are to be stored.

    Args:
        plan: as of `plan_with_base`, which a missing base adds its reason to.

    Raises:
        TensorNotFoundError: the base was deleted meanwhile.
        StoreUnavailableError: see `TensorReader.read`.
    """
    try:
        return plan, DeltaBase(base, reader)
    except DataCorruptError:
        _log.warning("the base %s cannot be read; tensors are stored without it", base.id, exc_info=True)
        return _with_reason(plan, f"the tensor is stored without the base: {_UNREADABLE}"), None


class DeltaBase:
    """The chunks of a base. Thread-safe. Close it after the last chunk."""

    def __init__(self, tensor: Tensor, reader: TensorReader) -> None:
        """Open the base, which stays readable if it is deleted meanwhile.

        Raises:
            DataCorruptError, TensorNotFoundError, StoreUnavailableError: see `TensorReader.read`.
        """
        self.tensor = tensor
        self._open = ExitStack()
        self._chunks = self._open.enter_context(reader.chunks(tensor))

    def encode(self, number: int, canonical: memoryview, plan: ChunkPlan, canonical_crc32c: int) -> Encoded:
        """Encode a chunk, as differences where that pays.

        Args:
            number: of the chunk in its tensor.
            canonical, plan, canonical_crc32c: as of `encode_chunk`.
        """
        place, base = self.of(number, canonical.nbytes)
        chunk = encode_chunk(canonical, self.tensor.spec.dtype, plan, canonical_crc32c, base=base)
        if isinstance(place, str):
            return Encoded.of(replace(chunk, base_reason=place), canonical)
        return Encoded.of(chunk, canonical, base=None if chunk.base_reason else place)

    def place(self, number: int) -> BasePlace:
        """Return where the base of a chunk is that `encode` stored as differences.

        Args:
            number: of the chunk in its tensor.

        Raises:
            DataCorruptError, NotFoundError, StoreUnavailableError: see `TensorReader.read`.
        """
        payload, record_number = self._chunks.place(number)
        return BasePlace(self._chunks.locator(payload), record_number, self._chunks.depth(payload))

    def close(self) -> None:
        """Close the base's payloads. Idempotent."""
        self._open.close()

    def of(self, number: int, canonical_bytes: int) -> tuple[BasePlace | str, Base | None]:
        """Return where the base of a chunk is, and the base; or why there is none, and None.

        Args:
            number: of the chunk in its tensor.
            canonical_bytes: its size, at most that of the base's chunk. The base has as many.
        """
        payload, _ = self._chunks.place(number)
        if payload == 0 and self.tensor.inline_payload is not None:
            return _IN_CATALOGUE, None
        try:
            place = self.place(number)
            if place.depth >= BASE_DEPTH_MAX:
                return _TOO_DEEP, None
            record, _ = self._chunks.read_record(number)
            canonical = decode_chunk(self.tensor, self._chunks, number, record)
            return place, Base(canonical[:canonical_bytes], self.tensor.spec.dtype)
        except (DataCorruptError, UnsupportedCodecError):
            # The values that arrive are intact, and are to be stored.
            _log.warning("chunk %d of a base cannot be read; a chunk is stored without it", number, exc_info=True)
            return _UNREADABLE, None


def _with_reason(plan: ChunkPlan, reason: str) -> ChunkPlan:
    return replace(plan, fallback_reason="; ".join(filter(None, (plan.fallback_reason, reason))))
