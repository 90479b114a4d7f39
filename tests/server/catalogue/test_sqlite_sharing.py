"""A tensor that shares the payload of another row, live or past, has everything of it but its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.engine import commit, create, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import TensorCopies
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS, tensor_from_row
from tensorus_server.catalogue.sql.sharing import SourceTable, shared_as
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
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


@pytest.mark.parametrize("table", ["tensor", "past_tensor"])
@pytest.mark.parametrize("payload", [None, b"payload"])
def test_everything_but_the_place_is_shared(
    catalogue: SqliteCatalogue, table: SourceTable, payload: bytes | None
) -> None:
    dataset, other = create(catalogue), create(catalogue, "other", policy=StoragePolicy("fast"))
    stored = replace(stored_tensor(dataset, "a", inline_payload=payload, **FIELDS), references=("11" * 16, "22" * 16))
    (source,) = commit(catalogue, stored)
    catalogue.snapshots.create("dataset", "s")
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
    catalogue.snapshots.drop("dataset", "s")
    catalogue.snapshots.prune(lambda _: False)
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


def test_damage_is_not_copied(catalogue: SqliteCatalogue) -> None:
    dataset, other = create(catalogue), create(catalogue, "other")
    commit(catalogue, *(stored_tensor(dataset, name) for name in ("intact", "past", "damaged")))
    commit(catalogue, stored_tensor(other, "there"))
    at = catalogue.snapshots.create("dataset", "s").generation
    catalogue.tensors.delete("dataset", ["past"])
    with catalogue._database.write() as connection:
        connection.execute("UPDATE tensor SET relative_error = 0.5 WHERE id IN ('damaged', 'there')")
        connection.execute("UPDATE past_tensor SET relative_error = 0.5")

    def copy(*ids: str, at: int | None = None, move: bool = False, new_id: str = "") -> list[Tensor]:
        copies = TensorCopies("dataset", "other", [(one, new_id or one) for one in ids], at, replace=True, move=move)
        return catalogue.copies.copy_tensors(copies, lambda _, __: None)

    for move in (False, True):
        for options in ({"ids": ("intact", "damaged")}, {"ids": ("intact",), "new_id": "there"}):
            with pytest.raises(DataCorruptError) as raised:
                copy(*options["ids"], move=move, new_id=str(options.get("new_id", "")))
            assert raised.value.facts["tensor"] in {"damaged", "there"}
    with pytest.raises(DataCorruptError, match="tensor=past"):
        copy("past", at=at)
    for state in (None, at):
        with pytest.raises(DataCorruptError):
            catalogue.copies.copy_dataset("dataset", "copy", at=state, tensors_max=10)
    assert len(catalogue.datasets.page(0, 10).datasets) == 2
    assert [tensor.id for tensor in copy("intact")] == ["intact"]
    catalogue.tensors.delete("dataset", ["damaged"])
    assert catalogue.copies.copy_dataset("dataset", "copy", at=None, tensors_max=10)[1] == 1
