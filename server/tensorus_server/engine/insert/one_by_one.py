"""Small tensors one by one on the short way, from announcement to commit, on the caller's thread.

An `InsertStream` is made for many tensors at once: it hands them from thread to thread, so that one is encoded while others
wait for the disk. For a single small tensor of a store that waits for no disk this takes longer than storing it. Here nothing
is handed over, with the same checks and the same bytes stored. It answers only where all goes well, and is silent otherwise:
whatever is unusual or wrong is for the stream, which knows every error. A test holds that both store the same.

A dataset is the one that an insert before found. Whether it still is what it was, the commit sees, in its transaction.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tensorus_codecs.plan import plan
from tensorus_server.engine.insert.small_tensors import SmallTensors
from tensorus_server.engine.validate import require_announced
from tensorus_server.model import Segment, Tensor

if TYPE_CHECKING:
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.engine.insert.options import InsertServices
    from tensorus_server.model import NewTensor, TensorSpec

__all__ = ["OneByOne"]

_DATASETS_MAX = 256
"""That a thread remembers; it forgets all of them when there are more."""


class OneByOne:
    """Inserts of a store that syncs nothing. Safe in many threads."""

    def __init__(self, services: InsertServices) -> None:
        """Know no dataset yet."""
        self._services = services
        self._local = _Local()

    def insert(self, dataset: str, new: NewTensor, canonical: memoryview) -> Tensor | None:
        """Store a tensor and return it as it was committed; None where nothing was stored, and a stream is to be asked.

        Args:
            canonical: all of its canonical bytes.
        """
        known = self._local.known
        try:
            inserts = known.get(dataset) or self._remember(dataset)
            inserted = inserts.insert(new, canonical)
        except Exception:  # noqa: BLE001 - the stream finds it again, and reports it
            inserted = None
        if inserted is None:
            # Perhaps because it has changed.
            known.pop(dataset, None)
        return inserted

    def _remember(self, name: str) -> _Inserts:
        known = self._local.known
        if len(known) >= _DATASETS_MAX:
            known.clear()
        found = known[name] = _Inserts(name, self._services)
        return found


class _Inserts:
    """Inserts of one thread into one dataset."""

    def __init__(self, name: str, services: InsertServices) -> None:
        self._services = services
        self._dataset = services.catalogue.datasets.get(name)
        # It knows the kind of the tensor before, which nearly always is that of the next one.
        self._small = SmallTensors(self._dataset)
        self._planned: tuple[TensorSpec, ChunkPlan] | None = None

    def insert(self, new: NewTensor, canonical: memoryview) -> Tensor | None:
        require_announced(new, self._dataset)
        self._services.staging.require_space()
        segment = Segment(0, 0, canonical.nbytes, last=True, tensor=new)
        if not self._small.take(segment, new, self._plan(new), canonical, None):
            return None
        (stored,) = self._small.write()
        if isinstance(stored, Exception):
            return None
        committed = self._services.committer.commit_here(stored)
        return committed if isinstance(committed, Tensor) else None

    def _plan(self, new: NewTensor) -> ChunkPlan:
        if new.policy is not None:
            return plan(new.policy, new.spec.dtype)
        if self._planned is None or self._planned[0] is not new.spec:
            self._planned = new.spec, plan(self._dataset.policy, new.spec.dtype)
        return self._planned[1]


class _Local(threading.local):
    """What one thread knows."""

    def __init__(self) -> None:
        self.known: dict[str, _Inserts] = {}
