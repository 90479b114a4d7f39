"""The table of packs: what rows name of each, the tensors that move to a new pack, and the packs that nothing needs.

Everything that decides about a pack runs in a transaction that writes, one after the other. So a commit that lets one more
tensor read a payload comes before a move, which then takes that tensor along, or after it, and then finds no row with the old
key to share.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.abc import (
    PackContent,
    PackedPayload,
    PackTable,
    PackTotals,
    WriterLostError,
    packed_key,
)
from tensorus_server.catalogue.sql.members import in_parts, marks
from tensorus_server.catalogue.sql.row_checksum import MALFORMED
from tensorus_server.catalogue.sql.rows import (
    ROW_CHECKSUM_COLUMNS,
    TENSOR_COLUMNS,
    RowDamageError,
    checksum_of_row,
    verified,
)
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import StoreBusyError
from tensorus_server.limits import MOVED_ROWS_MAX
from tensorus_server.payload_keys import PACK_PREFIX, PackedKey, keys_of_pack, parse_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tensorus_server.catalogue.abc import MemberTable, StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["SqlPackTable", "mark_packs", "require_packs"]

_DAY_US = 24 * 3600 * 1_000_000

_STEP = 10_000
"""Keys that one statement of `totals` returns."""

_NEEDED = (
    ("tensor", "key", "inline = 0 AND"),
    ("past_tensor", "key", "inline = 0 AND"),
    ("reference", "key", ""),
    ("payload_base", "base", ""),
)
"""Tables whose rows need a payload, with the column of its key, and what limits an index of it."""

_PACKS = "SELECT pack, object_bytes, checked_us FROM pack WHERE object_bytes > 0"
_DUE = f"""
SELECT pack, object_bytes FROM (
  SELECT * FROM ({_PACKS} AND checked_us IS NULL ORDER BY pack LIMIT ?) AS marked
  UNION ALL SELECT * FROM ({_PACKS} AND checked_us < ? ORDER BY checked_us LIMIT ?) AS old
  UNION ALL SELECT * FROM ({_PACKS} AND checked_us > ? ORDER BY checked_us LIMIT ?) AS ahead
) AS due ORDER BY coalesce(checked_us, 0), pack LIMIT ?
"""
"""Three parts, so that an index has the first rows of each. If the clock was set back, a pack is due at once."""

_CONTENT = """
SELECT key, sum(held), max(naming) FROM (
  SELECT key, 1 AS held, 0 AS naming FROM tensor WHERE inline = 0 AND key >= ? AND key < ?
  UNION ALL SELECT key, 1, 0 FROM past_tensor WHERE inline = 0 AND key >= ? AND key < ?
  UNION ALL SELECT key, 0, 1 FROM reference WHERE key >= ? AND key < ?
  UNION ALL SELECT base, 0, 1 FROM payload_base WHERE base >= ? AND base < ?
  UNION ALL SELECT key, 0, 0 FROM tombstone WHERE key >= ? AND key < ?
) AS named GROUP BY key ORDER BY key
"""

_ROWS = (
    "SELECT CAST(key AS BLOB) FROM tensor NOT INDEXED",
    "SELECT CAST(key AS BLOB) FROM past_tensor NOT INDEXED",
)
_IN_PACKS = " WHERE (key >= 'p' AND key < 'q') OR (inline <> 1 AND NOT (key >= 's' AND key < 't'))"
"""Keys of payloads in packs, and keys that nothing in an object store has."""

_IS_USED = " UNION ALL ".join(
    f"SELECT 1 FROM {table} WHERE {limit} {column} >= ? AND {column} < ?"
    for table, column, limit in (*_NEEDED, ("tombstone", "key", ""))
)

_NAMED = ("SELECT key FROM reference WHERE key IN [keys]", "SELECT base FROM payload_base WHERE base IN [keys]")
_TENSORS = ("tensor", "past_tensor")
_COUNTED = "SELECT key, count(*) FROM {} WHERE inline = 0 AND key IN [keys] GROUP BY key"

_ADD = (
    "INSERT INTO pack (pack, object_bytes, sealed_us, checked_us) VALUES (?, ?, ?, NULL) ON CONFLICT (pack) DO NOTHING"
)

_TOMBSTONE = """
INSERT INTO tombstone (key, delete_after_us) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET delete_after_us = excluded.delete_after_us
"""

_NAMES = ", ".join(f'"{name}"' for name in TENSOR_COLUMNS)
_HAVING = f"SELECT {_NAMES} FROM {{}} WHERE inline = 0 AND key IN [keys]"
_MOVED_AT_ONCE = 64
"""Payloads whose rows are in memory together."""

_SEQ, _DS, _KEY = (TENSOR_COLUMNS.index(name) for name in ("seq", "ds", "key"))
_CHECKED = [TENSOR_COLUMNS.index(name) for name in ROW_CHECKSUM_COLUMNS]

_PACKED_KEYS = " UNION ".join(
    f"SELECT key FROM (SELECT DISTINCT {column} AS key FROM {table} WHERE {limit} {column} > ? AND {column} < 'q' "
    f"ORDER BY {column} LIMIT ?) AS {table}_keys"
    for table, column, limit in _NEEDED
)
"""The next keys of payloads in packs, each once."""

_log = logging.getLogger(__name__)


class SqlPackTable(PackTable):
    """See `PackTable`."""

    def __init__(
        self, database: Transactions, members: MemberTable, *, delete_grace_s: float, trusts_indexes: bool = False
    ) -> None:
        """Use `database`; see `SqliteCatalogue` for the time.

        Args:
            members: knows which member this process is.
            trusts_indexes: whether the database notices damage of its indexes.
        """
        self._database = database
        self._members = members
        self._trusts_indexes = trusts_indexes
        self._delete_grace_us = int(delete_grace_s * 1e6)
        # Packs that were claimed and are to be due again, which the database did not take because it was away.
        self._owed: set[str] = set()

    def claim(self, limit: int) -> list[PackContent]:
        """See `PackTable`."""
        self.look_again(self._owed.copy())
        with self._database.read() as connection:
            if not select(connection, _DUE, _due(connection, 1)):
                return []
        # First, so that what becomes due while the packs are looked at stays so.
        with self._database.write() as connection:
            due = select(connection, _DUE, _due(connection, limit))
            connection.executemany(
                "UPDATE pack SET checked_us = ? WHERE pack = ?", [(now_us(connection), pack) for pack, _ in due]
            )
        self._owed |= {pack for pack, _ in due}
        contents: list[PackContent] = []
        for pack, object_bytes in due:
            with self._database.read() as connection:
                try:
                    rows = select(connection, _CONTENT, keys_of_pack(pack) * 5)
                except connection.unreadable as error:
                    _log.error("pack %s stays as it is, because the catalogue is damaged: %s", pack, error)
                    continue
            payloads = tuple(
                # A damaged key cannot be moved.
                PackedPayload(key, int(held), bool(naming) or not isinstance(parse_key(key), PackedKey))
                for key, held, naming in rows
            )
            contents.append(PackContent(pack, object_bytes, payloads))
        self._owed -= {pack for pack, _ in due}
        return contents

    def doubtful(self, contents: Sequence[PackContent]) -> set[str]:
        """See `PackTable`."""
        if self._trusts_indexes or not contents:
            return set()
        found = {content.pack: {payload.key for payload in content.payloads} for content in contents}
        doubtful: set[str] = set()
        with self._database.read(timed=False) as connection:
            packs = {pack for (pack,) in select(connection, "SELECT pack FROM pack")}
            for statement in _ROWS:
                for (key,) in connection.scan(statement + _IN_PACKS):
                    parsed = parse_key(key.decode(errors="replace")) if isinstance(key, bytes) else None
                    if not isinstance(parsed, PackedKey) or parsed.pack not in packs:
                        _log.error("no pack is deleted, because a row of the catalogue has the damaged key %r", key)
                        return set(found)
                    if str(parsed) not in found.get(parsed.pack, (str(parsed),)):
                        doubtful.add(parsed.pack)
        return doubtful

    def look_again(self, packs: Collection[str]) -> None:
        """See `PackTable`."""
        if packs:
            self._owed |= set(packs)
            with self._database.write() as connection:
                mark_packs(connection, packs)
            self._owed -= set(packs)

    def retire(self, packs: Collection[str]) -> list[str]:
        """See `PackTable`."""
        if not packs:
            return []
        return self._database.write_on_full_disk(partial(self._retire, list(packs)))

    def repoint(self, moves: Sequence[tuple[str, str]]) -> list[str]:
        """See `PackTable`."""
        ends: dict[str, int] = {}
        for _, new in moves:
            packed = packed_key(new)
            ends[packed.pack] = max(ends.get(packed.pack, 0), packed.offset + packed.length)
        with self._database.write() as connection:
            for pack, object_bytes in ends.items():
                _seal(connection, self._members.number, pack, object_bytes)
            moved: list[str] = []
            for start in range(0, len(moves), _MOVED_AT_ONCE):
                moved += _repoint(connection, dict(moves[start : start + _MOVED_AT_ONCE]))
            mark_packs(connection, {packed_key(old).pack for old in moved})
        new_keys = dict(moves)
        return [new_keys[old] for old in moved]

    def add(self, packs: Mapping[str, int]) -> None:
        """See `PackTable`."""
        with self._database.write() as connection:
            connection.executemany(
                _ADD, [(pack, object_bytes, now_us(connection)) for pack, object_bytes in packs.items()]
            )

    def totals(self) -> PackTotals:
        """See `PackTable`."""
        with self._database.read() as connection:
            ((packs, object_bytes),) = select(connection, "SELECT count(*), coalesce(sum(object_bytes), 0) FROM pack")
        needed_bytes, after, is_end = 0, "p", not packs
        while not is_end:
            with self._database.read() as connection:
                rows = select(
                    connection, f"{_PACKED_KEYS} ORDER BY 1 LIMIT ?", ((after, _STEP) * len(_NEEDED) + (_STEP,))
                )
            needed_bytes += sum(parsed.length for (key,) in rows if isinstance(parsed := parse_key(key), PackedKey))
            is_end = len(rows) < _STEP
            after = rows[-1][0] if rows else after
        return PackTotals(int(packs), int(object_bytes), needed_bytes)

    def _retire(self, packs: Sequence[str], connection: Connection) -> list[str]:
        retired: list[str] = []
        for pack in packs:
            if select(connection, f"{_IS_USED} LIMIT 1", keys_of_pack(pack) * 5):
                continue
            if select(connection, "DELETE FROM pack WHERE pack = ? RETURNING pack", (pack,)):
                connection.execute(_TOMBSTONE, (PACK_PREFIX + pack, now_us(connection) + self._delete_grace_us))
                retired.append(pack)
        return retired


def mark_packs(connection: Connection, packs: Iterable[str]) -> None:
    """Make packs due to be looked at, in the transaction in which they lose a payload."""
    statement = "UPDATE pack SET checked_us = NULL WHERE pack = ? AND checked_us IS NOT NULL"
    connection.executemany(statement, [(pack,) for pack in packs])


def require_packs(connection: Connection, stored: StoredTensor) -> None:
    """Check that the packs of payloads to which an edit refers are still there, before its tensor is committed.

    Raises:
        StoreBusyError: a payload was moved since the edit has read its key, and its old pack is being deleted. The client
            repeats the edit.
    """
    if stored.created_us is not None or stored.shares_payload:
        # The row is being recovered, or its source is there, which was read in this transaction.
        return
    packs = {parsed.pack for parsed in map(parse_key, stored.references) if isinstance(parsed, PackedKey)}
    for pack in packs:
        if not select(connection, "SELECT 1 FROM pack WHERE pack = ?", (pack,)):
            raise StoreBusyError(
                f"the tensor's payload was moved from pack {pack} during the edit; repeat it",
                dataset=stored.dataset.name,
                tensor=stored.new.id,
            )


def _due(connection: Connection, limit: int) -> tuple[int, ...]:
    """Return the parameters of `_DUE`."""
    now = now_us(connection)
    return limit, now - _DAY_US, limit, now, limit, limit


def _seal(connection: Connection, member: int | None, pack: str, object_bytes: int) -> None:
    """Replace the row in `begun` of a pack by its row in `pack`.

    Raises:
        WriterLostError: neither is there, or another member has begun it.
    """
    key = PACK_PREFIX + pack
    begun = select(connection, "DELETE FROM begun WHERE key = ? AND member = ? RETURNING key", (key, member))
    if not begun and not select(connection, "SELECT 1 FROM pack WHERE pack = ?", (pack,)):
        raise WriterLostError(f"this process was declared dead while it wrote pack {pack}")
    connection.execute(_ADD, (pack, object_bytes, now_us(connection)))


def _repoint(connection: Connection, moves: dict[str, str]) -> list[str]:
    """Let all tensors with a key have another one, and return the old keys of which that is done.

    Args:
        moves: the new keys by the old ones; as many as fit a statement.
    """
    updates: dict[str, list[tuple[str, int, int, str]]] = {}
    damaged: set[str] = set()
    try:
        movable = _movable(connection, list(moves))
        for table in _TENSORS:
            for row in _select_in(connection, _HAVING.format(table), movable):
                try:
                    updates.setdefault(table, []).append(
                        (moves[row[_KEY]], _checksum(row, moves[row[_KEY]]), row[_SEQ], row[_KEY])
                    )
                except (*MALFORMED, RowDamageError):
                    damaged.add(row[_KEY])
    except connection.unreadable as error:
        # A damaged page, or text that is none. Halve them, so that only payloads that need it stay.
        halves = [dict(list(moves.items())[at::2]) for at in (0, 1)] if len(moves) > 1 else []
        if not halves:
            _log.error("payload %s is not moved, because a row that has it is damaged: %s", next(iter(moves)), error)
        return [key for half in halves for key in _repoint(connection, half)]
    if damaged:
        _log.error("%d payloads are not moved to another pack, because rows that have them are damaged", len(damaged))
    for table, parameters in updates.items():
        statement = f"UPDATE {table} SET key = ?, row_checksum = ? WHERE seq = ? AND key = ?"
        connection.executemany(statement, [update for update in parameters if update[-1] not in damaged])
    moved = [key for key in movable if key not in damaged]
    connection.executemany("UPDATE payload_base SET key = ? WHERE key = ?", [(moves[key], key) for key in moved])
    return moved


def _movable(connection: Connection, keys: list[str]) -> list[str]:
    """Return which payloads rows have, but not too many, and no other payload names."""
    named = {key for statement in _NAMED for (key,) in _select_in(connection, statement, keys)}
    rows = dict.fromkeys(keys, 0)
    for table in _TENSORS:
        for key, count in _select_in(connection, _COUNTED.format(table), keys):
            rows[key] += count
    return [key for key, count in rows.items() if key not in named and 0 < count <= MOVED_ROWS_MAX]


def _select_in(connection: Connection, statement: str, keys: list[str]) -> list[tuple[Any, ...]]:
    """Return the rows of a statement with a list of keys."""
    return [
        row
        for part in in_parts(keys)
        for row in select(connection, statement.replace("[keys]", f"({marks(part)})"), part)
    ]


def _checksum(row: tuple[Any, ...], key: str) -> int:
    """Return the checksum of a row of `TENSOR_COLUMNS` with another key.

    Raises:
        RowDamageError: the row is not what was written.
    """
    verified((*row, None), row[_DS])
    changed = (*row[:_KEY], key, *row[_KEY + 1 :])
    return checksum_of_row(tuple(changed[place] for place in _CHECKED))
