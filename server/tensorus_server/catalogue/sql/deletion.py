"""Deletes a tensor's row, damaged or not, and leaves its payloads to the sweep, unless another tensor needs them.

A deletion finds the row by the index of ids, and needs only one of its values: the payload's key. The key must be well-formed
and must not belong to another tensor, because a damaged key must never free a payload that another tensor needs. A tensor that
was changed refers to more payloads, by the table `reference`.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.statements import now_us, select

if TYPE_CHECKING:
    from tensorus_server.catalogue.sql.connection import Connection
__all__ = ["DELETED_COLUMNS", "PAYLOAD_KEY", "delete_against_indexes", "delete_tensor", "free", "mark_if_unneeded"]

PAYLOAD_KEY = re.compile(rb"(?:(?:[0-9a-f]{2}|pack|[ps][0-9a-f-]+)/)?[0-9a-f]{32}")
"""The form of a payload's key in an intact row; a tombstone may also name a whole pack."""

DELETED_COLUMNS = "CAST(key AS BLOB), inline, seq"
"""What `free` needs of a deleted row."""

_DELETE = f"DELETE FROM tensor WHERE {{}} RETURNING {DELETED_COLUMNS}"

_INSERT_TOMBSTONE = """
INSERT INTO tombstone (key, delete_after_us)
SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM tensor WHERE key = ?1 AND inline = 0)
  AND NOT EXISTS (SELECT 1 FROM reference WHERE key = ?1)
ON CONFLICT DO NOTHING
"""

_DELETE_REFERENCES = """
DELETE FROM reference WHERE seq IN (SELECT CAST(value AS BIGINT) FROM json_each(?)) RETURNING CAST(key AS BLOB)
"""

_log = logging.getLogger(__name__)


def delete_tensor(connection: Connection, ds: int, tensor_id: str, grace_us: int) -> bool:
    """Delete a tensor of a dataset, leave its payload to the sweep, and return whether it existed.

    Raises:
        `connection.unreadable`: a page is damaged, or the row and an index disagree.
    """
    rows = select(connection, _DELETE.format("ds = ? AND id = ?"), (ds, tensor_id))
    free(connection, rows, f"tensor {tensor_id!r}", now_us(connection) + grace_us)
    return bool(rows)


def delete_against_indexes(connection: Connection, ds: int, tensor_id: str, grace_us: int) -> bool:
    """Do what `delete_tensor` does if the row and its indexes disagree, and rebuild the indexes.

    Raises:
        `connection.unreadable`: a page is damaged.
    """
    rows = connection.delete_against_indexes(ds, tensor_id, DELETED_COLUMNS)
    _log.warning("tensor %r was damaged and is deleted; the indexes of its table were rebuilt", tensor_id)
    free(connection, rows, f"tensor {tensor_id!r}", now_us(connection) + grace_us)
    return bool(rows)


def free(connection: Connection, rows: list[tuple[Any, ...]], deleted: str, delete_after_us: int) -> None:
    """Leave the payloads of deleted tensor rows to the sweep, by adding tombstones.

    Args:
        rows: the `DELETED_COLUMNS` of each row.
        deleted: what was deleted, for the log.
    """
    payloads = [key for key, inline, _ in rows if not inline]
    payloads += [key for (key,) in select(connection, _DELETE_REFERENCES, (to_json([seq for _, _, seq in rows]),))]
    for key in payloads:
        if isinstance(key, bytes) and PAYLOAD_KEY.fullmatch(key):
            mark_if_unneeded(connection, key.decode(), delete_after_us)
        else:
            _log.warning("a payload of the deleted %s stays: the key in its row is damaged", deleted)


def mark_if_unneeded(connection: Connection, key: str, delete_after_us: int) -> None:
    """Add a tombstone for a payload, unless a tensor needs it, or another payload does; a trigger knows most of these."""
    connection.execute(_INSERT_TOMBSTONE, (key, delete_after_us))
