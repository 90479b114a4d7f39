"""Rows of one page: bounded by count and by the bytes that they hold in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_server.limits import PAGE_READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

__all__ = ["read_page"]


def read_page(
    connection: apsw.Connection,
    statement: str,
    parameters: list[Any],
    size: int,
    row_bytes: Callable[[tuple[Any, ...]], int],
) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the first rows of a statement, and whether there are more.

    Args:
        statement: should ask for one row more than `size`, to see whether the page is the last.
        size: rows, at most.
        row_bytes: returns about how large a row is. A page ends with the row that takes it to `PAGE_READ_BYTES`.
    """
    rows: list[tuple[Any, ...]] = []
    left = PAGE_READ_BYTES
    cursor = connection.execute(statement, parameters)
    for row in cursor:
        if len(rows) == size or left <= 0:
            cursor.close()
            return rows, True
        rows.append(row)
        left -= row_bytes(row)
    return rows, False
