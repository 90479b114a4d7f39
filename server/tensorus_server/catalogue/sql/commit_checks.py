"""What decides, in a transaction, about the payloads of the tensors that it commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tensorus_server.catalogue.sql.bases import UsableBases
from tensorus_server.catalogue.sql.content import SharedContent
from tensorus_server.catalogue.sql.fence import WriteFence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["CommitChecks"]


class CommitChecks(NamedTuple):
    """The checks of one transaction."""

    content: SharedContent
    bases: UsableBases
    fence: WriteFence

    @classmethod
    def of(cls, connection: Connection, group: Sequence[StoredTensor], member: int | None) -> CommitChecks:
        """Return the checks of a group, before anything of it is committed.

        Args:
            member: the number of this process; None: it is no member.
        """
        return cls(SharedContent(connection), UsableBases(connection, group), WriteFence(connection, member, group))
