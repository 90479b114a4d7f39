"""A row that is not what was written is damage, by its CRC; the other rows are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.engine import Reopen, commit, create, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.catalogue.sqlite.rows import TENSOR_COLUMNS, RowWriter, tensor_from_row
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Checksum, Dataset, EncodingShare, Schema, Tensor

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

UNREADABLE: dict[str, Any] = {"dtype_number": -1, "shape": "[5", "value_algorithm": "%d{}", "key": "", "length": -1}
"""Values of some of them that cannot be decoded, or be anything that was written."""


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


@pytest.mark.parametrize(("column", "value"), [*RELIED_ON.items(), *UNREADABLE.items()], ids=str)
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


DATASET = Dataset(3, "dataset", StoragePolicy(), Schema(), 0)

KINDS: list[dict[str, Any]] = [
    {},
    {"shape": (2, 2)},
    {"dtype": "float32", "shape": (1,)},
    {"inline_payload": b"payload"},
    {"stored_bytes": 41},
    {"policy": StoragePolicy("fast")},
    {"metadata": {"a": 1}},
    {"lossy": True, "relative_error": 0.25, "max_absolute_error": 2.0, "quantized_bytes": 3},
    {"encodings": (EncodingShare(({"id": "zstd"},), 1, 4, 25),), "fallback_reason": "why"},
    {"values": ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 0, 0, 0)},
    {"values": ValueSummary(None, None, None, None, None, 1, 2, 3)},
    {"key": "ff/11111111111111111111111111111111"},
]

CHANGES: list[dict[str, Any]] = [
    {},
    {"chunk_bytes": 4096},
    {"source_checksum": Checksum("crc32c", b"abcd")},
    {"value_checksum": Checksum("crc32c", b"abcd")},
    *(
        {"locator": {name: number}}
        for number, name in enumerate(("offset", "length", "index_length", "index_crc32c"), 7)
    ),
]
"""Of a stored tensor, beside its kind."""


@given(
    st.lists(st.tuples(st.integers(0, len(KINDS) - 1), st.sampled_from(CHANGES), st.integers(1, 2**40)), max_size=8),
)
def test_rows_written_one_after_the_other_are_as_each_alone_and_are_read_as_written(
    chosen: list[tuple[int, dict[str, Any], int]],
) -> None:
    alike = [stored_tensor(DATASET, "t", **kind) for kind in KINDS]
    writer = RowWriter()
    for kind, change, number in chosen:
        stored = replace(alike[kind], new=replace(alike[kind].new, id=f"t{number}"))
        if "locator" in change:
            stored = replace(stored, locator=replace(stored.locator, **change["locator"]))
        else:
            stored = replace(stored, **change)
        row = writer.row(stored, number, 2 * number, 3 * number)
        assert row == RowWriter().row(stored, number, 2 * number, 3 * number)
        found = tensor_from_row((*row[: len(TENSOR_COLUMNS)], stored.inline_payload), DATASET.name)
        committed = stored.committed(number, 2 * number, 3 * number)
        assert found == replace(committed, inline_payload=stored.inline_payload)
