"""The items of one insert: their states and results.

                 ┌───────────────── sealed ─┐         all or nothing: waits here for the others
                 │                          ▼
    open ──► sealing ──────────────► committing ──► settled
      │          │                          │           ▲
      └──────────┴───── an error ───────────┴───────────┘

    open        it receives segments, on the stream's thread
    sealing     its last bytes are encoded, verified and made durable, on the stream's thread or in the seal pool
    sealed      it is durable, and waits for the other items of an all-or-nothing insert
    committing  it is queued at the committer, or being committed
    settled     its result has been reported, or it was left for a later stream to resume

Small tensors are processed many at a time, so states belong to a `Batch`, which is one item or many small ones.

Code that works on a batch holds it in a block of `Batch.carried`. If the block ends, normally or by an error, and has neither
settled the batch nor handed it over to another thread, the batch fails. So no batch is ever lost. A batch is settled once: the
first outcome is reported and counted, and later ones are ignored.

Every wait here ends when its condition holds, when the store fails, or when nothing of the insert has moved for `STUCK_S`.
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
    from tensorus_server.engine.insert.tensor_locks import TensorLock
    from tensorus_server.meters import Trace
    from tensorus_server.model import Tensor

__all__ = ["Batch", "ItemProgress", "ItemResult", "Items", "State"]

_SEALING_MAX = 4
"""Large items of one stream that may wait for their last fsync. Each holds the memory of its chunks in flight."""

_STAGES = {"open": "receive", "sealing": "seal", "sealed": "wait for others", "committing": "commit"}
"""What a batch does in each state, for traces."""

_log = logging.getLogger(__name__)


@plain_dataclass
class ItemResult:
    """The result of one item."""

    item: int
    """The item's number within the stream."""
    outcome: Tensor | Exception
    """The committed tensor, or the error."""


@dataclass(frozen=True)
class ItemProgress:
    """The progress of one item."""

    item: int
    id: str
    committed_bytes: int
    """Number of durable canonical bytes."""
    tensor: Tensor | None = None
    """The tensor, if it is complete and visible."""


State: TypeAlias = Literal["open", "sealing", "sealed", "committing", "settled"]
"""The state of a batch; see the module's description."""


class Batch:
    """One item of an insert, or many small ones. Created by `Items.begin`."""

    __slots__ = ("_carrier", "_items", "inline_bytes", "lock", "numbers", "since_ns", "staged", "state", "stored")

    def __init__(self, items: Items, numbers: list[int]) -> None:
        """Start with these items, in state "open"."""
        self.numbers = numbers
        """The numbers of its items within the stream."""
        self.state: State = "open"
        self.stored: Sequence[StoredTensor] = ()
        """The tensors to commit, in order of `numbers`; set when the batch is sealed."""
        self.staged: Sequence[StagedPayload] = ()
        """The payloads of tensors that are not inline."""
        self.inline_bytes = 0
        """Stored bytes of inline payloads, which are in memory until the commit."""
        self.lock: TensorLock | None = None
        """The lock of the tensor that the item edits, if it is an edit; released when the batch is settled."""
        self.since_ns = 0
        """Since when it is in its state, in nanoseconds since 1970, if the insert is traced."""
        self._items = items
        self._carrier: _Carried | None = None

    @property
    def session(self) -> str | None:
        """See `StoredTensor`."""
        return self._items.session

    def carried(self) -> _Carried:
        """Return a context manager for code that settles the batch or hands it over; an exception becomes the outcome."""
        return _Carried(self)

    def hand_over(self) -> None:
        """Note that another thread continues with the batch, or that it waits. Call this just before that can happen."""
        self._carrier = None

    def settle(self, outcomes: Sequence[Tensor | Exception]) -> None:
        """Report the outcomes, in order of `numbers`, unless the batch is already settled."""
        self._items.settle(self, outcomes)

    def fail(self, error: Exception) -> None:
        """Report the error for every item, unless the batch is already settled."""
        self.settle([error] * len(self.numbers))


