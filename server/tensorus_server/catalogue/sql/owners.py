"""The owners of datasets, and what these datasets hold.

Triggers keep two sums in the row of an owner, over the current tensors of the dataset, so that nothing has to be counted. The
checksum of the row covers only the dataset's number and its owner, since a trigger cannot compute it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.rules import to_json
from tensorus_server.access.quotas import Usage
from tensorus_server.access.rights import require_principal
from tensorus_server.catalogue.sql.access_rows import OWNERS
from tensorus_server.catalogue.sql.row_checksum import row_checksum
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Collection

    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["count_again", "find_owner", "give_to", "usage_of"]

_SUM_MAX = 1e18
"""More than any sum of one dataset. A damaged one, which may be anything, counts as 0."""

_PUT = """
INSERT INTO owner (ds, principal, tensors, stored_bytes, row_checksum) VALUES (?, ?, 0, 0, ?)
ON CONFLICT (ds) DO UPDATE SET principal = excluded.principal, row_checksum = excluded.row_checksum
"""

_COUNT = """
UPDATE owner SET
  tensors = (SELECT count(*) FROM tensor WHERE ds = ?1), stored_bytes = (SELECT total(stored_bytes) FROM tensor WHERE ds = ?1)
WHERE ds = ?1
"""

_USAGE = f"""
SELECT
  principal, total(stored_bytes) FILTER (WHERE stored_bytes BETWEEN 0 AND {_SUM_MAX}),
  total(tensors) FILTER (WHERE tensors BETWEEN 0 AND {_SUM_MAX})
FROM owner WHERE principal IN (SELECT value FROM json_each(?)) GROUP BY principal
"""
"""By SQL alone, which takes a thirtieth of the time that verifying each row takes (measured with 10,000 rows)."""


def give_to(connection: Connection, ds: int, principal: str) -> None:
    """Make a principal the owner of a dataset; a new owner's dataset is empty until `count_again`.

    Raises:
        InvalidNameError: the principal has not the form of one.
    """
    require_principal(principal)
    connection.execute(_PUT, (ds, principal, row_checksum("qt", (ds, principal))))


def count_again(connection: Connection, ds: int) -> None:
    """Count what an owned dataset holds, by the index of stored sizes."""
    connection.execute(_COUNT, (ds,))


def find_owner(connection: Connection, ds: int) -> str:
    """Return the owner of a dataset; empty: it has none.

    Raises:
        DataCorruptError: the row is damaged.
    """
    found = OWNERS.find(connection, (ds,))
    if isinstance(found, DataCorruptError):
        raise found
    return "" if found is None else found[1]


def usage_of(connection: Connection, principals: Collection[str]) -> dict[str, Usage]:
    """Return what the datasets of each of these owners hold; checksums are not verified."""
    usage = dict.fromkeys(principals, Usage())
    for principal, stored_bytes, tensors in select(connection, _USAGE, (to_json(list(usage)),)):
        usage[principal] = Usage(int(stored_bytes), int(tensors))
    return usage
