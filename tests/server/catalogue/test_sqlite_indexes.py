"""An index that does not agree with its table is found when the catalogue is opened, said, and rebuilt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from support.engine import Reopen, commit, create, stored_tensor
from tensorus_server.catalogue.abc import DamagedTensor, Order, PageRequest
from tensorus_server.catalogue.sqlite import SqliteCatalogue, index_check
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Tensor

INDEXES = [
    "sqlite_autoindex_tensor_1",
    "tensor_created",
    "tensor_nbytes",
    "tensor_stored_bytes",
    "tensor_key",
    "attr_num",
    "attr_txt",
    "sqlite_autoindex_dataset_1",
    "tombstone_due",
]
"""Those that have entries here; none for uploads."""

PAGE_BYTES = 4096


def in_a_cell(page: bytearray) -> None:
    """Flip a bit of the last byte: that of an entry's key, at the end of the page."""
    page[-2] ^= 0x10


def in_the_head(page: bytearray) -> None:
    """Say that the page is of no kind that there is."""
    page[0] ^= 0x55


def without_a_cell(page: bytearray) -> None:
    """Leave one entry out."""
    page[3:5] = (int.from_bytes(page[3:5], "big") - 1).to_bytes(2, "big")


def zeroed(page: bytearray) -> None:
    """Lose the page."""
    page[:] = bytes(len(page))


@pytest.fixture
def tensors(reopen: Reopen) -> list[Tensor]:
    """Twelve tensors in two datasets, with metadata and payloads of their own, of which one is deleted."""
    catalogue = reopen()
    datasets = [create(catalogue, name) for name in ("dataset", "other")]
    group = [
        stored_tensor(
            datasets[number % 2],
            f"t{number}",
            shape=(number,),
            stored_bytes=40 + number,
            metadata={"n": number, "text": "x"},
        )
        for number in range(12)
    ]
    tensors = commit(catalogue, *group)
    catalogue.tensors.delete("other", ["t11"])
    return tensors


