"""Makes metadata of what the original kept beside a tensor: all of it that a store keeps, and a list of what is dropped.

None, bool, int, float, str, lists and dicts with text for keys stay what they are. NumPy scalars, dates, times, sets and
tuples become what `tensorus_protos.plain` makes of them, as they do where `TensorStorage` inserts them; a `timestamp_utc` that
is a time in ISO 8601 becomes seconds. Anything else cannot be kept, nor can what is above a limit of stores: the key that it
stands under is dropped, with its name and path. A key of a dict within is dropped alone; the keys around it stay.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus.old_files.errors import OldDataError
from tensorus.old_files.metadata_values import object_kind, object_length, object_value, set_items
from tensorus.old_files.pt_values import LongText, PickledObject, kind_of
from tensorus.old_files.record_values import read_text
from tensorus_protos.limits import METADATA_BYTES_MAX, METADATA_DEPTH_MAX
from tensorus_protos.plain import plain_set, seconds_since_1970
from tensorus_protos.rules import INTEGER_MAX, INTEGER_MIN, RuleError, require_metadata, to_json

if TYPE_CHECKING:
    from tensorus.old_files.pt_container import PtContainer
    from tensorus.old_files.pt_values import PickledText

__all__ = ["DroppedValue", "converted_metadata"]

SYSTEM_KEYS = frozenset(
    {"record_id", "timestamp_utc", "shape", "dtype", "version", "compressed", "compression_metadata"}
)
"""What the original itself wrote: dropped last."""

_CONVERTED_BYTES_MAX = 16 * METADATA_BYTES_MAX
"""Of all values of a record, before what is too much is dropped: a pickle may name one value a million times."""

_PATH_LENGTH_MAX = 200
"""Characters of a path in a report."""


@dataclass(frozen=True)
class DroppedValue:
    """A value of metadata that could not be kept."""

    name: str
    """What it is: "datetime.timedelta", "numpy.complex64", "an integer beyond 64 bits"."""
    path: str
    """Where it stood: "camera.taken_at", "tags[]"."""


class _NotKeptError(Exception):
    """Something under a key cannot be kept, and so neither can the key. Does not leave this module."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.dropped = DroppedValue(name, path if len(path) <= _PATH_LENGTH_MAX else path[:_PATH_LENGTH_MAX] + "...")


def converted_metadata(container: PtContainer, pickled: object) -> tuple[dict[str, Any], list[DroppedValue]]:
    """Return metadata that every store takes, and what was dropped for it.

    Args:
        container: where its longer texts are.
        pickled: an item of a dataset's `metadata`.
    """
    if not isinstance(pickled, dict):
        return {}, [DroppedValue(kind_of(pickled), "")]
    metadata: dict[str, Any] = {}
    dropped: list[DroppedValue] = []
    conversion = _Conversion(container, dropped)
    for key, value in pickled.items():
        metadata.update(conversion.top_level(key, value))
    if _excess(metadata) is not None:
        _fit(metadata, dropped)
    return metadata, dropped


def _excess(metadata: dict[str, Any]) -> str | None:
    """Return what there is too much of; None where a store takes it. Types and texts have been looked at before."""
    try:
        require_metadata(metadata)
    except RuleError as error:
        return f"more than {error.limit} bytes"
    return None


def _fit(metadata: dict[str, Any], dropped: list[DroppedValue]) -> None:
    """Drop what is too large by itself; then the largest of the user's values, and of the others, until the rest is not."""
    for key in list(metadata):
        excess = _excess({key: metadata[key]})
        if excess is not None:
            del metadata[key]
            dropped.append(DroppedValue(excess, key))
    sizes = {key: _json_bytes({key: value}) for key, value in metadata.items()}
    # Each was measured with braces, which make up for the comma between two.
    excess_bytes = sum(sizes.values()) - METADATA_BYTES_MAX
    for key in sorted(sizes, key=lambda key: (key in SYSTEM_KEYS, -sizes[key])):
        if excess_bytes <= 0:
            return
        del metadata[key]
        excess_bytes -= sizes[key]
        dropped.append(DroppedValue(f"more than {METADATA_BYTES_MAX} bytes in all", key))


