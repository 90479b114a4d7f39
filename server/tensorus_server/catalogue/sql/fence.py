"""The fence: checks, in the transaction of a commit, that the writers still own what they commit.

A writer loses what it writes if it was declared dead, or if a newer stream has taken its insert over. It may not know that yet.
The rows are locked by the check, so that nobody takes them before the transaction ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import SESSION
from tensorus_server.catalogue.sql.members import in_parts, marks
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import SessionTakenOverError, StoreBusyError
from tensorus_server.payload_keys import PackedKey, SegmentedKey, is_of_object_store, parse_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import apsw

    from tensorus_server.catalogue.abc import Mark, StoredTensor

__all__ = ["WriteFence", "lost_marks"]

_SEAL = """
INSERT INTO pack (pack, object_bytes, sealed_us) VALUES (?, ?, ?)
ON CONFLICT (pack) DO UPDATE SET object_bytes = excluded.object_bytes WHERE excluded.object_bytes > pack.object_bytes
"""


class WriteFence:
    """The fence of one transaction. Payloads in a local folder, and inserts that no other process can take over, pass it."""

    def __init__(self, connection: apsw.Connection, member: int | None, group: Sequence[StoredTensor]) -> None:
        """Look up, and lock, the rows of a group that is about to be committed.

        Args:
            member: the number of this process; None: it is no member.
        """
        self._connection = connection
        self._sessions: set[str] = set()
        self._generations: dict[str, int] = {}
        self._packs: set[str] = set()
        self._committed: list[str] = []
        self._sealed: dict[str, int] = {}
        sessions = {stored.session for stored in group if stored.session is not None}
        keys = [key for stored in group if is_of_object_store(key := stored.locator.key) and _is_own(stored)]
        named = _packs_of(key for stored in group for key in stored.references)
        if sessions:
            self._sessions = _sessions(connection, member, sessions)
        if keys:
            self._lock_begun(member, keys)
        if named:
            self._packs |= _known_packs(connection, named)

    def require(self, stored: StoredTensor) -> None:
        """Check that the tensor's writer still owns its session and its payload, and that what it refers to is still there.

        Raises:
            SessionTakenOverError: it does not. Another stream goes on with the insert, or the client begins again.
            StoreBusyError: a payload that an edit refers to was moved to another pack, and its old pack is being deleted. The
                client repeats the edit.
        """
        if stored.created_us is None and not stored.shares_payload:
            lost = _packs_of(stored.references) - self._packs
            if lost:
                raise StoreBusyError(
                    f"the tensor's payload was moved from pack {min(lost)} during the edit; repeat it",
                    dataset=stored.dataset.name,
                    tensor=stored.new.id,
                )
        if stored.session is not None and stored.session not in self._sessions:
            raise _taken_over(stored, _newer(stored.session))
        if not is_of_object_store(stored.locator.key) or not _is_own(stored):
            return
        match parse_key(stored.locator.key):
            case SegmentedKey(generation=generation, payload_key=key) if self._generations.get(key) != generation:
                raise _taken_over(
                    stored, f"another writer goes on with payload {key}, or this process was declared dead"
                )
            case PackedKey(pack=pack) if pack not in self._packs:
                raise _taken_over(stored, f"this process was declared dead while it wrote pack {pack}")

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
        now = now_us()
        for pack, object_bytes in sorted(self._sealed.items()):
            self._connection.execute(_SEAL, (pack, object_bytes, now))
        for part in in_parts(self._committed + [f"pack/{pack}" for pack in self._sealed]):
            self._connection.execute(f"DELETE FROM begun WHERE key IN ({marks(part)})", part)

    def _lock_begun(self, member: int | None, keys: Sequence[str]) -> None:
        parsed = [parse_key(key) for key in keys]
        packs = sorted({key.pack for key in parsed if isinstance(key, PackedKey)})
        begun = [key.payload_key for key in parsed if isinstance(key, SegmentedKey)]
        begun += [f"pack/{pack}" for pack in packs]
        for part in in_parts(begun):
            own = f"member = ? AND key IN ({marks(part)})"
            statement = f"UPDATE begun SET member = member WHERE {own} RETURNING key, generation"
            self._generations.update(select(self._connection, statement, (member, *part)))
        self._packs |= _known_packs(self._connection, packs)
        self._packs |= {pack for pack in packs if f"pack/{pack}" in self._generations}


def lost_marks(
    connection: apsw.Connection, member: int | None, saved: Sequence[Mark]
) -> list[SessionTakenOverError | None]:
    """Return for each mark None, or why this process must not save it any more, within the transaction that saves it.

    A process that is no member has its store alone, or shares it by kernel locks.
    """
    if member is None:
        return [None] * len(saved)
    held = _sessions(connection, member, {mark.upload.request_id for mark in saved})
    lost: set[str] = set()
    for part in in_parts(sorted({mark.upload.payload_key for mark in saved})):
        statement = f"SELECT key FROM begun WHERE key IN ({marks(part)}) AND (member IS NULL OR member != ?)"
        lost |= {key for (key,) in select(connection, statement, (*part, member))}
    return [
        None
        if mark.upload.request_id in held and mark.upload.payload_key not in lost
        else SessionTakenOverError(_newer(mark.upload.request_id), tensor=mark.upload.id)
        for mark in saved
    ]


def _packs_of(keys: Iterable[str]) -> set[str]:
    return {parsed.pack for parsed in map(parse_key, keys) if isinstance(parsed, PackedKey)}


def _known_packs(connection: apsw.Connection, packs: Collection[str]) -> set[str]:
    found: set[str] = set()
    for part in in_parts(sorted(packs)):
        rows = select(connection, f"SELECT pack FROM pack WHERE pack IN ({marks(part)})", part)
        found |= {pack for (pack,) in rows}
    return found


def _sessions(connection: apsw.Connection, member: int | None, sessions: Collection[str]) -> set[str]:
    """Return which of these inserts' leases this member has, and keep it so until the transaction ends."""
    found: set[str] = set()
    for part in in_parts([f"{SESSION}{session}" for session in sorted(sessions)]):
        statement = f"UPDATE lease SET member = member WHERE member = ? AND name IN ({marks(part)}) RETURNING name"
        found |= {name[len(SESSION) :] for (name,) in select(connection, statement, (member, *part))}
    return found


def _is_own(stored: StoredTensor) -> bool:
    """Whether the payload was written for this tensor. One that is recovered or shared was committed before."""
    return not stored.is_inline and not stored.shares_payload and stored.created_us is None and stored.has_payload


def _taken_over(stored: StoredTensor, why: str) -> SessionTakenOverError:
    return SessionTakenOverError(why, dataset=stored.dataset.name, tensor=stored.new.id)


def _newer(request_id: str) -> str:
    return f"a newer stream goes on with insert {request_id}, or this process was declared dead"
