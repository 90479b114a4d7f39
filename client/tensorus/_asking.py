"""Asks a store first which tensors it has, so that only the bytes of the others are sent.

Tensors are read twice: for their checksums, and again if they are sent. So the caller chooses whether to ask. The store is
asked about many tensors at once, while earlier ones are on their way.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import xxhash

from tensorus.errors import NotImplementedByServerError
from tensorus.types import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tensorus._backend import Known, Upload
    from tensorus.errors import TensorusError
    from tensorus.types import TensorInfo

    Outcomes: TypeAlias = "Mapping[int, TensorInfo | TensorusError]"
    Ask: TypeAlias = "Callable[[list[Known]], Outcomes]"
    """`Backend.insert_known` of the dataset."""

__all__ = ["ASK_BYTES_MIN", "Asking", "require_askable"]

ASK_BYTES_MIN = 64 * 1024
"""Smaller tensors are sent at once. Stores share no payloads of up to this size. Measured over loopback: a question about a
new tensor adds a third to its insert at 16 KiB, 7 % at 66 KiB. If the store has it, the question saves two thirds, and 85 %."""

_BATCH_BYTES = 64 * 1024 * 1024
"""Canonical bytes of the tensors of one question, which are in memory meanwhile; checksums of so many take 10 ms."""

_BATCH_TENSORS = 1000
"""A server takes no more."""

_BLOCK_BYTES = 4 * 1024 * 1024


def require_askable(*, ask_first: bool, **exclusive: bool) -> None:
    """Refuse to ask first in an insert that stores nothing, or nothing before its end.

    Args:
        exclusive: options by name that cannot be combined with it.

    Raises:
        ValueError: names the option.
    """
    for name, is_set in exclusive.items():
        if ask_first and is_set:
            raise ValueError(f"ask_first cannot be combined with {name}: what the store has already is stored at once")


class Asking:
    """The uploads of an insert that must be sent: an iterable, which asks as it is iterated, on the iterating thread.

    Tensors that the store has already are inserted by the question. Of several tensors with one id, only the first one is asked
    about, so that it is not stored after the others.
    """

    def __init__(
        self, uploads: Iterable[Upload], ask: Ask, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Ask about `uploads`.

        Args:
            ask: returns the outcomes of known tensors, by position; the others must be sent.
            on_progress: told of all tensors together.
        """
        self._ask: Ask | None = ask
        self._on_progress = on_progress
        self._outcomes: dict[int, TensorInfo | TensorusError] = {}
        self._sent: list[int] = []
        self._known_bytes = 0
        self._is_started = False
        self._to_send = self._missing(uploads)

    def start(self) -> bool:
        """Ask until a tensor must be sent, and return whether there is one. Reports progress on this thread."""
        first = next(self._to_send, None)
        self._is_started = True
        if first is None:
            return False
        self._to_send = chain([first], self._to_send)
        return True

    def __iter__(self) -> Iterator[Upload]:
        """Yield the uploads that must be sent."""
        return self._to_send

    @property
    def on_progress(self) -> Callable[[Progress], None] | None:
        """What to tell of the progress of those that are sent."""
        report = self._on_progress
        if report is None:
            return None
        return lambda sent: report(
            Progress(sent.id, self._known_bytes + sent.done_bytes, sent.total_bytes, sent.interruptions)
        )

    def joined(self, sent: Outcomes) -> Outcomes:
        """Return the outcomes of all tensors by position, from those of the sent ones by their position among these."""
        return self._outcomes | {self._sent[item]: outcome for item, outcome in sent.items()}

    def _missing(self, uploads: Iterable[Upload]) -> Iterator[Upload]:
        batch: dict[int, Known] = {}
        batch_bytes = 0
        seen: set[str] = set()
        for position, upload in enumerate(uploads):
            is_first = upload.id not in seen
            seen.add(upload.id)
            if not is_first:
                yield from self._asked(batch)
                batch, batch_bytes = {}, 0
            if self._ask is None or not is_first or upload.canonical_bytes < ASK_BYTES_MIN:
                self._sent.append(position)
                yield upload
                continue
            batch[position] = (upload, _checksum(upload))
            batch_bytes += upload.canonical_bytes
            if len(batch) == _BATCH_TENSORS or batch_bytes >= _BATCH_BYTES:
                yield from self._asked(batch)
                batch, batch_bytes = {}, 0
        yield from self._asked(batch)

    def _asked(self, batch: dict[int, Known]) -> Iterator[Upload]:
        """Ask about tensors, by position, and yield those that must be sent."""
        if not batch:
            return
        found: Outcomes = {}
        if self._ask is not None:
            try:
                found = self._ask(list(batch.values()))
            except NotImplementedByServerError:
                # An older server. It gets everything.
                self._ask = None
        for place, (position, (upload, _)) in enumerate(batch.items()):
            if place in found:
                self._outcomes[position] = found[place]
                self._known_bytes += upload.canonical_bytes
        if not self._is_started and self._on_progress is not None:
            self._on_progress(Progress(None, self._known_bytes, None))
        for place, (position, (upload, _)) in enumerate(batch.items()):
            if place not in found:
                self._sent.append(position)
                yield upload


def _checksum(upload: Upload) -> bytes:
    """Return the XXH3-128 of the canonical bytes, big-endian."""
    digest = xxhash.xxh3_128()
    for block in upload.blocks(_BLOCK_BYTES):
        digest.update(block)
    return digest.digest()