class _Conversion:
    """The metadata of one record on its way."""

    def __init__(self, container: PtContainer, dropped: list[DroppedValue]) -> None:
        self._container = container
        self._dropped = dropped
        self._record_left_bytes = _CONVERTED_BYTES_MAX
        self._left_bytes = 0
        self._key = ""

    def top_level(self, key: object, value: object) -> dict[str, Any]:
        """Return the key with what is kept under it; nothing where that is nothing."""
        before = len(self._dropped)
        self._left_bytes = allowed_bytes = min(METADATA_BYTES_MAX, self._record_left_bytes)
        try:
            if not isinstance(key, str):
                raise _NotKeptError(kind_of(key), "")
            self._key = key
            name, kept = self._text(key, key), self._value(value, key, depth=1)
            return {name: _seconds(kept) if name == "timestamp_utc" else kept}
        except _NotKeptError as error:
            # What was dropped of a value that is now dropped as a whole.
            del self._dropped[before:]
            self._dropped.append(error.dropped)
            return {}
        finally:
            self._record_left_bytes -= allowed_bytes - self._left_bytes

    def _take(self, count: int) -> None:
        """Count bytes that a value has, at least."""
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise _NotKeptError(f"more than {METADATA_BYTES_MAX} bytes", self._key)

    def _value(self, value: object, path: str, depth: int) -> Any:  # `Any`: a value of metadata
        self._take(1)
        if isinstance(value, (str, LongText)):
            return self._text(value, path)
        if value is None or isinstance(value, (bool, int, float)):
            return _number(value, path)
        items = set_items(value) if isinstance(value, PickledObject) else None
        if depth >= METADATA_DEPTH_MAX and (items is not None or isinstance(value, (list, tuple, dict))):
            raise _NotKeptError(f"nested deeper than {METADATA_DEPTH_MAX} levels", path)
        if isinstance(value, (list, tuple)):
            return self._list(value, path, depth)
        if items is not None:
            return plain_set(self._list(items, path, depth))
        if isinstance(value, dict):
            return self._dict(value, path, depth)
        if isinstance(value, PickledObject):
            return self._object(value, path)
        raise _NotKeptError(kind_of(value), path)

    def _list(self, pickled: list[object] | tuple[object, ...], path: str, depth: int) -> list[Any]:
        return [self._value(item, f"{path}[]", depth + 1) for item in pickled]

    def _object(self, pickled: PickledObject, path: str) -> Any:  # `Any`: as of `_value`
        length = object_length(pickled)
        self._take(length)
        found = object_value(self._container, pickled)
        if found is None:
            raise _NotKeptError(object_kind(pickled), path)
        if not isinstance(found, str):
            return _number(found, path)
        # Not to be counted twice; what a text had more, zeros at its end, stays counted.
        self._left_bytes += min(length, len(found))
        return self._text(found, path)

    def _dict(self, pickled: dict[object, object], path: str, depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in pickled.items():
            try:
                if not isinstance(key, str):
                    raise _NotKeptError(kind_of(key), path)
                kept[self._text(key, path)] = self._value(value, f"{path}.{key}", depth + 1)
            except _NotKeptError as error:
                if self._left_bytes < 0:
                    raise
                self._dropped.append(error.dropped)
        return kept

    def _text(self, text: PickledText, path: str) -> str:
        self._take(text.length if isinstance(text, LongText) else len(text))
        try:
            found = read_text(self._container, text)
            found.encode()
        except (OldDataError, UnicodeEncodeError) as error:
            raise _NotKeptError("a text that is not Unicode", path) from error
        return found


def _number(value: object, path: str) -> object:
    if isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise _NotKeptError("an integer beyond 64 bits", path)
    return value


def _seconds(value: object) -> object:
    """Return a record's time in seconds since 1970; what is no time stays what it is."""
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            return seconds_since_1970(value)
    return value


def _json_bytes(metadata: dict[str, Any]) -> int:
    return len(to_json(metadata).encode())
