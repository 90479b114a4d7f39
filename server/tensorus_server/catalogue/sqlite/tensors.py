"""The table of tensors, with what filters see of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.abc import Page, Resolution, TensorTable, resolve, sort_value
from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.datasets import find_dataset
from tensorus_server.catalogue.sqlite.filter_sql import DIMENSION_KEY, compile_filter
from tensorus_server.catalogue.sqlite.rows import (
    TENSOR_COLUMNS,
    WRITTEN_COLUMNS,
    tensor_from_row,
    tensor_to_row,
    to_json,
)
from tensorus_server.catalogue.sqlite.uploads import complete_upload
from tensorus_server.errors import (
    AlreadyExistsError,
    DataCorruptError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InsertAbandonedError,
    TensorNotFoundError,
)
from tensorus_server.filter import flatten_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from tensorus_server.catalogue.abc import PageRequest, StoredTensor
    from tensorus_server.catalogue.sqlite.database import Database
    from tensorus_server.model import Metadata, Tensor

__all__ = ["SqliteTensorTable"]

_SORT_COLUMNS = {"created": "t.seq", "id": "t.id", "nbytes": "t.nbytes", "stored_bytes": "t.stored_bytes"}

_COLUMNS = ", ".join(f't."{name}"' for name in TENSOR_COLUMNS)
_WITH_PAYLOAD = f"SELECT {_COLUMNS}, p.bytes FROM tensor t LEFT JOIN payload p ON p.seq = t.seq"
_WITHOUT_PAYLOAD = f"SELECT {_COLUMNS}, NULL FROM tensor t"

_NAMES = ", ".join(f'"{name}"' for name in WRITTEN_COLUMNS)
_VALUES = ", ".join(f":{name}" for name in WRITTEN_COLUMNS)
_INSERT = f"INSERT INTO tensor ({_NAMES}) VALUES ({_VALUES}) ON CONFLICT (ds, id) DO NOTHING RETURNING seq"

_GENERATION_MAX = 2**63 - 1
"""Above every generation: SQLite's largest integer."""


class _UndoneError(Exception):
    """Undoes a transaction."""


