"""The table of content: which tensors have equal bytes, so that they can share a payload.

A tensor is listed with its content digest as long as it has a row, in `tensor` or `past_tensor`; triggers of the schema remove
it. Tensors with an inline payload, edited ones, and those inserted by older versions are not listed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import EqualTensor, NotSharedError
from tensorus_server.catalogue.sqlite.database import select
from tensorus_server.catalogue.sqlite.row_checksum import UNREADABLE
from tensorus_server.catalogue.sqlite.rows import TENSOR_COLUMNS, RowDamageError, tensor_from_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from tensorus_server.catalogue.abc import StoredTensor
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
_SEQ, _DS, _INLINE, _SOURCE_CRC = (TENSOR_COLUMNS.index(name) for name in ("seq", "ds", "inline", "source_crc"))

_LISTED = "SELECT 1 FROM content WHERE digest = ? LIMIT 1"

_EXISTS = """
SELECT 1 FROM tensor WHERE seq = ?1 AND key = ?2 AND inline = 0
UNION ALL SELECT 1 FROM past_tensor WHERE seq = ?1 AND key = ?2 AND inline = 0
"""

_LIST = "INSERT OR IGNORE INTO content (digest, seq) VALUES (?, ?)"


def equal_tensors(connection: apsw.Connection, digests: Sequence[bytes]) -> dict[bytes, list[EqualTensor]]:
    """Return the latest tensors with each of these content digests, at most `EQUALS_MAX`; damaged rows are left out."""
    try:
        # Most inserts are of new bytes. For them, a small statement per tensor takes a tenth of the time of the large one.
        listed = [digest for digest in dict.fromkeys(digests) if select(connection, _LISTED, (digest,))]
        if not listed:
            return {}
        wanted = to_json([digest.hex() for digest in listed])
        rows = select(connection, _EQUALS, (wanted, wanted))
    except UNREADABLE:
        return {}
    found: dict[bytes, list[EqualTensor]] = {}
    for digest, *row, dataset, references in sorted(rows, key=lambda row: -row[1 + _SEQ]):
        equal = _equal_tensor(tuple(row), dataset or "", references)
        if equal is not None:
            found.setdefault(bytes.fromhex(digest), []).append(equal)
    return found


def _equal_tensor(row: tuple[Any, ...], dataset: str, references: str) -> EqualTensor | None:
    if row[_INLINE]:
        return None
    try:
        return EqualTensor(tensor_from_row(row, dataset, row[_DS]), row[_SOURCE_CRC], tuple(json.loads(references)))
    except RowDamageError:
        return None


def list_content(connection: apsw.Connection, tensors: Sequence[tuple[StoredTensor, Tensor]]) -> None:
    """List new tensors, in the transaction that inserts their rows."""
    rows = [(stored.content, tensor.generation) for stored, tensor in tensors if stored.content is not None]
    if rows:
        connection.executemany(_LIST, rows)


class SharedContent:
    """Decides, for the new tensors of one transaction, whether each shares the payload of an equal one."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Start without tensors."""
        self._connection = connection
        self._committed: dict[bytes, list[StoredTensor]] = {}
        # The payloads of the transaction's tensors by place, and how many have each.
        self._keys: dict[tuple[int, str], str] = {}
        self._holders: dict[str, int] = {}

    def shared(self, stored: StoredTensor, replaced: Tensor | None = None, *, alone: bool = False) -> StoredTensor:
        """Return the tensor as it is to be inserted: with its own payload, or with that of an equal tensor.

        Args:
            replaced: the tensor that it replaces. Its payload is not shared: somebody may replace it because it is damaged.
            alone: whether it replaces a tensor whose row is damaged, so that no payload is known to be another one.

        Raises:
            NotSharedError: it has no payload of its own, and there is none to share.
        """
        if stored.content is None or stored.shares_payload:
            return stored
        if not alone:
            replaced_key = None if replaced is None else replaced.locator.key
            for earlier in self._committed.get(stored.content, ()):
                key = earlier.locator.key
                if key != replaced_key and self._holders[key] and stored.may_share(earlier):
                    return replace(stored, locator=earlier.locator, references=earlier.references, shares_payload=True)
            for equal in stored.equals:
                tensor = equal.tensor
                if tensor.locator.key != replaced_key and stored.may_share(equal) and self._exists(tensor):
                    return replace(stored, locator=tensor.locator, references=equal.references, shares_payload=True)
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

    def _exists(self, tensor: Tensor) -> bool:
        """Whether the row is still there: it was read before the transaction began."""
        place = (tensor.generation, tensor.locator.key)
        return bool(select(self._connection, _EXISTS, place))
