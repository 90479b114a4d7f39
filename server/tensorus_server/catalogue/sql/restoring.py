"""Makes the tensors of a dataset those of an earlier state, within one transaction.

Tensors of the state that are current already stay. The others come back as new rows with new generations, which share their
payloads with the past rows that they are made from. A current tensor that is the same as a past one, but for generation,
ordinal and time, was brought back by an earlier restore and stays, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.deletion import DELETED_COLUMNS, free
from tensorus_server.catalogue.sql.numbers import Numbers, latest_generation
from tensorus_server.catalogue.sql.reading import find_tensors
from tensorus_server.catalogue.sql.row_tables import past
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS
from tensorus_server.catalogue.sql.sharing import all_shared_as
from tensorus_server.catalogue.sql.snapshot_rows import end_states_if_lost
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.catalogue.sql.states import require_state
from tensorus_server.errors import DataCorruptError, LimitExceededError, NewerTensorsError
from tensorus_server.model import NewTensor, Restored, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.model import Dataset, Metadata

__all__ = ["Rules", "is_kept", "renewed", "restore"]

_VISIBLE = "ds = ?1 AND seq <= ?2 AND until_generation > ?2"

_SAME = " AND ".join(
    f't."{name}" IS NOT DISTINCT FROM p."{name}"'
    for name in TENSOR_COLUMNS
    if name not in {"seq", "ordinal", "created_us", "policy", "row_checksum"}
)
"""The policy is left out, because its JSON may be of an older version. Tensors with the same key have the same one."""

_PAST = f"""
SELECT p.seq, t.seq, t.key IS NOT DISTINCT FROM p.key AND t.metadata IS NOT DISTINCT FROM p.metadata
FROM (SELECT seq, id, key, metadata FROM past_tensor WHERE {_VISIBLE} AND seq > ?3 ORDER BY seq LIMIT ?4) AS p
LEFT JOIN tensor AS t ON t.ds = ?1 AND t.id = p.id ORDER BY p.seq
"""
"""Past rows of the state, each with the current row of the same id, if there is one, and whether the two may be the same."""

_TO_DELETE = f"""
SELECT t.seq FROM tensor AS t WHERE t.ds = ?1 AND t.seq > ?2
  AND NOT EXISTS (SELECT 1 FROM past_tensor AS p WHERE {_VISIBLE.replace("ds", "p.ds", 1)} AND p.id = t.id)
ORDER BY t.seq LIMIT ?3
"""

_LOST = f"""
SELECT count(*) FROM json_each(?2) AS deleted CROSS JOIN tensor AS t ON t.seq = CAST(deleted.value AS BIGINT)
WHERE NOT EXISTS (SELECT 1 FROM snapshot WHERE ds = ?1 AND generation > t.seq)
  AND NOT EXISTS (
    SELECT 1 FROM past_tensor AS p JOIN snapshot ON snapshot.ds = ?1 AND generation BETWEEN p.seq AND p.until_generation - 1
    WHERE p.ds = ?1 AND p.id = t.id AND {_SAME}
  )
