"""The one thread that makes tensors visible: it publishes payloads and commits them to the catalogue, in groups.

A group costs two syncs however large it is: of the shard's folder, and of the catalogue's log. Whatever waits when a commit
has ended makes up the next group, so a busy server forms large groups and an idle one commits at once.

Order, for every group: payloads durable (before they come here) → published → committed → reported. A crash leaves payloads
without a row, which a listing finds, and never a row without its payload.

Whatever is submitted gets an outcome: from its commit, from the error that its commit raised, or, where the thread itself has
ended, from the failure of the store.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server import background
from tensorus_server.background import Watched
from tensorus_server.engine.insert.leftovers import drop, drop_upload
from tensorus_server.errors import EngineError, StoreBusyError, StoreUnavailableError
from tensorus_server.limits import COMMIT_GROUP_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from tensorus_server.catalogue.abc import Catalogue, Mark, StoredTensor
    from tensorus_server.chunk_store.abc import PayloadStore, StagedPayload, Staging
    from tensorus_server.engine.health import Health
    from tensorus_server.engine.insert.items import Batch
    from tensorus_server.model import Tensor

__all__ = ["Commit", "Committer"]

_IDLE_S = 1.0
"""After so long without a commit the catalogue gets a chance to tidy up."""

_BROKEN_OFF = StoreUnavailableError("the commit was broken off; see the server's log")
"""Made beforehand: it is needed where nothing else works."""

_log = logging.getLogger(__name__)


@plain_dataclass
class Commit:
    """Batches whose payloads are durable, and that hear of their outcomes from the committer."""

    batches: Sequence[Batch]
    together: bool = False
    """Whether all are committed, or none."""

    def end(self, error: Exception) -> None:
        """Fail what has not been settled."""
        for batch in self.batches:
            if batch.state != "settled":
                batch.fail(error)


@dataclass(frozen=True)
class _Save:
    """A new state of an upload, whose payload is kept so far."""

    mark: Mark
    saved: Future[int]
    """Its result is the mark's committed bytes."""

    def end(self, error: Exception) -> None:
        """Fail it if it has no outcome."""
        if not self.saved.done():
            self.saved.set_exception(error)


_Pending: TypeAlias = "Commit | _Save"


