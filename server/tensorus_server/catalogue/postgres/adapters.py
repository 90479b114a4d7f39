r"""How Python's values become parameters of PostgreSQL's statements.

Each Python type becomes one type of PostgreSQL, so that a statement is prepared once, whatever its parameters are.

PostgreSQL's texts cannot have NUL characters, which metadata may have. So U+0000 becomes U+0001 U+0001, and U+0001 becomes
U+0001 U+0002: different texts stay different, in the same order, and a prefix stays a prefix. Only attributes of tensors can
have such characters, and they are never read back, so there is no way back. Names and ids have none, and JSON escapes them.

As SQLite does, NaN becomes NULL, and -0.0 becomes 0.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.types.numeric import FloatBinaryDumper, Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import Buffer

__all__ = ["escaped", "set_up"]


def escaped(text: str) -> str:
    """Return the text as PostgreSQL can have it, in the same order as others."""
    return text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")


class _TextDumper(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer | None:
        return escaped(obj).encode() if "\x00" in obj or "\x01" in obj else obj.encode()


class _FloatDumper(FloatBinaryDumper):
    def dump(self, obj: float) -> Buffer | None:
        # NaN is the only value that differs from itself.
        return None if obj != obj else super().dump(obj + 0.0)  # noqa: PLR0124 - see above


def set_up(connection: psycopg.Connection[object]) -> None:
    """Make a connection convert values as the module says."""
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    connection.adapters.register_dumper(float, _FloatDumper)
    connection.adapters.register_dumper(str, _TextDumper)
