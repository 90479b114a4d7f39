"""Makes tensors that share the payload of another one: copies, renamed ones, restored ones and equal ones.

The new row names the same key in the chunk store, and no bytes are copied. An inline payload belongs to one row, so it is
copied with its row, also under the same key, because the key seeds the CRCs of its records.

The source must have a row, in `tensor` or in `past_tensor`, when the transaction that commits the new tensor begins: it keeps
the payload from being swept until then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.model import Dataset, NewTensor, Tensor

__all__ = ["SourceTable", "all_shared_as", "shared_as"]

SourceTable: TypeAlias = Literal["tensor", "past_tensor"]
"""The table that has the sources' rows."""

_PAYLOADS: dict[SourceTable, str] = {"tensor": "payload", "past_tensor": "past_payload"}


def shared_as(
    connection: Connection, source: Tensor, dataset: Dataset, new: NewTensor, *, table: SourceTable = "tensor"
) -> StoredTensor:
    """Return a tensor to commit that shares the payload of `source`; see `all_shared_as`."""
    (stored,) = all_shared_as(connection, [(source, dataset, new)], table=table)
    if isinstance(stored, DataCorruptError):
        raise stored
    return stored


def all_shared_as(
    connection: Connection,
    wanted: Sequence[tuple[Tensor, Dataset, NewTensor]],
    *,
    table: SourceTable = "tensor",
) -> list[StoredTensor | DataCorruptError]:
    """Return tensors to commit that share payloads with others, or the error if an inline payload is missing.

    Everything that describes the values stays: checksums, summary, report, and where they are. Dataset, id, metadata and policy
    are those of the new tensor. The inline payloads of all of them are in memory at once.

    Args:
        wanted: for each, its source as it was read from `table` in this transaction, the dataset that it becomes part of, and
            what is new of it. The spec must be that of the source.
    """
    statement = (
        "SELECT wanted.key, s.source_crc, s.inline, CAST(p.bytes AS BLOB), "
        "(SELECT json_group_array(r.key) FROM reference r WHERE r.seq = s.seq), "
        "(SELECT c.digest FROM content c WHERE c.seq = s.seq) "
        f"FROM json_each(?) wanted CROSS JOIN {table} s ON s.seq = CAST(wanted.value AS BIGINT) "
        f"LEFT JOIN {_PAYLOADS[table]} p ON p.seq = s.seq"
    )
    seqs = to_json([source.generation for source, _, _ in wanted])
    rows = {row[0]: row[1:] for row in select(connection, statement, (seqs,))}
    return [_shared(*entry, row=rows[place]) for place, entry in enumerate(wanted)]


def _shared(
    source: Tensor, dataset: Dataset, new: NewTensor, *, row: tuple[Any, ...]
) -> StoredTensor | DataCorruptError:
    source_crc, inline, payload, keys, content = row
    if inline and payload is None:
        return DataCorruptError(
            "the catalogue is damaged: the tensor's payload is missing",
            dataset=source.dataset,
            tensor=source.id,
            generation=source.generation,
        )
    return StoredTensor(
        dataset=dataset,
        new=new,
        chunk_bytes=source.chunk_bytes,
        source_checksum=source.source_checksum,
        value_checksum=source.value_checksum,
        storage=source.storage,
        values=source.values,
        locator=source.locator,
        inline_payload=payload if inline else None,
        source_crc32c=source_crc,
        references=tuple(json.loads(keys)),
        shares_payload=True,
        content=content,
    )
