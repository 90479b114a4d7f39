"""Copies, moves and new names, each in one transaction. `sharing.py` has how a copy shares its payload."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import CopyTable, Upload, require_intact
from tensorus_server.catalogue.conflicts import resolve_copy
from tensorus_server.catalogue.sql.access import set_owner
from tensorus_server.catalogue.sql.damage import as_damage
from tensorus_server.catalogue.sql.dataset_rows import find_dataset
from tensorus_server.catalogue.sql.datasets import create_dataset, rename_dataset
from tensorus_server.catalogue.sql.deletion import delete_tensor
from tensorus_server.catalogue.sql.numbers import Numbers, latest_generation
from tensorus_server.catalogue.sql.reading import find_tensors, source_crc32c
from tensorus_server.catalogue.sql.row_tables import LIVE, past
from tensorus_server.catalogue.sql.sharing import all_shared_as
from tensorus_server.catalogue.sql.snapshot_rows import end_states_if_lost
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.catalogue.sql.states import locate_at, require_state
from tensorus_server.catalogue.sql.uploads import find_uploads, record_done
from tensorus_server.errors import (
    DataCorruptError,
    DatasetNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    TensorNotFoundError,
)
from tensorus_server.model import NewTensor, Outcome, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tensorus_server.catalogue.abc import StoredTensor, TensorCopies
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.sharing import SourceTable
    from tensorus_server.catalogue.sql.tensors import SqlTensorTable
    from tensorus_server.catalogue.sql.transactions import Transactions
    from tensorus_server.model import Dataset, Tensor

__all__ = ["SqlCopyTable"]

_BATCH = 64
"""Tensors of a dataset that are copied at once: as many as one statement inserts. Their inline payloads take up to 4 MiB."""

_CALL = "call"
"""The key in the state of an upload row that tells the record of a call from an insert."""

_END_AT_ONCE = "UPDATE past_tensor SET until_us = ? WHERE ds = ? AND until_generation > ?"

_NO_SPEC = TensorSpec(dtype_by_name("uint8"), (0,))
"""Of a record that is about no tensor."""


@dataclass(frozen=True)
class _Source:
    """A tensor to copy, and where its row is."""

    tensor: Tensor
    table: SourceTable


class SqlCopyTable(CopyTable):
    """See `CopyTable`."""

    def __init__(
        self, database: Transactions, tensors: SqlTensorTable, *, delete_grace_s: float, upload_expiry_s: float
    ) -> None:
        """Use `database`, and the table of tensors in it; see `SqliteCatalogue` for the times."""
        self._database = database
        self._tensors = tensors
        self._delete_grace_us = int(delete_grace_s * 1e6)
        self._upload_expiry_us = int(upload_expiry_s * 1e6)

    def copy_tensors(self, copies: TensorCopies, check: Callable[[Dataset, Sequence[Tensor]], None]) -> list[Tensor]:
        """See `CopyTable`."""
        with self._database.write() as connection, as_damage(connection, copies.source):
            destination = find_dataset(connection, copies.destination)
            ids, new_ids = [tensor_id for tensor_id, _ in copies.ids], [new_id for _, new_id in copies.ids]
            if done := _done(connection, copies.request_id, "CopyTensors", destination.number):
                return _copied_before(connection, destination, done, new_ids)
            source = find_dataset(connection, copies.source)
            sources = _find_sources(connection, source, ids, copies.at)
            stored = _shared(connection, sources, source, destination, new_ids, replaces=copies.replace)
            before = latest_generation(connection)
            if copies.move:
                for found in sources:
                    delete_tensor(connection, source.number, found.tensor.id, self._delete_grace_us)
                end_states_if_lost(connection, source.number)
            tensors = self._commit(connection, destination, stored)
            for ds in {source.number, destination.number}:
                # No time is between its steps.
                connection.execute(_END_AT_ONCE, (now_us(connection), ds, before))
            check(destination, tensors)
            for item, tensor in enumerate(tensors):
                self._record(connection, (copies.request_id, item), "CopyTensors", destination, tensor=tensor)
        return tensors

    def copy_dataset(
        self, name: str, new_name: str, *, at: int | None, tensors_max: int, request_id: str = "", owner: str = ""
    ) -> tuple[Dataset, int]:
        """See `CopyTable`."""
        with self._database.write() as connection, as_damage(connection, name):
            for upload in _done(connection, request_id, "CopyDataset"):
                return _dataset_of(connection, upload, new_name), int(upload.state["tensors"])
            source = find_dataset(connection, name)
            places = _places_of_dataset(connection, source, at, tensors_max)
            dataset = create_dataset(connection, new_name, source.policy, source.schema, source.retention_s)
            if owner:
                set_owner(connection, dataset.number, owner)
            numbers = Numbers(connection, {dataset.number: dataset}, current=False)
            for start in range(0, len(places), _BATCH):
                sources = _sources_at(connection, source, places[start : start + _BATCH], at)
                ids = [found.tensor.id for found in sources]
                stored = _shared(connection, sources, source, dataset, ids, replaces=False)
                self._tensors.insert(connection, [(new, numbers.give(new)) for new in stored])
            numbers.save(connection)
            self._record(connection, (request_id, 0), "CopyDataset", dataset, tensors=len(places))
        return dataset, len(places)

    def rename_dataset(self, name: str, new_name: str, *, request_id: str = "") -> Dataset:
        """See `CopyTable`."""
        with self._database.write() as connection, as_damage(connection, name):
            for upload in _done(connection, request_id, "RenameDataset"):
                return _dataset_of(connection, upload, new_name)
            dataset = rename_dataset(connection, name, new_name)
            self._record(connection, (request_id, 0), "RenameDataset", dataset)
        return dataset

    def _commit(self, connection: Connection, destination: Dataset, stored: Sequence[StoredTensor]) -> list[Tensor]:
        """Insert copies, and delete the tensors that they replace. A copy that is stored already is not inserted."""
        there = find_tensors(connection, "id", (destination.number, destination.name), [new.new.id for new in stored])
        outcomes = []
        for new, found in zip(stored, there, strict=True):
            existing = require_intact(found)
            outcomes.append(resolve_copy(new, existing, source_crc32c(connection, existing)))
            if outcomes[-1] is Outcome.REPLACED:
                delete_tensor(connection, destination.number, new.new.id, self._delete_grace_us)
        # After the deletions, because one that is kept takes a generation, too.
        numbers = Numbers(connection, {destination.number: destination}, current=False)
        copied: list[Tensor] = []
        fresh: list[tuple[StoredTensor, Tensor]] = []
        for new, found, outcome in zip(stored, there, outcomes, strict=True):
            if outcome is Outcome.ALREADY_STORED and (existing := require_intact(found)) is not None:
                copied.append(replace(existing, outcome=outcome))
            else:
                copied.append(numbers.give(new, outcome))
                fresh.append((new, copied[-1]))
        self._tensors.insert(connection, fresh)
        numbers.save(connection)
        return copied

    def _record(
        self,
        connection: Connection,
        key: tuple[str, int],
        call: str,
        dataset: Dataset,
        *,
        tensor: Tensor | None = None,
        **state: int,
    ) -> None:
        """Record that an item of a call was done, so that it is not done again if the call is repeated.

        Args:
            key: request id and item. Nothing is recorded if the request id is empty.
            state: what the answer says beside the tensor or the dataset.
        """
        request_id, item = key
        if not request_id:
            return
        done = Upload(
            request_id=request_id,
            item=item,
            dataset_number=dataset.number,
            id="" if tensor is None else tensor.id,
            spec=_NO_SPEC if tensor is None else tensor.spec,
            policy=dataset.policy,
            payload_key="",
            committed_bytes=0,
            stored_bytes=0,
            chunk_count=0,
            state={_CALL: call, **state},
            generation=0 if tensor is None else tensor.generation,
            outcome=None if tensor is None else tensor.outcome,
        )
        record_done(connection, done, self._upload_expiry_us)


# ---- Sources -----------------------------------------------------------------------------------------------------------


def _find_sources(connection: Connection, dataset: Dataset, ids: Sequence[str], at: int | None) -> list[_Source]:
    """Return the tensors with these ids, in order, as they are or were at a generation.

    Raises:
        TensorNotFoundError: one of them does not exist, or did not.
        StateNotKeptError: see `require_state`.
        DataCorruptError: a row is damaged.
    """
    place = dataset.number, dataset.name
    located: Iterable[tuple[Tensor | DataCorruptError | None, SourceTable]]
    if at is None:
        located = [(tensor, "tensor") for tensor in find_tensors(connection, "id", place, ids)]
    else:
        located = locate_at(connection, "id", place, ids, at)
    sources = []
    for tensor_id, (found, table) in zip(ids, located, strict=True):
        tensor = require_intact(found)
        if tensor is None:
            when = "" if at is None else f" at generation {at}"
            raise TensorNotFoundError(f"there is no such tensor{when}", dataset=dataset.name, tensor=tensor_id)
        sources.append(_Source(tensor, table))
    return sources


def _places_of_dataset(
    connection: Connection, dataset: Dataset, at: int | None, tensors_max: int
) -> list[tuple[int, SourceTable]]:
    """Return where the rows of a dataset's tensors are, in the order of their generations.

    Raises:
        LimitExceededError: there are too many.
        StateNotKeptError: see `require_state`.
    """
    places: list[tuple[int, SourceTable]] = []
    for table, where, parameters in _states(connection, dataset, at):
        statement = f"SELECT t.seq FROM {table} t WHERE t.ds = ? AND {where} ORDER BY t.seq LIMIT ?"
        rows = select(connection, statement, (dataset.number, *parameters, tensors_max + 1))
        places += [(seq, table) for (seq,) in rows]
    if len(places) > tensors_max:
        raise LimitExceededError(
            f"the dataset has more than {tensors_max:,} tensors, which is the limit of a copy of a whole dataset "
            f"(dataset_copy_tensors_max); copy its tensors a part at a time",
            dataset=dataset.name,
            limit=tensors_max,
        )
    return sorted(places)


def _states(connection: Connection, dataset: Dataset, at: int | None) -> list[tuple[SourceTable, str, tuple[int, ...]]]:
    """Return, for each table that may have rows of a state, the condition on them and its parameters.

    Raises:
        StateNotKeptError: see `require_state`.
    """
    if at is None:
        return [("tensor", "true", ())]
    require_state(connection, (dataset.number, dataset.name), at)
    return [("tensor", "t.seq <= ?", (at,)), ("past_tensor", "t.seq <= ? AND t.until_generation > ?", (at, at))]


def _sources_at(
    connection: Connection, dataset: Dataset, places: Sequence[tuple[int, SourceTable]], at: int | None
) -> list[_Source]:
    """Return the tensors of these rows, in order.

    Raises:
        DataCorruptError: a row is damaged.
    """
    found: dict[int, Tensor | None] = {}
    for table, tables in (("tensor", LIVE), ("past_tensor", past(at or 0))):
        seqs = [seq for seq, where in places if where == table]
        tensors = find_tensors(connection, "seq", (dataset.number, dataset.name), seqs, tables=tables) if seqs else []
        found |= {seq: require_intact(tensor) for seq, tensor in zip(seqs, tensors, strict=True)}
    sources = []
    for seq, table in places:
        tensor = found.get(seq)
        if tensor is None:
            what = "the catalogue is damaged: a tensor's row is missing from the table"
            raise DataCorruptError(what, dataset=dataset.name, tensor=f"generation {seq}", generation=seq)
        sources.append(_Source(tensor, table))
    return sources


# ---- Copies ------------------------------------------------------------------------------------------------------------


def _shared(
    connection: Connection,
    sources: Sequence[_Source],
    source: Dataset,
    destination: Dataset,
    ids: Sequence[str],
    *,
    replaces: bool,
) -> list[StoredTensor]:
    """Return the copies of tensors, with these ids, to be committed."""
    # A tensor without a policy of its own keeps being stored as it was.
    followed = None if destination.policy == source.policy else source.policy
    stored: dict[int, StoredTensor] = {}
    for table in dict.fromkeys(found.table for found in sources):
        places = [place for place, found in enumerate(sources) if found.table == table]
        wanted = []
        for place in places:
            tensor = sources[place].tensor
            policy = followed if tensor.policy is None else _policy(to_json(dict(tensor.policy)))
            new = NewTensor(ids[place], tensor.spec, tensor.metadata, policy, replace=replaces)
            wanted.append((tensor, destination, new))
        for place, shared in zip(places, all_shared_as(connection, wanted, table=table), strict=True):
            if isinstance(shared, DataCorruptError):
                raise shared
            stored[place] = shared
    return [stored[place] for place in range(len(sources))]


@lru_cache(maxsize=256)
def _policy(policy: str) -> StoragePolicy:
    """Return the policy of a row. Equal ones are the same object, so that rows of consecutive tensors are made faster."""
    return StoragePolicy.from_json(json.loads(policy))


# ---- Repeated calls ----------------------------------------------------------------------------------------------------


def _done(connection: Connection, request_id: str, call: str, ds: int | None = None) -> list[Upload]:
    """Return the records of a call that was done before; empty: it was not.

    Raises:
        InvalidRequestError: the request id belongs to another call.
    """
    done = find_uploads(connection, request_id) if request_id else []
    for upload in done:
        if upload.state.get(_CALL) != call or ds not in {None, upload.dataset_number}:
            raise InvalidRequestError(f"request_id {request_id} belongs to another call")
    return done


def _copied_before(
    connection: Connection, dataset: Dataset, done: Sequence[Upload], ids: Sequence[str]
) -> list[Tensor]:
    """Return the copies that a call made before; where one was replaced since, the tensor that has its id now.

    Raises:
        InvalidRequestError: it made other copies.
        TensorNotFoundError: a copy was deleted since.
    """
    place = dataset.number, dataset.name
    if [upload.id for upload in done] != list(ids):
        raise InvalidRequestError(f"request_id {done[0].request_id} belongs to a copy of other tensors")
    found = find_tensors(connection, "id", place, ids)
    tensors = []
    for upload, tensor in zip(done, map(require_intact, found), strict=True):
        if tensor is None:
            raise TensorNotFoundError("the copy was made, and deleted since", dataset=dataset.name, tensor=upload.id)
        same = tensor.generation == upload.generation
        tensors.append(replace(tensor, outcome=upload.outcome if same else Outcome.ALREADY_STORED))
    return tensors


def _dataset_of(connection: Connection, upload: Upload, name: str) -> Dataset:
    """Return the dataset that a call made or renamed before.

    Raises:
        DatasetNotFoundError: it was deleted or renamed since.
    """
    dataset = find_dataset(connection, name)
    if dataset.number != upload.dataset_number:
        raise DatasetNotFoundError("the call was done, and the dataset deleted or renamed since", dataset=name)
    return dataset
