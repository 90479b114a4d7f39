"""What every module with statements needs: rows of one statement, and the time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import apsw

__all__ = ["now_us", "select"]


def now_us() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000


def select(
    connection: apsw.Connection, statement: str, parameters: apsw.Bindings | None = None
) -> list[tuple[Any, ...]]:
    """Return all rows of one statement. `Any`: the types of the columns are known only to the schema."""
    return connection.execute(statement, parameters).fetchall()
