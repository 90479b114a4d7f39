"""What became of old data: of every record, and of every file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorus_server.importers.old_metadata import DroppedValue

__all__ = ["STATUSES", "DroppedCount", "FileReport", "RecordOutcome", "Status", "dropped_counts", "status_counts"]

Status: TypeAlias = Literal["imported", "present", "repaired", "lossy", "failed"]
"""imported: the values are as they were inserted. present: the store had this very record before. repaired: the values are as
they were inserted, though the original itself gave others. lossy: the original had lost something of the values before it
wrote them; what is left is imported. failed: nothing of the record is imported."""

STATUSES: tuple[Status, ...] = ("imported", "present", "repaired", "lossy", "failed")


@dataclass(frozen=True)
class RecordOutcome:
    """What became of one record."""

    position: int
    """In the file, from 0."""
    id: str
    """Under which it is, or would be, in the store."""
    status: Status
    reason: str = ""
    """Why it is not plainly imported; empty where there is nothing to say."""
    saturated_count: int = 0
    """Elements of which the original kept only that they lay beyond the others; then it is lossy."""
    renamed_from: str | None = None
    """Its id in the file, where that was taken by a record before it, or is none that a store takes."""
    dropped: tuple[DroppedValue, ...] = ()
    """What of its metadata could not be kept."""

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to say of it."""
        return self.status == "present" or (self.status == "imported" and not self.reason)


@dataclass(frozen=True)
class DroppedCount:
    """How often something was dropped of the metadata of a file's records."""

    name: str
    """See `DroppedValue`; likewise `path`."""
    path: str
    count: int


@dataclass(frozen=True)
class FileReport:
    """What became of one file, which is one dataset."""

    file: str
    """Its path."""
    dataset: str
    """Its name in the store."""
    file_bytes: int
    error: str = ""
    """Why the file as a whole is not imported, and nothing of it is in the store; empty where it is."""
    generation: int | None = None
    """1 to 3: which versions of the original wrote such files; None where that is not known."""
    notes: tuple[str, ...] = ()
    """What is to be said of the file: lists of unequal lengths, a schema that could not be kept."""
    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    """How many records became what."""
    saturated_records: int = 0
    """How many of the lossy ones have saturated elements."""
    outcomes: tuple[RecordOutcome, ...] = ()
    """Of every record, in order."""
    dropped: tuple[DroppedCount, ...] = ()
    """What of all metadata could not be kept, and what no record could be made of: the most frequent first."""

    @property
    def failed(self) -> bool:
        """Whether anything of the file is not imported."""
        return bool(self.error) or self.counts["failed"] > 0


def status_counts(outcomes: Iterable[RecordOutcome]) -> dict[Status, int]:
    """Return how many records became what; every status is there."""
    counts = Counter(outcome.status for outcome in outcomes)
    return {status: counts[status] for status in STATUSES}


def dropped_counts(outcomes: Iterable[RecordOutcome]) -> tuple[DroppedCount, ...]:
    """Return what was dropped of all of them, the most frequent first."""
    counts = Counter(dropped for outcome in outcomes for dropped in outcome.dropped)
    return tuple(DroppedCount(dropped.name, dropped.path, count) for dropped, count in counts.most_common())
