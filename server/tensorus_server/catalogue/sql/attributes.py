"""The table of attributes, which filters use: dimensions and metadata of tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.sql.filter_sql import DIMENSION_KEY, LEFT_OUT_KEY, LEFT_OUT_MANY_KEY
from tensorus_server.filter.metadata_index import without_long_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.filter.metadata_index import MetadataIndex

__all__ = ["attributes", "insert_attributes"]

_INSERT = "INSERT INTO attr (seq, key, ordinal, ds, num, txt) VALUES "


def insert_attributes(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows that `attributes` returned."""
    connection.insert_rows(_INSERT, rows)


def attributes(
    ds: int, seq: int, index: MetadataIndex, shape: tuple[int, ...], text_bytes_max: int | None
) -> list[tuple[Any, ...]]:
    """Return the rows that filters use: a tensor's dimensions and metadata, and the keys that the index leaves out.

    Args:
        text_bytes_max: keys that are longer, or have longer texts, are left out, too; None: none is.
    """
    if text_bytes_max is not None and index.values:
        index = without_long_texts(index, text_bytes_max)
    rows: list[tuple[Any, ...]] = [(seq, key, axis, ds, size, None) for axis, (key, size) in _dimensions(shape)]
    for position, (key, value) in enumerate(index.values, len(rows)):
        number, text = (value, None) if isinstance(value, float) else (None, value)
        rows.append((seq, key, position, ds, number, text))
    if index.left_out is None:
        rows.append((seq, LEFT_OUT_MANY_KEY, 0, ds, None, None))
    else:
        rows += [(seq, LEFT_OUT_KEY, position, ds, None, key) for position, key in enumerate(index.left_out)]
    return rows


@lru_cache(maxsize=1024)
def _dimensions(shape: tuple[int, ...]) -> tuple[tuple[int, tuple[str, float]], ...]:
    """Return the number of each axis, with its key and value."""
    return tuple(enumerate((f"{DIMENSION_KEY}{axis}", float(size)) for axis, size in enumerate(shape)))
