"""The table of content: which tensors have equal bytes, so that they can share a payload.

A tensor is listed with its content digest as long as it has a row, in `tensor` or `past_tensor`; triggers of the schema remove
it. Tensors with an inline payload, edited ones, and those inserted by older versions are not listed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import EqualTensor, NotSharedError
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS, RowDamageError, tensor_from_row
from tensorus_server.catalogue.sql.statements import select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.model import Tensor

__all__ = ["EQUALS_MAX", "SharedContent", "equal_tensors", "list_content"]

EQUALS_MAX = 4
"""Tensors with the same digest that are considered, the latest first: thousands may share a payload. More than one is needed
only if the latest has the payload that is to be replaced, or a damaged one."""

_COLUMNS = ", ".join(f't."{name}"' for name in TENSOR_COLUMNS)
_EQUAL = f"""
SELECT wanted.value, {_COLUMNS}, NULL,
  (SELECT name FROM dataset WHERE ds = t.ds), (SELECT json_group_array(r.key) FROM reference r WHERE r.seq = t.seq)
FROM json_each(?) wanted CROSS JOIN {{table}} t
ON t.seq IN (SELECT seq FROM content WHERE digest = unhex(wanted.value) ORDER BY seq DESC LIMIT {EQUALS_MAX})
"""
_EQUALS = " UNION ALL ".join(_EQUAL.format(table=table) for table in ("tensor", "past_tensor"))
_DS, _INLINE, _SOURCE_CRC = (TENSOR_COLUMNS.index(name) for name in ("ds", "inline", "source_crc"))

_LISTED = "SELECT 1 FROM content WHERE digest = ? LIMIT 1"

_EXISTS = """
SELECT 1 FROM tensor WHERE seq = ?1 AND key = ?2 AND inline = 0
UNION ALL SELECT 1 FROM past_tensor WHERE seq = ?1 AND key = ?2 AND inline = 0
"""

_HAVE_A_PAYLOAD_IN_COMMON = """
WITH RECURSIVE
  needed (key) AS (VALUES (CAST(CAST(?1 AS c_text) AS TEXT)) UNION SELECT base FROM needed JOIN payload_base USING (key)),
  replaced (key) AS (
    VALUES (CAST(CAST(?2 AS c_text) AS TEXT)) UNION SELECT key FROM reference WHERE seq = ?3
    UNION SELECT base FROM replaced JOIN payload_base USING (key)
  )
SELECT 1 FROM needed JOIN replaced USING (key) LIMIT 1
"""
"""Of the payload with the first key, and a tensor with the second one, both with their bases.

c_text is a type of the schema in PostgreSQL, which wants keys of the same collation. To SQLite it is one more name of TEXT.
"""

_LIST = "INSERT INTO content (digest, seq) VALUES (?, ?) ON CONFLICT DO NOTHING"


def equal_tensors(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, list[EqualTensor]]:
    """Return the latest tensors with each of these content digests, at most `EQUALS_MAX`; damaged rows are left out.

    They come without their metadata: those of a thousand times `EQUALS_MAX` tensors would take gigabytes.
    """
    found: dict[bytes, list[EqualTensor]] = {}
    try:
        # Most inserts are of new bytes. For them, a small statement per tensor takes a tenth of the time of the large one.
        listed = [digest for digest in dict.fromkeys(digests) if select(connection, _LISTED, (digest,))]
        if not listed:
            return {}
        wanted = to_json([digest.hex() for digest in listed])
        for digest, *row, dataset, references in connection.execute(_EQUALS, (wanted, wanted)):
            equal = _equal_tensor(tuple(row), dataset or "", references)
            if equal is not None:
                found.setdefault(bytes.fromhex(digest), []).append(equal)
    except connection.unreadable:
        return {}
    for equals in found.values():
        equals.sort(key=lambda equal: -equal.tensor.generation)
    return found


def _equal_tensor(row: tuple[Any, ...], dataset: str, references: str) -> EqualTensor | None:
    if row[_INLINE]:
        return None
    try:
        tensor = tensor_from_row(row, dataset, row[_DS], with_metadata=False)
        return EqualTensor(tensor, row[_SOURCE_CRC], tuple(json.loads(references)))
    except RowDamageError:
        return None


def list_content(connection: Connection, tensors: Sequence[tuple[StoredTensor, Tensor]]) -> None:
    """List new tensors, in the transaction that inserts their rows."""
    rows = [(stored.content, tensor.generation) for stored, tensor in tensors if stored.content is not None]
    if rows:
        connection.executemany(_LIST, rows)


class SharedContent:
    """Decides, for the new tensors of one transaction, whether each shares the payload of an equal one."""

    def __init__(self, connection: Connection) -> None:
        """Start without tensors."""
        self._connection = connection
        self._committed: dict[bytes, list[StoredTensor]] = {}
        # The payloads of the transaction's tensors by place, and how many have each.
        self._keys: dict[tuple[int, str], str] = {}
        self._holders: dict[str, int] = {}

    def shared(self, stored: StoredTensor, replaced: Tensor | None = None, *, alone: bool = False) -> StoredTensor:
        """Return the tensor as it is to be inserted: with its own payload, or with that of an equal tensor.

        Args:
            replaced: the tensor that it replaces. Its payload is not shared: somebody may replace it because it is damaged. Nor
                is one that needs a base which the replaced tensor needs, too, if both tensors may have the same values.
            alone: whether it replaces a tensor whose row is damaged, so that no payload is known to be another one.

        Raises:
            NotSharedError: it has no payload of its own, and there is none to share.
        """
        if stored.content is None or stored.shares_payload:
            return stored
        if not alone:
            for earlier in self._committed.get(stored.content, ()):
                key = earlier.locator.key
                if self._holders[key] and stored.may_share(earlier) and self._mends(stored, replaced, key):
                    return stored.sharing(earlier, earlier.references)
            for equal in stored.equals:
                tensor = equal.tensor
                if (
                    stored.may_share(equal)
                    and self._exists(tensor)
                    and self._mends(stored, replaced, tensor.locator.key)
                ):
                    return stored.sharing(tensor, equal.references)
        if not stored.has_payload:
            raise NotSharedError
        return stored

    def committed(self, stored: StoredTensor) -> None:
        """Note that a tensor is inserted, or replaces one, so that later ones of the transaction can share its payload."""
        place, key = (stored.dataset.number, stored.new.id), stored.locator.key
        if place in self._keys:
            self._holders[self._keys[place]] -= 1
        self._keys[place] = key
        self._holders[key] = self._holders.get(key, 0) + 1
        if stored.content is not None:
            noted = self._committed.setdefault(stored.content, [])
            if all(key != earlier.locator.key for earlier in noted):
                noted.append(stored)

    def _mends(self, stored: StoredTensor, replaced: Tensor | None, key: str) -> bool:
        """Whether a payload can be intact, whatever is damaged of the tensor that is replaced."""
        if replaced is None:
            return True
        one, other = stored.source_checksum, replaced.source_checksum
        if one.algorithm == other.algorithm and one != other:
            # Other values are to be stored: nothing is mended.
            return key != replaced.locator.key
        place = (key, replaced.locator.key, replaced.generation)
        return not select(self._connection, _HAVE_A_PAYLOAD_IN_COMMON, place)

    def _exists(self, tensor: Tensor) -> bool:
        """Whether the row is still there: it was read before the transaction began."""
        place = (tensor.generation, tensor.locator.key)
        return bool(select(self._connection, _EXISTS, place))
