"""The items of one insert: how far each is, and how it ended.

                 ┌───────────────── sealed ─┐         all or nothing: waits here for the others
                 │                          ▼
    open ──► sealing ──────────────► committing ──► settled
      │          │                          │           ▲
      └──────────┴───── an error ───────────┴───────────┘

    open        its segments are taken, on the stream's thread
    sealing     its last bytes are encoded, verified and made durable, on the stream's thread or in the seal pool
    sealed      it is durable, and waits for the others of its insert
    committing  the committer has it
    settled     its result has been reported, or the stream has left it to be resumed

Small tensors go their way many at a time, so what has a state is a `Batch`: one item, or many small ones.

Whoever works on a batch holds it with `Batch.carried`. A batch that leaves that block neither settled nor handed over to
another thread is failed, whatever was raised; so none can be counted and forgotten. Settling happens once: the first outcome
is reported and counted, later ones are ignored.

Every wait here ends: when what it waits for happens, when the store fails, or when nothing of the insert has moved for
`STUCK_S`.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server import background
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.limits import UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ITEMS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.chunk_store.abc import StagedPayload
    from tensorus_server.engine.health import Health
    from tensorus_server.model import Tensor

__all__ = ["Batch", "ItemProgress", "ItemResult", "Items", "State"]

_SEALING_MAX = 4
"""Large items of one stream that wait for their last sync, each with the memory of its chunks under way."""

_log = logging.getLogger(__name__)


@plain_dataclass
class ItemResult:
    """What became of one item."""

    item: int
    """Its number within the stream."""
    outcome: Tensor | Exception
    """The committed tensor, or why there is none."""


@dataclass(frozen=True)
class ItemProgress:
    """How far an item is."""

    item: int
    id: str
    committed_bytes: int
    """Canonical bytes that are durable."""
    tensor: Tensor | None = None
    """Once it is complete and visible."""


State: TypeAlias = Literal["open", "sealing", "sealed", "committing", "settled"]
"""How far a batch is; see the module's description."""


class Batch:
    """One item of an insert, or many small ones. Made by `Items.begin`."""

    __slots__ = ("_carrier", "_items", "inline_bytes", "numbers", "staged", "state", "stored")

    def __init__(self, items: Items, numbers: list[int]) -> None:
        """Begin with these items."""
        self.numbers = numbers
        """Of its items, within the stream."""
        self.state: State = "open"
        self.stored: Sequence[StoredTensor] = ()
        """What is to be committed, in order of `numbers`; known once it is sealed."""
        self.staged: Sequence[StagedPayload] = ()
        """The payloads of those that are not inline."""
        self.inline_bytes = 0
        """Stored bytes of it that are held in memory while it is committed."""
        self._items = items
        self._carrier: _Carried | None = None

    def carried(self) -> _Carried:
        """Return a block in which the batch is settled or handed over; whatever the block raises is its outcome."""
        return _Carried(self)

    def hand_over(self) -> None:
        """Note that another thread carries the batch from here on, or that it rests: call this just before it can begin."""
        self._carrier = None

    def settle(self, outcomes: Sequence[Tensor | Exception]) -> None:
        """Report the outcomes, in order of `numbers`, unless the batch is settled."""
        self._items.settle(self, outcomes)

    def fail(self, error: Exception) -> None:
        """Report the error for every item, unless the batch is settled."""
        self.settle([error] * len(self.numbers))


class _Carried:
    """See `Batch.carried`."""

    # A batch and the block in which it is worked on are two halves of one thing.
    # ruff: noqa: SLF001

    __slots__ = ("_batch",)

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __enter__(self) -> None:
        self._batch._carrier = self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, Exception):
            self._batch.fail(error)
            return True
        if self._batch._carrier is self:
            # Also where something that is no `Exception` passes through.
            self._batch.fail(StoreUnavailableError("the work on the tensor was broken off; see the server's log"))
        return False


