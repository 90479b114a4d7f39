"""The tables of members, leases and begun objects.

The statements avoid waits between transactions of different members. A transaction that needs several rows of one table changes
them in the same order as all others: leases, then begun objects, then tombstones.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from tensorus_server.catalogue.abc import SESSION, LeaseLostError, MemberTable, NotBegunError, Reaped
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.limits import PUT_MARGIN_S, PUT_TIMEOUT_S
from tensorus_server.payload_keys import key_of_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["Notifications", "SqlMemberTable", "in_parts", "marks"]

_BATCH = 500
"""Rows that one statement names, and that one transaction of a reap makes garbage of."""

_ABANDONED_US = int((PUT_TIMEOUT_S + PUT_MARGIN_S) * 1e6)
"""How long after its writer was declared dead a PUT of it may still arrive."""

_ASK_TRIES = 10
"""How often a lease may be taken or given back by others while it is being asked for."""

_LIVING = "SELECT member FROM member WHERE expires_us > ?"
_MEMBERS = "SELECT member FROM member"

_ACQUIRE = "INSERT INTO lease (name, member) VALUES (?, ?) ON CONFLICT (name) DO NOTHING RETURNING ticket"

_ACQUIRE_UNLESS = """
INSERT INTO lease (name, member) SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM lease WHERE name = ?)
ON CONFLICT (name) DO NOTHING RETURNING ticket
"""

_CLEAR = f"""
DELETE FROM lease WHERE name = ? AND (member IS NULL OR member NOT IN ({_LIVING}))
AND (wanter IS NULL OR wanter NOT IN ({_LIVING})) RETURNING ticket
"""

_ASK = "INSERT INTO lease (name, member, wanter) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING RETURNING ticket"

_TAKE_BY_FORCE = "UPDATE lease SET member = ?, wanter = NULL WHERE ticket = ?"
_TAKE = f"{_TAKE_BY_FORCE} AND (member IS NULL OR member = ? OR member NOT IN ({_LIVING})) RETURNING ticket"

_PARK_SESSION = """
UPDATE begun SET member = NULL WHERE member != ?
AND key IN (SELECT payload_key FROM upload WHERE request_id = ? AND generation IS NULL)
"""

_TAKE_OVER = f"""
UPDATE begun SET member = ?, generation = generation + 1
WHERE key = ? AND (member IS NULL OR member = ? OR member NOT IN ({_LIVING})) RETURNING generation
"""

_UNRESUMABLE = """
FROM begun WHERE member IS NULL
AND NOT EXISTS (SELECT 1 FROM upload WHERE upload.payload_key = begun.key AND upload.generation IS NULL)
"""

_REAPABLE = f"""
SELECT 1 WHERE EXISTS (SELECT 1 FROM member WHERE expires_us <= ?)
OR EXISTS (SELECT 1 FROM begun WHERE member IS NOT NULL AND member NOT IN ({_MEMBERS}))
OR EXISTS (SELECT 1 {_UNRESUMABLE})
"""

_FREE_LEASES = f"""
DELETE FROM lease WHERE (member IS NULL OR member NOT IN ({_MEMBERS})) AND (wanter IS NULL OR wanter NOT IN ({_MEMBERS}))
"""

_TOMBSTONE = "INSERT INTO tombstone (key, delete_after_us) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"


class Notifications(Protocol):
    """Messages between the processes that use a database, if it has them."""

    def send(self, connection: Connection, text: str) -> None:
        """Send a message when the connection's transaction commits."""

    def listen(self, called: Callable[[str], None]) -> None:
        """Have `called` called with each message of any process, on a thread of the database's, until the database closes."""


