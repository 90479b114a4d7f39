"""What a copy did, and what it found."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

__all__ = ["CopyReport", "DatasetCopy", "Outcome", "Problem", "Tally"]

Outcome: TypeAlias = Literal["copied", "shared", "replaced", "updated", "present", "conflict", "failed", "gone"]

_PROBLEMS_MAX = 1000
"""Problems that a report lists; further ones are only counted."""


@dataclass(frozen=True)
class Problem:
    """A tensor that was not copied."""

    dataset: str
    """In the source."""
    id: str
    kind: Literal["conflict", "failed"]
    message: str


@dataclass
class DatasetCopy:
    """The copy of one dataset."""

    source: str
    destination: str
    copied: int = 0
    """Tensors whose values were sent."""
    shared: int = 0
    """Tensors whose values the destination had already, under another id."""
    replaced: int = 0
    """Tensors that replaced another one."""
    updated: int = 0
    """Tensors that were there with other metadata, which were replaced."""
    present: int = 0
    """Tensors that were there already, with the same values and metadata."""
    conflict: int = 0
    """Tensors of which the destination has other values or metadata under the same id."""
    failed: int = 0
    gone: int = 0
    """Tensors that were deleted from the source after they were listed."""
    canonical_bytes: int = 0
    """Size of the values of all tensors that the destination has now."""
    source_stored_bytes: int = 0
    """What they take in the source; shared bytes are counted for each tensor."""
    stored_bytes: int = 0
    """What they take in the destination, likewise."""
    snapshots: int = 0
    """Snapshots of the source, which are not copied."""
    notes: list[str] = field(default_factory=list)
    """What differs although every tensor was copied."""

    @property
    def tensors(self) -> int:
        """Tensors that were looked at."""
        done = self.copied + self.shared + self.replaced + self.updated + self.present
        return done + self.conflict + self.failed + self.gone


@dataclass(frozen=True)
class CopyReport:
    """The result of a copy."""

    datasets: tuple[DatasetCopy, ...]
    problems: tuple[Problem, ...]
    """The first 1,000; the datasets have the number of all."""
    dry_run: bool
    """Whether nothing was stored: the counts say what a copy would do."""
    verified: bool = False
    """Whether the destination read everything again."""

    @property
    def is_complete(self) -> bool:
        """Whether the destination has every tensor of the source."""
        return not any(one.conflict or one.failed for one in self.datasets)


class Tally:
    """Counts what the threads of a copy do. Thread-safe."""

    def __init__(self) -> None:
        """Start without datasets."""
        self._lock = threading.Lock()
        self._datasets: list[DatasetCopy] = []
        self._problems: list[Problem] = []

    def begin(self, source: str, destination: str) -> DatasetCopy:
        """Start to count a dataset."""
        with self._lock:
            self._datasets.append(DatasetCopy(source, destination))
            return self._datasets[-1]

    @property
    def datasets(self) -> list[DatasetCopy]:
        """The datasets so far."""
        with self._lock:
            return list(self._datasets)

    def count(
        self,
        of: DatasetCopy,
        outcome: Outcome,
        *,
        canonical_bytes: int = 0,
        source_bytes: int = 0,
        stored_bytes: int = 0,
    ) -> None:
        """Count one tensor."""
        with self._lock:
            setattr(of, outcome, getattr(of, outcome) + 1)
            of.canonical_bytes += canonical_bytes
            of.source_stored_bytes += source_bytes
            of.stored_bytes += stored_bytes

    def problem(self, of: DatasetCopy, tensor_id: str, kind: Literal["conflict", "failed"], message: str) -> None:
        """Count a tensor that was not copied, and keep the reason."""
        self.count(of, kind)
        with self._lock:
            if len(self._problems) < _PROBLEMS_MAX:
                self._problems.append(Problem(of.source, tensor_id, kind, message))

    def report(self, *, dry_run: bool, verified: bool) -> CopyReport:
        """Return what was counted."""
        with self._lock:
            datasets = tuple(replace(one) for one in self._datasets)
            return CopyReport(datasets, tuple(self._problems), dry_run, verified)