def damage_page(folder: Path, index: str, change: Callable[[bytearray], None]) -> None:
    """Change the page of an index that has one page, while the catalogue is closed."""
    path = folder / "catalogue.db"
    connection = apsw.Connection(str(path))
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchall()
    connection.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    assert page[0] == 10, "not a leaf of an index"
    change(page)
    data[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = page
    path.write_bytes(data)


def integrity(folder: Path) -> list[str]:
    connection = apsw.Connection(str(folder / "catalogue.db"))
    found = [line for (line,) in connection.execute("PRAGMA integrity_check").fetchall()]
    connection.close()
    return found


WRONG_ROWS = [
    ("id", "gone"),
    ("nbytes", 99),
    ("stored_bytes", 99),
    ("key", "none"),
    # As a flip in the row's header leaves it, which moves all columns: it cannot be read, and is of another dataset.
    ("metadata = CAST(x'ff' AS TEXT), ds", 2),
]


CHANGES = [in_a_cell, in_the_head, without_a_cell, zeroed]
DAMAGE = {index: ([index], CHANGES[number % len(CHANGES)]) for number, index in enumerate(INDEXES)} | {
    f"all of them, {change.__name__}": (INDEXES, change) for change in CHANGES
}


@pytest.mark.parametrize(("indexes", "change"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_said_and_rebuilt(  # noqa: PLR0917 - fixtures are asked for by name
    tensors: list[Tensor],
    tmp_path: Path,
    reopen: Reopen,
    caplog: pytest.LogCaptureFixture,
    indexes: list[str],
    change: Callable[[bytearray], None],
) -> None:
    reopen().close()
    for index in indexes:
        damage_page(tmp_path, index, change)
    with caplog.at_level(logging.WARNING):
        catalogue = reopen()
    said = [record.getMessage() for record in caplog.records]
    for index in indexes:
        expected = f"index {index} does not agree with its table and is rebuilt"
        assert [message for message in said if expected in message], said
    assert len([message for message in said if "does not agree with its table" in message]) == len(indexes)
    found = [tensor for name in ("dataset", "other") for tensor in catalogue.tensors.page(name, PageRequest()).tensors]
    assert found == [*tensors[::2], *tensors[1:11:2]]
    for tensor in tensors[:11]:
        assert catalogue.tensors.get(tensor.dataset, [tensor.id]) == [tensor]
    for field in ("id", "nbytes", "stored_bytes"):
        assert len(catalogue.tensors.page("dataset", PageRequest(order=Order(field))).tensors) == 6
    assert catalogue.garbage.orphans([tensor.locator.key for tensor in tensors]) == set()
    catalogue.close()
    lines = integrity(tmp_path)
    # The pages of an index that could not even be cleared are used no more.
    assert [line for line in lines if line != "ok" and "never used" not in line] == []


def test_indexes_that_are_right_are_left_alone(
    tensors: list[Tensor], reopen: Reopen, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        reopen()
    assert caplog.records == []


@pytest.mark.parametrize(("column", "value"), WRONG_ROWS)
def test_a_damaged_row_does_not_pass_for_a_damaged_index(  # noqa: PLR0917 - fixtures are asked for by name
    tensors: list[Tensor],
    tmp_path: Path,
    reopen: Reopen,
    caplog: pytest.LogCaptureFixture,
    column: str,
    value: Any,
) -> None:
    reopen().close()
    path = tmp_path / "catalogue.db"
    # Only the row: the indexes go on saying what was written.
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA writable_schema = ON")
    kept = connection.execute(
        "SELECT rowid, * FROM sqlite_schema WHERE tbl_name = 'tensor' AND type = 'index'"
    ).fetchall()
    ((sql,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'tensor'").fetchall()
    connection.execute("DELETE FROM sqlite_schema WHERE tbl_name = 'tensor' AND type = 'index'")
    plain = sql.replace("UNIQUE (ds, id)", "CHECK (1)")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'tensor'", (plain,))
    connection.close()
    connection = apsw.Connection(str(path))
    connection.execute(f"UPDATE tensor SET {column} = ? WHERE id = 't4'", (value,))
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'tensor'", (sql,))
    connection.executemany(
        "INSERT INTO sqlite_schema (rowid, type, name, tbl_name, rootpage, sql) VALUES (?, ?, ?, ?, ?, ?)", kept
    )
    connection.close()
    with caplog.at_level(logging.WARNING):
        catalogue = reopen()
    assert not [record for record in caplog.records if "rebuilt" in record.getMessage()]
    assert [record for record in caplog.records if "row of generation 5" in record.getMessage()]
    # Whoever asks for the tensor by its name hears that it is damaged, or gets what the index still knows, and can delete it.
    (found,) = catalogue.tensors.get("dataset", ["t4"])
    assert isinstance(found, DataCorruptError) or found == tensors[4]
    assert [
        one.error.facts["tensor"]
        for one in catalogue.tensors.page("dataset", PageRequest()).tensors
        if isinstance(one, DamagedTensor)
    ] == ["t4"]
    assert catalogue.tensors.delete("dataset", ["t4"]) == ["t4"]
    assert catalogue.tensors.get("dataset", ["t4"]) == [None]
    catalogue.close()
    assert integrity(tmp_path) == ["ok"]


def test_a_long_check_goes_on_in_the_background(
    tensors: list[Tensor],
    tmp_path: Path,
    reopen: Reopen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reopen().close()
    damage_page(tmp_path, "tensor_stored_bytes", without_a_cell)
    monkeypatch.setattr(index_check, "_AT_OPENING_S", 0.0)
    monkeypatch.setattr(index_check, "_STEP_ROWS", 2)
    with caplog.at_level(logging.WARNING):
        catalogue = reopen()
        assert isinstance(catalogue, SqliteCatalogue)
        thread = catalogue._index_check._thread
        assert thread is not None
        # Both go on at once.
        commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "new"))
        thread.join(30)
    assert not thread.is_alive
    assert [record for record in caplog.records if "tensor_stored_bytes does not agree" in record.getMessage()]
    catalogue.close()
    assert integrity(tmp_path) == ["ok"]


def test_closing_ends_a_check_that_goes_on(
    tensors: list[Tensor], reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_check, "_AT_OPENING_S", 0.0)
    monkeypatch.setattr(index_check, "_PAUSE_SHARE", 10**6)
    catalogue = reopen()
    assert isinstance(catalogue, SqliteCatalogue)
    begun_s = time.monotonic()
    catalogue.close()
    assert time.monotonic() - begun_s < 30
    assert catalogue._index_check._thread is not None
    assert not catalogue._index_check._thread.is_alive


def test_a_damaged_page_of_a_table_is_said_and_the_rest_can_be_read(
    reopen: Reopen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = reopen()
    dataset = create(catalogue)
    tensors = commit(
        catalogue, *(stored_tensor(dataset, f"t{number}", metadata={"n": "x" * 500}) for number in range(30))
    )
    catalogue.close()
    path = tmp_path / "catalogue.db"
    data = bytearray(path.read_bytes())
    # A leaf of the table (13): one of several, found by what is in it.
    pages = [data[begin : begin + PAGE_BYTES] for begin in range(0, len(data), PAGE_BYTES)]
    (page,) = [
        number for number, page in enumerate(pages) if page[0] == 13 and tensors[10].locator.key.encode() in page
    ]
    lost = {tensor.id for tensor in tensors if tensor.locator.key.encode() in pages[page]}
    in_the_head(memoryview(data)[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])  # type: ignore[arg-type]
    path.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        catalogue = reopen()
    assert [record for record in caplog.records if "table tensor cannot be read after key" in record.getMessage()]
    for field in ("created", "id"):
        found = catalogue.tensors.page("dataset", PageRequest(order=Order(field))).tensors
        assert {one.error.facts["tensor"] for one in found if isinstance(one, DamagedTensor)} >= lost
        intact = [one for one in found if isinstance(one, Tensor)]
        assert all(one in tensors for one in intact)
        assert len(found) == 30
    for tensor, one in zip(tensors, catalogue.tensors.get("dataset", [tensor.id for tensor in tensors]), strict=True):
        assert one == tensor or isinstance(one, DataCorruptError)
