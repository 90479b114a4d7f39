"""What became of old data: of every record, and of every file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tensorus.old_files.metadata import DroppedValue

__all__ = [
    "STATUSES",
    "DroppedCount",
    "FileReport",
    "ImportSummary",
    "RecordOutcome",
    "Status",
    "dropped_counts",
    "status_counts",
    "summary_of",
]

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
    """What is to be said of the file, such as that its lists have unequal lengths."""
    left_out: tuple[str, ...] = ()
    """What of the file, beside its records, could not be kept: parts of its schema, parts that the original did not write."""
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
        """Whether a record of the file is not imported, or all of it."""
        return bool(self.error) or self.counts["failed"] > 0


@dataclass(frozen=True)
class ImportSummary:
    """What became of some files, in numbers. `str` of it is one line."""

    datasets: int
    """Files."""
    failed_datasets: int
    """Those of which nothing is imported."""
    records: int
    counts: dict[Status, int]
    """How many records became what."""
    dropped_values: int
    """Values of metadata that could not be kept, of records that did not fail."""
    left_out: int
    """See `FileReport.left_out`."""

    @property
    def failed(self) -> bool:
        """Whether anything is not imported."""
        return self.failed_datasets > 0 or self.counts["failed"] > 0

    @property
    def dropped(self) -> bool:
        """Whether something of what is imported could not be kept."""
        return self.dropped_values > 0 or self.left_out > 0

    def __str__(self) -> str:
        """Return all but what there is nothing of."""
        said = [f"{count} {status}" for status, count in self.counts.items() if count or status == "imported"]
        said += [f"{_counted(self.dropped_values, 'value')} of metadata dropped"] * bool(self.dropped_values)
        said += [f"{_counted(self.left_out, 'other part')} left out"] * bool(self.left_out)
        said += [f"{_counted(self.failed_datasets, 'dataset')} not imported"] * bool(self.failed_datasets)
        return f"{_counted(self.records, 'record')} in {_counted(self.datasets, 'dataset')}: {', '.join(said)}"


def summary_of(reports: Sequence[FileReport]) -> ImportSummary:
    """Return what became of all these files."""
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    return ImportSummary(
        datasets=len(reports),
        failed_datasets=sum(bool(report.error) for report in reports),
        records=len(outcomes),
        counts=status_counts(outcomes),
        dropped_values=sum(len(outcome.dropped) for outcome in outcomes if outcome.status != "failed"),
        left_out=sum(len(report.left_out) for report in reports),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def status_counts(outcomes: Iterable[RecordOutcome]) -> dict[Status, int]:
    """Return how many records became what; every status is there."""
    counts = Counter(outcome.status for outcome in outcomes)
    return {status: counts[status] for status in STATUSES}


def dropped_counts(outcomes: Iterable[RecordOutcome]) -> tuple[DroppedCount, ...]:
    """Return what was dropped of all of them, the most frequent first."""
    counts = Counter(dropped for outcome in outcomes for dropped in outcome.dropped)
    return tuple(DroppedCount(dropped.name, dropped.path, count) for dropped, count in counts.most_common())
