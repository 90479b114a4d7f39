"""A tensor that shares the payload of another row, live or past, has everything of it but its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.engine import commit, create, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.catalogue.sqlite.database import select
from tensorus_server.catalogue.sqlite.rows import TENSOR_COLUMNS, tensor_from_row
from tensorus_server.catalogue.sqlite.sharing import SourceTable, shared_as
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Dataset, NewTensor, Tensor

COLUMNS = ", ".join(f'"{name}"' for name in TENSOR_COLUMNS)

FIELDS: dict[str, Any] = {
    "dtype": "float32",
    "shape": (2, 3),
    "metadata": {"old": True},
    "values": ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 1, 2, 3),
    "relative_error": 0.25,
    "source_crc32c": 5,
}


@pytest.fixture(params=["file", "memory"])
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    opened = SqliteCatalogue(tmp_path if request.param == "file" else None, delete_grace_s=0.0, upload_expiry_s=3600.0)
    yield opened
    opened.close()


def row(catalogue: SqliteCatalogue, table: SourceTable, dataset: Dataset, generation: int) -> Tensor:
    with catalogue._database.read() as connection:
        ((*columns,),) = select(connection, f"SELECT {COLUMNS}, NULL FROM {table} WHERE seq = ?", (generation,))
    return tensor_from_row(tuple(columns), dataset.name, dataset.number)


def keep(catalogue: SqliteCatalogue, dataset: Dataset) -> None:
    """Keep what is deleted from the dataset from now on."""
    catalogue.datasets.update(dataset.name, None, None, 1000)


@pytest.mark.parametrize("table", ["tensor", "past_tensor"])
@pytest.mark.parametrize("payload", [None, b"payload"])
def test_everything_but_the_place_is_shared(
    catalogue: SqliteCatalogue, table: SourceTable, payload: bytes | None
) -> None:
    dataset, other = create(catalogue), create(catalogue, "other", policy=StoragePolicy("fast"))
    keep(catalogue, dataset)
    stored = replace(stored_tensor(dataset, "a", inline_payload=payload, **FIELDS), references=("11" * 16, "22" * 16))
    (source,) = commit(catalogue, stored)
    if table == "past_tensor":
        catalogue.tensors.delete("dataset", ["a"])
    found = row(catalogue, table, dataset, source.generation)
    new = NewTensor("b", found.spec, {"new": 1}, StoragePolicy("none"))
    with catalogue._database.read() as connection:
        shared = shared_as(connection, found, other, new, table=table)
    expected = replace(stored, dataset=other, new=new, shares_payload=True)
    assert shared == expected
    (copied,) = commit(catalogue, shared)
    assert catalogue.tensors.get("other", ["b"], with_payloads=True) == [replace(copied, inline_payload=payload)]
    # The payloads are garbage when neither row has them.
    catalogue.datasets.update("dataset", None, None, 0)
    with catalogue._database.write() as connection:
        if table == "past_tensor":
            connection.execute("DELETE FROM past_tensor")
            connection.execute("DELETE FROM reference WHERE seq = ?", (source.generation,))
    catalogue.tensors.delete("dataset", ["a"])
    assert catalogue.garbage.due(10) == []
    catalogue.tensors.delete("other", ["b"])
    keys = list(stored.references) if payload else [*stored.references, source.locator.key]
    assert sorted(catalogue.garbage.due(10)) == sorted(keys)


def test_a_missing_inline_payload_is_damage(catalogue: SqliteCatalogue) -> None:
    dataset = create(catalogue)
    (source,) = commit(catalogue, stored_tensor(dataset, "a", inline_payload=b"payload"))
    with catalogue._database.write() as connection:
        connection.execute("DELETE FROM payload")
    new = NewTensor("b", source.spec, {})
    with (
        catalogue._database.read() as connection,
        pytest.raises(DataCorruptError, match="payload is missing") as raised,
    ):
        shared_as(connection, source, dataset, new)
    assert raised.value.facts["tensor"] == "a"
