"""Where the chunks of an edited tensor are: changed ones in the new payload, all others where they were.

Every edit adds a payload. A tensor that grows in small steps would end up in thousands of files. So an edit copies unchanged
records into its own payload when the tensor has too many payloads; the smallest ones go first. It also copies the records of an
inline payload, which is deleted with its row. Copying a record costs no decoding.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_server.chunk_details import DETAIL_BYTES, ChunkDetails
from tensorus_server.chunk_table import ChunkTable, Run
from tensorus_server.errors import LimitExceededError
from tensorus_server.limits import DETAILS_CACHE_BYTES, EDIT_COPIED_BYTES_MAX, TENSOR_PAYLOADS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.engine.insert.totals import Totals
    from tensorus_server.engine.read.chunks import TensorChunks
    from tensorus_server.model import Locator, Tensor

__all__ = ["DetailsCache", "EditedChunks"]

_OWN = 1
"""This object's number for the payload of the base."""

_PAYLOADS_SOUGHT = 64
"""Payloads of a tensor above which edits copy the smaller half of them together."""


class DetailsCache:
    """An LRU cache of the chunk details and record lengths of payloads, which never change. Thread-safe.

    An edit needs those of every payload of its tensor. Reading them from 64 payloads takes longer than to store 1 MiB.
    """

    def __init__(self, bytes_max: int = DETAILS_CACHE_BYTES) -> None:
        """Cache at most so many bytes of packed details."""
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[ChunkDetails, list[int]]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str, load: Callable[[], tuple[ChunkDetails, list[int]]]) -> tuple[ChunkDetails, list[int]]:
        """Return what is cached for the payload with this key, or load it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        loaded = load()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = loaded
                self._bytes += DETAIL_BYTES * len(loaded[0])
            while self._bytes > self._bytes_max:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._bytes -= DETAIL_BYTES * len(dropped)
        return loaded


class EditedChunks:
    """The payload and the record of each chunk, while an edit is being sealed. Not thread-safe."""

    def __init__(
        self, base: Tensor, chunks: TensorChunks, chunk_count: int, changed: Sequence[int], cache: DetailsCache
    ) -> None:
        """Take all chunks from the base, except the changed ones.

        Args:
            base: the generation that is edited.
            chunks: its chunks, open.
            chunk_count: of the edited tensor.
            changed: the numbers of the changed chunks, in the order of their records in the new payload.
            cache: has the details of payloads.
        """
        self._cache = cache
        self._base = base
        self._chunks = chunks
        table = chunks.table
        others: list[Locator] = [base.locator]
        runs = [Run(0, 0, -(-base.spec.canonical_bytes // base.chunk_bytes))]
        if table is not None:
            others += table.payloads
            runs = list(table.runs)
        self._others = others
        # Payload 0 is the new one, k is `others[k - 1]`, which the base's table has as number k - 1.
        self._payloads = np.zeros(chunk_count, np.int64)
        self._records = np.zeros(chunk_count, np.int64)
        at = 0
        for run in runs:
            stop = min(at + run.count, chunk_count)
            self._payloads[at:stop] = run.payload + 1
            self._records[at:stop] = np.arange(run.first, run.first + stop - at)
            at = stop
        self._payloads[list(changed)] = 0
        self._records[list(changed)] = np.arange(len(changed))

    def to_copy(self) -> list[int]:
        """Return the chunks whose records are to be copied into the new payload, in order.

        Raises:
            LimitExceededError: the tensor has too many payloads that are too large to be copied.
        """
        wanted: set[int] = set()
        numbers = np.unique(self._payloads[self._payloads != 0])
        if self._base.inline_payload is not None:
            # It is deleted with its row.
            wanted.update(np.flatnonzero(self._payloads == _OWN).tolist())
            numbers = numbers[numbers != _OWN]
        if numbers.size > _PAYLOADS_SOUGHT:
            small = self._smallest(numbers)
            wanted.update(np.flatnonzero(np.isin(self._payloads, small)).tolist())
            # With the new payload.
            if numbers.size - len(small) + 1 > TENSOR_PAYLOADS_MAX:
                raise LimitExceededError(
                    f"the tensor has {numbers.size} payloads, limit is {TENSOR_PAYLOADS_MAX} (tensor_payloads_max): "
                    "read it and insert it again as a whole",
                    dataset=self._base.dataset,
                    tensor=self._base.id,
                    limit=TENSOR_PAYLOADS_MAX,
                )
        return sorted(wanted)

    def source(self, chunk: int) -> tuple[int, int]:
        """Return which payload of the base has a chunk's record (0: its own), and the record's number there."""
        return int(self._payloads[chunk]) - 1, int(self._records[chunk])

    def copied(self, chunk: int, record: int) -> None:
        """Note that a chunk's record was copied into the new payload, where it has this number."""
        self._payloads[chunk], self._records[chunk] = 0, record

    def table(self) -> ChunkTable:
        """Return the chunk table; it lists only payloads that are used."""
        used = [int(number) for number in np.unique(self._payloads) if number]
        numbers = {0: 0} | {number: new for new, number in enumerate(used, 1)}
        return ChunkTable(
            [self._others[number - 1] for number in used],
            [Run(numbers[run.payload], run.first, run.count) for run in self._runs()],
        )

    def measured(self, mine: Totals) -> tuple[ChunkDetails, list[int]]:
        """Return the details and the record lengths of all chunks, in order.

        Args:
            mine: the totals of the new payload.
        """
        details, lengths = ChunkDetails(), []
        found: dict[int, tuple[ChunkDetails, list[int]]] = {0: (mine.details, [size for size, _ in mine.index])}
        for run in self._runs():
            if run.payload not in found:
                found[run.payload] = self._known(run.payload)
            part, sizes = found[run.payload]
            details.extend(part, run.first, run.count)
            lengths += sizes[run.first : run.first + run.count]
        return details, lengths

    def details(self, payload: int) -> ChunkDetails:
        """Return the details of a payload of the base (0: its own)."""
        return self._known(payload + 1)[0]

    def _known(self, number: int) -> tuple[ChunkDetails, list[int]]:
        def load() -> tuple[ChunkDetails, list[int]]:
            details = self._chunks.read_details(number - 1)
            assert details is not None
            return details, self._chunks.record_bytes(number - 1)

        return self._cache.get(self._others[number - 1].key, load)

    def _runs(self) -> list[Run]:
        """Return the runs, with this object's numbers of payloads."""
        if not self._payloads.size:
            return []
        breaks = np.flatnonzero((np.diff(self._payloads) != 0) | (np.diff(self._records) != 1)) + 1
        starts = [0, *breaks.tolist()]
        ends = [*breaks.tolist(), self._payloads.size]
        return [
            Run(int(self._payloads[start]), int(self._records[start]), end - start)
            for start, end in zip(starts, ends, strict=True)
        ]

    def _smallest(self, numbers: np.ndarray[Any, Any]) -> list[int]:
        """Return the smaller half of these payloads, as far as their used records are no more than one edit may copy."""
        sizes = {}
        for number in numbers.tolist():
            lengths = np.asarray(self._known(number)[1], np.int64)
            sizes[number] = int(lengths[self._records[self._payloads == number]].sum())
        half = sorted(sizes, key=sizes.__getitem__)[: len(sizes) // 2]
        ends = accumulate(sizes[number] for number in half)
        return [number for number, end in zip(half, ends, strict=True) if end <= EDIT_COPIED_BYTES_MAX]
