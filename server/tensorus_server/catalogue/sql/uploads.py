"""The table of uploads: unfinished tensors, as far as they are durable."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import Upload, UploadTable
from tensorus_server.catalogue.sql.damage import as_damage
from tensorus_server.catalogue.sql.fence import lost_marks
from tensorus_server.catalogue.sql.row_checksum import MALFORMED, upload_checksum
from tensorus_server.catalogue.sql.rows import spec_from_columns
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import At, Checksum, NewTensor, Outcome, TensorReference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import Mark, MemberTable, StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions
    from tensorus_server.model import Tensor, TensorSpec

__all__ = ["SqlUploadTable", "complete_upload", "find_uploads", "record_done", "record_edit"]

_COLUMNS = (
    "request_id, item, ds, id, dtype_number, element_bytes, shape, policy, payload_key, committed_bytes, stored_bytes, "
    "chunk_count, state, announced, generation, outcome, expires_us"
)
_CHANGED = ", ".join(f"{name} = excluded.{name}" for name in (*_COLUMNS.split(", ")[2:], "row_checksum"))
_INSERT = (
    f"INSERT INTO upload ({_COLUMNS}, row_checksum) VALUES ({'?, ' * 17}?) "
    f"ON CONFLICT (request_id, item) DO UPDATE SET {_CHANGED}"
)

_log = logging.getLogger(__name__)


class SqlUploadTable(UploadTable):
    """See `UploadTable`."""

    def __init__(self, database: Transactions, members: MemberTable, *, expiry_s: float) -> None:
        """Use `database`; an upload expires `expiry_s` after its last mark.

        Args:
            members: knows which member this process is.
        """
        self._database = database
        self._members = members
        self._expiry_us = int(expiry_s * 1e6)

    def save(self, marks: Sequence[Mark]) -> Sequence[Exception | None]:
        """See `UploadTable`."""
        with self._database.write() as connection:
            expires_us = now_us(connection) + self._expiry_us
            lost = lost_marks(connection, self._members.number, marks)
            for mark, error in zip(marks, lost, strict=True):
                if error is not None:
                    continue
                upload = mark.upload
                connection.execute(_INSERT, _to_row(upload, expires_us))
                connection.execute(
                    "INSERT INTO upload_chunks VALUES (?, ?, ?, ?, ?)",
                    (
                        upload.request_id,
                        upload.item,
                        upload.chunk_count - len(mark.new_chunks),
                        mark.new_chunks.packed(),
                        _checked(mark.new_details.packed()),
                    ),
                )
        return lost

    def find(self, request_id: str) -> list[Upload]:
        """See `UploadTable`."""
        with self._database.read() as connection:
            return find_uploads(connection, request_id)

    def chunks(self, upload: Upload) -> tuple[ChunkIndex, ChunkDetails]:
        """See `UploadTable`."""
        statement = "SELECT entries, details FROM upload_chunks WHERE request_id = ? AND item = ? ORDER BY first_chunk"
        index, details = ChunkIndex(), ChunkDetails()
        with self._database.read() as connection, as_damage(connection, tensor_id=upload.id):
            rows = select(connection, statement, (upload.request_id, upload.item))
        try:
            for entries, packed in rows:
                found = ChunkIndex(entries)
                index.extend(found)
                if packed is not None:
                    details.extend(ChunkDetails.parse(_verified(packed), len(found)), 0, len(found))
        except MALFORMED as error:
            raise DataCorruptError(
                f"the catalogue is damaged: the chunks of item {upload.item} cannot be read", tensor=upload.id
            ) from error
        return index, details

    def drop(self, request_id: str, item: int | None = None) -> list[str]:
        """See `UploadTable`."""
        which = "request_id = ?"
        parameters: tuple[str | int, ...] = (request_id,)
        if item is not None:
            which, parameters = "request_id = ? AND item = ?", (request_id, item)

        def drop(connection: Connection) -> list[tuple[Any, ...]]:
            connection.execute(f"DELETE FROM upload_chunks WHERE {which}", parameters)
            return select(connection, f"DELETE FROM upload WHERE {which} RETURNING payload_key, generation", parameters)

        rows = self._database.write_on_full_disk(drop)
        return [payload_key for payload_key, generation in rows if generation is None]

    def expired(self, limit: int) -> list[Upload]:
        """See `UploadTable`."""
        with self._database.read() as connection:
            return _uploads(connection, "expires_us <= ? ORDER BY expires_us LIMIT ?", (now_us(connection), limit))


def _checked(packed: bytes) -> bytes:
    """Return chunk details with their CRC32C before them: the checksum of the upload's row does not cover them."""
    return crc32c(packed).to_bytes(4, "little") + packed


def _verified(checked: bytes) -> bytes:
    """Return what `_checked` got; raises ValueError if it was damaged since."""
    packed = checked[4:]
    if crc32c(packed).to_bytes(4, "little") != checked[:4]:
        raise ValueError("chunk details are damaged")
    return packed


