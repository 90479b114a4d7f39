"""Damage of past tensors, snapshots, retentions and the counter is found, and costs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from contract.catalogue_program import pages, prune
from server.catalogue.test_sqlite_indexes import PAGE_BYTES, damage_page
from server.catalogue.test_sqlite_rows import CHANGED, RAW
from support.engine import Reopen, commit, create, ids_of, stored_tensor
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import ORDER_FIELDS, Catalogue, DamagedTensor, Order, PageRequest, TensorCopies
from tensorus_server.catalogue.sql import copies, numbers, pruning, row_page
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.errors import DataCorruptError, SnapshotNotFoundError
from tensorus_server.filter.tree import Compare, Key, Operator
from tensorus_server.model import At, Dataset, Tensor

LIMIT = 100

VALUES = ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 0, 0, 0)


def change(folder: Path, statement: str, *parameters: object) -> None:
    """Change rows of a closed catalogue."""
    connection = apsw.Connection(str(folder / "catalogue.db"))
    connection.execute(statement, parameters)
    assert connection.changes()
    connection.close()


def three_past_tensors(catalogue: Catalogue, name: str) -> tuple[Dataset, list[Tensor], int]:
    """Store a, b and c, make a snapshot, replace b, delete a, and return all three with the snapshot's generation."""
    dataset = create(catalogue, name)
    tensors = commit(
        catalogue,
        *(
            stored_tensor(
                dataset, found, source=b"s" * 16, metadata={"a": 1}, values=VALUES, inline_payload=found.encode()
            )
            for found in "abc"
        ),
    )
    at = catalogue.snapshots.create(name, "s").generation
    catalogue.tensors.replace_metadata(name, "b", {"a": 2})
    catalogue.tensors.delete(name, ["a"])
    return dataset, tensors, at


def test_a_damaged_past_row_is_damage_in_its_place(tmp_path: Path, reopen: Reopen) -> None:
    catalogue = reopen()
    damages = {f"{column} = {value!r}": (column, "?", (value,)) for column, value in CHANGED.items() if column != "ds"}
    damages["inline = 0"] = ("inline", "?", (0,))
    del damages["inline = 1"]
    damages |= {case: (column, expression, ()) for case, (column, expression) in RAW.items()}
    made = {case: three_past_tensors(catalogue, case) for case in damages}
    catalogue.close()
    for case, (column, expression, parameters) in damages.items():
        generation = made[case][1][1].generation
        change(tmp_path, f"""UPDATE past_tensor SET "{column}" = {expression} WHERE seq = {generation}""", *parameters)
    catalogue = reopen()
    for case, (column, _, _) in damages.items():
        _, (a, b, c), at = made[case]
        name = "other" if column == "id" else "b"
        facts = {"dataset": case, "tensor": name, "generation": str(b.generation)}
        first, second, third = catalogue.tensors.get(case, ["a", name, "c"], at=at)
        assert [first, third] == [a, c], case
        assert isinstance(second, DataCorruptError), case
        assert second.facts == facts
        (second,) = catalogue.tensors.by_generation(case, [b.generation], at=at, with_payloads=True)
        assert isinstance(second, DataCorruptError), case
        for field in ORDER_FIELDS:
            page = catalogue.tensors.page(case, PageRequest(order=Order(field), at=at))
            (found,) = [one for one in page.tensors if isinstance(one, DamagedTensor)]
            assert (found.error.facts, found.generation) == (facts, b.generation), (case, field)
            assert [one for one in page.tensors if isinstance(one, Tensor)] == [a, c], (case, field)
        stats = catalogue.datasets.stats(case, at)
        assert (stats.tensors, stats.damaged_tensors) == (2, 1), case
        assert stats.damages[0].facts == facts
        # Nothing of a state with damage is brought back, and what is there now is intact.
        with pytest.raises(DataCorruptError):
            catalogue.tensors.restore(case, at, limit=LIMIT, discard_newer=True)
        assert ids_of(catalogue, case) == ["c", "b"], case
    with pytest.raises(DataCorruptError):
        catalogue.garbage.require_intact()