class _Carried:
    """See `Batch.carried`."""

    # This class and `Batch` share their state, hence the private access.
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
            # Also reached if a BaseException passes through, such as KeyboardInterrupt.
            self._batch.fail(StoreUnavailableError("the work on the tensor was broken off; see the server's log"))
        return False


class Items:
    """All items of one insert. Thread-safe."""

    def __init__(
        self,
        report: Callable[[Sequence[ItemResult | ItemProgress]], None],
        health: Health,
        *,
        session: str | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Start without items.

        Args:
            report: called with the result of each item once, on any thread; must not block for long.
            health: the store's health; waits end when the store fails.
            session: see `StoredTensor`.
            trace: is told how long each batch was in each state; None: nobody is.
        """
        self.session = session
        self._report = report
        self._health = health
        self._trace = trace
        # Most methods take the plain lock instead of the condition, because it is several times as fast.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._unsettled: set[Batch] = set()
        self._edits_stop = False
        self._batches: dict[State, int] = {"open": 0, "sealing": 0, "sealed": 0, "committing": 0, "settled": 0}
        self._committing_items = 0
        self._committing_bytes = 0
        self._moves = 0
        self.begun = 0
        """Number of items that were announced."""
        self.succeeded = 0
        """Number of items that were committed."""
        self.failed = 0
        """Number of items that failed."""
        self.first_failed: int | None = None
        """The number of the item that failed first."""
        self.sealed_inline_bytes = 0
        """Stored bytes of all inline payloads that have waited for the other items of the insert."""
        self.unreported: Exception | None = None
        """The error if a result could not be reported; the stream as a whole has then failed."""

    def begin(self, numbers: list[int]) -> Batch:
        """Register announced items as one batch."""
        batch = Batch(self, numbers)
        if self._trace is not None:
            batch.since_ns = time.time_ns()
        with self._lock:
            self._unsettled.add(batch)
            self._batches["open"] += 1
            self.begun += len(numbers)
        return batch

    @property
    def are_under_way(self) -> bool:
        """Whether any items are being sealed, committed or reported. Takes no lock, so the answer may be slightly old."""
        return len(self._unsettled) > self._batches["open"] + self._batches["sealed"]

    def in_state(self, state: State) -> list[Batch]:
        """Return the batches in this state, in order of their item numbers."""
        with self._lock:
            if not self._batches[state]:
                return []
            found = [batch for batch in self._unsettled if batch.state == state]
        return sorted(found, key=lambda batch: batch.numbers)

    def take_lock(self, batch: Batch, lock: TensorLock) -> None:
        """Give a batch the lock of the tensor that it edits, until it is settled.

        Raises:
            StoreUnavailableError: the insert was given up while the item waited for the lock, which is released.
        """
        with self._lock:
            if batch in self._unsettled:
                batch.lock = lock
                return
        lock.release()
        raise StoreUnavailableError("the insert was given up before the edit could be done")

    def stop_edits(self) -> None:
        """Let edits that are being sealed end before their next chunk, because their client is gone."""
        self._edits_stop = True

    def go_on(self, batch: Batch) -> None:
        """Note that the sealing of an edit goes on.

        Raises:
            StoreUnavailableError: nobody waits for it any more.
        """
        with self._lock:
            if self._edits_stop or batch.state == "settled":
                raise StoreUnavailableError("the insert ended before the edit was done")
            self._tell()

    def seal(self, batch: Batch) -> None:
        """Move an open item to "sealing"; blocks while too many items of the stream are being sealed.

        Raises:
            StoreUnavailableError: the store failed, or nothing has moved for `STUCK_S`.
        """
        with self._lock:
            self._wait_until(lambda: self._batches["sealing"] < _SEALING_MAX)
            self._move(batch, "sealing")

    def sealed(self, batch: Batch) -> bool:
        """Move an item to "sealed"; return False if it is already settled."""
        with self._lock:
            moved = self._move(batch, "sealed")
            if moved:
                self.sealed_inline_bytes += _inline_bytes(batch)
            return moved

    def commit(self, batch: Batch, *, together: bool = False) -> bool:
        """Move a batch to "committing"; blocks while too many items of the stream are being committed.

        Args:
            together: do not block, because the whole insert is committed at once and is already in memory.

        Returns:
            False if the batch is already settled.

        Raises:
            StoreUnavailableError: the store failed, or nothing has moved for `STUCK_S`.
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
        """Fail some items of a batch, by number; the batch continues with the others."""
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
        except Exception as error:  # noqa: BLE001 - recorded, and raised by the stream
            # This may be the committer's thread, which must survive if one stream cannot report.
            _log.exception("results of items %s could not be reported", batch.numbers)
            self.unreported = error
        finally:
            # Counted after the report, so that `wait` returns only once all results have been reported.
            failed = [number for number, found in enumerate(outcomes) if isinstance(found, Exception)]
            with self._lock:
                self.succeeded += len(outcomes) - len(failed)
                self.failed += len(failed)
                if failed and self.first_failed is None:
                    self.first_failed = batch.numbers[failed[0]]
                self._end(batch)

    def leave(self, batch: Batch) -> None:
        """Settle a batch without a report, because its stream has ended."""
        if self._claim(batch):
            with self._lock:
                self._end(batch)

    def fail_all(self, error: Exception) -> None:
        """Fail all items that are not settled."""
        with self._lock:
            left = list(self._unsettled)
        for batch in left:
            batch.fail(error)

    def wait(self, *, sealed: bool = False) -> None:
        """Wait until all items are settled.

        Args:
            sealed: whether items in state "sealed" count as done, too.

        Raises:
            StoreUnavailableError: the store failed, or nothing has moved for `STUCK_S`.
        """
        with self._lock:
            self._wait_until(lambda: len(self._unsettled) == (self._batches["sealed"] if sealed else 0))

    def _claim(self, batch: Batch) -> bool:
        """Claim the right to settle a batch; return False if another thread has it."""
        with self._lock:
            return self._move(batch, "settled")

    def _end(self, batch: Batch) -> None:
        if batch.lock is not None:
            batch.lock.release()
            batch.lock = None
        self._unsettled.discard(batch)
        self._tell()

    def _tell(self) -> None:
        self._moves += 1
        if self._waiters:
            self._changed.notify_all()

    def _move(self, batch: Batch, state: State) -> bool:
        """Move a batch to a new state; do nothing and return False if it is settled. The lock is held."""
        if batch.state == "settled":
            return False
        self._batches[batch.state] -= 1
        if batch.state == "committing":
            self._committing_items -= len(batch.numbers)
            self._committing_bytes -= batch.inline_bytes
        if self._trace is not None:
            _tell_stage(self._trace, batch)
        batch.state = state
        self._batches[state] += 1
        if state == "committing":
            self._committing_items += len(batch.numbers)
            self._committing_bytes += batch.inline_bytes
        if state != "settled":
            # A settled batch notifies in `_end`, after its report.
            self._tell()
        return True

    def _wait_until(self, happens: Callable[[], bool]) -> None:
        """Wait until another thread makes the condition true. The lock is held."""
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


def _tell_stage(trace: Trace, batch: Batch) -> None:
    """Tell that the state of a batch ends."""
    begun_ns, batch.since_ns = batch.since_ns, time.time_ns()
    if not begun_ns:
        # A part of another batch, whose state it was.
        return
    about: dict[str, str | int | float] = {"item": batch.numbers[0], "items": len(batch.numbers)}
    if len(batch.stored) == 1:
        about["tensor"] = batch.stored[0].new.id
    trace.stage(_STAGES[batch.state], begun_ns, batch.since_ns, about)


def _inline_bytes(batch: Batch) -> int:
    return sum([len(stored.inline_payload or b"") for stored in batch.stored])
