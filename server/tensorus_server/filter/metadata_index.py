"""Chooses which metadata of a tensor the index holds, and evaluates conditions on the rest.

The index holds at most `INDEXED_VALUES_MAX` values of a tensor, so that storing one takes a bounded time. A key is indexed with
all of its values or not at all. Keys with few values come first, so that a long list does not displace everything else. The
tensor's row lists the keys that were left out. A filter on such a key reads the metadata of the tensors that list it, which is
slower but gives the same result.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tensorus_server.filter.tree import Exists, Key, OneOf, Operator, Prefix, flatten_metadata, indexed, join_key
from tensorus_server.limits import INDEXED_VALUES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.filter.tree import Compare

__all__ = ["NO_METADATA", "MetadataIndex", "holds", "index_of", "without_long_texts"]

_NAMED_KEYS_MAX = 32
"""Left-out keys that a tensor lists by name. If more were left out, every filter on metadata reads that tensor's metadata."""

_COMPARISONS: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


@dataclass(frozen=True)
class MetadataIndex:
    """The index entries of one tensor."""

    values: Sequence[tuple[str, float | str | None]]
    """Keys and values, in the form of `flatten_metadata`."""
    left_out: Sequence[str] | None = ()
    """Keys of the metadata that `values` leaves out; None: too many to list."""


NO_METADATA = MetadataIndex(())
"""The index of a tensor without metadata. Most tensors have none, and share this object."""


def index_of(metadata: dict[str, Any]) -> MetadataIndex:
    """Return the index entries for `metadata`."""
    values = flatten_metadata(metadata)
    if len(values) <= INDEXED_VALUES_MAX:
        return MetadataIndex(values)
    left = INDEXED_VALUES_MAX
    whole = set()
    counts = Counter(key for key, _ in values)
    for key, count in sorted(counts.items(), key=operator.itemgetter(1)):
        if count > left:
            break
        whole.add(key)
        left -= count
    left_out = [key for key in counts if key not in whole]
    kept = [(key, value) for key, value in values if key in whole]
    return MetadataIndex(kept, left_out if len(left_out) <= _NAMED_KEYS_MAX else None)


def without_long_texts(index: MetadataIndex, bytes_max: int) -> MetadataIndex:
    """Return the index without keys that are longer than `bytes_max` bytes of UTF-8, or have longer texts.

    NUL characters count twice, since PostgreSQL has to escape them.
    """

    def is_long(text: object) -> bool:
        return isinstance(text, str) and len(text.encode()) + text.count("\0") + text.count("\1") > bytes_max

    left_out = {key for key, value in index.values if is_long(value) or is_long(key)}
    if not left_out:
        return index
    if index.left_out is not None:
        left_out.update(index.left_out)
    kept = [(key, value) for key, value in index.values if key not in left_out]
    is_listed = index.left_out is not None and len(left_out) <= _NAMED_KEYS_MAX and not any(map(is_long, left_out))
    return MetadataIndex(kept, sorted(left_out) if is_listed else None)


def holds(node: Compare | OneOf | Exists | Prefix, metadata: str) -> bool:
    """Evaluate a condition on a key for metadata in JSON.

    If the metadata is damaged and not JSON, no condition holds; reading the tensor reports the damage.
    """
    assert isinstance(node.field, Key)
    try:
        values = _values(_parsed(metadata), node.field.name)
    except ValueError:
        return False
    if isinstance(node, Exists):
        return bool(values)
    if isinstance(node, Prefix):
        return any(isinstance(value, str) and value.startswith(node.text) for value in values)
    if isinstance(node, OneOf):
        wanted = {indexed(value) for value in node.values}
        return any(value in wanted for value in values if value is not None)
    limit, compare = indexed(node.value), _COMPARISONS[node.operator]
    return any(compare(value, limit) for value in values if type(value) is type(limit) and value is not None)


@lru_cache(maxsize=1)
def _parsed(metadata: str) -> dict[str, Any]:
    # Caching one suffices: all conditions of a filter are evaluated for one tensor before the next.
    parsed: dict[str, Any] = json.loads(metadata)
    return parsed


def _values(metadata: dict[str, Any], name: str) -> list[float | str | None]:
    """Return the values that `flatten_metadata` returns for one key, without visiting the other keys."""
    found: list[float | str | None] = []
    pending: list[tuple[str | None, object]] = [(None, metadata)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, dict) and (value or place is None):
            for key, item in value.items():
                part = join_key([key])
                inner = part if place is None else f"{place}.{part}"
                if name == inner or name.startswith(f"{inner}."):
                    pending.append((inner, item))
        elif isinstance(value, list) and value:
            pending += [(place, item) for item in value if isinstance(item, (dict, list))]
            if place == name:
                found += [indexed(item) for item in value if not isinstance(item, (dict, list))]
        elif place == name:
            found.append(indexed(value))
    return found