def test_a_damaged_past_page_does_not_hide_the_other_tensors(tmp_path: Path, reopen: Reopen) -> None:
    catalogue = reopen()
    dataset = create(catalogue)
    names = [f"t{number:02}" for number in range(60)]
    tensors = commit(catalogue, *(stored_tensor(dataset, name, metadata={"n": 1}) for name in names))
    at = catalogue.snapshots.create("dataset", "s").generation
    catalogue.tensors.delete("dataset", names)
    catalogue.close()
    path = tmp_path / "catalogue.db"
    data = bytearray(path.read_bytes())
    connection = apsw.Connection(str(path))
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'past_tensor'").fetchall()
    connection.close()
    # The leaf that has t30; the ids are also in pages that are no longer used.
    broken = next(
        start for start in leaves_of(data, (root - 1) * PAGE_BYTES) if b"t30" in data[start : start + PAGE_BYTES]
    )
    data[broken : broken + 8] = b"\x55" * 8
    path.write_bytes(data)
    catalogue = reopen()
    for order in (Order(), Order(descending=True), Order("id"), Order("stored_bytes")):
        page = catalogue.tensors.page("dataset", PageRequest(Compare(Key("n"), Operator.EQUAL, 1), order, 100, at=at))
        found = [one for one in page.tensors if isinstance(one, Tensor)]
        damaged = [one.generation for one in page.tensors if isinstance(one, DamagedTensor)]
        assert 0 < len(damaged) < 60
        assert sorted([*(one.generation for one in found), *damaged]) == [one.generation for one in tensors]
        assert all(one in tensors for one in found)
    stats = catalogue.datasets.stats("dataset", at)
    assert (stats.tensors, stats.damaged_tensors) == (len(found), len(damaged))


def leaves_of(data: bytes, start: int) -> list[int]:
    """Return where the leaves below the interior page of a table begin."""
    assert data[start] == 5, "not an interior page of a table"
    count = int.from_bytes(data[start + 3 : start + 5], "big")
    cells = [int.from_bytes(data[start + 12 + 2 * n : start + 14 + 2 * n], "big") for n in range(count)]
    places = [start + 8, *(start + cell for cell in cells)]
    return [(int.from_bytes(data[place : place + 4], "big") - 1) * PAGE_BYTES for place in places]


@pytest.mark.parametrize(
    ("column", "value"), [("generation", 3), ("generation", 10**6), ("created_us", 1), ("row_checksum", 0)]
)
def test_a_damaged_snapshot_is_named_and_nothing_is_pruned(
    tmp_path: Path, reopen: Reopen, caplog: pytest.LogCaptureFixture, column: str, value: int
) -> None:
    catalogue = reopen()
    _, (a, _, _), _ = three_past_tensors(catalogue, "dataset")
    intact = catalogue.snapshots.create("dataset", "intact")
    catalogue.tensors.delete("dataset", ["c"])
    catalogue.snapshots.create("dataset", "dropped")
    catalogue.snapshots.drop("dataset", "dropped")
    catalogue.close()
    change(tmp_path, f"UPDATE snapshot SET {column} = ? WHERE name = 's'", value)
    catalogue = reopen()
    for call in (
        lambda: catalogue.snapshots.find("dataset", "s"),
        lambda: catalogue.snapshots.resolve("dataset", At(snapshot="s")),
    ):
        with pytest.raises(DataCorruptError, match="damaged at snapshot 's'") as raised:
            call()
        assert raised.value.facts == {"dataset": "dataset", "snapshot": "s"}
    found = [one for _, one in catalogue.snapshots.page("dataset", 0, 9).snapshots]
    assert [one for one in found if not isinstance(one, DataCorruptError)] == [intact]
    assert len(found) == 2
    with caplog.at_level(logging.ERROR):
        assert prune(catalogue) == 0
    assert "past tensors stay, because it is not known which are needed" in caplog.text
    catalogue.snapshots.drop("dataset", "s")
    with pytest.raises(SnapshotNotFoundError):
        catalogue.snapshots.find("dataset", "s")
    assert prune(catalogue) == 2
    assert catalogue.tensors.get("dataset", ["a", "b", "c"], at=intact.generation)[0] is None
    assert a.generation < intact.generation


