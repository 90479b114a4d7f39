"""The table of uploads: tensors on their way in, as far as they are durable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Upload, UploadTable
from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.rows import spec_from_columns, to_json
from tensorus_server.chunk_index import ChunkIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from tensorus_server.catalogue.abc import Mark
    from tensorus_server.catalogue.sqlite.database import Database

__all__ = ["SqliteUploadTable", "complete_upload"]

_COLUMNS = (
    "request_id, item, ds, id, dtype_number, element_bytes, shape, policy, payload_key, committed_bytes, stored_bytes, "
    "chunk_count, state, generation"
)


class SqliteUploadTable(UploadTable):
    """See `UploadTable`."""

    def __init__(self, database: Database, *, expiry_s: float) -> None:
        """Use `database`; an upload expires so long after its last mark."""
        self._database = database
        self._expiry_us = int(expiry_s * 1e6)

    def save(self, marks: Sequence[Mark]) -> None:
        """See `UploadTable`."""
        expires_us = now_us() + self._expiry_us
        with self._database.write() as connection:
            for mark in marks:
                upload = mark.upload
                connection.execute(
                    f"INSERT OR REPLACE INTO upload ({_COLUMNS}, expires_us) VALUES ({'?, ' * 14}?)",
                    (*_to_row(upload), expires_us),
                )
                connection.execute(
                    "INSERT INTO upload_chunks VALUES (?, ?, ?, ?)",
                    (
                        upload.request_id,
                        upload.item,
                        upload.chunk_count - len(mark.new_chunks),
                        mark.new_chunks.packed(),
                    ),
                )

    def find(self, request_id: str) -> list[Upload]:
        """See `UploadTable`."""
        statement = f"SELECT {_COLUMNS} FROM upload WHERE request_id = ? ORDER BY item"
        with self._database.read() as connection:
            return [_from_row(row) for row in select(connection, statement, (request_id,))]

    def chunks(self, upload: Upload) -> ChunkIndex:
        """See `UploadTable`."""
        statement = "SELECT entries FROM upload_chunks WHERE request_id = ? AND item = ? ORDER BY first_chunk"
        with self._database.read() as connection:
            rows = select(connection, statement, (upload.request_id, upload.item))
        return ChunkIndex(b"".join(entries for (entries,) in rows))

    def drop(self, request_id: str, item: int | None = None) -> list[str]:
        """See `UploadTable`."""
        which = "request_id = ?"
        parameters: tuple[str | int, ...] = (request_id,)
        if item is not None:
            which, parameters = "request_id = ? AND item = ?", (request_id, item)
        with self._database.write() as connection:
            connection.execute(f"DELETE FROM upload_chunks WHERE {which}", parameters)
            rows = select(connection, f"DELETE FROM upload WHERE {which} RETURNING payload_key, generation", parameters)
        return [payload_key for payload_key, generation in rows if generation is None]

    def expired(self, limit: int) -> list[Upload]:
        """See `UploadTable`."""
        statement = f"SELECT {_COLUMNS} FROM upload WHERE expires_us <= ? ORDER BY expires_us LIMIT ?"
        with self._database.read() as connection:
            return [_from_row(row) for row in select(connection, statement, (now_us(), limit))]

    def unknown(self, payload_keys: Sequence[str]) -> list[str]:
        """See `UploadTable`."""
        statement = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT payload_key FROM upload)"
        with self._database.read() as connection:
            return [key for (key,) in select(connection, statement, (to_json(list(payload_keys)),))]


def complete_upload(connection: apsw.Connection, request_id: str, item: int, generation: int) -> None:
    """Note that the upload has become a tensor, within the transaction that commits it."""
    parameters = (request_id, item)
    connection.execute("DELETE FROM upload_chunks WHERE request_id = ? AND item = ?", parameters)
    connection.execute(
        "UPDATE upload SET generation = ?, chunk_count = 0, state = '{}' WHERE request_id = ? AND item = ?",
        (generation, *parameters),
    )


def _to_row(upload: Upload) -> tuple[Any, ...]:
    return (
        upload.request_id,
        upload.item,
        upload.dataset_number,
        upload.id,
        upload.spec.dtype.number,
        upload.spec.dtype.element_bytes,
        to_json(upload.spec.shape),
        to_json(upload.policy.to_json()),
        upload.payload_key,
        upload.committed_bytes,
        upload.stored_bytes,
        upload.chunk_count,
        to_json(upload.state),
        upload.generation,
    )


def _from_row(row: tuple[Any, ...]) -> Upload:
    return Upload(
        request_id=row[0],
        item=row[1],
        dataset_number=row[2],
        id=row[3],
        spec=spec_from_columns(row[4], row[5], row[6]),
        policy=StoragePolicy.from_json(json.loads(row[7])),
        payload_key=row[8],
        committed_bytes=row[9],
        stored_bytes=row[10],
        chunk_count=row[11],
        state=json.loads(row[12]),
        generation=row[13],
    )
