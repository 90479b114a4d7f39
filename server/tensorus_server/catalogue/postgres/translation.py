"""Rewrites the statements of `catalogue/sql` to PostgreSQL's SQL.

What is rewritten, all of it by form alone:

    ?, ?1                               $1: numbered in order, or by their own number
    NOT INDEXED, INDEXED BY name        nothing: hints for SQLite's planner
    a CROSS JOIN b ON                   a JOIN b ON: the word CROSS is such a hint, too
    CAST(x AS BLOB)                     bytes_of(x): a cast to bytea would interpret backslashes
    sqlite_sequence                     counter

SQLite's functions that the statements use are functions of the schema; see `migrations/0001_initial.sql`.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["copy_statement", "insert_statement", "translated"]

_FORM = re.compile(
    r"""
    (?P<quoted> '[^']*' | "[^"]*" )
    | \? (?P<number> \d* )
    | \b (?P<hint> NOT\ INDEXED | INDEXED\ BY\ \w+ ) \b
    | \b (?P<cross> CROSS\ JOIN ) \b
    | CAST\( (?P<blob> (?: [^()'] | '[^']*' )+? ) \ AS\ BLOB \)
    | \b (?P<counter> sqlite_sequence ) \b
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=2048)
def translated(statement: str) -> str:
    """Return the statement for PostgreSQL."""
    count = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal count
        if found["quoted"] is not None:
            return found["quoted"]
        if found["number"] is not None:
            count += 1
            return f"${found['number'] or count}"
        if found["blob"] is not None:
            return f"bytes_of({_FORM.sub(replaced, found['blob'])})"
        if found["cross"] is not None:
            return "JOIN"
        return "counter" if found["counter"] is not None else ""

    return _FORM.sub(replaced, statement)


@lru_cache(maxsize=64)
def copy_statement(insert: str) -> str:
    """Return the COPY for rows of an INSERT, which is given up to VALUES."""
    table = insert.removeprefix("INSERT INTO ").removesuffix(" VALUES ")
    return f"COPY {table} FROM STDIN (FORMAT BINARY)"


@lru_cache(maxsize=256)
def insert_statement(insert: str, columns: int, rows: int) -> str:
    """Return the INSERT of several rows; `insert` is the statement up to VALUES."""
    numbers = iter(range(1, columns * rows + 1))
    return insert + ", ".join(f"({', '.join(f'${next(numbers)}' for _ in range(columns))})" for _ in range(rows))