@pytest.mark.parametrize(("before", "after"), [(0, 1_000_000), (1_000_000, 0), (1_000_000, 1_000_001)])
def test_another_retention_than_was_written_is_damage(tmp_path: Path, reopen: Reopen, before: int, after: int) -> None:
    catalogue = reopen()
    dataset = create(catalogue, retention_s=before // 1_000_000)
    catalogue.close()
    change(tmp_path, "UPDATE dataset SET retention_us = ?", after)
    catalogue = reopen()
    with pytest.raises(DataCorruptError, match="the row's checksum is"):
        catalogue.datasets.get("dataset")
    mended = catalogue.datasets.update("dataset", dataset.policy, dataset.schema, 7)
    assert mended.retention_s == 7
    assert catalogue.datasets.get("dataset") == mended


@pytest.mark.parametrize("damage", ["DELETE FROM sqlite_sequence", "UPDATE sqlite_sequence SET seq = 1"])
@pytest.mark.parametrize("last", ["tensor", "past", "deletion", "snapshot"])
def test_a_damaged_counter_assigns_no_generation_again(tmp_path: Path, reopen: Reopen, damage: str, last: str) -> None:
    catalogue = reopen()
    dataset = create(catalogue, retention_s=1000)
    commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
    if last != "tensor":
        catalogue.tensors.delete("dataset", ["c"])
    if last == "deletion":
        catalogue.tensors.delete("dataset", ["a", "b"])
    if last == "snapshot":
        catalogue.snapshots.create("dataset", "s")
    latest = catalogue.tensors.latest_generation()
    catalogue.close()
    change(tmp_path, f"{damage} WHERE name = 'tensor'")
    catalogue = reopen()
    assert catalogue.tensors.latest_generation() == latest
    # The first to need a generation may be a deletion, whose trigger reads the counter.
    catalogue.tensors.delete("dataset", ["a"])
    assert catalogue.tensors.latest_generation() == latest + (last != "deletion")
    assert catalogue.snapshots.create("dataset", "new").generation > latest
    (tensor,) = commit(catalogue, stored_tensor(dataset, "new"))
    assert tensor.generation > latest + 1


@pytest.mark.parametrize("index", ["past_tensor_id", "past_tensor_created", "past_tensor_until", "snapshot_generation"])
def test_a_damaged_index_of_the_history_is_rebuilt(tmp_path: Path, reopen: Reopen, index: str) -> None:
    catalogue = reopen()
    _, tensors, at = three_past_tensors(catalogue, "dataset")
    catalogue.close()

    def without_a_cell(page: bytearray) -> None:
        page[3:5] = (int.from_bytes(page[3:5], "big") - 1).to_bytes(2, "big")

    damage_page(tmp_path, index, without_a_cell)
    catalogue = reopen()
    assert catalogue.tensors.page("dataset", PageRequest(at=at)).tensors == tensors
    assert [name for name, *_ in rows(catalogue, "SELECT name FROM snapshot WHERE generation = ?", at)] == ["s"]
    assert catalogue.tensors.get("dataset", ["a", "b", "c"], at=at) == tensors


def rows(catalogue: Catalogue, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    assert isinstance(catalogue, SqliteCatalogue)
    with catalogue._database.read() as connection:
        return select(connection, statement, parameters)


def test_pruning_looks_once_at_what_is_needed(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_LOOKED_AT", 3)
    monkeypatch.setattr(pruning, "_ROWS_AT_ONCE", 2)
    catalogue = reopen()
    dataset = create(catalogue, retention_s=1)
    names = [f"{number}" for number in range(20)]
    commit(catalogue, *(stored_tensor(dataset, name) for name in names))
    at = catalogue.snapshots.create("dataset", "s").generation
    catalogue.tensors.delete("dataset", names)
    age(catalogue)
    assert prune(catalogue) == 0
    pruner = catalogue.snapshots._pruner  # type: ignore[attr-defined]
    place, unneeded, is_end = pruner._look(dataset.number)
    assert (place, unneeded, is_end) == ((at + 20, 20), [], True)
    # A drop starts it again from the beginning, even if a process ends in between.
    catalogue.snapshots.drop("dataset", "s")
    stops: list[float] = []
    assert catalogue.snapshots.prune(lambda s: stops.append(s) or True) < 20  # type: ignore[func-returns-value]
    catalogue = reopen()
    ((mark,),) = rows(catalogue, "SELECT prune FROM history")
    assert mark >= 2
    prune(catalogue)
    assert rows(catalogue, "SELECT prune FROM history") == [(0,)]
    assert rows(catalogue, "SELECT count(*) FROM past_tensor") == [(0,)]


def age(catalogue: Catalogue) -> None:
    """Let the retention of all past tensors be over."""
    assert isinstance(catalogue, SqliteCatalogue)
    with catalogue._database.write() as connection:
        connection.execute("UPDATE past_tensor SET until_us = 0")


def test_what_a_killed_process_has_not_pruned_another_one_prunes(reopen: Reopen) -> None:
    running = reopen()
    dataset = create(running, retention_s=1)
    names = [f"{number}" for number in range(20)]
    commit(running, *(stored_tensor(dataset, name) for name in names))
    running.snapshots.create("dataset", "s")
    running.tensors.delete("dataset", names)
    age(running)
    # It has come to the end, where another process begins again because of a drop, and is killed.
    assert prune(running) == 0
    running.snapshots.drop("dataset", "s")
    assert isinstance(running, SqliteCatalogue)
    killed = pruning.Pruner(running._database, delete_grace_us=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(killed, "_look", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            killed.prune(lambda _: False, wait_s=0.0)
    assert prune(running) == 20
    assert rows(running, "SELECT prune FROM history") == [(0,)]


def test_a_move_is_one_step_in_time(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = reopen()
    dataset = create(catalogue, retention_s=100)
    commit(catalogue, *(stored_tensor(dataset, name) for name in "ab"))
    # Later than the clock of the trigger that keeps what is deleted.
    for module in (numbers, copies):
        monkeypatch.setattr(module, "now_us", lambda connection: now_us(connection) + 10_000)
    swap = TensorCopies("dataset", "dataset", [("a", "b"), ("b", "a")], move=True)
    (created_us, _) = (tensor.created_us for tensor in catalogue.copies.copy_tensors(swap, lambda *_: None))
    assert all(until_us >= created_us for (until_us,) in rows(catalogue, "SELECT until_us FROM past_tensor"))


def test_a_drop_during_a_round_starts_another_one(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_LOOKED_AT", 3)
    catalogue = reopen()
    dataset = create(catalogue)
    names = [f"{number}" for number in range(10)]
    commit(catalogue, *(stored_tensor(dataset, name) for name in names))
    for name in ("first", "second"):
        catalogue.snapshots.create("dataset", name)
    catalogue.tensors.delete("dataset", names)
    catalogue.snapshots.drop("dataset", "first")
    drops: list[Callable[[], None]] = [lambda: catalogue.snapshots.drop("dataset", "second")]

    def pause(_: float) -> bool:
        while drops:
            drops.pop()()
        return False

    first = catalogue.snapshots.prune(pause)
    assert rows(catalogue, "SELECT prune FROM history") == [(1,)]
    assert first + prune(catalogue) == 10
    assert rows(catalogue, "SELECT prune FROM history") == [(0,)]


def test_a_page_that_ends_by_its_bytes_hides_nothing(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = reopen()
    dataset = create(catalogue)
    sizes = [10 if number % 5 else 4000 for number in range(30)]
    names = [f"{number:02}" for number in range(30)]
    commit(
        catalogue,
        *(stored_tensor(dataset, name, inline_payload=bytes(size)) for name, size in zip(names, sizes, strict=True)),
    )
    at = catalogue.snapshots.create("dataset", "s").generation
    # The past has small payloads only, so its pages go further than those of the others.
    catalogue.tensors.delete("dataset", [name for name, size in zip(names, sizes, strict=True) if size == 10])
    monkeypatch.setattr(row_page, "PAGE_READ_BYTES", 5000)
    for order in (Order(), Order("id", descending=True)):
        found = [tensor.id for tensor in pages(catalogue, at, order=order, size=20)]
        assert found == sorted(names, reverse=order.descending)
