"""Plans of direct reads: where the records of a tensor are in the object store, for clients that fetch them themselves.

A plan covers whole tensors of some size whose payloads are in an object store that can presign requests. A tensor with chunks
that are stored as differences has none, because a client would need the records of the bases, too. The plan has the CRC32C of
each record, so the client verifies what it fetches as the server would.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from tensorus_server.chunk_store.abc import PayloadStore, PresignedRange
    from tensorus_server.engine.read.chunks import RecordPlace, TensorChunks
    from tensorus_server.engine.read.reader import TensorReader
    from tensorus_server.model import Tensor

__all__ = ["PLAN_EXPIRY_S", "ChunkSpan", "Plans", "StoredPlan"]

PLANNED_BYTES_MIN = 4 * 1024 * 1024
"""Stored bytes from which on clients may fetch a tensor from the object store themselves. Below, the additional requests take
longer than the detour over the server."""

PLAN_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""Stored bytes of a tensor that one plan covers: some 500 objects, each with a URL."""

PLAN_CHUNKS_MAX = 4096
"""Chunks that one plan covers."""

PLAN_SPANS_MAX = 512
"""Runs of consecutive records that one plan covers. Each has a URL at least; a tensor that was edited often has many runs."""

PLAN_EXPIRY_S = 900.0
"""How long the ranges of a plan can be fetched: 4 GiB in that time are 5 MB/s. A client whose ranges expire asks again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChunkSpan:
    """Consecutive chunks of a tensor whose records follow each other in one payload."""

    first_chunk: int
    records: list[RecordPlace]
    ranges: list[PresignedRange]
    """That hold the records, one after the other."""


@dataclass(frozen=True)
class StoredPlan:
    """Where a tensor is."""

    tensor: Tensor
    spans: list[ChunkSpan]
    next_chunk: int
    """The first chunk that is not in `spans`; 0: there is none."""


class Plans:
    """Makes plans. Thread-safe."""

    def __init__(self, reader: TensorReader, payloads: PayloadStore, *, enabled: bool) -> None:
        """Plan reads of payloads in this store.

        Args:
            enabled: whether clients may read directly at all.
        """
        self._reader = reader
        self._payloads = payloads
        self.enabled = enabled
        """Whether there may be plans. It becomes false once the store turns out to be one that cannot presign."""

    def may_have(self, tensor: Tensor, accepted_codecs: frozenset[str]) -> bool:
        """Return whether there may be a plan of a tensor; costs no I/O.

        Args:
            tensor: with its inline payload, if it is stored inline.
            accepted_codecs: ids of the codecs that the client can decode.
        """
        storage = tensor.storage
        return (
            self.enabled
            and tensor.inline_payload is None
            and storage.stored_bytes >= PLANNED_BYTES_MIN
            and all(accepted_codecs.issuperset(step["id"] for step in share.encoding) for share in storage.encodings)
        )

    def of(self, tensor: Tensor, accepted_codecs: frozenset[str], first_chunk: int = 0) -> StoredPlan | None:
        """Return the plan of a tensor from a chunk on; None: the server has to read it.

        That is the case, too, if its payload is damaged or away: the read then tells the client.

        Args:
            tensor, accepted_codecs: as of `may_have`.
        """
        if not self.may_have(tensor, accepted_codecs):
            return None
        try:
            with self._reader.chunks(tensor) as chunks:
                found, next_chunk = _spans(tensor, chunks, first_chunk)
            if not found:
                return None
            ranges = self._presigned([records for _, records in found])
            spans = [ChunkSpan(first, records, pieces) for (first, records), pieces in zip(found, ranges, strict=True)]
        except _NotOfferedError:
            self.enabled = False
            _log.warning("the chunk store cannot presign requests: clients read through the server")
            return None
        except (EngineError, PayloadMissingError) as error:
            _log.warning("tensor %s has no plan, its payload cannot be read: %s", tensor.id, error)
            return None
        return StoredPlan(tensor, spans, next_chunk)

    def _presigned(self, runs: list[list[RecordPlace]]) -> list[list[PresignedRange]]:
        """Return the ranges of each run; a store is asked once for each payload."""
        by_key: dict[str, list[int]] = {}
        for number, records in enumerate(runs):
            by_key.setdefault(records[0].key, []).append(number)
        presigned: list[list[PresignedRange]] = [[] for _ in runs]
        for key, numbers in by_key.items():
            ranges = [(runs[number][0].offset, _length(runs[number])) for number in numbers]
            pieces = self._payloads.presign(key, ranges, PLAN_EXPIRY_S)
            if pieces is None:
                raise _NotOfferedError
            for number, found in zip(numbers, pieces, strict=True):
                presigned[number] = found
        return presigned


def _length(run: list[RecordPlace]) -> int:
    return run[-1].offset + run[-1].length - run[0].offset


class _NotOfferedError(Exception):
    """The store cannot presign."""


def _spans(tensor: Tensor, chunks: TensorChunks, first_chunk: int) -> tuple[list[tuple[int, list[RecordPlace]]], int]:
    """Return runs of records, each with its first chunk, and the first chunk that they do not cover, 0 if there is none.

    Returns no runs if a chunk needs a base.
    """
    count = -(-tensor.spec.canonical_bytes // tensor.chunk_bytes)
    spans: list[tuple[int, list[RecordPlace]]] = []
    stored_bytes, end = 0, None
    for chunk in range(first_chunk, count):
        place = chunks.record_place(chunk)
        if place is None:
            return [], 0
        follows = end == (place.key, place.offset)
        is_full = chunk - first_chunk >= PLAN_CHUNKS_MAX or (len(spans) >= PLAN_SPANS_MAX and not follows)
        stored_bytes += place.length
        if is_full or (stored_bytes > PLAN_BYTES_MAX and spans):
            return spans, chunk
        if follows:
            spans[-1][1].append(place)
        else:
            spans.append((chunk, [place]))
        end = (place.key, place.offset + place.length)
    return spans, 0
