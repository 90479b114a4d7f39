"""A row that is not what was written is damage, by its checksum over all columns; the other rows are not."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.engine import Reopen, commit, create, stored_tensor, three_tensors
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import Catalogue, DamagedTensor, Order, Page, PageRequest
from tensorus_server.catalogue.sql import rows
from tensorus_server.catalogue.sql.row_checksum import row_checksum
from tensorus_server.catalogue.sql.rows import (
    ROW_CHECKSUM_COLUMNS,
    TENSOR_COLUMNS,
    RowWriter,
    checksum_of_row,
    tensor_from_row,
)
from tensorus_server.errors import DataCorruptError, TensorNotFoundError
from tensorus_server.model import Checksum, Dataset, EncodingShare, Schema, Tensor

pytestmark = pytest.mark.slow

CHANGED: dict[str, Any] = {
    "ds": 2,
    "id": "other",
    "dtype": "int8",
    "dtype_number": 3,
    "element_bytes": 2,
    "shape": "[5]",
    "rank": 2,
    "nbytes": 5,
    "quantized_bytes": 5,
    "stored_bytes": 41,
    "relative_error": 0.5,
    "max_absolute_error": 0.5,
    "lossy": 1,
    "encodings": "[[[],1,4,25]]",
    "fallback_reason": "why",
    "chunk_bytes": 4096,
    "created_us": 1,
    "ordinal": 7,
    "min": -2.0,
    "max": 3.0,
    "mean": 0.25,
    "standard_deviation": None,
    "l2_norm": 9.0,
    "zero_count": 1,
    "nan_count": None,
    "infinity_count": 2**40,
    "policy": "{}",
    "source_algorithm": "crc32c",
    "source_checksum": b"t" * 16,
    "source_crc": 9,
    "value_algorithm": "crc32c",
    "value_checksum": b"\xff" * 16,
    "inline": 1,
    "key": "ff/00000000000000000000000000000000",
    "offset": 1,
    "length": 39,
    "index_length": 16,
    "index_crc": 8,
    "row_checksum": 0,
    "metadata": '{"a":2}',
}
"""Every column, each with another value than was written."""

UNREADABLE: dict[str, Any] = {
    "dtype_number": -1,
    "shape": "[5",
    "value_algorithm": "%d{}",
    "key": "",
    "length": -1,
    "metadata": "{no json",
    "encodings": "no json",
    "policy": "[",
}
"""Values that cannot be decoded, or be anything that was written."""

RAW = {
    "metadata is not UTF-8": ("metadata", "CAST(x'7b22ff227d' AS TEXT)"),
    "encodings is not UTF-8": ("encodings", "CAST(x'ff' AS TEXT)"),
    "fallback_reason is not UTF-8": ("fallback_reason", "CAST(x'c328' AS TEXT)"),
    "metadata is no map": ("metadata", "json('[1]')"),
    "encodings is no list": ("encodings", "'{}'"),
}
"""Damage that no parameter can bring: expressions of SQL."""


class Damage(NamedTuple):
    """A column, and what it is set to: a value, or an expression of SQL."""

    column: str
    value: object = None
    expression: str = "?"


RAW_DAMAGE = {name: Damage(column, expression=expression) for name, (column, expression) in RAW.items()}
COLUMN_DAMAGE = {
    f"{column} = {value!r}": Damage(column, value)
    for column, value in (*CHANGED.items(), *UNREADABLE.items())
    if column != "ds"
}
EVERY_DAMAGE = {name: found for name, found in COLUMN_DAMAGE.items() if found.column != "id"} | RAW_DAMAGE


@pytest.fixture
def tensors(reopen: Reopen) -> list[Tensor]:
    return three_tensors(reopen())


@pytest.fixture
def damaged(tmp_path: Path, reopen: Reopen) -> Any:
    """Return a function that makes a dataset for each damage, and does that to its tensor b while the catalogue is closed."""

    def change(cases: dict[str, Damage]) -> tuple[Catalogue, dict[str, list[Tensor]]]:
        catalogue = reopen()
        tensors = {name: three_tensors(catalogue, name) for name in cases}
        catalogue.close()
        connection = apsw.Connection(str(tmp_path / "catalogue.db"))
        connection.execute("PRAGMA foreign_keys = OFF")
        for name, (column, value, expression) in cases.items():
            parameters = (value,) if expression == "?" else ()
            generation = tensors[name][1].generation
            connection.execute(f"""UPDATE tensor SET "{column}" = {expression} WHERE seq = {generation}""", parameters)
            assert connection.changes() == 1
        connection.close()
        return reopen(), tensors

    return change


@pytest.fixture
def damage(tmp_path: Path, reopen: Reopen) -> Any:
    """Return a function that changes a column of tensor b while the catalogue is closed."""

    def change(column: str, value: object) -> Catalogue:
        reopen().close()
        connection = apsw.Connection(str(tmp_path / "catalogue.db"))
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"""UPDATE tensor SET "{column}" = ? WHERE id = 'b'""", (value,))
        assert connection.changes() == 1
        connection.close()
        return reopen()

    return change


def damaged_in(page: Page) -> DamagedTensor:
    """Return the one damaged tensor of a page whose others are a and c."""
    (found,) = [tensor for tensor in page.tensors if isinstance(tensor, DamagedTensor)]
    assert [tensor.id for tensor in page.tensors if isinstance(tensor, Tensor)] == ["a", "c"]
    return found


def test_every_column_has_its_part_in_the_checksum() -> None:
    assert {*ROW_CHECKSUM_COLUMNS, "row_checksum"} == {*TENSOR_COLUMNS} == {*CHANGED, "seq"}


def test_a_change_of_any_column_is_damage_and_names_the_tensor(damaged: Any) -> None:
    catalogue, every_tensor = damaged(COLUMN_DAMAGE)
    for case, damage in COLUMN_DAMAGE.items():
        tensors = every_tensor[case]
        name, generation = "other" if damage.column == "id" else "b", tensors[1].generation
        facts = {"dataset": case, "tensor": name, "generation": str(generation)}
        first, second, third = catalogue.tensors.get(case, ["a", name, "c"])
        assert [first, third] == [tensors[0], tensors[2]]
        assert isinstance(second, DataCorruptError), case
        assert f"[dataset={case}, tensor={name}]" in str(second)
        assert second.facts == facts
        (second,) = catalogue.tensors.by_generation(case, [generation], with_payloads=True)
        assert isinstance(second, DataCorruptError), case
        assert second.facts == facts
        for field in ("created", "id", "nbytes", "stored_bytes"):
            found = damaged_in(catalogue.tensors.page(case, PageRequest(order=Order(field))))
            assert (found.error.facts, found.generation) == (facts, generation)


def test_a_row_whose_checksum_was_made_of_negative_zeros_is_intact(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = reopen()
    dataset = create(catalogue)
    values = ValueSummary(-0.0, 0.0, -0.0, 0.0, 0.0, 3, 0, 0)
    with monkeypatch.context() as patched:
        # As the first versions with row checksums did.
        patched.setattr(rows, "_summary_columns", astuple)
        commit(catalogue, stored_tensor(dataset, "t", values=values))
    assert reopen().tensors.get(dataset.name, ["t"])[0].values == values


def test_a_tensor_whose_row_names_another_dataset_is_in_neither_as_if_nothing_were_wrong(
    tensors: list[Tensor], reopen: Reopen, damage: Any
) -> None:
    other = create(reopen(), "other")
    catalogue = damage("ds", other.number)
    (found,) = catalogue.tensors.get("other", ["b"])
    assert isinstance(found, DataCorruptError)
    assert catalogue.tensors.get("dataset", ["b"]) == [None]


def test_a_value_that_cannot_be_read_hurts_its_own_tensor_alone(damaged: Any) -> None:
    catalogue, every_tensor = damaged(RAW_DAMAGE)
    for case, tensors in every_tensor.items():
        facts = {"dataset": case, "tensor": "b", "generation": str(tensors[1].generation)}
        first, second, third = catalogue.tensors.get(case, ["a", "b", "c"])
        assert [first, third] == [tensors[0], tensors[2]]
        assert isinstance(second, DataCorruptError), case
        assert second.facts == facts
        for field in ("created", "id", "nbytes", "stored_bytes"):
            for descending in (False, True):
                request = PageRequest(order=Order(field, descending))
                page = catalogue.tensors.page(case, request)
                (found,) = [tensor for tensor in page.tensors if isinstance(tensor, DamagedTensor)]
                assert found.error.facts == facts


def test_pages_go_on_past_a_damaged_tensor(damaged: Any) -> None:
    cases = {
        "readable": Damage("metadata", expression="'{no json'"),
        "no text": Damage("metadata", expression="CAST(x'ff' AS TEXT)"),
    }
    catalogue, _ = damaged(cases)
    for case, field, size in itertools.product(cases, ("created", "id", "nbytes", "stored_bytes"), (1, 2, 3)):
        request = PageRequest(order=Order(field), size=size)
        names: list[str] = []
        while True:
            page = catalogue.tensors.page(case, request)
            names += [one.id if isinstance(one, Tensor) else one.error.facts["tensor"] for one in page.tensors]
            if page.next is None:
                break
            request = replace(request, after=page.next)
        assert names == ["a", "b", "c"], (case, field, size)


def test_two_rows_whose_locators_were_exchanged_are_both_damaged(
    tensors: list[Tensor], tmp_path: Path, reopen: Reopen
) -> None:
    reopen().close()
    connection = apsw.Connection(str(tmp_path / "catalogue.db"))
    keys = dict(connection.execute("SELECT id, key FROM tensor").fetchall())
    for name, other in (("a", "b"), ("b", "a")):
        connection.execute("UPDATE tensor SET key = ? WHERE id = ?", (keys[other], name))
    connection.close()
    for found in reopen().tensors.get("dataset", ["a", "b"]):
        assert isinstance(found, DataCorruptError)


def test_a_damaged_tensor_can_be_deleted(damaged: Any) -> None:
    catalogue, every_tensor = damaged(EVERY_DAMAGE)
    for case, tensors in every_tensor.items():
        assert catalogue.tensors.delete(case, ["b"]) == ["b"], case
        assert catalogue.tensors.page(case, PageRequest()).tensors == [tensors[0], tensors[2]], case
        assert catalogue.tensors.get(case, ["b"]) == [None], case


def test_a_damaged_tensor_can_be_replaced_by_its_generation(damaged: Any) -> None:
    catalogue, _ = damaged(EVERY_DAMAGE)
    for case in EVERY_DAMAGE:
        dataset = catalogue.datasets.get(case)
        # Three clients insert at once; the one whose id has a damaged row must not cost the others their tensors.
        first, second, third = catalogue.tensors.commit(
            [stored_tensor(dataset, "x"), stored_tensor(dataset, "b", source=b"s" * 16), stored_tensor(dataset, "y")]
        )
        assert isinstance(first, Tensor), case
        assert isinstance(second, DataCorruptError), case
        assert isinstance(third, Tensor), case
        generation = int(second.facts["generation"])
        (replaced,) = commit(catalogue, stored_tensor(dataset, "b", if_generation_match=generation))
        assert catalogue.tensors.get(case, ["b"]) == [replaced], case


def test_a_damaged_tensor_is_not_replaced_by_another_generation(tensors: list[Tensor], damage: Any) -> None:
    catalogue = damage("metadata", "{}")
    dataset = catalogue.datasets.get("dataset")
    for match in (None, 1, 99):
        (found,) = catalogue.tensors.commit([stored_tensor(dataset, "b", if_generation_match=match)])
        assert isinstance(found, DataCorruptError)


@pytest.mark.parametrize("key", ["../../../etc/passwd", "ff/short", "", "FF/" + "0" * 32])
def test_a_key_that_is_none_frees_nothing(tensors: list[Tensor], damage: Any, reopen: Reopen, key: str) -> None:
    damage("key", key).tensors.delete("dataset", ["b"])
    assert reopen(delete_grace_s=0.0).garbage.due(10) == []


def test_a_key_that_another_tensor_has_frees_nothing(tensors: list[Tensor], damage: Any, reopen: Reopen) -> None:
    damage("key", tensors[0].locator.key).close()
    catalogue = reopen(delete_grace_s=-1.0)
    catalogue.tensors.delete("dataset", ["b"])
    assert catalogue.garbage.due(10) == []
    catalogue.tensors.delete("dataset", ["a"])
    assert catalogue.garbage.due(10) == [tensors[0].locator.key]


def test_metadata_of_a_damaged_tensor_cannot_be_replaced_and_those_of_others_can(
    tensors: list[Tensor], damage: Any
) -> None:
    catalogue = damage("relative_error", 0.5)
    with pytest.raises(DataCorruptError, match="tensor=b"):
        catalogue.tensors.replace_metadata("dataset", "b", {})
    with pytest.raises(TensorNotFoundError):
        catalogue.tensors.replace_metadata("dataset", "no", {})
    changed = catalogue.tensors.replace_metadata("dataset", "a", {"new": 1})
    assert catalogue.tensors.get("dataset", ["a"]) == [changed]
    assert changed == replace(tensors[0], metadata={"new": 1})


def test_stats_leave_a_damaged_tensor_out_and_name_it(damaged: Any) -> None:
    catalogue, _ = damaged(EVERY_DAMAGE)
    for case in EVERY_DAMAGE:
        stats = catalogue.datasets.stats(case)
        assert (stats.tensors, stats.canonical_bytes, stats.stored_bytes, stats.lossy_tensors) == (2, 8, 80, 0), case
        assert [share.tensors for share in stats.dtypes] == [2], case
        assert stats.damaged_tensors == 1, case
        assert [error.facts["tensor"] for error in stats.damages] == ["b"], case


def test_a_damaged_count_gives_no_generation_out_twice(tensors: list[Tensor], tmp_path: Path, reopen: Reopen) -> None:
    reopen().close()
    connection = apsw.Connection(str(tmp_path / "catalogue.db"))
    connection.execute("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'tensor'")
    connection.close()
    catalogue = reopen()
    (new,) = commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "new"))
    assert new.generation > tensors[-1].generation


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
    {"values": ValueSummary(-1.5, 2.0, 0.25, None, None, 0, 0, 0)},
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
        columns = dict(zip(TENSOR_COLUMNS, row, strict=True))
        # The slow way, which migrations take, is the same.
        assert columns["row_checksum"] == checksum_of_row(tuple(columns[name] for name in ROW_CHECKSUM_COLUMNS))
        found = tensor_from_row((*row, stored.inline_payload), DATASET.name, DATASET.number)
        committed = stored.committed(number, 2 * number, 3 * number)
        assert found == replace(committed, inline_payload=stored.inline_payload)


def test_the_checksum_of_a_row_is_that_of_its_documented_bytes() -> None:
    packed = bytes.fromhex(
        "0700000000000000"  # 7
        "ffffffffffffffff"  # NULL
        "000000000000e0bf"  # -0.5
        "000000000000f87f"  # NULL
        "0300000000000000"  # three bytes of text
        "ffffffffffffffff"  # NULL
        "0200000000000000"  # two bytes
        "61c3a4"
        "00ff"
    )
    row = (7, None, -0.5, None, "a\u00e4", None, b"\0\xff")
    assert row_checksum("qqddttt", row) == crc32c(packed)
    # It goes on from the columns before.
    assert row_checksum("d", (math.pi,), row_checksum("q", (1,))) == crc32c(
        (1).to_bytes(8, "little") + bytes.fromhex("182d4454fb210940")
    )
