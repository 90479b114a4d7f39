"""The thread that makes tensors visible: it publishes payloads and commits them to the catalogue, in groups.

A group of any size costs two fsyncs: of the shard's folder, and of the catalogue's log. All requests that are queued when a
commit ends form the next group. So a busy server forms large groups, and an idle one commits at once.

The order for each group: payloads durable (before submission) → published → committed → reported. A crash may leave payloads
without a row, which a listing finds, but never a row without its payload.

Every request gets an outcome: from its commit, from the error that the commit raised, or, if the thread itself has ended, from
the failure of the store.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server import background
from tensorus_server.background import Watched
from tensorus_server.catalogue.abc import WriterLostError
from tensorus_server.engine.insert.leftovers import drop, drop_upload
from tensorus_server.errors import EngineError, SessionTakenOverError, StoreBusyError, StoreUnavailableError
from tensorus_server.limits import COMMIT_GROUP_MAX
from tensorus_server.meters import CommitMeters
from tensorus_server.payload_keys import begun_of_key, is_of_object_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from tensorus_server.catalogue.abc import Catalogue, Mark, StoredTensor
    from tensorus_server.chunk_store.abc import PayloadStore, StagedPayload, Staging
    from tensorus_server.engine.health import Health
    from tensorus_server.engine.insert.content import EqualTensors
    from tensorus_server.engine.insert.items import Batch
    from tensorus_server.model import Tensor

__all__ = ["Commit", "Committer"]

_IDLE_S = 1.0
"""After this long without a commit, the catalogue may do its maintenance."""

_BROKEN_OFF = StoreUnavailableError("the commit was broken off; see the server's log")
"""Created in advance, because it is needed when even allocating memory may fail."""

_RETRIED_S = 60.0
"""How long a commit is tried again while the catalogue's database is away: as long as it takes to start again elsewhere."""

_GIVE_UP_AGAIN_S = 10.0
"""Pause before objects that could not be given up are given up again: each attempt may take a while, and commits wait."""

_KEPT = (StoreBusyError, SessionTakenOverError)
"""Errors of a commit after which the upload stays."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@plain_dataclass
class Commit:
    """A request to commit batches with durable payloads; the committer settles them."""

    batches: Sequence[Batch]
    together: bool = False
    """Whether to commit all of them or none."""

    def end(self, error: Exception) -> None:
        """Fail the batches that are not settled."""
        for batch in self.batches:
            if batch.state != "settled":
                batch.fail(error)


@dataclass(frozen=True)
class _Save:
    """A request to save a mark, up to which the payload is durable."""

    mark: Mark
    saved: Future[int]
    """Its result is the mark's committed bytes."""

    def end(self, error: Exception) -> None:
        """Fail the future if it is not done."""
        if not self.saved.done():
            self.saved.set_exception(error)


_Pending: TypeAlias = "Commit | _Save"


