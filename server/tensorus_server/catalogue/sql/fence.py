"""The fence: checks, in the transaction of a commit, that the writers still own what they commit.

A writer loses what it writes if it was declared dead, or if a newer stream has taken its insert over. It may not know that yet.
In the first case, the client repeats the insert (`WriterLostError`); in the second, somebody else goes on with it already
(`SessionTakenOverError`). The rows are locked by the check, so that nobody takes them before the transaction ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import SESSION, WriterLostError
from tensorus_server.catalogue.sql.members import in_parts, marks
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import SessionTakenOverError
from tensorus_server.payload_keys import PackedKey, SegmentedKey, is_of_object_store, parse_key

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tensorus_server.catalogue.abc import Mark, StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["WriteFence", "lost_marks"]

_SEAL = """
INSERT INTO pack (pack, object_bytes, sealed_us) VALUES (?, ?, ?)
ON CONFLICT (pack) DO UPDATE SET object_bytes = excluded.object_bytes WHERE excluded.object_bytes > pack.object_bytes
"""


class WriteFence:
    """The fence of one transaction. Payloads in a local folder, and inserts that no other process can take over, pass it."""

    def __init__(self, connection: Connection, member: int | None, group: Sequence[StoredTensor]) -> None:
        """Look up, and lock, the rows of a group that is about to be committed.

        Args:
            member: the number of this process; None: it is no member.
        """
        self._connection = connection
        self._member = member
        self._sessions = _Sessions(connection, member, {stored.session for stored in group} - {None})
        # The writer and the generation of each object that is begun.
        self._begun: dict[str, tuple[int | None, int]] = {}
        self._packs: set[str] = set()
        self._committed: list[str] = []
        self._sealed: dict[str, int] = {}
        if member is None:
            # It owns nothing, so whatever would need an owner fails.
            return
        keys = [key for stored in group if is_of_object_store(key := stored.locator.key) and _is_own(stored)]
        if keys:
            self._lock_begun(keys)

    def require(self, stored: StoredTensor) -> None:
        """Check that the tensor's writer still owns its session and its payload.

        Raises:
            SessionTakenOverError: another writer goes on with the payload, or another stream with the insert.
            WriterLostError: nobody does.
        """
        names = {"dataset": stored.dataset.name, "tensor": stored.new.id}
        if stored.session is not None:
            self._sessions.require(stored.session, **names)
        if not is_of_object_store(stored.locator.key) or not _is_own(stored):
            return
        match parse_key(stored.locator.key):
            case SegmentedKey(generation=generation, payload_key=key) if self._begun.get(key) != (
                self._member,
                generation,
            ):
                writer, _ = self._begun.get(key, (None, 0))
                if writer is not None:
                    raise SessionTakenOverError(f"another writer goes on with payload {key}", **names)
                raise WriterLostError(
                    f"this process was declared dead, or stopped, while it wrote payload {key}", **names
                )
            case PackedKey(pack=pack) if pack not in self._packs:
                raise WriterLostError(f"this process was declared dead while it wrote pack {pack}", **names)

    def committed(self, stored: StoredTensor) -> None:
        """Note that the tensor gets a row in this transaction."""
        if not is_of_object_store(stored.locator.key) or not _is_own(stored):
            return
        match parse_key(stored.locator.key):
            case SegmentedKey(payload_key=key):
                self._committed.append(key)
            case PackedKey(pack=pack, offset=offset, length=length):
                self._sealed[pack] = max(self._sealed.get(pack, 0), offset + length)

    def save(self) -> None:
        """Record what was committed: these objects are known by their tensors, and are no longer begun."""
        if not self._committed and not self._sealed:
            return
        now = now_us(self._connection)
        for pack, object_bytes in sorted(self._sealed.items()):
            self._connection.execute(_SEAL, (pack, object_bytes, now))
        for part in in_parts(self._committed + [f"pack/{pack}" for pack in self._sealed]):
            self._connection.execute(f"DELETE FROM begun WHERE key IN ({marks(part)})", part)

    def _lock_begun(self, keys: Sequence[str]) -> None:
        parsed = [parse_key(key) for key in keys]
        packs = sorted({key.pack for key in parsed if isinstance(key, PackedKey)})
        begun = [key.payload_key for key in parsed if isinstance(key, SegmentedKey)]
        begun += [f"pack/{pack}" for pack in packs]
        for part in in_parts(begun):
            statement = (
                f"UPDATE begun SET member = member WHERE key IN ({marks(part)}) RETURNING key, member, generation"
            )
            rows = select(self._connection, statement, part)
            self._begun.update((key, (writer, generation)) for key, writer, generation in rows)
        for part in in_parts(packs):
            rows = select(self._connection, f"SELECT pack FROM pack WHERE pack IN ({marks(part)})", part)
            self._packs |= {pack for (pack,) in rows}
        self._packs |= {pack for pack in packs if self._begun.get(f"pack/{pack}", (None, 0))[0] == self._member}


def lost_marks(
    connection: Connection, member: int | None, saved: Sequence[Mark]
) -> list[SessionTakenOverError | WriterLostError | None]:
    """Return for each mark None, or why this process must not save it any more, within the transaction that saves it.

    A process that is no member has its store alone, or shares it by kernel locks.
    """
    if member is None:
        return [None] * len(saved)
    sessions = _Sessions(connection, member, {mark.upload.request_id for mark in saved})
    writers: dict[str, int | None] = {}
    for part in in_parts(sorted({mark.upload.payload_key for mark in saved})):
        # A payload in a local folder is in none of these rows.
        writers.update(select(connection, f"SELECT key, member FROM begun WHERE key IN ({marks(part)})", part))
    lost: list[SessionTakenOverError | WriterLostError | None] = []
    for mark in saved:
        upload = mark.upload
        try:
            sessions.require(upload.request_id, tensor=upload.id)
            writer = writers.get(upload.payload_key, member)
            if writer != member:
                error = WriterLostError if writer is None else SessionTakenOverError
                raise error(f"this process does not write payload {upload.payload_key} any more", tensor=upload.id)
        except (SessionTakenOverError, WriterLostError) as error:
            lost.append(error)
        else:
            lost.append(None)
    return lost


class _Sessions:
    """The leases of inserts, of which those that this member has are locked until the transaction ends."""

    def __init__(self, connection: Connection, member: int | None, requests: Collection[str | None]) -> None:
        self._held: set[str] = set()
        self._elsewhere: set[str] = set()
        for part in in_parts(sorted(f"{SESSION}{request_id}" for request_id in requests)):
            held = f"name IN ({marks(part)}) AND member IN (SELECT member FROM member)"
            statement = f"UPDATE lease SET member = member WHERE {held} RETURNING name, member"
            rows = select(connection, statement, part)
            if len(rows) < len(set(part)):
                # Who asks for a lease replaces its row. A statement that waited for that does not see the new row.
                rows = select(connection, statement, part)
            for name, holder in rows:
                (self._held if holder == member else self._elsewhere).add(name)

    def require(self, request_id: str, **names: str) -> None:
        """Raise why this member must not go on with the insert, if so."""
        name = f"{SESSION}{request_id}"
        if name in self._elsewhere:
            raise SessionTakenOverError(f"a newer stream goes on with insert {request_id}", **names)
        if name not in self._held:
            raise WriterLostError(f"this process was declared dead during insert {request_id}", **names)


def _is_own(stored: StoredTensor) -> bool:
    """Whether the payload was written for this tensor. One that is recovered or shared was committed before."""
    return not stored.is_inline and not stored.shares_payload and stored.created_us is None and stored.has_payload
