"""The table of members: the processes that use a store, what one of them at a time may do, and what they are writing.

A member is a process. It renews its row in time; if it does not, another member may declare it dead and take what it had. That
decides only who goes on, and never what is correct: a process that was declared dead may still run, for example after it was
suspended. Therefore each commit checks, in its own transaction, that the writer still owns what it commits (the fence).

Three kinds of rows belong to a member:

    leases   names that one member at a time has. A lease of a member that has expired is free. Who wants a lease that is taken
             asks for it and gets a ticket; the newest ticket of a name wins.
    begun    objects that may be in the object store although no tensor refers to them. A row is durable before the first byte
             of its object is sent, and goes in the transaction that commits the tensor. So whatever a process leaves behind
             when it dies is known.
    packs    become known in the transaction that commits the first of their payloads.

All times are those of the catalogue's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.errors import StoreBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["SESSION", "LeaseLostError", "MemberTable", "NotBegunError", "Reaped", "WriterLostError"]

SESSION = "insert/"
"""Prefix of the names of leases of inserts; the request id follows."""


class LeaseLostError(Exception):
    """A newer ticket was issued for the lease, or the ticket is not known any more. Users never see it."""


class NotBegunError(Exception):
    """Nothing is known of the payload: it was committed, or given up. Users never see it."""


class WriterLostError(StoreBusyError):
    """This process was declared dead while it wrote, so nothing was committed. Nobody else has it: the client repeats it."""


@dataclass(frozen=True)
class Reaped:
    """What was taken from members that have expired or left."""

    members: Sequence[str] = ()
    """Their names."""
    abandoned: int = 0
    """Objects that they had begun and that nobody can resume. The sweep deletes them after a while."""


class MemberTable(ABC):
    """Members, their leases and what they have begun; bound to this process, which is a member between `join` and `leave`.

    Thread-safe. Every method is one transaction, does not wait for other members, and raises `StoreUnavailableError` or
    `StoreBusyError` if the database does not answer. Methods that belong to a member raise `StoreUnavailableError` if this
    process is none.
    """

    @property
    @abstractmethod
    def number(self) -> int | None:
        """The number of this member; None: it has not joined, or has left."""

    @abstractmethod
    def join(self, name: str, lease_s: float) -> int:
        """Become a member, and return its number, which was never used before. A member that joins again gets another number.

        Whatever it had under its old number is lost: that belongs to a member that is dead, or will be when it has expired.

        Args:
            name: for people, such as the host's name and the number of the process.
            lease_s: how long after its last renewal the member may be declared dead.
        """

    @abstractmethod
    def renew(self) -> bool:
        """Renew the member's row; return False if it was declared dead, and must join again."""

    @abstractmethod
    def leave(self) -> None:
        """Give up everything at once, and be no member any more. Idempotent."""

    @abstractmethod
    def others(self) -> list[str]:
        """Return the names of the other living members."""

    @abstractmethod
    def reap(self) -> Reaped:
        """Declare the members dead that have expired, and take what they had. Any member may do it at any time.

        Their leases become free. What they had begun waits to be resumed if an upload refers to it; the rest becomes garbage,
        as `abandon` says. The same happens to parked payloads whose upload was dropped. Idempotent (9).
        """

    @abstractmethod
    def try_acquire(self, name: str, *, unless: str | None = None) -> int | None:
        """Take a lease if it is free, and return its ticket; None: a member has it, perhaps this one, or has asked for it.

        Tickets grow, and are never reused.

        Args:
            unless: the name of another lease; if anybody has it, take nothing.
        """

    @abstractmethod
    def ask(self, name: str) -> int:
        """Ask for a lease, whoever has it, and return a ticket that is newer than all others of the name."""

    @abstractmethod
    def take(self, name: str, ticket: int, *, force: bool = False) -> bool:
        """Take a lease with a ticket of `ask`; return False if another member still has it.

        If the lease is one of an insert, its unfinished payloads are parked: their old writer cannot commit them any more.

        Args:
            force: take it from a living member, too. The caller has given it time to end.

        Raises:
            LeaseLostError: the ticket is no longer the newest.
        """

    @abstractmethod
    def newest(self, names: Collection[str]) -> dict[str, int]:
        """Return the newest ticket of each lease that exists: those who hold an older one should give the lease back."""

    @abstractmethod
    def holder(self, name: str) -> int | None:
        """Return the number of the living member that has a lease; None: it is free."""

    @abstractmethod
    def release(self, names: Collection[str]) -> None:
        """Give back leases; those that this member does not have any more are ignored. Idempotent (9)."""

    @abstractmethod
    def withdraw(self, ticket: int) -> None:
        """Ask no more for a lease. Idempotent (9)."""

    @abstractmethod
    def begin(self, keys: Sequence[str]) -> None:
        """Record, durably, that objects are about to be written: payload keys, or "pack/" and the name of a pack."""

    @abstractmethod
    def take_over(self, payload_key: str) -> int | None:
        """Become the writer of a payload that was begun, and return its new generation; None: another living member writes it.

        From then on, no other writer can mark or commit it.

        Raises:
            NotBegunError: nothing is known of the payload; it cannot be continued.
        """

    @abstractmethod
    def park(self, payload_key: str) -> None:
        """Let other members resume a payload that has a mark. No effect if this member does not write it (9)."""

    @abstractmethod
    def abandon(self, keys: Sequence[str]) -> list[str]:
        """Give up objects for good, and return those of `keys` that this member was writing; the others stay as they are.

        They become due for the sweep once no PUT of them can be under way. Only what is returned may be deleted before: another
        member goes on with the rest. Idempotent (9).
        """

    @abstractmethod
    def forget(self, keys: Sequence[str]) -> None:
        """Forget objects of this member that do not exist: they were deleted, or never written. Idempotent (9)."""

    @abstractmethod
    def watch(self, called: Callable[[str], None]) -> None:
        """Have `called` called with the name of a lease soon after it was asked for or given back, on any thread.

        Only some databases can, and calls may be lost: it only shortens the wait between two looks at `newest`.
        """
