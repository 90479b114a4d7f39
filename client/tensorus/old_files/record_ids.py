"""Gives every record of an old file an id of its own.

The original let a user's id be anything, and twice: of two, it only ever found the first. The first keeps it, here; the others
are called `<id>-2`, `<id>-3`, and so on, past ids that there are. A record without an id, or with one that no store takes, is
called `record-<position>`. All of it follows from the file alone, so that a file imported twice has the same ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus.old_files.errors import OldDataError
from tensorus.old_files.metadata_values import object_kind, object_length, object_value
from tensorus.old_files.pt_values import LongText, PickledObject, kind_of
from tensorus.old_files.record_values import read_text
from tensorus_protos.limits import ID_BYTES_MAX
from tensorus_protos.rules import RuleError, require_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus.old_files.pt_container import PtContainer

__all__ = ["RecordId", "unique_ids"]


@dataclass(frozen=True)
class RecordId:
    """A record's id in the store."""

    id: str
    renamed_from: str | None = None
    """What it was in the file, where that is something else."""
    reason: str = ""
    """Why it is something else."""


def unique_ids(container: PtContainer, metadata: Sequence[object], count: int) -> Iterator[RecordId]:
    """Yield the ids of a file's records, in order. Memory: all ids.

    Args:
        container: where longer texts are.
        metadata: the file's; may be shorter than `count`.
    """
    wanted = [_wanted(container, metadata[position] if position < len(metadata) else None) for position in range(count)]
    taken = {record_id.id for record_id in wanted if not record_id.reason}
    used: set[str] = set()
    again: Counter[str] = Counter()
    for position, found in enumerate(wanted):
        record_id = found
        if found.reason:
            name = _free(f"record-{position}", taken, again)
            record_id = RecordId(name, found.renamed_from, found.reason)
        elif found.id in used:
            name = _free(found.id, taken, again)
            record_id = RecordId(name, found.id, f"a record before it has the id {found.id!r}, too")
        used.add(record_id.id)
        yield record_id


def _free(name: str, taken: set[str], again: Counter[str]) -> str:
    """Return the name, or the next one like it that no record has; from then on it is taken."""
    # A number is put at the end, where a limit must not be broken by it.
    stem = name.encode()[: ID_BYTES_MAX - 12].decode(errors="ignore")
    while name in taken:
        again[stem] = max(again[stem], 1) + 1
        name = f"{stem}-{again[stem]}"
    taken.add(name)
    return name


def _wanted(container: PtContainer, pickled: object) -> RecordId:
    """Return the id that a record has; one with a reason where no store takes it."""
    value = pickled.get("record_id") if isinstance(pickled, dict) else None
    if value is None:
        return RecordId("", None, "it has no id")
    if isinstance(value, LongText):
        try:
            value = read_text(container, value) if value.length <= ID_BYTES_MAX else value
        except OldDataError as error:
            return RecordId("", kind_of(value), f"its id cannot be read: {error}")
    if isinstance(value, PickledObject):
        kind = object_kind(value)
        value = object_value(container, value) if object_length(value) <= ID_BYTES_MAX else None
        if value is None:
            return RecordId("", kind, f"its id is a {kind}, which cannot be kept")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return RecordId("", kind_of(value), f"its id is a {kind_of(value)}, which cannot be kept")
    text = str(value)
    try:
        require_id(text)
    except RuleError as error:
        return RecordId("", text[:80], str(error))
    return RecordId(text)
