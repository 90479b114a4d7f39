"""What every module with statements needs: rows of one statement, and the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["now_us", "select"]


def now_us(connection: Connection) -> int:
    """Return the time of the database's clock, in microseconds since 1970."""
    return connection.now_us()


def select(connection: Connection, statement: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Return all rows of one statement. `Any`: the types of the columns are known only to the schema."""
    return connection.execute(statement, parameters).fetchall()
