"""The table of tensors."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import NotSharedError, TensorTable, WriterLostError, require_intact
from tensorus_server.catalogue.conflicts import resolve_conflict
from tensorus_server.catalogue.sql.attributes import attributes, insert_attributes
from tensorus_server.catalogue.sql.bases import add_bases
from tensorus_server.catalogue.sql.commit_checks import CommitChecks
from tensorus_server.catalogue.sql.content import equal_tensors, list_content
from tensorus_server.catalogue.sql.damage import as_damage
from tensorus_server.catalogue.sql.dataset_rows import dataset_number, find_dataset
from tensorus_server.catalogue.sql.deletion import delete_against_indexes, delete_tensor
from tensorus_server.catalogue.sql.filter_sql import compile_filter
from tensorus_server.catalogue.sql.numbers import Numbers, latest_generation
from tensorus_server.catalogue.sql.packs import require_packs
from tensorus_server.catalogue.sql.reading import find_tensors, page_of_tensors, source_crc32c, taken_ids
from tensorus_server.catalogue.sql.restoring import Rules, is_kept, renewed, restore
from tensorus_server.catalogue.sql.rows import (
    ROW_CHECKSUM_COLUMNS,
    TENSOR_COLUMNS,
    RowWriter,
    checksum_of_row,
)
from tensorus_server.catalogue.sql.sharing import shared_as
from tensorus_server.catalogue.sql.snapshot_rows import end_states, end_states_if_lost
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sql.states import find_at, generations_at, page_at
from tensorus_server.catalogue.sql.uploads import complete_upload, record_edit
from tensorus_server.errors import (
    AlreadyExistsError,
    DataCorruptError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InsertAbandonedError,
    SessionTakenOverError,
    StorageFullError,
    StoreBusyError,
    TensorNotFoundError,
)
from tensorus_server.filter.metadata_index import NO_METADATA, index_of
from tensorus_server.limits import BATCH_S
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import EqualTensor, MemberTable, Page, PageRequest, StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions
    from tensorus_server.model import Metadata, Restored, Tensor

__all__ = ["SqlTensorTable"]

_NAMES = ", ".join(f'"{name}"' for name in TENSOR_COLUMNS)
_INSERT_TENSORS = f"INSERT INTO tensor ({_NAMES}) VALUES "
_INSERT_IF_FREE = f"{_INSERT_TENSORS} ({', '.join('?' * len(TENSOR_COLUMNS))}) ON CONFLICT (ds, id) DO NOTHING"
_INSERT_PAYLOADS = "INSERT INTO payload (seq, bytes) VALUES "
_INSERT_REFERENCE = "INSERT INTO reference (key, seq) VALUES (?, ?)"
_KEEP_SHARED = "DELETE FROM tombstone WHERE key = ?"

_FORGET_BEFORE = """
INSERT INTO history (ds, complete_from) VALUES (?, ?)
ON CONFLICT (ds) DO UPDATE SET complete_from = CASE
  WHEN excluded.complete_from > history.complete_from THEN excluded.complete_from ELSE history.complete_from END,
  complete_us = NULL
"""
"""Whatever is recovered was there before, under other generations."""

_GENERATION_MAX = 2**63 - 1
"""Above every generation: SQLite's largest integer."""


class _UndoneError(Exception):
    """Undoes a transaction."""


