"""A fast path that stores one small tensor completely on the caller's thread.

An `InsertStream` is built for many tensors: it passes them between threads, so that one is encoded while others wait for the
disk. For a single small tensor in a store that waits for no disk, those hand-overs take longer than the work. This path makes
none, but performs the same checks and stores the same bytes. It stores a tensor only if everything succeeds. Otherwise it
returns None, and the caller uses a stream, which reports every error. A test asserts that both store the same.

Datasets are cached between inserts. The transaction of the commit checks that the dataset has not changed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tensorus_server.engine.insert.plans import Plans
from tensorus_server.engine.insert.small_tensors import SmallTensors
from tensorus_server.engine.validate import require_announced
from tensorus_server.model import Segment, Tensor

if TYPE_CHECKING:
    from tensorus_server.engine.insert.options import InsertServices
    from tensorus_server.model import NewTensor

__all__ = ["OneByOne"]

_DATASETS_MAX = 256
"""Datasets that a thread caches; when there are more, it drops all of them."""


class OneByOne:
    """Inserts single tensors into a store that does not fsync. Thread-safe."""

    def __init__(self, services: InsertServices) -> None:
        """Start with an empty cache."""
        self._services = services
        self._local = _Local()

    def insert(self, dataset: str, new: NewTensor, canonical: memoryview) -> Tensor | None:
        """Store a tensor and return it as committed; return None if nothing was stored and a stream must be used.

        Args:
            canonical: all canonical bytes of the tensor.
        """
        known = self._local.known
        try:
            inserts = known.get(dataset) or self._remember(dataset)
            inserted = inserts.insert(new, canonical)
        except Exception:  # noqa: BLE001 - the stream meets the same error and reports it
            inserted = None
        if inserted is None:
            # The cached dataset may be out of date.
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
        # Kept between inserts, since it caches what one tensor has in common with the next.
        self._small = SmallTensors(self._dataset)
        self._plans = Plans(self._dataset)

    def insert(self, new: NewTensor, canonical: memoryview) -> Tensor | None:
        if new.base is not None:
            # The stream looks it up.
            return None
        require_announced(new, self._dataset)
        self._services.staging.require_space()
        segment = Segment(0, 0, canonical.nbytes, last=True, tensor=new)
        if not self._small.take(segment, new, self._plans.of(new), canonical, None):
            return None
        (stored,) = self._small.write()
        if isinstance(stored, Exception):
            return None
        committed = self._services.committer.commit_here(stored)
        return committed if isinstance(committed, Tensor) else None


class _Local(threading.local):
    """The cache of one thread."""

    def __init__(self) -> None:
        self.known: dict[str, _Inserts] = {}
