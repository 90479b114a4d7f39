"""What an index holds of a tensor's metadata, and the filter on what it leaves out.

A tensor has at most `INDEXED_VALUES_MAX` values in the index, so that storing it takes a bounded time. A key is indexed with
all of its values or not at all: those of few values come first, so that a long list leaves room for everything else. The tensor
is marked with the keys that were left out. A filter on such a key reads the metadata of the tensors that are marked with it:
slower, and with the same result.
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

__all__ = ["NO_METADATA", "MetadataIndex", "holds", "index_of"]

_NAMED_KEYS_MAX = 32
"""Keys that a tensor is marked with one by one. One that leaves out more is looked at by every filter on metadata."""

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
    """What the index holds of one tensor."""

    values: Sequence[tuple[str, float | str | None]]
    """Keys and values, as of `flatten_metadata`."""
    left_out: Sequence[str] | None = ()
    """Keys that are there, and not in `values`; None: too many to name."""


NO_METADATA = MetadataIndex(())
"""Of a tensor without metadata: most have none, and are not to pay for an index."""


def index_of(metadata: dict[str, Any]) -> MetadataIndex:
    """Return what the index is to hold of `metadata`."""
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


def holds(node: Compare | OneOf | Exists | Prefix, metadata: str) -> bool:
    """Return whether a condition on a key holds for metadata, which are JSON.

    What is no JSON meets no condition: whoever reads that tensor is told of the damage.
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
    # The last one is kept: a filter has several conditions, and all are asked of one tensor before the next.
    parsed: dict[str, Any] = json.loads(metadata)
    return parsed


def _values(metadata: dict[str, Any], name: str) -> list[float | str | None]:
    """Return what `flatten_metadata` returns for one key, without looking at the others."""
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