class SqlTensorTable(TensorTable):
    """See `TensorTable`."""

    def __init__(
        self, database: Transactions, members: MemberTable, *, delete_grace_s: float, upload_expiry_s: float
    ) -> None:
        """Use `database`; see `SqliteCatalogue` for the times.

        Args:
            members: knows which member this process is.
        """
        self._members = members
        self._upload_expiry_us = int(upload_expiry_s * 1e6)
        self._database = database
        self._delete_grace_us = int(delete_grace_s * 1e6)
        # Used only within a write transaction, so by one thread at a time.
        self._row_writer = RowWriter()

    def commit(
        self, group: Sequence[StoredTensor], *, together: bool = False, current: bool = False
    ) -> list[Tensor | Exception]:
        """See `TensorTable`."""
        try:
            return self._commit_at_once(group, together=together, current=current)
        except DataCorruptError as error:
            # A damaged page rolled back the whole group. Halve it, so that only tensors that use the page fail.
            if together or len(group) == 1:
                return [error] * len(group)
            half = len(group) // 2
            return [*self.commit(group[:half], current=current), *self.commit(group[half:], current=current)]

    def _commit_at_once(
        self, group: Sequence[StoredTensor], *, together: bool, current: bool
    ) -> list[Tensor | Exception]:
        outcomes: list[Tensor | Exception] = []
        try:
            with self._database.write() as connection, as_damage(connection):
                outcomes = self._commit(connection, group, current=current)
                if together and any(isinstance(outcome, Exception) for outcome in outcomes):
                    raise _UndoneError
        except _UndoneError:
            return [_abandoned(stored, outcome) for stored, outcome in zip(group, outcomes, strict=True)]
        return outcomes

    def equal_tensors(self, digests: Sequence[bytes]) -> dict[bytes, list[EqualTensor]]:
        """See `TensorTable`."""
        with self._database.read() as connection:
            return equal_tensors(connection, digests)

    def get(
        self, dataset: str, ids: Sequence[str], *, with_payloads: bool = False, at: int | None = None
    ) -> list[Tensor | DataCorruptError | None]:
        """See `TensorTable`."""
        with self._database.read() as connection, as_damage(connection, dataset):
            place = dataset_number(connection, dataset), dataset
            if at is not None:
                return find_at(connection, "id", place, ids, at, with_payloads=with_payloads)
            return find_tensors(connection, "id", place, ids, with_payloads=with_payloads)

    def page(self, dataset: str, request: PageRequest) -> Page:
        """See `TensorTable`."""
        with self._database.read() as connection, as_damage(connection, dataset):
            ds = dataset_number(connection, dataset)
            if request.at is not None or request.with_past:
                return page_at(connection, (ds, dataset), request)
            return page_of_tensors(connection, ds, dataset, request)

    def generations(self, dataset: str, request: PageRequest) -> list[int]:
        """See `TensorTable`."""
        with self._database.read() as connection, as_damage(connection, dataset):
            ds = dataset_number(connection, dataset)
            if request.at is not None:
                return generations_at(connection, (ds, dataset), request)
            where, parameters = compile_filter(request.filter, ds, connection)
            after, bound = request.after[1] if request.after else 0, request.generation_max
            rows = select(
                connection,
                f"SELECT t.seq FROM tensor t WHERE {where} AND t.seq > ? AND t.seq <= ? ORDER BY t.seq LIMIT ?",
                [*parameters, after, _GENERATION_MAX if bound is None else bound, request.size],
            )
        return [seq for (seq,) in rows]

    def by_generation(
        self, dataset: str, generations: Sequence[int], *, with_payloads: bool = False, at: int | None = None
    ) -> list[Tensor | DataCorruptError | None]:
        """See `TensorTable`."""
        with self._database.read() as connection, as_damage(connection, dataset):
            place = dataset_number(connection, dataset), dataset
            if at is not None:
                return find_at(connection, "seq", place, generations, at, with_payloads=with_payloads)
            return find_tensors(connection, "seq", place, generations, with_payloads=with_payloads)

    def latest_generation(self) -> int:
        """See `TensorTable`."""
        with self._database.read() as connection:
            return latest_generation(connection)

    def _commit(
        self, connection: Connection, group: Sequence[StoredTensor], *, current: bool
    ) -> list[Tensor | Exception]:
        numbers = Numbers(connection, {stored.dataset.number: stored.dataset for stored in group}, current=current)
        checks = CommitChecks.of(connection, group, self._members.number)
        outcomes = (
            self._commit_one(connection, group[0], numbers, checks)
            if len(group) == 1
            else self._commit_many(connection, group, numbers, checks)
        )
        numbers.save(connection)
        checks.fence.save()
        for stored, outcome in zip(group, outcomes, strict=True):
            if stored.upload is not None and not isinstance(outcome, Exception):
                if stored.changes is None:
                    complete_upload(connection, *stored.upload, outcome)
                else:
                    record_edit(connection, stored, outcome, self._upload_expiry_us)
        return outcomes

    def _commit_one(
        self,
        connection: Connection,
        stored: StoredTensor,
        numbers: Numbers,
        checks: CommitChecks,
    ) -> list[Tensor | Exception]:
        """Do the same as `_commit_many` for one tensor. Inserting its row shows whether its id is free."""
        if _is_plain(stored) and stored.dataset.number in numbers.ordinals:
            try:
                as_inserted = checks.content.shared(stored)
                checks.fence.require(as_inserted)
            except (NotSharedError, SessionTakenOverError, WriterLostError):
                return [self._resolve(connection, stored, numbers, checks)]
            tensor = numbers.give(as_inserted)
            if self.insert(connection, [(as_inserted, tensor)], if_free=True):
                checks.fence.committed(as_inserted)
                return [tensor]
            numbers.take_back(stored)
        return [self._resolve(connection, stored, numbers, checks)]

    def _commit_many(
        self,
        connection: Connection,
        group: Sequence[StoredTensor],
        numbers: Numbers,
        checks: CommitChecks,
    ) -> list[Tensor | Exception]:
        content = checks.content
        taken = taken_ids(connection, group)
        outcomes: list[Tensor | Exception] = []
        fresh: list[tuple[StoredTensor, Tensor]] = []
        for stored in group:
            place = (stored.dataset.number, stored.new.id)
            if _is_plain(stored) and place[0] in numbers.ordinals and place not in taken:
                # The usual case: these are inserted together.
                try:
                    as_inserted = content.shared(stored)
                    checks.fence.require(as_inserted)
                except (NotSharedError, SessionTakenOverError, WriterLostError) as error:
                    outcomes.append(error)
                    continue
                taken.add(place)
                content.committed(as_inserted)
                checks.fence.committed(as_inserted)
                tensor = numbers.give(as_inserted)
                fresh.append((as_inserted, tensor))
                outcomes.append(tensor)
            else:
                # Also if its id is free: a later one of the group may have the same.
                taken.add(place)
                self.insert(connection, fresh)
                fresh.clear()
                outcomes.append(self._resolve(connection, stored, numbers, checks))
        self.insert(connection, fresh)
        return outcomes

    def _resolve(
        self,
        connection: Connection,
        stored: StoredTensor,
        numbers: Numbers,
        checks: CommitChecks,
    ) -> Tensor | Exception:
        """Insert the tensor; return the existing one if it is the same, or an error if neither is possible."""
        ds, dataset = stored.dataset.number, stored.dataset.name
        try:
            if ds in numbers.damaged:
                raise numbers.damaged[ds]
            if ds not in numbers.ordinals:
                raise DatasetNotFoundError(
                    "the dataset was deleted during the insert", dataset=dataset, tensor=stored.new.id
                )
            (found,) = find_tensors(connection, "id", (ds, dataset), [stored.new.id])
            existing, done = None, Outcome.REPLACED
            is_damaged = _replaces_damaged(stored, found)
            if not is_damaged:
                existing = require_intact(found)
                done = resolve_conflict(stored, existing, source_crc32c(connection, existing))
                if stored.changes is not None and existing is not None:
                    # The metadata may have been replaced since.
                    stored = replace(stored, new=replace(stored.new, metadata=existing.metadata))
                if existing is not None and done is Outcome.ALREADY_STORED:
                    return replace(existing, outcome=done)
            stored = checks.content.shared(stored, existing, alone=is_damaged)
            checks.bases.require(stored)
            require_packs(connection, stored)
            checks.fence.require(stored)
            delete_tensor(connection, ds, stored.new.id, self._delete_grace_us)
        except (
            AlreadyExistsError,
            GenerationMismatchError,
            NotSharedError,
            SessionTakenOverError,
            StoreBusyError,
            DatasetNotFoundError,
            DataCorruptError,
        ) as error:
            # This concerns only this item; the others of its group are committed.
            return error
        checks.content.committed(stored)
        checks.fence.committed(stored)
        tensor = numbers.give(stored, done)
        self.insert(connection, [(stored, tensor)])
        return tensor

    def insert(
        self, connection: Connection, tensors: Sequence[tuple[StoredTensor, Tensor]], *, if_free: bool = False
    ) -> bool:
        """Insert tensors whose ids are free, with their inline payloads and attributes, within a transaction.

        Args:
            tensors: each with what it will be, numbers included.
            if_free: whether the id of the only tensor may be taken; then return False.
        """
        rows, payloads, references, attributed = [], [], [], []
        shared: list[str] = []
        recovered: list[tuple[int, int]] = []
        text_bytes_max = connection.indexed_text_bytes_max
        for stored, tensor in tensors:
            generation, new = tensor.generation, stored.new
            rows.append(self._row_writer.row(stored, generation, tensor.ordinal, tensor.created_us))
            if stored.inline_payload is not None:
                payloads.append((generation, stored.inline_payload))
            references += [(key, generation) for key in stored.references]
            if stored.shares_payload and not stored.is_inline:
                shared.append(stored.locator.key)
            if stored.created_us is not None:
                recovered.append((stored.dataset.number, generation))
            attributed += attributes(
                stored.dataset.number,
                generation,
                new.index if new.metadata else NO_METADATA,
                new.spec.shape,
                text_bytes_max,
            )
        if if_free:
            connection.execute(_INSERT_IF_FREE, rows[0])
            if not connection.changes():
                return False
        else:
            connection.insert_rows(_INSERT_TENSORS, rows)
        connection.insert_rows(_INSERT_PAYLOADS, payloads)
        if references or shared:
            # A row that was deleted in this transaction may have been the only one to need them.
            shared += [key for key, _ in references]
            connection.executemany(_KEEP_SHARED, ((key,) for key in shared))
            connection.executemany(_INSERT_REFERENCE, references)
        add_bases(connection, tensors)
        insert_attributes(connection, attributed)
        list_content(connection, tensors)
        if recovered:
            connection.executemany(_FORGET_BEFORE, recovered)
        return True

    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """See `TensorTable`."""
        with self._database.write() as connection, as_damage(connection, dataset):
            place = dataset_number(connection, dataset), dataset
            (found,) = find_tensors(connection, "id", place, [tensor_id])
            tensor = require_intact(found)
            if tensor is None:
                raise TensorNotFoundError("there is no such tensor", dataset=dataset, tensor=tensor_id)
            if is_kept(connection, place[0], tensor.generation):
                if to_json(tensor.metadata) == to_json(metadata):
                    return tensor
                return self._replace_with_metadata(connection, tensor, metadata)
            seq = tensor.generation
            if to_json(tensor.metadata) != to_json(metadata):
                # The row says nothing of its metadata before.
                end_states(connection, place[0])
            connection.execute("UPDATE tensor SET metadata = ? WHERE seq = ?", (to_json(metadata), seq))
            names = ", ".join(f'"{name}"' for name in ROW_CHECKSUM_COLUMNS)
            (row,) = select(connection, f"SELECT {names} FROM tensor WHERE seq = ?", (seq,))
            connection.execute("UPDATE tensor SET row_checksum = ? WHERE seq = ?", (checksum_of_row(row), seq))
            connection.execute("DELETE FROM attr WHERE seq = ?", (seq,))
            insert_attributes(
                connection,
                attributes(place[0], seq, index_of(metadata), tensor.spec.shape, connection.indexed_text_bytes_max),
            )
            (found,) = find_tensors(connection, "id", place, [tensor_id])
            updated = require_intact(found)
        assert updated is not None
        return updated

    def _replace_with_metadata(self, connection: Connection, tensor: Tensor, metadata: Metadata) -> Tensor:
        """Replace a tensor by one with other metadata, since its row must stay as it is."""
        dataset = find_dataset(connection, tensor.dataset)
        stored = shared_as(connection, tensor, dataset, renewed(tensor, metadata))
        # First, so that the time of the new tensor is not after the end of the old one.
        numbers = Numbers(connection, {dataset.number: dataset}, current=False)
        delete_tensor(connection, dataset.number, tensor.id, self._delete_grace_us)
        new = numbers.give(stored)
        self.insert(connection, [(stored, new)])
        numbers.save(connection)
        # The trigger wrote the time of the deletion, in milliseconds.
        connection.execute("UPDATE past_tensor SET until_us = ? WHERE seq = ?", (new.created_us, tensor.generation))
        return replace(new, outcome=None)

    def restore(
        self, dataset: str, at: int, *, limit: int, discard_newer: bool = False, number: int | None = None
    ) -> Restored:
        """See `TensorTable`."""
        with self._database.write() as connection, as_damage(connection, dataset):
            found = find_dataset(connection, dataset)
            if number is not None and found.number != number:
                raise DatasetNotFoundError("another dataset has got the name meanwhile", dataset=dataset)
            return restore(
                connection,
                found,
                at,
                Rules(limit=limit, discard_newer=discard_newer, delete_grace_us=self._delete_grace_us),
                partial(self.insert, connection),
            )

    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """See `TensorTable`."""
        remaining = list(dict.fromkeys(ids))
        deleted: list[str] = []
        at_once = max(len(remaining), 1)
        while True:
            begun_s = time.monotonic()
            batch = remaining[:at_once]
            try:
                done, found = self._database.write_on_full_disk(partial(self._delete_batch, dataset, batch))
            except StorageFullError:
                if len(batch) < 2:
                    raise
                # They need more log than the spare space holds. After a checkpoint, the log's space is used again.
                at_once = len(batch) // 2
                self._database.checkpoint(idle=True)
                continue
            except DataCorruptError:
                # A damaged page, or a row that differs from its index entries, rolled back the whole batch.
                if len(batch) > 1:
                    at_once = 1
                    continue
                delete = partial(self._delete_batch, dataset, batch, against_indexes=True)
                done, found = self._database.write_on_full_disk(delete)
            del remaining[:done]
            deleted += found
            if not remaining:
                return deleted
            # Pause for as long as the batch took, so that other writers get half of the time.
            time.sleep(time.monotonic() - begun_s)

    def _delete_batch(
        self, dataset: str, ids: Sequence[str], connection: Connection, *, against_indexes: bool = False
    ) -> tuple[int, list[str]]:
        """Delete tensors for `BATCH_S`; return how many ids were processed, and which of them existed."""
        delete = delete_against_indexes if against_indexes else delete_tensor
        deleted: list[str] = []
        with as_damage(connection, dataset, ids[0] if len(ids) == 1 else None):
            ds = dataset_number(connection, dataset)
            done = 0
            ends_s = time.monotonic() + BATCH_S
            for tensor_id in ids:
                if delete(connection, ds, tensor_id, self._delete_grace_us):
                    deleted.append(tensor_id)
                done += 1
                if time.monotonic() >= ends_s:
                    break
            if deleted:
                end_states_if_lost(connection, ds)
        return done, deleted


def _is_plain(stored: StoredTensor) -> bool:
    """Whether nothing has to be looked up before a tensor is inserted, but whether its id is free."""
    return not (stored.new.if_generation_match or stored.bases)


def _replaces_damaged(stored: StoredTensor, found: Tensor | DataCorruptError | None) -> bool:
    """Whether a tensor replaces one whose row is damaged, and of which only the generation is known."""
    if not isinstance(found, DataCorruptError):
        return False
    return stored.new.replace or found.facts.get("generation") == str(stored.new.if_generation_match)


def _abandoned(stored: StoredTensor, outcome: Tensor | Exception) -> Exception:
    if isinstance(outcome, Exception):
        return outcome
    return InsertAbandonedError(
        "another item of the insert failed, so nothing of it was stored",
        dataset=stored.dataset.name,
        tensor=stored.new.id,
    )
