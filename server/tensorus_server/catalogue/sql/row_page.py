"""Reads the rows of one page, bounded by count and by their size in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_server.limits import PAGE_READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["read_page"]

_SMALL_PAGE = 100
"""Rows that may be in memory at once. With the largest metadata and inline payloads they take 8 MB."""


def read_page(
    connection: Connection,
    statement: str,
    parameters: list[Any],
    size: int,
    row_bytes: Callable[[tuple[Any, ...]], int],
) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the first rows of a statement, and whether there are more.

    Args:
        statement: should select one row more than `size`, to see whether the page is the last.
        size: largest number of rows.
        row_bytes: returns the approximate size of a row. A page ends with the row that brings it to `PAGE_READ_BYTES`.
    """
    rows: list[tuple[Any, ...]] = []
    left = PAGE_READ_BYTES
    # A scan takes more round trips to a server, so only pages that may be large are worth it.
    read = connection.execute if size <= _SMALL_PAGE else connection.scan
    for row in read(statement, parameters):
        if len(rows) == size or left <= 0:
            return rows, True
        rows.append(row)
        left -= row_bytes(row)
    return rows, False
