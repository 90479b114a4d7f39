"""Makes the tensors of a dataset those of an earlier state, within one transaction.

Tensors of the state that are current already stay. The others come back as new rows with new generations, which share their
payloads with the past rows that they are made from. A current tensor that is the same as a past one, but for generation,
ordinal and time, was brought back by an earlier restore and stays, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.deletion import DELETED_COLUMNS, free
from tensorus_server.catalogue.sqlite.numbers import Numbers, latest_generation
from tensorus_server.catalogue.sqlite.reading import find_tensors
from tensorus_server.catalogue.sqlite.row_tables import past
from tensorus_server.catalogue.sqlite.rows import TENSOR_COLUMNS
from tensorus_server.catalogue.sqlite.sharing import all_shared_as
from tensorus_server.catalogue.sqlite.states import require_state
from tensorus_server.errors import DataCorruptError, LimitExceededError, NewerTensorsError
from tensorus_server.model import NewTensor, Restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import apsw

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.model import Dataset, Metadata, Tensor

__all__ = ["Rules", "is_kept", "renewed", "restore"]

_VISIBLE = "ds = ?1 AND seq <= ?2 AND until_generation > ?2"

_SAME = " AND ".join(
    f't."{name}" IS p."{name}"'
    for name in TENSOR_COLUMNS
    if name not in {"seq", "ordinal", "created_us", "policy", "row_checksum"}
)
"""The policy is left out, because its JSON may be of an older version; the key says the same more exactly."""

_TO_RESTORE = f"""
SELECT p.seq, t.seq FROM (SELECT * FROM past_tensor WHERE {_VISIBLE}) AS p
LEFT JOIN tensor AS t ON t.ds = ?1 AND t.id = p.id
WHERE t.seq IS NULL OR NOT ({_SAME}) ORDER BY p.seq LIMIT ?3
"""

_TO_DELETE = f"""
SELECT t.seq FROM tensor AS t WHERE t.ds = ?1 AND t.seq > ?2
  AND NOT EXISTS (SELECT 1 FROM past_tensor AS p WHERE {_VISIBLE.replace("ds", "p.ds", 1)} AND p.id = t.id)
ORDER BY t.seq LIMIT ?3
"""

_LOST = f"""
SELECT count(*) FROM json_each(?2) AS deleted CROSS JOIN tensor AS t ON t.seq = deleted.value
WHERE NOT EXISTS (SELECT 1 FROM snapshot WHERE ds = ?1 AND generation > t.seq)
  AND NOT EXISTS (
    SELECT 1 FROM past_tensor AS p JOIN snapshot ON snapshot.ds = ?1 AND generation BETWEEN p.seq AND p.until_generation - 1
    WHERE p.ds = ?1 AND p.id = t.id AND {_SAME}
  )
"""

_IN_STATE = f"""
SELECT (SELECT count(*) FROM tensor WHERE ds = ?1 AND seq <= ?2) + (SELECT count(*) FROM past_tensor WHERE {_VISIBLE})
"""

_DELETE = f"DELETE FROM tensor WHERE ds = ? AND seq IN (SELECT value FROM json_each(?)) RETURNING {DELETED_COLUMNS}"

_BATCH = 64
"""Tensors that are brought back at once, with their inline payloads, which are 4 MiB at most."""


@dataclass(frozen=True)
class Rules:
    """See `TensorTable.restore`, and `SqliteCatalogue` for the grace."""

    limit: int
    discard_newer: bool
    delete_grace_us: int


def is_kept(connection: apsw.Connection, ds: int, seq: int) -> bool:
    """Whether a current row is needed as it is, by a snapshot or the dataset's retention."""
    statement = (
        "SELECT EXISTS (SELECT 1 FROM dataset WHERE ds = ?1 AND retention_us > 0) "
        "OR EXISTS (SELECT 1 FROM snapshot WHERE ds = ?1 AND generation > ?2)"
    )
    return select(connection, statement, (ds, seq)) == [(1,)]


def renewed(tensor: Tensor, metadata: Metadata) -> NewTensor:
    """Return a stored tensor as it would be inserted anew, with this metadata."""
    policy = None if tensor.policy is None else StoragePolicy.from_json(dict(tensor.policy))
    return NewTensor(tensor.id, tensor.spec, metadata, policy)


