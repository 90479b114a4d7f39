"""Rows of datasets have a checksum, too; what is wrong with one keeps nobody from its tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from support.engine import Reopen, commit, create, listed, purge, stored_tensor, three_tensors
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.catalogue.sqlite.connection import PAGE_BYTES
from tensorus_server.errors import AlreadyExistsError, DataCorruptError
from tensorus_server.model import Dataset, Schema, Tensor

pytestmark = pytest.mark.slow

LEAF = 13
"""The first byte of a page with rows of a table. Source: https://www.sqlite.org/fileformat.html, section 1.6."""

DAMAGE: dict[str, tuple[str, str]] = {
    "another policy": ("policy", "json_object('preset', 'fast')"),
    "no policy": ("policy", "'no json'"),
    "another schema": ("schema", """'{"dtype":"int8"}'"""),
    "no schema": ("schema", "CAST(x'ff' AS TEXT)"),
    "another time": ("created_us", "7"),
    "another ordinal": ("last_ordinal", "1"),
    "another checksum": ("row_checksum", "0"),
}


@pytest.fixture
def tensors(reopen: Reopen) -> dict[str, list[Tensor]]:
    catalogue = reopen()
    tensors = {name: three_tensors(catalogue, name) for name in DAMAGE}
    create(catalogue, "other")
    return tensors


@pytest.fixture
def catalogue(tensors: dict[str, list[Tensor]], tmp_path: Path, reopen: Reopen) -> Catalogue:
    reopen().close()
    connection = apsw.Connection(str(tmp_path / "catalogue.db"))
    for name, (column, expression) in DAMAGE.items():
        connection.execute(f"UPDATE dataset SET {column} = {expression} WHERE name = '{name}'")
    connection.close()
    return reopen()


def test_a_damaged_one_is_named_and_the_others_are_listed(catalogue: Catalogue) -> None:
    for name in DAMAGE:
        with pytest.raises(DataCorruptError, match=rf"\[dataset={name}\]"):
            catalogue.datasets.get(name)
    *damaged, other = listed(catalogue)
    assert [type(found) for found in damaged] == [DataCorruptError] * len(DAMAGE)
    assert isinstance(other, Dataset)
    assert other.name == "other"


def test_its_tensors_can_be_read_and_deleted_and_none_goes_in(
    catalogue: Catalogue, tensors: dict[str, list[Tensor]]
) -> None:
    other = catalogue.datasets.get("other")
    # Datasets are numbered as they are created.
    for number, (name, stored_in_it) in enumerate(tensors.items(), 1):
        assert catalogue.tensors.get(name, ["b"]) == [stored_in_it[1]], name
        assert catalogue.tensors.page(name, PageRequest()).tensors == stored_in_it, name
        assert catalogue.datasets.stats(name).tensors == 3, name
        assert catalogue.tensors.delete(name, ["b"]) == ["b"], name
        damaged, stored = catalogue.tensors.commit(
            [stored_tensor(replace(other, number=number, name=name), "n"), stored_tensor(other, name)]
        )
        assert isinstance(damaged, DataCorruptError), name
        assert isinstance(stored, Tensor), name


def test_a_new_policy_and_schema_mend_it(catalogue: Catalogue) -> None:
    for name in DAMAGE:
        with pytest.raises(DataCorruptError):
            catalogue.datasets.update(name, StoragePolicy(), None)
        mended = catalogue.datasets.update(name, StoragePolicy("fast"), Schema())
        assert catalogue.datasets.get(name) == mended, name
        (new,) = commit(catalogue, stored_tensor(mended, "new"))
        assert new.ordinal == 4, name


@pytest.mark.parametrize("number", [0, 2, 100], ids=["none", "that of another", "one that is free"])
def test_one_whose_number_is_damaged_is_taken_for_no_other(
    tensors: dict[str, list[Tensor]], tmp_path: Path, reopen: Reopen, number: int
) -> None:
    reopen().close()
    set_dataset_number(tmp_path / "catalogue.db", 1, number)
    catalogue = reopen()
    first, second, *others = tensors
    for call in (
        lambda: catalogue.tensors.page(first, PageRequest()),
        lambda: catalogue.tensors.get(first, ["b"]),
        lambda: catalogue.tensors.delete(first, ["b"]),
        lambda: catalogue.datasets.stats(first),
        lambda: catalogue.datasets.delete(first),
        lambda: catalogue.datasets.update(first, StoragePolicy(), Schema()),
    ):
        with pytest.raises(DataCorruptError):
            call()
    purge(catalogue)
    # A row whose number another one has may be found instead of that one. Its tensors are there.
    for name in others if number == 2 else [second, *others]:
        assert catalogue.tensors.page(name, PageRequest()).tensors == tensors[name], name
    reopen().close()
    set_dataset_number(tmp_path / "catalogue.db", number, 1)
    catalogue = reopen()
    for name, stored_in_it in tensors.items():
        assert catalogue.tensors.page(name, PageRequest()).tensors == stored_in_it, name


def test_a_damaged_one_without_tensors_can_be_deleted(tmp_path: Path, reopen: Reopen) -> None:
    create(reopen(), "empty")
    reopen().close()
    connection = apsw.Connection(str(tmp_path / "catalogue.db"))
    connection.execute("UPDATE dataset SET created_us = 7")
    connection.close()
    catalogue = reopen()
    assert catalogue.tensors.page("empty", PageRequest()).tensors == []
    assert catalogue.datasets.delete("empty") == 0


def test_it_can_be_deleted(catalogue: Catalogue) -> None:
    for name in DAMAGE:
        assert catalogue.datasets.delete(name) == 3, name
        create(catalogue, name)
    with pytest.raises(AlreadyExistsError):
        create(catalogue, "other")


def set_dataset_number(path: Path, old: int, new: int) -> None:
    """Change the number of the first row of the table of datasets that has it, as damage would: nothing else changes."""
    connection = apsw.Connection(str(path))
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'dataset'").fetchall()
    connection.close()
    data = bytearray(path.read_bytes())
    begin = (page - 1) * PAGE_BYTES
    assert data[begin] == LEAF
    for cell in range(int.from_bytes(data[begin + 3 : begin + 5], "big")):
        place = begin + int.from_bytes(data[begin + 8 + 2 * cell : begin + 10 + 2 * cell], "big")
        # A cell begins with its length, whose bytes but for the last have the highest bit, and the row's number.
        while data[place] & 0x80:
            place += 1
        if data[place + 1] == old:
            data[place + 1] = new
            path.write_bytes(data)
            return
    raise AssertionError(f"no row has the number {old}")
