"""A catalogue from before there were ordinals gets them when it is opened, and no tensor is without one afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from contract.catalogue_ordinals import ordinals_of
from support.engine import Reopen, commit, create, listed, stored_tensor
from support.old_catalogue import old_checksum
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import PageRequest, StoredTensor
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS, RowWriter
from tensorus_server.catalogue.sqlite import schema
from tensorus_server.catalogue.sqlite.database import Database
from tensorus_server.catalogue.sqlite.epoch import EpochKeeper
from tensorus_server.model import Dataset, Schema

NAMES = ("one", "two", "empty")


def insert_as_version_1(connection: apsw.Connection, stored: StoredTensor) -> None:
    """Insert a tensor as versions did that knew the first schema alone."""
    row = dict(zip(TENSOR_COLUMNS, RowWriter().row(stored, 0, 0, 7), strict=True))
    del row["seq"], row["ordinal"], row["row_checksum"]
    row["row_crc"] = old_checksum(row)
    names, values = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
    statement = f"INSERT INTO tensor ({names}) VALUES ({values}) ON CONFLICT (ds, id) DO NOTHING RETURNING seq"
    connection.execute(statement, row).fetchall()


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[Dataset]:
    """Three datasets of the first schema: tensors 0 to 8 by turns in two of them, of which 2, 3 and 8 were deleted."""
    with monkeypatch.context() as patched:
        first = {1: schema.migrations()[1]}
        patched.setattr(schema, "migrations", lambda: first)
        # Versions without the table of the epoch knew of none.
        patched.setattr(EpochKeeper, "raise_if_due", lambda *_: None)
        opened = Database(tmp_path)
        policy = StoragePolicy(preset="fast")
        datasets = [Dataset(number, name, policy, Schema(), 7) for number, name in enumerate(NAMES, 1)]
        with opened.write() as connection:
            for dataset in datasets:
                row = (dataset.number, dataset.name, to_json(policy.to_json()), 7)
                connection.execute("INSERT INTO dataset VALUES (?, ?, ?, '{}', ?)", row)
            for number in range(9):
                insert_as_version_1(
                    connection, stored_tensor(datasets[number % 2], f"{number}", metadata={"n": number})
                )
            connection.execute("DELETE FROM tensor WHERE id IN ('2', '3', '8')")
        opened.close()
    return datasets


def test_tensors_of_an_older_catalogue_are_numbered_as_they_were_committed(
    old: Sequence[Dataset], reopen: Reopen
) -> None:
    catalogue = reopen()
    assert listed(catalogue) == list(old)
    assert ordinals_of(catalogue, "one") == {"0": 1, "4": 2, "6": 3}
    assert ordinals_of(catalogue, "two") == {"1": 1, "5": 2, "7": 3}
    assert ordinals_of(catalogue, "empty") == {}
    # Nothing else of them has changed: a row that is not what was written would be damage.
    tensors = catalogue.tensors.page("one", PageRequest()).tensors
    assert [(tensor.generation, tensor.metadata, tensor.created_us) for tensor in tensors] == [
        (1, {"n": 0}, 7),
        (5, {"n": 4}, 7),
        (7, {"n": 6}, 7),
    ]


def test_the_count_of_an_older_catalogue_goes_on_after_its_largest(old: Sequence[Dataset], reopen: Reopen) -> None:
    one, two, empty = old
    catalogue = reopen()
    catalogue.tensors.delete("one", ["6"])
    tensors = commit(catalogue, *(stored_tensor(dataset, "new") for dataset in (empty, two, one)))
    assert [tensor.ordinal for tensor in tensors] == [1, 4, 4]
    assert ordinals_of(reopen(), "one") == {"0": 1, "4": 2, "new": 4}


def test_a_process_of_an_older_version_commits_nothing_without_an_ordinal(reopen: Reopen, tmp_path: Path) -> None:
    catalogue = reopen()
    dataset = create(catalogue)
    older = apsw.Connection(str(tmp_path / "catalogue.db"))
    # Of schema 1 to 4: the column that it writes its checksum to has another name.
    with pytest.raises(apsw.SQLError, match="no column named row_crc"):
        insert_as_version_1(older, stored_tensor(dataset, "t"))
    older.close()
    assert ordinals_of(catalogue) == {}
    assert commit(catalogue, stored_tensor(dataset, "t"))[0].ordinal == 1