def complete_upload(connection: Connection, request_id: str, item: int, tensor: Tensor) -> None:
    """Record that the upload has become a tensor, within the transaction that commits the tensor."""
    which, parameters = "request_id = ? AND item = ?", (request_id, item)
    connection.execute(f"DELETE FROM upload_chunks WHERE {which}", parameters)
    rows = select(connection, f"SELECT {_COLUMNS}, row_checksum FROM upload WHERE {which}", parameters)
    for *row, checksum in rows:
        if (upload := _from_row(row, checksum)) is not None:
            completed = replace(upload, generation=tensor.generation, outcome=tensor.outcome, chunk_count=0, state={})
            connection.execute(_INSERT, _to_row(completed, row[-1]))
        else:
            # Its row is damaged. If the client sends the item again, the result is that the tensor is already stored.
            connection.execute(f"DELETE FROM upload WHERE {which}", parameters)


def record_edit(connection: Connection, stored: StoredTensor, tensor: Tensor, expiry_us: int) -> None:
    """Record that an edit was done, within its transaction: a client whose answer was lost repeats it."""
    assert stored.upload is not None
    request_id, item = stored.upload
    done = Upload(
        request_id=request_id,
        item=item,
        dataset_number=stored.dataset.number,
        id=tensor.id,
        spec=stored.sent or tensor.spec,
        policy=stored.new.policy or stored.dataset.policy,
        payload_key=tensor.locator.payload_key,
        committed_bytes=tensor.spec.canonical_bytes,
        stored_bytes=tensor.storage.stored_bytes,
        chunk_count=0,
        state={},
        generation=tensor.generation,
        outcome=tensor.outcome,
    )
    record_done(connection, done, expiry_us)


def record_done(connection: Connection, done: Upload, expiry_us: int) -> None:
    """Record that a call was done, within its transaction, so that it is not done twice."""
    connection.execute(_INSERT, _to_row(done, now_us(connection) + expiry_us))


def find_uploads(connection: Connection, request_id: str) -> list[Upload]:
    """Return the uploads of a request, within a transaction; see `UploadTable.find`."""
    return _uploads(connection, "request_id = ? ORDER BY item", (request_id,))


def _uploads(connection: Connection, where: str, parameters: tuple[Any, ...]) -> list[Upload]:
    """Return the uploads with intact rows. Damaged ones are left out, so that clients send their tensors again."""
    try:
        rows = select(connection, f"SELECT {_COLUMNS}, row_checksum FROM upload WHERE {where}", parameters)
    except connection.unreadable as error:
        _log.warning(
            "the catalogue is damaged: uploads cannot be read, and are sent again from their starts: %s", error
        )
        return []
    found = [_from_row(row, checksum) for *row, checksum in rows]
    if None in found:
        _log.warning("the catalogue is damaged: %d uploads are sent again from their starts", found.count(None))
    return [upload for upload in found if upload is not None]


def _to_row(upload: Upload, expires_us: int) -> tuple[Any, ...]:
    row = (
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
        None if upload.announced is None else to_json(_announced_to_json(upload.announced)),
        upload.generation,
        None if upload.outcome is None else upload.outcome.value,
        expires_us,
    )
    return (*row, upload_checksum(row))


def _from_row(row: Sequence[Any], checksum: int) -> Upload | None:
    """Return the upload of a row; None if the row is damaged."""
    try:
        if upload_checksum(row) != checksum:
            return None
    except MALFORMED:
        return None
    spec = spec_from_columns(row[4], row[5], row[6])
    return Upload(
        request_id=row[0],
        item=row[1],
        dataset_number=row[2],
        id=row[3],
        spec=spec,
        policy=StoragePolicy.from_json(json.loads(row[7])),
        payload_key=row[8],
        committed_bytes=row[9],
        stored_bytes=row[10],
        chunk_count=row[11],
        state=json.loads(row[12]),
        announced=None if row[13] is None else _announced_from_json(json.loads(row[13]), row[3], spec),
        generation=row[14],
        outcome=None if row[15] is None else Outcome(row[15]),
    )


def _announced_to_json(new: NewTensor) -> dict[str, Any]:
    """Return an announcement without id and spec, which have their own columns."""
    checksum = new.source_checksum
    return {
        "metadata": new.metadata,
        "policy": None if new.policy is None else new.policy.to_json(),
        "source_checksum": None if checksum is None else [checksum.algorithm, checksum.value.hex()],
        "if_generation_match": new.if_generation_match,
        "replace": new.replace,
        "base": None if new.base is None else asdict(new.base),
    }


def _announced_from_json(fields: dict[str, Any], tensor_id: str, spec: TensorSpec) -> NewTensor:
    policy, checksum = fields["policy"], fields["source_checksum"]
    # Older versions knew no bases.
    base = fields.get("base")
    return NewTensor(
        id=tensor_id,
        spec=spec,
        metadata=fields["metadata"],
        policy=None if policy is None else StoragePolicy.from_json(policy),
        source_checksum=None if checksum is None else Checksum(checksum[0], bytes.fromhex(checksum[1])),
        if_generation_match=fields["if_generation_match"],
        replace=fields["replace"],
        base=None if base is None else TensorReference(base["dataset"], base["id"], base["at"] and At(**base["at"])),
    )