class SqlMemberTable(MemberTable):
    """See `MemberTable`."""

    def __init__(self, database: Transactions, notifications: Notifications | None = None) -> None:
        """Be no member yet.

        Args:
            notifications: None: the database has none, so those who wait for a lease have to look.
        """
        self._database = database
        self._notifications = notifications
        self._number: int | None = None
        self._lease_us = 0

    @property
    def number(self) -> int | None:
        """See `MemberTable`."""
        return self._number

    def join(self, name: str, lease_s: float) -> int:
        """See `MemberTable`."""
        self._lease_us = int(lease_s * 1e6)
        with self._database.change() as connection:
            ((number,),) = select(
                connection,
                "INSERT INTO member (name, expires_us) VALUES (?, ?) RETURNING member",
                (name, now_us(connection) + self._lease_us),
            )
        self._number = int(number)
        return self._number

    def renew(self) -> bool:
        """See `MemberTable`."""
        me = self._me()
        with self._database.change() as connection:
            statement = "UPDATE member SET expires_us = ? WHERE member = ? RETURNING member"
            return bool(select(connection, statement, (now_us(connection) + self._lease_us, me)))

    def leave(self) -> None:
        """See `MemberTable`."""
        me, self._number = self._number, None
        if me is not None:
            with self._database.write() as connection:
                connection.execute("DELETE FROM member WHERE member = ?", (me,))
                _take_from_the_dead(connection)

    def reap(self) -> Reaped:
        """See `MemberTable`."""
        names: list[str] = []
        abandoned = 0
        # Looked at first, without the lock of writers, since all members do this all the time.
        while self._is_reapable():
            with self._database.write() as connection:
                expired = "DELETE FROM member WHERE expires_us <= ? RETURNING name"
                names += [name for (name,) in select(connection, expired, (now_us(connection),))]
                abandoned += _take_from_the_dead(connection)
        return Reaped(names, abandoned)

    def try_acquire(self, name: str, *, unless: str | None = None) -> int | None:
        """See `MemberTable`."""
        me = self._me()
        acquire, parameters = (_ACQUIRE, (name, me)) if unless is None else (_ACQUIRE_UNLESS, (name, me, unless))
        with self._database.change(durable=False) as connection:
            if not (rows := select(connection, acquire, parameters)):
                now = now_us(connection)
                if select(connection, _CLEAR, (name, now, now)):
                    rows = select(connection, acquire, parameters)
        return int(rows[0][0]) if rows else None

    def ask(self, name: str) -> int:
        """See `MemberTable`."""
        me = self._me()
        with self._database.change(durable=False) as connection:
            for _ in range(_ASK_TRIES):
                # A row of its own for each ticket, since that is how both databases number them.
                rows = select(connection, "DELETE FROM lease WHERE name = ? RETURNING member", (name,))
                if asked := select(connection, _ASK, (name, rows[0][0] if rows else None, me)):
                    self._notify(connection, name)
                    return int(asked[0][0])
        raise StoreUnavailableError(
            f"the lease {name} could not be asked for, since many members ask for it", lease=name
        )

    def take(self, name: str, ticket: int, *, force: bool = False) -> bool:
        """See `MemberTable`."""
        me = self._me()
        # By force, it takes from a member that may be committing: like a commit, it has the lock of writers.
        with self._database.write() if force else self._database.change(durable=False) as connection:
            if force:
                rows = select(connection, f"{_TAKE_BY_FORCE} RETURNING ticket", (me, ticket))
            else:
                rows = select(connection, _TAKE, (me, ticket, me, now_us(connection)))
            if rows:
                if name.startswith(SESSION):
                    connection.execute(_PARK_SESSION, (me, name[len(SESSION) :]))
                return True
            if select(connection, "SELECT 1 FROM lease WHERE name = ? AND ticket = ?", (name, ticket)):
                return False
        raise LeaseLostError(name)

    def newest(self, names: Collection[str]) -> dict[str, int]:
        """See `MemberTable`."""
        found: dict[str, int] = {}
        if names:
            with self._database.read() as connection:
                for part in in_parts(list(names)):
                    found.update(
                        select(connection, f"SELECT name, ticket FROM lease WHERE name IN ({marks(part)})", part)
                    )
        return found

    def holder(self, name: str) -> int | None:
        """See `MemberTable`."""
        with self._database.read() as connection:
            statement = f"SELECT member FROM lease WHERE name = ? AND member IN ({_LIVING})"
            rows = select(connection, statement, (name, now_us(connection)))
        return int(rows[0][0]) if rows else None

    def release(self, names: Collection[str]) -> None:
        """See `MemberTable`."""
        if not names:
            return
        me = self._me()
        with self._database.change(durable=False) as connection:
            left = set(names)
            for part in in_parts(sorted(left)):
                own = f"member = ? AND name IN ({marks(part)})"
                statement = f"DELETE FROM lease WHERE {own} AND wanter IS NULL RETURNING name"
                left -= {name for (name,) in select(connection, statement, (me, *part))}
            for part in in_parts(sorted(left)):
                # Somebody has asked for these, or this member lost them.
                own = f"member = ? AND name IN ({marks(part)})"
                for (name,) in select(
                    connection, f"UPDATE lease SET member = NULL WHERE {own} RETURNING name", (me, *part)
                ):
                    self._notify(connection, name)

    def withdraw(self, ticket: int) -> None:
        """See `MemberTable`."""
        with self._database.change(durable=False) as connection:
            connection.execute("DELETE FROM lease WHERE ticket = ? AND member IS NULL", (ticket,))
            connection.execute("UPDATE lease SET wanter = NULL WHERE ticket = ?", (ticket,))

    def begin(self, keys: Sequence[str]) -> None:
        """See `MemberTable`."""
        me = self._me()
        with self._database.change() as connection:
            connection.executemany(
                "INSERT INTO begun (key, member, generation) VALUES (?, ?, 1) ON CONFLICT (key) DO NOTHING",
                [(key, me) for key in keys],
            )

    def take_over(self, payload_key: str) -> int | None:
        """See `MemberTable`."""
        me = self._me()
        with self._database.change() as connection:
            if rows := select(connection, _TAKE_OVER, (me, payload_key, me, now_us(connection))):
                return int(rows[0][0])
            if select(connection, "SELECT 1 FROM begun WHERE key = ?", (payload_key,)):
                return None
        raise NotBegunError(payload_key)

    def park(self, payload_key: str) -> None:
        """See `MemberTable`."""
        with self._database.change() as connection:
            statement = "UPDATE begun SET member = NULL WHERE key = ? AND member = ?"
            connection.execute(statement, (payload_key, self._me()))

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """See `MemberTable`."""
        me = self._me()
        abandoned: list[str] = []
        with self._database.write() as connection:
            for part in in_parts(keys):
                abandoned += _abandon(connection, f"member = ? AND key IN ({marks(part)})", (me, *part))
        return abandoned

    def forget(self, keys: Sequence[str]) -> None:
        """See `MemberTable`."""
        me = self._me()
        with self._database.change() as connection:
            for part in in_parts(keys):
                connection.execute(f"DELETE FROM begun WHERE member = ? AND key IN ({marks(part)})", (me, *part))

    def watch(self, called: Callable[[str], None]) -> None:
        """See `MemberTable`."""
        if self._notifications is not None:
            self._notifications.listen(called)

    def _me(self) -> int:
        if (number := self._number) is None:
            raise StoreUnavailableError("this process is not a member of the store at present")
        return number

    def _notify(self, connection: Connection, name: str) -> None:
        if self._notifications is not None:
            self._notifications.send(connection, name)

    def _is_reapable(self) -> bool:
        with self._database.read() as connection:
            return bool(select(connection, _REAPABLE, (now_us(connection),)))