class Items:
    """All items of one insert. Safe in many threads."""

    def __init__(self, report: Callable[[Sequence[ItemResult | ItemProgress]], None], health: Health) -> None:
        """Start with none.

        Args:
            report: told the result of each item once, from any thread; must not block for long.
            health: of the store; a wait ends where that fails.
        """
        self._report = report
        self._health = health
        # The plain lock, and not the condition, is what most calls take: it is several times as fast.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._unsettled: set[Batch] = set()
        self._batches: dict[State, int] = {"open": 0, "sealing": 0, "sealed": 0, "committing": 0, "settled": 0}
        self._committing_items = 0
        self._committing_bytes = 0
        self._moves = 0
        self.begun = 0
        """Items that were announced."""
        self.succeeded = 0
        """Items that were committed."""
        self.failed = 0
        """Items that were not."""
        self.first_failed: int | None = None
        """The number of the item that failed first."""
        self.sealed_inline_bytes = 0
        """Stored bytes in memory of all that have waited for the others of their insert."""
        self.unreported: Exception | None = None
        """Why a result could not be reported: then the stream as a whole has failed."""

    def begin(self, numbers: list[int]) -> Batch:
        """Count items as announced."""
        batch = Batch(self, numbers)
        with self._lock:
            self._unsettled.add(batch)
            self._batches["open"] += 1
            self.begun += len(numbers)
        return batch

    @property
    def are_under_way(self) -> bool:
        """Whether any are being sealed, committed or reported. Takes no lock: the answer may be a moment old."""
        return len(self._unsettled) > self._batches["open"] + self._batches["sealed"]

    def in_state(self, state: State) -> list[Batch]:
        """Return the batches that are in this state, by number."""
        with self._lock:
            if not self._batches[state]:
                return []
            found = [batch for batch in self._unsettled if batch.state == state]
        return sorted(found, key=lambda batch: batch.numbers)

    def seal(self, batch: Batch) -> None:
        """Let an open item be sealed; waits while as many of the stream are as may be.

        Raises:
            StoreUnavailableError: the store failed, or nothing moves.
        """
        with self._lock:
            self._wait_until(lambda: self._batches["sealing"] < _SEALING_MAX)
            self._move(batch, "sealing")

    def sealed(self, batch: Batch) -> bool:
        """Let a sealed item wait for the others of its insert; False where it is settled."""
        with self._lock:
            moved = self._move(batch, "sealed")
            if moved:
                self.sealed_inline_bytes += _inline_bytes(batch)
            return moved

    def commit(self, batch: Batch, *, together: bool = False) -> bool:
        """Let a batch be committed; waits while more of the stream are being committed than may.

        Args:
            together: with others that are in memory already: nothing is gained by waiting.

        Returns:
            False where it is settled.

        Raises:
            StoreUnavailableError: the store failed, or nothing moves.
        """
        batch.inline_bytes = _inline_bytes(batch)
        with self._lock:
            if not together and not self._may_commit(batch):
                self._wait_until(lambda: self._may_commit(batch))
            return self._move(batch, "committing")

    def _may_commit(self, batch: Batch) -> bool:
        return not self._committing_items or (
            self._committing_items + len(batch.numbers) <= UNCOMMITTED_ITEMS_MAX
            and self._committing_bytes + batch.inline_bytes <= UNCOMMITTED_BYTES_MAX
        )

    def settle_some(self, batch: Batch, failures: dict[int, Exception]) -> None:
        """Fail some items of a batch, by number; the others go on without them."""
        part = Batch(self, list(failures))
        with self._lock:
            batch.numbers = [number for number in batch.numbers if number not in failures]
            self._unsettled.add(part)
            self._batches["open"] += 1
        part.settle(list(failures.values()))

    def settle(self, batch: Batch, outcomes: Sequence[Tensor | Exception]) -> None:
        """See `Batch.settle`."""
        if not self._claim(batch):
            return
        try:
            self._report([ItemResult(item, outcome) for item, outcome in zip(batch.numbers, outcomes, strict=True)])
        except Exception as error:  # noqa: BLE001 - it is the stream's
            # On whatever thread this is, it must not suffer from a stream that cannot be told.
            _log.exception("results of items %s could not be reported", batch.numbers)
            self.unreported = error
        finally:
            # Counted after the report, so that whoever waits for the end finds everything said.
            failed = [number for number, found in enumerate(outcomes) if isinstance(found, Exception)]
            with self._lock:
                self.succeeded += len(outcomes) - len(failed)
                self.failed += len(failed)
                if failed and self.first_failed is None:
                    self.first_failed = batch.numbers[failed[0]]
                self._end(batch)

    def leave(self, batch: Batch) -> None:
        """Settle a batch without a report: its stream has ended."""
        if self._claim(batch):
            with self._lock:
                self._end(batch)

    def fail_all(self, error: Exception) -> None:
        """Fail every item that is not settled."""
        with self._lock:
            left = list(self._unsettled)
        for batch in left:
            batch.fail(error)

    def wait(self, *, sealed: bool = False) -> None:
        """Wait until every item is settled.

        Args:
            sealed: also those that are sealed and rest count as done.

        Raises:
            StoreUnavailableError: the store failed, or nothing moves.
        """
        with self._lock:
            self._wait_until(lambda: len(self._unsettled) == (self._batches["sealed"] if sealed else 0))

    def _claim(self, batch: Batch) -> bool:
        """Take the right to settle a batch; False where somebody else has it."""
        with self._lock:
            return self._move(batch, "settled")

    def _end(self, batch: Batch) -> None:
        self._unsettled.discard(batch)
        self._tell()

    def _tell(self) -> None:
        self._moves += 1
        if self._waiters:
            self._changed.notify_all()

    def _move(self, batch: Batch, state: State) -> bool:
        """Note a batch's new state; False where it is settled, and stays so. The lock is held."""
        if batch.state == "settled":
            return False
        self._batches[batch.state] -= 1
        if batch.state == "committing":
            self._committing_items -= len(batch.numbers)
            self._committing_bytes -= batch.inline_bytes
        batch.state = state
        self._batches[state] += 1
        if state == "committing":
            self._committing_items += len(batch.numbers)
            self._committing_bytes += batch.inline_bytes
        if state != "settled":
            # The end of settling tells of itself.
            self._tell()
        return True

    def _wait_until(self, happens: Callable[[], bool]) -> None:
        """Wait for what another thread does to the items. The lock is held."""
        moves, give_up_s = self._moves, time.monotonic() + background.STUCK_S
        self._waiters += 1
        try:
            while not happens():
                self._changed.wait(background.LOOK_S)
                self._health.require()
                if moves != self._moves:
                    moves, give_up_s = self._moves, time.monotonic() + background.STUCK_S
                elif time.monotonic() > give_up_s:
                    raise StoreUnavailableError(
                        f"nothing of the insert has moved for {background.STUCK_S:.0f} s (stuck_s)"
                    )
        finally:
            self._waiters -= 1


def _inline_bytes(batch: Batch) -> int:
    return sum([len(stored.inline_payload or b"") for stored in batch.stored])
