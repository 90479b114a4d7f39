"""The one thread that makes tensors visible: it publishes payloads and commits them to the catalogue, in groups.

A group costs two syncs however large it is: of the shard's folder, and of the catalogue's log. Whatever waits when a commit
has ended makes up the next group, so a busy server forms large groups and an idle one commits at once.

Order, for every group: payloads durable (before they come here) → published → committed → reported. A crash leaves payloads
without a row, which a listing finds, and never a row without its payload.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from tensorus_server.errors import EngineError, StoreUnavailableError
from tensorus_server.limits import COMMIT_GROUP_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import Catalogue, Mark, StoredTensor, UploadTable
    from tensorus_server.chunk_store.abc import ChunkStore, StagedPayload
    from tensorus_server.model import Tensor

__all__ = ["Committer", "PendingCommit", "PendingMark", "forget_upload"]

_IDLE_S = 1.0
"""After so long without a commit the catalogue gets a chance to tidy up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PendingCommit:
    """Tensors whose payloads are durable, and whose submitter hears of all of them at once."""

    stored: Sequence[StoredTensor]
    staged: Sequence[StagedPayload]
    """The payloads of those that are not inline, in any order."""
    done: Callable[[Sequence[Tensor | Exception]], None]
    """Told the outcomes, in order, on the committer's thread: must not block and must not raise."""
    together: bool = False
    """Whether all are committed, or none."""


@dataclass(frozen=True)
class PendingMark:
    """A new state of an upload, whose payload is kept so far."""

    mark: Mark
    done: Callable[[Exception | None], None]
    """Told what went wrong, or None, on the committer's thread: must not block and must not raise."""


Pending: TypeAlias = "PendingCommit | PendingMark"


class Committer:
    """A thread and its queue."""

    def __init__(self, catalogue: Catalogue, chunk_store: ChunkStore) -> None:
        """Start the thread."""
        self._catalogue = catalogue
        self._chunk_store = chunk_store
        # Bounded by those who submit: each stream has at most `UNCOMMITTED_ITEMS_MAX` under way.
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tensorus-committer", daemon=True)
        self._closed = False
        # The last group's even after its commit: harmless, since the catalogue knows them then.
        self._uncommitted: frozenset[str] = frozenset()
        self._thread.start()

    @property
    def uncommitted(self) -> frozenset[str]:
        """Payload keys of the group that is being committed: published, perhaps, while no row refers to them yet.

        A group whose outcome is unknown stays here until the restart that finds out.
        """
        return self._uncommitted

    def submit(self, pending: Pending) -> None:
        """Commit the tensor or the group, or save the mark, as soon as possible, and report."""
        self._queue.put(pending)

    def close(self) -> None:
        """Commit what waits and end the thread. Idempotent; nothing may be submitted any more."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            group, closing = self._next_group()
            if marks := [pending for pending in group if isinstance(pending, PendingMark)]:
                self._save(marks)
            commits = [pending for pending in group if isinstance(pending, PendingCommit)]
            if apart := [pending for pending in commits if not pending.together]:
                self._commit(apart)
            for pending in commits:
                if pending.together:
                    self._commit([pending])
            self._maintain(idle=not group)
            if closing:
                return

    def _next_group(self) -> tuple[list[Pending], bool]:
        """Wait for something to do or for idle time; return what waits, and whether it is the end."""
        group: list[Pending] = []
        size = 0
        try:
            item = self._queue.get(timeout=_IDLE_S)
            while item is not None:
                group.append(item)
                size += len(item.stored) if isinstance(item, PendingCommit) else 1
                if size >= COMMIT_GROUP_MAX:
                    return group, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _maintain(self, *, idle: bool) -> None:
        try:
            self._catalogue.maintain(idle=idle)
        except Exception:  # noqa: BLE001 - whoever submits waits for this thread: it must live
            # A catalogue that failed refuses the next commit.
            _log.exception("the catalogue could not be maintained")

    def _save(self, group: list[PendingMark]) -> None:
        failure: Exception | None = None
        try:
            self._catalogue.uploads.save([pending.mark for pending in group])
        except EngineError as error:
            failure = error
        except Exception:  # noqa: BLE001 - whoever waits must hear of it, and the thread must live
            _log.exception("%d marks could not be saved", len(group))
            failure = StoreUnavailableError("the mark could not be saved; see the server's log")
        for pending in group:
            pending.done(failure)

    def _commit(self, group: Sequence[PendingCommit]) -> None:
        """Commit those of the group in one transaction, and tell each submitter what became of its own."""
        stored = [tensor for pending in group for tensor in pending.stored]
        staged = [payload for pending in group for payload in pending.staged]
        outcomes: Sequence[Tensor | Exception]
        try:
            outcomes = self._publish_and_commit(stored, staged, together=group[0].together)
        except EngineError as error:
            outcomes = [error] * len(stored)
        except Exception:  # noqa: BLE001 - whoever waits must hear of it, and the thread must live
            _log.exception("a commit of %d tensors failed unexpectedly", len(stored))
            outcomes = [StoreUnavailableError("the commit failed; see the server's log")] * len(stored)
        for tensor, outcome in zip(stored, outcomes, strict=True):
            if isinstance(outcome, Exception) and tensor.upload is not None:
                # Its payload is gone: nobody must be told to go on with it.
                forget_upload(self._catalogue.uploads, tensor.upload)
        start = 0
        for pending in group:
            end = start + len(pending.stored)
            pending.done(outcomes[start:end])
            start = end

    def _publish_and_commit(
        self, stored: Sequence[StoredTensor], staged: Sequence[StagedPayload], *, together: bool
    ) -> list[Tensor | Exception]:
        """Return the outcome of each; raises where the group failed as a whole."""
        try:
            self._catalogue.check_writable()
            self._uncommitted = frozenset(payload.payload_key for payload in staged)
            keys = dict(
                zip((payload.payload_key for payload in staged), self._chunk_store.publish(staged), strict=True)
            )
        except EngineError:
            for payload in staged:
                self._chunk_store.discard(payload)
            raise
        located = [_located(tensor, keys) for tensor in stored]
        try:
            outcomes = self._catalogue.tensors.commit(located, together=together)
        except StoreUnavailableError:
            # Perhaps committed, perhaps not: the payloads stay, and after a restart the sweep knows.
            raise
        except EngineError:
            self._delete(list(keys.values()))
            raise
        if keys:
            visible = {outcome.locator.key for outcome in outcomes if not isinstance(outcome, Exception)}
            self._delete([key for key in keys.values() if key not in visible])
        return outcomes

    def _delete(self, keys: list[str]) -> None:
        """Delete payloads that no tensor got; what cannot be deleted is left to the sweep."""
        for key in keys:
            try:
                self._chunk_store.delete(key)
            except OSError:
                _log.warning("payload %s could not be deleted and is left to the sweep", key, exc_info=True)


def forget_upload(uploads: UploadTable, upload: tuple[str, int]) -> None:
    """Forget an upload that nobody can go on with. What cannot be forgotten now expires."""
    try:
        uploads.drop(*upload)
    except EngineError:
        _log.warning("upload %s of insert %s is left to expire", upload[1], upload[0], exc_info=True)


def _located(stored: StoredTensor, keys: dict[str, str]) -> StoredTensor:
    """Return the tensor with the key under which its payload was published; an inline one is as it was."""
    if stored.inline_payload is not None:
        return stored
    return replace(stored, locator=replace(stored.locator, key=keys[stored.locator.key]))
