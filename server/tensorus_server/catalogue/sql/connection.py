"""The interface between the statements of this package and a connection to a database.

Statements are written in SQLite's SQL, as far as another database has it, too: ON CONFLICT rather than OR IGNORE, TRUE rather
than 1, `IS NOT DISTINCT FROM` rather than IS, an alias for each subquery in FROM. A connection to another database rewrites the
few things that differ; see `catalogue/postgres/translation.py`. What a rewriting cannot express is a method here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tensorus_server.filter.tree import Compare, Exists, OneOf, Prefix

__all__ = ["Connection", "Cursor", "Sql"]

Sql: TypeAlias = "tuple[str, list[Any]]"
"""A condition and its parameters."""


class Cursor(Protocol):
    """The rows of one statement."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows; none for a statement without rows."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows."""


class Connection(Protocol):
    """A connection within a transaction. Used by one thread at a time."""

    unreadable: tuple[type[Exception], ...]
    """Errors from reading a row with a damaged page, or with text that is not UTF-8. The statement then returns no rows."""

    indexed_text_bytes_max: int | None
    """The longest keys and texts that the table of attributes can have; None: any."""

    def execute(self, statement: str, parameters: Sequence[Any] | None = None, /) -> Cursor:
        """Run one statement, with parameters for its `?` or `?1`."""

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each sequence of parameters."""

    def changes(self) -> int:
        """Return how many rows the last INSERT, UPDATE or DELETE changed."""

    def scan(self, statement: str, parameters: Sequence[Any] | None = None, /) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of one statement, of which only a bounded part is in memory at a time."""

    def insert_rows(self, insert: str, rows: Sequence[tuple[Any, ...]], /) -> None:
        """Insert rows of equal length.

        Args:
            insert: the statement up to VALUES.
        """

    def now_us(self) -> int:
        """Return the time of the database's clock, in microseconds since 1970. It may stay the same within a transaction."""

    def goes_on_after(self, error: Exception, /) -> bool:
        """Whether the transaction can go on after one of the errors in `unreadable`."""

    def metadata_condition(
        self, node: Compare | OneOf | Exists | Prefix, candidates: Sql, *, tensor: str, ds: int
    ) -> Sql:
        """Return a condition on the row `t`: a condition on a key that the index leaves out, decided by its metadata.

        Args:
            candidates: a condition on `t` for the rows whose metadata decide; the condition returned includes it.
            tensor: the table of `t`.
            ds: the dataset's number.
        """

    def delete_against_indexes(self, ds: int, tensor_id: str, returned: str, /) -> list[tuple[Any, ...]]:
        """Delete a tensor's row although it and its indexes disagree, mend the indexes, and return columns of the row.

        Raises an error in `unreadable` if that is not possible.
        """

    def table_damage(self, table: str, /) -> str | None:
        """Read a whole table and its indexes, and return what is wrong with their structure; None: nothing."""
