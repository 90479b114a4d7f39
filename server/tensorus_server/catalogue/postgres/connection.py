"""A connection to PostgreSQL within one transaction, for the tables of `catalogue/sql`."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from psycopg import RawCursor, RawServerCursor

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.postgres.postgres_errors import UNREADABLE
from tensorus_server.catalogue.postgres.translation import copy_statement, insert_statement, translated
from tensorus_server.filter.metadata_index import holds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import psycopg

    from tensorus_server.catalogue.sql.connection import Sql
    from tensorus_server.filter.tree import Compare, Exists, OneOf, Prefix

__all__ = ["INDEXED_TEXT_BYTES_MAX", "PostgresConnection"]

INDEXED_TEXT_BYTES_MAX = 1000
"""Longest key, and longest text, of an attribute. An entry of an index has a third of a page at most, 2,704 bytes."""

_FETCHED = 100
"""Rows that a scan has in memory at a time. With the largest metadata and inline payloads they take 8 MB."""

_COPIED_MIN = 8
"""Rows that are sent by COPY rather than INSERT. COPY takes one more round trip, and less time for each row."""

_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


class PostgresConnection:
    """Implements `Connection`, for one transaction."""

    unreadable: tuple[type[Exception], ...] = UNREADABLE
    indexed_text_bytes_max: int | None = INDEXED_TEXT_BYTES_MAX

    def __init__(self, raw: psycopg.Connection[Any], begin: str, *, reads: bool, now_us: int | None = None) -> None:
        """Use a connection whose transaction has begun.

        Args:
            begin: the statements that began it.
            reads: whether it only reads.
            now_us: the server's time at its begin, if known.
        """
        self._raw = raw
        self._begin = begin
        self._reads = reads
        self._now_us = now_us
        self._changes = 0
        self._is_careful = False

    def execute(self, statement: str, parameters: Sequence[Any] | None = None, /) -> _Rows:
        """See `Connection`."""
        try:
            return self._executed(statement, parameters)
        except self.unreadable:
            # A scan may have met damage that an index leads past.
            if not self._begin_again():
                raise
        try:
            return self._executed(statement, parameters)
        except self.unreadable:
            self._begin_again()
            raise

    def _executed(self, statement: str, parameters: Sequence[Any] | None) -> _Rows:
        cursor: RawCursor[Any] = RawCursor(self._raw)
        cursor.execute(translated(statement), parameters, binary=True)
        self._changes = cursor.rowcount
        result = cursor.pgresult
        return _Rows(cursor.fetchall() if result is not None and result.nfields else [])

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]], /) -> None:
        """See `Connection`."""
        with RawCursor(self._raw) as cursor:
            cursor.executemany(translated(statement), parameters)
            self._changes = cursor.rowcount

    def changes(self) -> int:
        """See `Connection`."""
        return self._changes

    def scan(self, statement: str, parameters: Sequence[Any] | None = None, /) -> Iterator[tuple[Any, ...]]:
        """See `Connection`. The server keeps the rest."""
        cursor: RawServerCursor[Any] = RawServerCursor(self._raw, "scan")
        with cursor:
            cursor.itersize = _FETCHED
            cursor.execute(translated(statement), parameters, binary=True)
            yield from cursor

    def insert_rows(self, insert: str, rows: Sequence[tuple[Any, ...]], /) -> None:
        """See `Connection`."""
        if len(rows) >= _COPIED_MIN:
            with RawCursor(self._raw) as cursor, cursor.copy(copy_statement(insert)) as copy:
                for row in rows:
                    copy.write_row(row)
        elif rows:
            statement = insert_statement(insert, len(rows[0]), len(rows))
            RawCursor(self._raw).execute(statement, tuple(chain.from_iterable(rows)))

    def now_us(self) -> int:
        """Return the server's time, always the same within a transaction."""
        if self._now_us is None:
            ((self._now_us,),) = self.execute(_CLOCK).fetchall()
        assert self._now_us is not None
        return self._now_us

    def goes_on_after(self, error: Exception, /) -> bool:
        """See `Connection`. A read began anew; a write is rolled back, unless only Python could not read a text."""
        return self._reads or isinstance(error, UnicodeDecodeError)

    def metadata_condition(
        self, node: Compare | OneOf | Exists | Prefix, candidates: Sql, *, tensor: str, ds: int
    ) -> Sql:
        """See `Connection`. Reads the metadata of all candidates of the dataset first, since the server cannot decide."""
        marked, marks = candidates
        found = self.scan(f"SELECT t.seq, t.metadata FROM {tensor} t WHERE t.ds = ? AND {marked}", [ds, *marks])
        seqs = [seq for seq, metadata in found if holds(node, metadata)]
        return "t.seq IN (SELECT CAST(value AS BIGINT) FROM json_each(?))", [to_json(seqs)]

    def delete_against_indexes(self, ds: int, tensor_id: str, returned: str, /) -> list[tuple[Any, ...]]:
        """See `Connection`."""
        for kind in ("indexscan", "indexonlyscan", "bitmapscan"):
            self._raw.execute(f"SET LOCAL enable_{kind} = off".encode())
        rows = self.execute(f"DELETE FROM tensor WHERE ds = ? AND id = ? RETURNING {returned}", (ds, tensor_id))
        self._raw.execute("REINDEX TABLE tensor")
        return rows.fetchall()

    def table_damage(self, table: str, /) -> str | None:
        """See `Connection`. Reads every page; the server verifies their checksums if it has any."""
        try:
            self._raw.execute("SET LOCAL enable_indexonlyscan = off")
            self.execute(f"SELECT count(*) FROM {table}")
        except self.unreadable as error:
            return str(error)
        return None

    def _begin_again(self) -> bool:
        """After damage, which ends a transaction on the server, let a read go on with the rows that are not damaged.

        It then sees a newer state, and looks up rows in indexes alone. Returns whether it did not before.
        """
        if not self._reads or self._raw.closed or self._raw.info.transaction_status.name != "INERROR":
            return False
        was_careful, self._is_careful = self._is_careful, True
        self._raw.execute("ROLLBACK", prepare=False)
        self._raw.execute(f"{self._begin}; SET LOCAL enable_seqscan = off".encode(), prepare=False)
        return not was_careful


class _Rows:
    """The rows of a statement, as of a cursor."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)