class Committer:
    """A watched thread and its queue."""

    def __init__(self, catalogue: Catalogue, staging: Staging, payloads: PayloadStore, health: Health) -> None:
        """Start the thread, whose end `health` is told."""
        self.health = health
        """Of the store."""
        self._catalogue = catalogue
        self._staging = staging
        self._payloads = payloads
        # Bounded by those who submit: each stream has at most `UNCOMMITTED_ITEMS_MAX` under way.
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        # What everyone gets who submits something after the thread has ended.
        self._ended: Exception | None = None
        # The last group's even after its commit: harmless, since the catalogue knows them then.
        self._uncommitted: frozenset[str] = frozenset()
        # Held by whoever commits: the thread, or a caller of `commit_here`.
        self._turn = threading.Lock()
        # Since when a group is being handled.
        self._busy_since_s = math.inf
        # Whether somebody else has committed since the thread last looked.
        self._committed_here = False
        self._thread = Watched("committer", self._run, self._failed)

    @property
    def uncommitted(self) -> frozenset[str]:
        """Payload keys of the group that is being committed: published, perhaps, while no row refers to them yet.

        A group whose outcome is unknown stays here until the restart that finds out.
        """
        return self._uncommitted

    def check(self) -> None:
        """Let the store fail where the disk has kept the thread for `STUCK_S`: its callers would wait for each other."""
        busy_s = time.monotonic() - self._busy_since_s
        if busy_s > background.STUCK_S:
            error = StoreUnavailableError(
                f"a commit has taken {busy_s:.0f} s, limit is {background.STUCK_S:.0f} s (stuck_s)"
            )
            self.health.fail("a commit does not end", error)

    def submit(self, commit: Commit) -> None:
        """Commit the batches as soon as possible, and settle them."""
        self._put(commit)

    def commit_here(self, stored: StoredTensor) -> Tensor | Exception | None:
        """Commit a tensor with an inline payload on this thread, into its dataset as it knows it.

        Only for stores that sync nothing: a disk that hangs would keep the caller for as long.

        Returns:
            The tensor as committed, or why it was not; None where others commit, or wait for that: it is to be submitted.

        Raises:
            EngineError: see `TensorTable.commit`.
        """
        if self._turn.locked() or not self._queue.empty() or self._ended is not None:
            return None
        with self._turn:
            self.health.require()
            self._busy_since_s = time.monotonic()
            try:
                (outcome,) = self._catalogue.tensors.commit([stored], current=True)
            finally:
                self._busy_since_s = math.inf
            self._committed_here = True
            self._maintain(idle=False)
        return outcome

    def save(self, mark: Mark, saved: Future[int]) -> None:
        """Save the mark as soon as possible; its committed bytes become the result of `saved`."""
        self._put(_Save(mark, saved))

    def close(self, timeout_s: float) -> bool:
        """Commit what waits and end the thread; what is submitted later fails. Idempotent.

        Returns:
            Whether it has ended in time.
        """
        self._queue.put(None)
        ended = self._thread.join(timeout_s)
        self._end_all(StoreUnavailableError("the store is closed"))
        return ended

    def _put(self, pending: _Pending) -> None:
        self._queue.put(pending)
        # In this order: either this sees that the thread has ended, or the thread's end sees what was put.
        if self._ended is not None:
            self._end_all(self._ended)

    def _end_all(self, error: Exception) -> None:
        """Fail what waits, and what comes later."""
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
                idle = not group and not self._committed_here
                self._committed_here = False
                self._maintain(idle=idle)
            if closing:
                return

    def _next_group(self) -> tuple[list[_Pending], bool]:
        """Wait for something to do or for idle time; return what waits, and whether it is the end."""
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
        try:
            self._catalogue.maintain(idle=idle)
        except Exception:  # noqa: BLE001 - nobody waits for it
            # Nobody waits for it, and a catalogue that failed refuses the next commit.
            _log.exception("the catalogue could not be maintained")

    def _save(self, group: Sequence[_Save]) -> None:
        try:
            self._catalogue.uploads.save([pending.mark for pending in group])
        except EngineError as error:
            failure: Exception = error
        except Exception:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("%d marks could not be saved", len(group))
            failure = StoreUnavailableError("the mark could not be saved; see the server's log")
        else:
            for pending in group:
                pending.saved.set_result(pending.mark.upload.committed_bytes)
            return
        for pending in group:
            pending.end(failure)

    def _commit(self, batches: Sequence[Batch], *, together: bool) -> None:
        """Commit batches in one transaction, and settle each with what became of its own."""
        stored = [tensor for batch in batches for tensor in batch.stored]
        staged = [payload for batch in batches for payload in batch.staged]
        outcomes: Sequence[Tensor | Exception]
        try:
            outcomes = self._publish_and_commit(stored, staged, together=together)
        except EngineError as error:
            outcomes = [error] * len(stored)
        except Exception:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("a commit of %d tensors failed unexpectedly", len(stored))
            outcomes = [StoreUnavailableError("the commit failed; see the server's log")] * len(stored)
        for tensor, outcome in zip(stored, outcomes, strict=True):
            # Its payload is gone: nobody must be told to go on with it. While the catalogue is busy, asking it again would keep
            # everyone waiting; whoever resumes such an upload finds that its payload is gone.
            if tensor.upload is not None and isinstance(outcome, Exception) and not isinstance(outcome, StoreBusyError):
                drop_upload(self._catalogue.uploads, tensor.upload)
        start = 0
        for batch in batches:
            end = start + len(batch.stored)
            batch.settle(outcomes[start:end])
            start = end

    def _publish_and_commit(
        self, stored: Sequence[StoredTensor], staged: Sequence[StagedPayload], *, together: bool
    ) -> list[Tensor | Exception]:
        """Return the outcome of each; raises where the group failed as a whole."""
        try:
            self.health.require()
            self._uncommitted = frozenset(payload.payload_key for payload in staged)
            keys = dict(zip((payload.payload_key for payload in staged), self._staging.publish(staged), strict=True))
        except Exception:
            drop(self._staging, staged)
            raise
        located = [_located(tensor, keys) for tensor in stored]
        try:
            outcomes = self._catalogue.tensors.commit(located, together=together)
        except StoreUnavailableError:
            # Perhaps committed, perhaps not: the payloads stay, and a restart finds out.
            raise
        except EngineError:
            self._delete(list(keys.values()))
            raise
        if keys:
            visible = {outcome.locator.key for outcome in outcomes if not isinstance(outcome, Exception)}
            self._delete([key for key in keys.values() if key not in visible])
        return outcomes

    def _delete(self, keys: Sequence[str]) -> None:
        """Delete payloads that no tensor got; what cannot be deleted is left to the daily listing."""
        for key in keys:
            try:
                self._payloads.delete(key)
            except Exception:  # noqa: BLE001 - others wait for the commit
                _log.warning("payload %s could not be deleted and is left to the daily listing", key, exc_info=True)


def _located(stored: StoredTensor, keys: dict[str, str]) -> StoredTensor:
    """Return the tensor with the key under which its payload was published; an inline one is as it was."""
    if stored.inline_payload is not None:
        return stored
    return replace(stored, locator=replace(stored.locator, key=keys[stored.locator.key]))