class Committer:
    """A watched thread and its queue."""

    def __init__(
        self,
        catalogue: Catalogue,
        staging: Staging,
        payloads: PayloadStore,
        health: Health,
        equals: EqualTensors,
        *,
        start: bool = True,
    ) -> None:
        """Start the thread. If it ends unexpectedly, it reports that to `health`.

        Args:
            equals: finds the payloads that new tensors can share.
            start: False: nothing will be committed, and there is no thread.
        """
        self.health = health
        """The health of the store."""
        self.meters = CommitMeters()
        self._catalogue = catalogue
        self._staging = staging
        self._payloads = payloads
        self._equals = equals
        # The queue has no limit of its own: each stream has at most `UNCOMMITTED_ITEMS_MAX` items in it.
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        # Once the thread has ended: the error for every later request.
        self._ended: Exception | None = None
        self._closing = threading.Event()
        # Not cleared after a commit. That is harmless, because the catalogue knows these keys then.
        self._uncommitted: frozenset[str] = frozenset()
        # Objects in an object store that no tensor uses, or of which that is unknown, and that could not be given up yet.
        self._left: list[str] = []
        self._left_next_s = 0.0
        # Held while committing, by the thread or by a caller of `commit_here`.
        self._turn = threading.Lock()
        # When the current group was started; infinity: none is in progress.
        self._busy_since_s = math.inf
        self._thread = Watched("committer", self._run, self._failed) if start else None

    @property
    def uncommitted(self) -> frozenset[str]:
        """Payload keys of the group that is being committed: they may be published before a row refers to them.

        If the outcome of a commit is unknown, its keys stay here until the restart.
        """
        return self._uncommitted

    @property
    def queued(self) -> int:
        """Number of requests that wait for the next commit."""
        return self._queue.qsize()

    def check(self) -> None:
        """Fail the store if the current commit has taken longer than `STUCK_S`, so that nobody waits for it forever."""
        busy_s = time.monotonic() - self._busy_since_s
        if busy_s > background.STUCK_S:
            error = StoreUnavailableError(
                f"a commit has taken {busy_s:.0f} s, limit is {background.STUCK_S:.0f} s (stuck_s)"
            )
            self.health.fail("a commit does not end", error)

    def submit(self, commit: Commit) -> None:
        """Queue batches to be committed and settled."""
        self._put(commit)

    def commit_here(self, stored: StoredTensor) -> Tensor | Exception | None:
        """Commit a tensor with an inline payload on this thread, if its dataset has not changed.

        Only for stores that do not fsync: otherwise the caller would hang as long as the disk does.

        Returns:
            The tensor as committed, or its error; None if other commits are in progress or queued, and nothing was done.

        Raises:
            EngineError: see `TensorTable.commit`.
        """
        if self._turn.locked() or not self._queue.empty() or self._ended is not None:
            return None
        # Not `acquire(blocking=False)`: Ctrl-C may come between it and its `try`, and then the lock would never be released.
        with self._turn:
            self.health.require()
            self._busy_since_s = time.monotonic()
            try:
                (outcome,) = self._catalogue.tensors.commit([stored], current=True)
            finally:
                self._busy_since_s = math.inf
        return outcome

    def save(self, mark: Mark, saved: Future[int]) -> None:
        """Queue a mark to be saved; its committed bytes become the result of `saved`."""
        self._put(_Save(mark, saved))

    def close(self, timeout_s: float) -> bool:
        """Commit what is queued and end the thread; later requests fail. Idempotent.

        Returns:
            Whether the thread has ended in time.
        """
        self._closing.set()
        self._queue.put(None)
        ended = self._thread is None or self._thread.join(timeout_s)
        self._end_all(StoreUnavailableError("the store is closed"))
        return ended

    def _put(self, pending: _Pending) -> None:
        self._queue.put(pending)
        # The order matters: either this check sees that the thread has ended, or the thread's end drains the queue later.
        if self._ended is not None:
            self._end_all(self._ended)

    def _end_all(self, error: Exception) -> None:
        """Fail all queued requests, and all later ones."""
        self._ended = error
        while True:
            try:
                pending = self._queue.get_nowait()
            except queue.Empty:
                return
            if pending is not None:
                pending.end(error)

    def _failed(self, error: BaseException) -> None:
        self.health.fail(f"the committer ended with {type(error).__name__}", error)
        self._end_all(StoreUnavailableError("the store failed and takes no more writes until a restart"))

    def _run(self) -> None:
        while True:
            group, closing = self._next_group()
            with self._turn:
                self._busy_since_s = time.monotonic()
                try:
                    self._handle(group)
                finally:
                    self._busy_since_s = math.inf
                    for pending in group:
                        pending.end(_BROKEN_OFF)
                self._maintain(idle=not group)
            if closing:
                return

    def _next_group(self) -> tuple[list[_Pending], bool]:
        """Wait for requests, or until idle; return the queued requests, and whether the committer is closing."""
        group: list[_Pending] = []
        size = 0
        try:
            pending = self._queue.get(timeout=_IDLE_S)
            while pending is not None:
                group.append(pending)
                size += sum([len(batch.stored) for batch in pending.batches]) if isinstance(pending, Commit) else 1
                if size >= COMMIT_GROUP_MAX:
                    return group, False
                pending = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _handle(self, group: Sequence[_Pending]) -> None:
        if marks := [pending for pending in group if isinstance(pending, _Save)]:
            self._save(marks)
        commits = [pending for pending in group if isinstance(pending, Commit)]
        if apart := [batch for commit in commits if not commit.together for batch in commit.batches]:
            self._commit(apart, together=False)
        for commit in commits:
            if commit.together:
                self._commit(commit.batches, together=True)

    def _maintain(self, *, idle: bool) -> None:
        if self._left and time.monotonic() >= self._left_next_s:
            left, self._left = self._left, []
            self._give_up(left)
        try:
            self._catalogue.maintain(idle=idle)
        except Exception:  # noqa: BLE001 - logged with its cause
            # No caller waits for this, and if the catalogue has failed, it refuses the next commit.
            _log.exception("the catalogue could not be maintained")

    def _save(self, group: Sequence[_Save]) -> None:
        try:
            lost = self._retried(lambda: self._catalogue.uploads.save([pending.mark for pending in group]))
        except EngineError as error:
            failure: Exception = error
        except Exception:  # noqa: BLE001 - every future must get a result
            _log.exception("%d marks could not be saved", len(group))
            failure = StoreUnavailableError("the mark could not be saved; see the server's log")
        else:
            for pending, taken_over in zip(group, lost, strict=True):
                if taken_over is None:
                    pending.saved.set_result(pending.mark.upload.committed_bytes)
                else:
                    pending.end(taken_over)
            return
        for pending in group:
            pending.end(failure)

    def _commit(self, batches: Sequence[Batch], *, together: bool) -> None:
        """Commit batches in one transaction, and settle each with its outcomes."""
        stored = [
            tensor if batch.session is None else replace(tensor, session=batch.session)
            for batch in batches
            for tensor in batch.stored
        ]
        staged = [payload for batch in batches for payload in batch.staged]
        outcomes: Sequence[Tensor | Exception]
        try:
            with self.meters.commits.measured():
                outcomes = self._publish_and_commit(stored, staged, together=together)
            self.meters.tensors += sum([not isinstance(outcome, Exception) for outcome in outcomes])
        except EngineError as error:
            outcomes = [error] * len(stored)
        except Exception:  # noqa: BLE001 - every batch must be settled
            _log.exception("a commit of %d tensors failed unexpectedly", len(stored))
            outcomes = [StoreUnavailableError("the commit failed; see the server's log")] * len(stored)
        for tensor, outcome in zip(stored, outcomes, strict=True):
            # The payload was discarded, so the upload must not be resumed. If the catalogue is busy, another write would make
            # all streams wait; then the upload stays, and a client that resumes it gets an error. An upload that another
            # writer has taken over is that writer's.
            if tensor.upload is not None and isinstance(outcome, Exception) and not isinstance(outcome, _KEPT):
                drop_upload(self._catalogue.uploads, tensor.upload)
        start = 0
        for batch in batches:
            end = start + len(batch.stored)
            batch.settle(outcomes[start:end])
            start = end

    def _publish_and_commit(
        self, stored: Sequence[StoredTensor], staged: Sequence[StagedPayload], *, together: bool
    ) -> list[Tensor | Exception]:
        """Return the outcome of each tensor; raises if the group failed as a whole."""
        try:
            self.health.require()
            self._uncommitted = frozenset(payload.payload_key for payload in staged)
            keys = dict(zip((payload.payload_key for payload in staged), self._staging.publish(staged), strict=True))
        except Exception:
            drop(self._staging, staged)
            raise
        located = self._equals.offered([_located(tensor, keys) for tensor in stored])
        try:
            outcomes = self._retried(lambda: self._catalogue.tensors.commit(located, together=together))
        except EngineError as error:
            if isinstance(error, StoreUnavailableError):
                self._leave(keys.values())
            else:
                self._delete(list(keys.values()))
            raise
        except Exception:
            self._leave(keys.values())
            raise
        if keys:
            # Left over are those of tensors that failed, and of those that share the payload of an equal tensor. One that
            # another writer has taken over is that writer's.
            used = {outcome.locator.key for outcome in outcomes if not isinstance(outcome, Exception)}
            for tensor, outcome in zip(located, outcomes, strict=True):
                if isinstance(outcome, (SessionTakenOverError, WriterLostError)):
                    used.add(tensor.locator.key)
            self._delete([key for key in keys.values() if key not in used])
        return outcomes

    def _retried(self, write: Callable[[], T]) -> T:
        """Return the result of a write that may be repeated; tried again while its error says so.

        Raises:
            EngineError: see `TensorTable.commit` and `UploadTable.save`.
        """
        give_up_s = time.monotonic() + _RETRIED_S
        while True:
            try:
                return write()
            except StoreUnavailableError as error:
                pause_s = error.facts.get("retry_after_s")
                if pause_s is None or time.monotonic() > give_up_s or self._closing.wait(float(pause_s)):
                    raise
                _log.warning("a commit is tried again: %s", error)

    def _delete(self, keys: Sequence[str]) -> None:
        """Delete payloads that no tensor uses; if that fails, the daily listing finds them.

        What is in an object store is left to the sweep: it is known to the catalogue, and a pack may have other payloads.
        """
        if objects := sorted({begun_of_key(key) for key in keys if is_of_object_store(key)}):
            self._give_up(objects)
        for key in keys:
            if is_of_object_store(key):
                continue
            try:
                self._payloads.delete(key)
            except Exception:  # noqa: BLE001 - must not fail the commit
                _log.warning("payload %s could not be deleted and is left to the daily listing", key, exc_info=True)

    def _leave(self, keys: Iterable[str]) -> None:
        """Leave payloads as they are, since the outcome of their commit is unknown.

        After a restart, the catalogue tells which are in use. Of objects in an object store, it does as soon as it answers.
        """
        self._left += sorted({begun_of_key(key) for key in keys if is_of_object_store(key)})

    def _give_up(self, objects: Sequence[str]) -> None:
        """Give up objects that were begun and that no tensor uses; those that one uses are begun no longer, and stay.

        The catalogue does this alone, so no commit of this process can still be going on in its database.
        """
        try:
            self._catalogue.members.abandon(objects)
        except EngineError as error:
            _log.warning("%d objects that no tensor uses cannot be given up yet: %s", len(objects), error)
            self._left += objects
            self._left_next_s = time.monotonic() + _GIVE_UP_AGAIN_S


def _located(stored: StoredTensor, keys: dict[str, str]) -> StoredTensor:
    """Return the tensor with the key that its payload was published under; inline ones are unchanged."""
    if stored.inline_payload is not None:
        return stored
    return replace(stored, locator=replace(stored.locator, key=keys[stored.locator.key]))