def in_parts(values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield values in parts that fit a statement. Parts are filled up with their last value, so that few statements exist."""
    for start in range(0, len(values), _BATCH):
        part = tuple(values[start : start + _BATCH])
        size = next(size for size in (1, 8, 64, _BATCH) if size >= len(part))
        yield part + part[-1:] * (size - len(part))


def marks(part: Sequence[Any]) -> str:
    """Return the placeholders of a list of values."""
    return _marks(len(part))


@cache
def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _take_from_the_dead(connection: Connection) -> int:
    """Take everything of those that are no members, within a transaction that commits exclude.

    Returns:
        How many objects were abandoned, at most `_BATCH`.
    """
    connection.execute(_FREE_LEASES)
    # All are parked first: this waits for marks that are being saved, which the next statement then sees.
    connection.execute(f"UPDATE begun SET member = NULL WHERE member IS NOT NULL AND member NOT IN ({_MEMBERS})")
    rows = select(connection, f"SELECT key {_UNRESUMABLE} LIMIT {_BATCH}")
    for part in in_parts([key for (key,) in rows]):
        _abandon(connection, f"member IS NULL AND key IN ({marks(part)})", part)
    return len(rows)


def _abandon(connection: Connection, which: str, parameters: tuple[Any, ...]) -> list[str]:
    """Make garbage of begun objects, and return their keys."""
    rows = select(connection, f"DELETE FROM begun WHERE {which} RETURNING key", parameters)
    due_us = now_us(connection) + _ABANDONED_US
    connection.executemany(_TOMBSTONE, [(key_of_begun(key), due_us) for (key,) in rows])
    return [key for (key,) in rows]