def restore(
    connection: apsw.Connection,
    dataset: Dataset,
    at: int,
    rules: Rules,
    insert: Callable[[Sequence[tuple[StoredTensor, Tensor]]], object],
) -> Restored:
    """Do what `TensorTable.restore` says.

    Args:
        insert: inserts the rows of tensors whose ids are free.
    """
    ds, name = dataset.number, dataset.name
    require_state(connection, (ds, name), at)
    restored: list[tuple[int, int | None]] = select(connection, _TO_RESTORE, (ds, at, rules.limit + 1))
    deleted = [seq for (seq,) in select(connection, _TO_DELETE, (ds, at, rules.limit + 1))]
    if len(restored) + len(deleted) > rules.limit:
        raise LimitExceededError(
            f"the restore changes more than {rules.limit} tensors (restored_tensors_max)",
            dataset=name,
            limit=rules.limit,
        )
    if not rules.discard_newer:
        replaced = [seq for _, seq in restored if seq is not None]
        _require_kept(connection, dataset, [*deleted, *replaced])
    ((in_state,),) = select(connection, _IN_STATE, (ds, at))
    result = Restored(at, len(restored), len(deleted), int(in_state) - len(restored))
    before = latest_generation(connection)
    _delete(connection, ds, deleted, rules)
    numbers = Numbers(connection, {ds: dataset}, current=False)
    for start in range(0, len(restored), _BATCH):
        batch = restored[start : start + _BATCH]
        _delete(connection, ds, [seq for _, seq in batch if seq is not None], rules)
        new = [(one, numbers.give(one)) for one in _shared(connection, dataset, at, [seq for seq, _ in batch])]
        insert(new)
        # A tensor that is replaced is visible until it is, whatever generation its deletion was given.
        until = [(tensor.generation, seq) for (_, seq), (_, tensor) in zip(batch, new, strict=True) if seq is not None]
        connection.executemany("UPDATE past_tensor SET until_generation = ? WHERE seq = ?", until)
    numbers.save(connection)
    # No time is between its steps.
    connection.execute(
        "UPDATE past_tensor SET until_us = ? WHERE ds = ? AND until_generation > ?", (numbers.created_us, ds, before)
    )
    return result


def _require_kept(connection: apsw.Connection, dataset: Dataset, seqs: Iterable[int]) -> None:
    """Check that snapshots have tensors that are about to be deleted, or the same ones under other generations."""
    if dataset.retention_s:
        return
    ((lost,),) = select(connection, _LOST, (dataset.number, to_json(list(seqs))))
    if lost:
        raise NewerTensorsError(
            f"the restore would lose {lost} newer tensors, which neither a snapshot nor the retention keeps; make a "
            "snapshot of the current state, or discard them",
            dataset=dataset.name,
            tensors=lost,
        )


def _delete(connection: apsw.Connection, ds: int, seqs: list[int], rules: Rules) -> None:
    rows: list[tuple[Any, ...]] = select(connection, _DELETE, (ds, to_json(seqs))) if seqs else []
    free(connection, rows, f"tensors of dataset number {ds}", now_us() + rules.delete_grace_us)


def _shared(connection: apsw.Connection, dataset: Dataset, at: int, seqs: list[int]) -> list[StoredTensor]:
    """Return tensors to insert that are as past ones were."""
    wanted: list[tuple[Tensor, Dataset, NewTensor]] = []
    for seq, tensor in zip(
        seqs,
        find_tensors(connection, "seq", (dataset.number, dataset.name), seqs, tables=past(at)),
        strict=True,
    ):
        if isinstance(tensor, DataCorruptError):
            raise tensor
        if tensor is None:
            raise DataCorruptError(
                f"the catalogue is damaged: the row of past generation {seq} is missing", dataset=dataset.name
            )
        wanted.append((tensor, dataset, renewed(tensor, tensor.metadata)))
    shared: list[StoredTensor] = []
    for one in all_shared_as(connection, wanted, table="past_tensor"):
        if isinstance(one, DataCorruptError):
            raise one
        shared.append(one)
    return shared
