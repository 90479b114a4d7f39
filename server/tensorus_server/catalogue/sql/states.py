"""Reads earlier states of a dataset.

The tensors of the state at generation g are the current ones with generations up to g, and the past ones with generations up
to g that were replaced or deleted later. Each read takes both in one transaction, so that a row that moves from one table to
the other is seen once. Generations and sort values stay as they are when a row moves, so the pages of a listing stay stable.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import merge
from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.abc import place_of
from tensorus_server.catalogue.sql.filter_sql import compile_filter
from tensorus_server.catalogue.sql.numbers import latest_generation
from tensorus_server.catalogue.sql.reading import (
    find_tensors,
    page_from,
    page_of_tensors,
    rows_by_generation,
    sort_key,
)
from tensorus_server.catalogue.sql.row_tables import LIVE, past
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import DataCorruptError, StateNotKeptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import DamagedTensor, Page, PageRequest
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.reading import Batch
    from tensorus_server.catalogue.sql.sharing import SourceTable
    from tensorus_server.model import Tensor

__all__ = ["find_at", "generations_at", "locate_at", "page_at", "require_state", "rows_at"]

_SEQ = TENSOR_COLUMNS.index("seq")


def require_state(connection: Connection, dataset: tuple[int, str], at: int) -> None:
    """Check that the state of a dataset (number, name) at a generation can be read completely.

    Raises:
        StateNotKeptError: it is not kept, or not reached yet.
    """
    ds, name = dataset
    latest = latest_generation(connection)
    if not 0 <= at <= latest:
        raise StateNotKeptError(
            f"there is no state at generation {at} yet, the latest generation is {latest}", dataset=name, generation=at
        )
    complete_from = _complete_from(connection, ds)
    is_snapshot = select(connection, "SELECT 1 FROM snapshot WHERE ds = ? AND generation = ?", (ds, at))
    if at < complete_from and not is_snapshot:
        raise StateNotKeptError(
            f"the state at generation {at} is not kept: states are complete from generation {complete_from}, and at snapshots",
            dataset=name,
            generation=at,
            complete_from=complete_from,
        )


def _complete_from(connection: Connection, ds: int) -> int:
    rows = select(connection, "SELECT complete_from FROM history WHERE ds = ?", (ds,))
    return int(rows[0][0]) if rows else 0


def find_at(
    connection: Connection,
    column: str,
    dataset: tuple[int, str],
    values: Sequence[str | int],
    at: int,
    *,
    with_payloads: bool = False,
) -> list[Tensor | DataCorruptError | None]:
    """Return the result of `find_tensors` for an earlier state.

    Raises:
        StateNotKeptError: see `require_state`.
    """
    located = locate_at(connection, column, dataset, values, at, with_payloads=with_payloads)
    return [tensor for tensor, _ in located]


def locate_at(
    connection: Connection,
    column: str,
    dataset: tuple[int, str],
    values: Sequence[str | int],
    at: int,
    *,
    with_payloads: bool = False,
) -> list[tuple[Tensor | DataCorruptError | None, SourceTable]]:
    """Return the result of `find_at`, and the table that has each row."""
    require_state(connection, dataset, at)
    found: list[tuple[Tensor | DataCorruptError | None, SourceTable]] = [
        (None if _generation(tensor) > at else tensor, "tensor")
        for tensor in find_tensors(connection, column, dataset, values, with_payloads=with_payloads)
    ]
    missing = [place for place, (tensor, _) in enumerate(found) if tensor is None]
    wanted = [values[place] for place in missing]
    if wanted:
        earlier = find_tensors(connection, column, dataset, wanted, with_payloads=with_payloads, tables=past(at))
        for place, tensor in zip(missing, earlier, strict=True):
            found[place] = tensor, "past_tensor"
    return found


def _generation(found: Tensor | DataCorruptError | None) -> int:
    """Return the generation of a tensor that was found, 0 if it is not known."""
    if isinstance(found, DataCorruptError):
        return int(found.facts.get("generation", 0))
    return 0 if found is None else found.generation


def page_at(connection: Connection, dataset: tuple[int, str], request: PageRequest) -> Page:
    """Return one page of a listing of the state `PageRequest.at`, or of all tensors that are kept, whatever their state.

    Raises:
        StateNotKeptError: see `require_state`.
        DataCorruptError: see `page_of_tensors`.
    """
    at = request.at
    if at is not None:
        require_state(connection, dataset, at)
        request = replace(request, generation_max=at)
    field, descending = request.order.field, request.order.descending

    def key(tensor: Tensor | DamagedTensor) -> tuple[tuple[int, Any], int]:
        value, generation = place_of(tensor, field)
        return sort_key(value), generation

    pages = [page_of_tensors(connection, *dataset, request, tables) for tables in (LIVE, past(at))]
    # A page that was cut short says nothing of what comes after its last tensor.
    ends = [(sort_key(page.next[0]), page.next[1]) for page in pages if page.next is not None]
    end = (max if descending else min)(ends, default=None)
    tensors = list(merge(*(page.tensors for page in pages), key=key, reverse=descending))
    if end is not None:
        tensors = [tensor for tensor in tensors if key(tensor) == end or (key(tensor) < end) != descending]
    more = end is not None or len(tensors) > request.size
    return page_from(tensors[: request.size], request, more=more)


def generations_at(connection: Connection, dataset: tuple[int, str], request: PageRequest) -> list[int]:
    """Return generations for sampling the state `PageRequest.at`; see `TensorTable.generations`.

    Raises:
        StateNotKeptError: see `require_state`.
    """
    assert request.at is not None
    require_state(connection, dataset, request.at)
    after = request.after[1] if request.after else 0
    found: list[int] = []
    for tables in (LIVE, past(request.at)):
        where, parameters = compile_filter(request.filter, dataset[0], connection, tables.attr)
        statement = (
            f"SELECT t.seq FROM {tables.tensor} t WHERE {where}{tables.visible} AND t.seq > ? AND t.seq <= ? "
            "ORDER BY t.seq LIMIT ?"
        )
        bounds = [*tables.bounds, after, request.at, request.size]
        found += [seq for (seq,) in select(connection, statement, [*parameters, *bounds])]
    return sorted(found)[: request.size]


def rows_at(connection: Connection, dataset: tuple[int, str], after: int, at: int) -> tuple[list[Batch], int | None]:
    """Return the next rows of an earlier state whose generations are above `after`, and the last of them; None: the last batch.

    Raises:
        StateNotKeptError: see `require_state`.
        DataCorruptError: see `rows_by_generation`.
    """
    require_state(connection, dataset, at)
    batches = [rows_by_generation(connection, *dataset, after, tables) for tables in (LIVE, past(at))]
    last = min((batch.last for batch in batches if batch.last is not None and batch.last < at), default=None)
    end = at if last is None else last
    for batch in batches:
        batch.rows = [row for row in batch.rows if row[_SEQ] <= end]
        batch.damages = [damage for damage in batch.damages if _generation(damage) <= end]
    return batches, last
