"""What removes rows and payloads goes on past what is damaged, and on a full disk."""

from __future__ import annotations

import apsw
import pytest

from contract.catalogue_uploads import save, upload
from support.engine import Reopen, commit, create, purge, stored_tensor
from support.faults import FailingCommits
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.errors import DataCorruptError


@pytest.fixture
def catalogue(reopen: Reopen) -> SqliteCatalogue:
    """A catalogue whose deleted tensors have no grace."""
    opened = reopen(delete_grace_s=0.0)
    assert isinstance(opened, SqliteCatalogue)
    return opened


def change(catalogue: SqliteCatalogue, statement: str) -> None:
    with catalogue._database.write() as connection:
        connection.execute(statement)


def fill(catalogue: SqliteCatalogue, name: str) -> dict[str, str]:
    """Make a dataset of three tensors, and return their keys."""
    dataset = create(catalogue, name)
    group = [stored_tensor(dataset, f"{name}{number}") for number in range(3)]
    commit(catalogue, *group)
    return {stored.new.id: stored.locator.key for stored in group}


@pytest.mark.parametrize("key", ["CAST(x'ff00' AS TEXT)", "'../../catalogue.db'"])
def test_a_damaged_key_of_a_deleted_dataset_frees_nothing_and_the_others_go_on(
    catalogue: SqliteCatalogue, key: str
) -> None:
    keys = fill(catalogue, "a")
    change(catalogue, f"UPDATE tensor SET key = {key} WHERE id = 'a1'")
    catalogue.datasets.delete("a")
    assert purge(catalogue) == 3
    assert sorted(catalogue.garbage.due(10)) == sorted([keys["a0"], keys["a2"]])


@pytest.mark.parametrize("key", ["CAST(x'ff00' AS TEXT)", "'../../catalogue.db'"])
def test_a_damaged_tombstone_names_no_payload_and_the_others_are_due(catalogue: SqliteCatalogue, key: str) -> None:
    keys = fill(catalogue, "a")
    catalogue.tensors.delete("a", ["a0"])
    change(catalogue, f"INSERT INTO tombstone (key, delete_after_us) VALUES ({key}, 0)")
    assert catalogue.garbage.due(10) == [keys["a0"]]


def test_a_damaged_deleted_dataset_stays_and_those_after_it_are_purged(catalogue: SqliteCatalogue) -> None:
    for name in "ab":
        fill(catalogue, name)
        catalogue.datasets.delete(name)
    change(catalogue, "UPDATE dataset SET created_us = created_us + 1 WHERE ds = (SELECT min(ds) FROM dataset)")
    with pytest.raises(DataCorruptError):
        purge(catalogue)
    with catalogue._database.read() as connection:
        left = [tensor_id for (tensor_id,) in connection.execute("SELECT id FROM tensor ORDER BY id")]
    assert left == ["a0", "a1", "a2"]


def test_an_upload_can_be_dropped_on_a_full_disk(catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    save(catalogue, dropped := upload(create(catalogue)))
    database = catalogue._database
    writer = database._writer
    full = apsw.FullError("database or disk is full")
    database._writer = FailingCommits(writer, full, committed=False)  # type: ignore[assignment]
    monkeypatch.setattr(database._spare, "release", lambda: setattr(database, "_writer", writer))
    assert catalogue.uploads.drop(dropped.request_id, dropped.item) == [dropped.payload_key]
