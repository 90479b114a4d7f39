"""Which payloads need other payloads, with the bases of their chunks: the table `payload_base`.

A payload that another one needs gets no tombstone, which a trigger ensures, so that it outlives the tensors that it was made
for. When the sweep has deleted the other one, its rows go, and what nothing else needs gets a tombstone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.deletion import mark_if_unneeded
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import StoreBusyError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.model import Tensor

__all__ = ["UsableBases", "add_bases", "forget_bases"]

_IN_USE = """
SELECT NOT EXISTS (SELECT 1 FROM tombstone WHERE key = ?1) AND (
  EXISTS (SELECT 1 FROM tensor WHERE key = ?1 AND inline = 0)
  OR EXISTS (SELECT 1 FROM past_tensor WHERE key = ?1 AND inline = 0)
  OR EXISTS (SELECT 1 FROM reference WHERE key = ?1)
  OR EXISTS (SELECT 1 FROM payload_base WHERE base = ?1)
)
"""

_ADD = "INSERT INTO payload_base (base, key) VALUES (?, ?) ON CONFLICT DO NOTHING"
_KEEP = "DELETE FROM tombstone WHERE key = ?"
_FORGET = """
DELETE FROM payload_base WHERE key IN (SELECT value FROM json_each(?)) RETURNING base
"""


class UsableBases:
    """Which bases of a transaction's tensors were in use when it began.

    A payload with a tombstone may be being deleted at this moment, so it cannot be used again. One that gets its tombstone in
    this transaction can: nobody else sees the tombstone before the commit, and `add_bases` removes it. So tensors of one group
    may be each other's bases and replace each other.
    """

    def __init__(self, connection: Connection, group: Sequence[StoredTensor]) -> None:
        """Look up the bases of a group, before anything of it is committed."""
        keys = {key for stored in group for key in stored.bases}
        self._usable = frozenset(key for key in keys if select(connection, _IN_USE, (key,)) == [(1,)])

    def require(self, stored: StoredTensor) -> None:
        """Check that the bases of a tensor's payload can be used, before the tensor is committed.

        Raises:
            StoreBusyError: one of them cannot. The client repeats the insert, which then finds another base or none.
        """
        if stored.created_us is not None or stored.shares_payload:
            # The row is being recovered, and the payload was found in the chunk store; or the payload keeps its bases already.
            return
        for key in stored.bases:
            if key not in self._usable:
                raise StoreBusyError(
                    f"the base was deleted or replaced during the insert, and its payload {key} is no longer in use; repeat "
                    "the insert",
                    dataset=stored.dataset.name,
                    tensor=stored.new.id,
                )


def add_bases(connection: Connection, tensors: Sequence[tuple[StoredTensor, Tensor]]) -> None:
    """Keep the bases of tensors' payloads as long as the payloads exist, within the transaction that commits the tensors."""
    pairs: list[tuple[str, str]] = []
    for stored, _ in tensors:
        if stored.bases and not stored.shares_payload:
            pairs += [(base, stored.locator.key) for base in stored.bases]
        pairs += stored.bases_of_others
    if pairs:
        # The tensor that is replaced may have been the only one to need them, or it is being recovered.
        connection.executemany(_KEEP, ((base,) for base, _ in pairs))
        connection.executemany(_ADD, pairs)


def forget_bases(connection: Connection, keys: Collection[str], grace_us: int) -> None:
    """Let go of the bases of payloads that were deleted: mark for deletion what nothing else needs."""
    freed = select(connection, _FORGET, (to_json(list(keys)),))
    for (base,) in dict.fromkeys(freed):
        mark_if_unneeded(connection, base, now_us(connection) + grace_us)