"""

_IN_STATE = f"""
SELECT (SELECT count(*) FROM tensor WHERE ds = ?1 AND seq <= ?2) + (SELECT count(*) FROM past_tensor WHERE {_VISIBLE})
"""

_DELETE = f"""
DELETE FROM tensor WHERE ds = ? AND seq IN (SELECT CAST(value AS BIGINT) FROM json_each(?)) RETURNING {DELETED_COLUMNS}
"""

_LOOKED_AT = 1000
"""Tensors that are compared at once."""

_BATCH = 64
"""Tensors that are brought back at once, with their inline payloads, which are 4 MiB at most."""


@dataclass(frozen=True)
class Rules:
    """See `TensorTable.restore`, and `SqliteCatalogue` for the grace."""

    limit: int
    discard_newer: bool
    delete_grace_us: int


def is_kept(connection: Connection, ds: int, seq: int) -> bool:
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
    connection: Connection,
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
    restored = _to_restore(connection, dataset, at, rules.limit)
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
    end_states_if_lost(connection, ds)
    # No time is between its steps.
    connection.execute(
        "UPDATE past_tensor SET until_us = ? WHERE ds = ? AND until_generation > ?", (numbers.created_us, ds, before)
    )
    return result


def _to_restore(connection: Connection, dataset: Dataset, at: int, limit: int) -> list[tuple[int, int | None]]:
    """Return the generations of the past tensors to bring back, each with that of the tensor to replace; at most `limit` + 1.

    Raises:
        DataCorruptError: a past tensor is damaged.
    """
    found: list[tuple[int, int | None]] = []
    last = -(2**63)
    while len(found) <= limit:
        rows = select(connection, _PAST, (dataset.number, at, last, _LOOKED_AT))
        if not rows:
            return found
        last = rows[-1][0]
        alike = [(old, new) for old, new, may_be_same in rows if may_be_same]
        earlier = _past_tensors(connection, dataset, at, [seq for seq, _ in alike])
        now = find_tensors(connection, "seq", (dataset.number, dataset.name), [seq for _, seq in alike])
        same = {old.generation for old, new in zip(earlier, now, strict=True) if _is_same(old, new)}
        found += [(old, new) for old, new, _ in rows if old not in same]
    return found[: limit + 1]


def _is_same(old: Tensor, new: Tensor | DataCorruptError | None) -> bool:
    """Whether a current tensor is the same as a past one, but for what a restore changes. See `_SAME` for the policy."""
    return (
        isinstance(new, Tensor)
        and to_json(new.metadata) == to_json(old.metadata)
        and old
        == replace(
            new,
            generation=old.generation,
            ordinal=old.ordinal,
            created_us=old.created_us,
            metadata=old.metadata,
            policy=old.policy,
        )
    )


def _require_kept(connection: Connection, dataset: Dataset, seqs: Iterable[int]) -> None:
    """Check that snapshots have tensors that are about to be deleted, or the same ones under other generations."""
    if dataset.retention_s:
        return
    ((lost,),) = select(connection, _LOST, (dataset.number, to_json(list(seqs))))
    if lost:
        raise NewerTensorsError(
            f"the restore would lose newer tensors, {lost} in number, which neither a snapshot nor the retention keeps; make a "
            "snapshot of the current state, or discard them",
            dataset=dataset.name,
            tensors=lost,
        )


def _delete(connection: Connection, ds: int, seqs: list[int], rules: Rules) -> None:
    rows: list[tuple[Any, ...]] = select(connection, _DELETE, (ds, to_json(seqs))) if seqs else []
    free(connection, rows, f"tensors of dataset number {ds}", now_us(connection) + rules.delete_grace_us)


def _past_tensors(connection: Connection, dataset: Dataset, at: int, seqs: list[int]) -> list[Tensor]:
    """Return past tensors of a state.

    Raises:
        DataCorruptError: one of them is damaged.
    """
    tensors: list[Tensor] = []
    found = find_tensors(connection, "seq", (dataset.number, dataset.name), seqs, tables=past(at))
    for seq, tensor in zip(seqs, found, strict=True):
        if isinstance(tensor, DataCorruptError):
            raise tensor
        if tensor is None:
            raise DataCorruptError(
                f"the catalogue is damaged: the row of past generation {seq} is missing", dataset=dataset.name
            )
        tensors.append(tensor)
    return tensors


def _shared(connection: Connection, dataset: Dataset, at: int, seqs: list[int]) -> list[StoredTensor]:
    """Return tensors to insert that are as past ones were."""
    wanted = [
        (tensor, dataset, renewed(tensor, tensor.metadata)) for tensor in _past_tensors(connection, dataset, at, seqs)
    ]
    shared: list[StoredTensor] = []
    for one in all_shared_as(connection, wanted, table="past_tensor"):
        if isinstance(one, DataCorruptError):
            raise one
        shared.append(one)
    return shared
