"""A row that is not what was written is damage, by its CRC; the other rows are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from support.engine import Reopen, commit, create, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Tensor

RELIED_ON: dict[str, Any] = {
    "id": "other",
    "dtype_number": 3,
    "element_bytes": 2,
    "shape": "[5]",
    "chunk_bytes": 4096,
    "inline": 1,
    "key": "ff/00000000000000000000000000000000",
    "offset": 1,
    "length": 39,
    "index_length": 16,
    "index_crc": 8,
    "value_algorithm": "crc32c",
    "value_checksum": b"\xff" * 16,
    "row_crc": 0,
}
"""Columns that reading a payload relies on, each with another value than was written."""


@pytest.fixture
def tensors(reopen: Reopen) -> list[Tensor]:
    """Three tensors, of which the tests damage the second."""
    catalogue = reopen()
    dataset = create(catalogue)
    return commit(catalogue, *(stored_tensor(dataset, name, source=b"s" * 16) for name in ("a", "b", "c")))


@pytest.fixture
def damage(tmp_path: Path, reopen: Reopen) -> Any:
    """Return a function that changes a column of tensor b while the catalogue is closed."""

    def change(column: str, value: object) -> Catalogue:
        reopen().close()
        connection = apsw.Connection(str(tmp_path / "catalogue.db"))
        connection.execute(f'UPDATE tensor SET "{column}" = ? WHERE id = ?', (value, "b"))
        assert connection.changes() == 1
        connection.close()
        return reopen()

    return change


@pytest.mark.parametrize(("column", "value"), RELIED_ON.items(), ids=RELIED_ON)
def test_a_change_of_what_reading_relies_on_is_damage_and_names_the_tensor(
    tensors: list[Tensor], damage: Any, column: str, value: object
) -> None:
    catalogue = damage(column, value)
    name = "other" if column == "id" else "b"
    message = (
        rf"CRC32C of the catalogue row is 0x[0-9a-f]{{8}}, expected 0x[0-9a-f]{{8}} \[dataset=dataset, tensor={name}\]"
    )
    with pytest.raises(DataCorruptError, match=message) as caught:
        catalogue.tensors.get("dataset", [name])
    assert caught.value.facts == {"dataset": "dataset", "tensor": name}
    with pytest.raises(DataCorruptError):
        catalogue.tensors.by_generation("dataset", [tensors[1].generation], with_payloads=True)
    with pytest.raises(DataCorruptError):
        catalogue.tensors.page("dataset", PageRequest())


def test_two_rows_whose_locators_were_exchanged_are_both_damaged(
    tensors: list[Tensor], tmp_path: Path, reopen: Reopen
) -> None:
    reopen().close()
    connection = apsw.Connection(str(tmp_path / "catalogue.db"))
    keys = dict(connection.execute("SELECT id, key FROM tensor").fetchall())
    for name, other in (("a", "b"), ("b", "a")):
        connection.execute("UPDATE tensor SET key = ? WHERE id = ?", (keys[other], name))
    connection.close()
    catalogue = reopen()
    for name in ("a", "b"):
        with pytest.raises(DataCorruptError, match=f"tensor={name}"):
            catalogue.tensors.get("dataset", [name])


def test_a_damaged_row_can_be_deleted(tensors: list[Tensor], damage: Any) -> None:
    catalogue = damage("row_crc", 0)
    assert catalogue.tensors.delete("dataset", ["b"]) == ["b"]
    assert [tensor.id for tensor in catalogue.tensors.page("dataset", PageRequest()).tensors] == ["a", "c"]


def test_a_damaged_row_hurts_no_other_tensor(tensors: list[Tensor], damage: Any) -> None:
    catalogue = damage("row_crc", 0)
    assert catalogue.tensors.get("dataset", ["a", "c"]) == [tensors[0], tensors[2]]


def test_a_damaged_row_fails_its_own_item_of_a_group_alone(tensors: list[Tensor], damage: Any) -> None:
    # Three clients insert at once; the one whose id has a damaged row must not cost the others their tensors.
    catalogue = damage("row_crc", 0)
    dataset = catalogue.datasets.get("dataset")
    first, second, third = catalogue.tensors.commit(
        [stored_tensor(dataset, "x"), stored_tensor(dataset, "b", source=b"s" * 16), stored_tensor(dataset, "y")]
    )
    assert isinstance(first, Tensor)
    assert isinstance(second, DataCorruptError)
    assert isinstance(third, Tensor)