class SqliteTensorTable(TensorTable):
    """See `TensorTable`."""

    def __init__(self, database: Database, *, delete_grace_s: float) -> None:
        """Use `database`; see `SqliteCatalogue` for the grace."""
        self._database = database
        self._delete_grace_us = int(delete_grace_s * 1e6)

    def commit(self, group: Sequence[StoredTensor], *, together: bool = False) -> list[Tensor | Exception]:
        """See `TensorTable`."""
        outcomes: list[Tensor | Exception] = []
        try:
            with self._database.write() as connection:
                outcomes = self._commit(connection, group)
                if together and any(isinstance(outcome, Exception) for outcome in outcomes):
                    raise _UndoneError
        except _UndoneError:
            return [_abandoned(stored, outcome) for stored, outcome in zip(group, outcomes, strict=True)]
        return outcomes

    def get(self, dataset: str, ids: Sequence[str], *, with_payloads: bool = False) -> list[Tensor | None]:
        """See `TensorTable`."""
        statement = f"{_select(with_payloads=with_payloads)} WHERE t.ds = ? AND t.id = ?"
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            return [_first(connection, statement, (ds, tensor_id), dataset) for tensor_id in ids]

    def page(self, dataset: str, request: PageRequest) -> Page:
        """See `TensorTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            tail, parameters = _page_tail(connection, ds, request)
            statement = _select(with_payloads=request.with_payloads) + tail
            rows = select(connection, statement, parameters)
        tensors = [tensor_from_row(row, dataset) for row in rows[: request.size]]
        more = len(rows) > request.size
        return Page(tensors, (sort_value(tensors[-1], request.order.field), tensors[-1].generation) if more else None)

    def generations(self, dataset: str, request: PageRequest) -> list[int]:
        """See `TensorTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            where, parameters = compile_filter(request.filter, ds, connection)
            after, bound = request.after[1] if request.after else 0, request.generation_max
            rows = select(
                connection,
                f"SELECT t.seq FROM tensor t WHERE {where} AND t.seq > ? AND t.seq <= ? ORDER BY t.seq LIMIT ?",
                [*parameters, after, _GENERATION_MAX if bound is None else bound, request.size],
            )
        return [seq for (seq,) in rows]

    def by_generation(
        self, dataset: str, generations: Sequence[int], *, with_payloads: bool = False
    ) -> list[Tensor | None]:
        """See `TensorTable`."""
        statement = f"{_select(with_payloads=with_payloads)} WHERE t.seq = ? AND t.ds = ?"
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            return [_first(connection, statement, (seq, ds), dataset) for seq in generations]

    def latest_generation(self) -> int:
        """See `TensorTable`."""
        with self._database.read() as connection:
            rows = select(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'tensor'")
        return int(rows[0][0]) if rows else 0

    def _commit(self, connection: apsw.Connection, group: Sequence[StoredTensor]) -> list[Tensor | Exception]:
        created_us = now_us()
        found = _last_ordinals(connection, {stored.dataset.number for stored in group})
        last = dict(found)
        outcomes: list[Tensor | Exception] = []
        for stored in group:
            ds = stored.dataset.number
            try:
                if ds not in last:
                    raise DatasetNotFoundError(
                        "the dataset was deleted during the insert", dataset=stored.dataset.name, tensor=stored.new.id
                    )
                tensor = self._insert(connection, stored, last[ds] + 1, created_us)
            except (AlreadyExistsError, GenerationMismatchError, DatasetNotFoundError, DataCorruptError) as error:
                # Of this item alone: the others of its group are committed.
                outcomes.append(error)
                continue
            # One that was there already keeps its own, which is no higher.
            last[ds] = max(last[ds], tensor.ordinal)
            if stored.upload is not None:
                complete_upload(connection, *stored.upload, tensor.generation)
            outcomes.append(tensor)
        # Once per dataset and commit, and not at all where nothing new came.
        counted = [(ordinal, ds) for ds, ordinal in last.items() if ordinal != found[ds]]
        connection.executemany("UPDATE dataset SET last_ordinal = ? WHERE ds = ?", counted)
        return outcomes

    def _insert(self, connection: apsw.Connection, stored: StoredTensor, ordinal: int, created_us: int) -> Tensor:
        """Insert the tensor with this ordinal, or return the one that is there where it is the same."""
        row = tensor_to_row(stored, ordinal, created_us)
        # Nearly always the id is free: find out by trying.
        inserted = [] if stored.new.if_generation_match else select(connection, _INSERT, row)
        if not inserted:
            existing, source_crc32c = _existing(connection, stored)
            resolution = resolve(stored, existing, source_crc32c)
            if existing is not None and resolution is Resolution.REPEATED:
                return existing
            self._delete(connection, stored.dataset.number, stored.new.id)
            inserted = select(connection, _INSERT, row)
        ((seq,),) = inserted
        if stored.inline_payload is not None:
            connection.execute("INSERT INTO payload VALUES (?, ?)", (seq, stored.inline_payload))
        _insert_attributes(connection, stored.dataset.number, seq, stored.new.metadata, stored.new.spec.shape)
        return stored.committed(seq, ordinal, created_us)

    def _delete(self, connection: apsw.Connection, ds: int, tensor_id: str) -> bool:
        """Delete the tensor, leave its payload to the sweep, and return whether it existed."""
        rows = select(connection, "DELETE FROM tensor WHERE ds = ? AND id = ? RETURNING key, inline", (ds, tensor_id))
        for key, inline in rows:
            if not inline:
                delete_after_us = now_us() + self._delete_grace_us
                connection.execute("INSERT INTO tombstone VALUES (?, ?)", (key, delete_after_us))
        return bool(rows)

    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """See `TensorTable`."""
        with self._database.write() as connection:
            ds = find_dataset(connection, dataset).number
            statement = f"{_WITHOUT_PAYLOAD} WHERE t.ds = ? AND t.id = ?"
            tensor = _first(connection, statement, (ds, tensor_id), dataset)
            if tensor is None:
                raise TensorNotFoundError("there is no such tensor", dataset=dataset, tensor=tensor_id)
            seq = tensor.generation
            connection.execute("UPDATE tensor SET metadata = ? WHERE seq = ?", (to_json(metadata), seq))
            connection.execute("DELETE FROM attr WHERE seq = ?", (seq,))
            _insert_attributes(connection, ds, seq, metadata, tensor.spec.shape)
            updated = _first(connection, statement, (ds, tensor_id), dataset)
        assert updated is not None
        return updated

    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """See `TensorTable`."""
        with self._database.write() as connection:
            ds = find_dataset(connection, dataset).number
            return [tensor_id for tensor_id in dict.fromkeys(ids) if self._delete(connection, ds, tensor_id)]


def _abandoned(stored: StoredTensor, outcome: Tensor | Exception) -> Exception:
    if isinstance(outcome, Exception):
        return outcome
    return InsertAbandonedError(
        "another item of the insert failed, so nothing of it was stored",
        dataset=stored.dataset.name,
        tensor=stored.new.id,
    )


def _last_ordinals(connection: apsw.Connection, datasets: set[int]) -> dict[int, int]:
    """Return the last ordinal of each dataset; those that are gone are left out."""
    statement = "SELECT last_ordinal FROM dataset WHERE ds = ?"
    return {ds: last for ds in datasets for (last,) in select(connection, statement, (ds,))}


def _existing(connection: apsw.Connection, stored: StoredTensor) -> tuple[Tensor | None, int | None]:
    """Return the tensor that has the id, and the CRC32C of its source."""
    parameters = (stored.dataset.number, stored.new.id)
    statement = f"{_WITHOUT_PAYLOAD} WHERE t.ds = ? AND t.id = ?"
    existing = _first(connection, statement, parameters, stored.dataset.name)
    rows = select(connection, "SELECT source_crc FROM tensor WHERE ds = ? AND id = ?", parameters)
    return existing, rows[0][0] if rows else None


def _insert_attributes(
    connection: apsw.Connection, ds: int, seq: int, metadata: Metadata, shape: tuple[int, ...]
) -> None:
    values: list[tuple[str, float | str | None]] = [
        (f"{DIMENSION_KEY}{axis}", float(size)) for axis, size in enumerate(shape)
    ]
    values += flatten_metadata(metadata)
    connection.executemany(
        "INSERT INTO attr (seq, key, ordinal, ds, num, txt) VALUES (?, ?, ?, ?, ?, ?)",
        (
            (
                seq,
                key,
                position,
                ds,
                value if isinstance(value, float) else None,
                value if isinstance(value, str) else None,
            )
            for position, (key, value) in enumerate(values)
        ),
    )


def _page_tail(connection: apsw.Connection, ds: int, request: PageRequest) -> tuple[str, list[Any]]:
    """Return WHERE, ORDER BY and LIMIT of a page, one row longer than the page to see whether it is the last."""
    where, parameters = compile_filter(request.filter, ds, connection)
    conditions = [where]
    sort, direction, beyond = _SORT_COLUMNS[request.order.field], "ASC", ">"
    if request.order.descending:
        direction, beyond = "DESC", "<"
    if request.generation_max is not None:
        # "+": the bound holds for nearly all tensors, and must not win over the index that has them in order.
        conditions.append("t.seq <= ?" if sort == "t.seq" else "+t.seq <= ?")
        parameters.append(request.generation_max)
    if request.after is not None:
        conditions.append(f"({sort}, t.seq) {beyond} (?, ?)")
        parameters.extend(request.after)
    tail = f" WHERE {' AND '.join(conditions)} ORDER BY {sort} {direction}, t.seq {direction} LIMIT ?"
    return tail, [*parameters, request.size + 1]


def _select(*, with_payloads: bool) -> str:
    return _WITH_PAYLOAD if with_payloads else _WITHOUT_PAYLOAD


def _first(connection: apsw.Connection, statement: str, parameters: tuple[Any, ...], dataset: str) -> Tensor | None:
    rows = select(connection, statement, parameters)
    return tensor_from_row(rows[0], dataset) if rows else None
