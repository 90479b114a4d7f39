"""Inserts many rows with few statements."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

__all__ = ["insert_rows"]

_ROWS_AT_ONCE = (64, 16, 8, 7, 6, 5, 4, 3, 2, 1)
"""Rows of one INSERT: few sizes, so that the statements stay prepared. Each statement releases the GIL and has to reacquire it,
which costs about as much as inserting two rows."""


def insert_rows(connection: apsw.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of equal length, many in one statement."""
    start = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - start >= size:
            part = rows[start : start + size]
            connection.execute(_insert_statement(insert, len(part[0]), size), tuple(chain.from_iterable(part)))
            start += size


@cache
def _insert_statement(insert: str, columns: int, rows: int) -> str:
    return insert + ",".join([f"({','.join('?' * columns)})"] * rows)
