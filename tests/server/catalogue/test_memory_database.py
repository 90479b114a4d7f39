"""The catalogue in memory keeps the contract; and what only it does: threads take turns on one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from contract.catalogue_access import CatalogueAccessContract
from contract.catalogue_content import CatalogueContentContract
from contract.catalogue_contract import CatalogueContract
from contract.catalogue_copies import CatalogueCopiesContract
from contract.catalogue_datasets import CatalogueDatasetsContract
from contract.catalogue_history import CatalogueHistoryContract
from contract.catalogue_hostile import CatalogueHostileContract
from contract.catalogue_isolation import CatalogueIsolationContract
from contract.catalogue_members import CatalogueMembersContract
from contract.catalogue_ordinals import CatalogueOrdinalsContract
from contract.catalogue_packs import CataloguePacksContract
from contract.catalogue_paging import CataloguePagingContract
from contract.catalogue_purge import CataloguePurgeContract
from contract.catalogue_references import CatalogueReferencesContract
from contract.catalogue_totals import CatalogueTotalsContract
from contract.catalogue_uploads import CatalogueUploadsContract
from support.clocks import moved_clock
from support.engine import Reopen, commit, create, ids_of, stored_tensor
from tensorus_server.catalogue import sqlite
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue, memory_database
from tensorus_server.catalogue.sqlite.memory_database import MemoryDatabase
from tensorus_server.errors import LimitExceededError, StorageFullError, StoreBusyError, StoreUnavailableError


@pytest.fixture
def reopen(monkeypatch: pytest.MonkeyPatch) -> Reopen:
    """Make another catalogue on the same memory: as near as it comes to opening it again."""
    database = MemoryDatabase()
    monkeypatch.setattr(sqlite, "MemoryDatabase", lambda: database)

    def open_again(*, delete_grace_s: float = 3600.0, upload_expiry_s: float = 3600.0) -> SqliteCatalogue:
        return SqliteCatalogue(None, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s)

    return open_again


@pytest.fixture
def pair(reopen: Reopen) -> tuple[Catalogue, Catalogue]:
    return reopen(), reopen()


class TestMemoryAccess(CatalogueAccessContract):
    """Memory keeps what every catalogue promises of access."""


class TestMemoryDatasets(CatalogueDatasetsContract):
    """Memory keeps what every catalogue promises of datasets."""


class TestMemoryCopies(CatalogueCopiesContract):
    """Likewise."""


class TestMemoryCatalogue(CatalogueContract):
    """Likewise."""


class TestMemoryContent(CatalogueContentContract):
    """Likewise."""


class TestHistoryInMemory(CatalogueHistoryContract):
    """Likewise."""


class TestMemoryHostile(CatalogueHostileContract):
    """Hostile texts."""


class TestIsolationInMemory(CatalogueIsolationContract):
    """Likewise."""


class TestMemoryMembers(CatalogueMembersContract):
    """Likewise."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        return moved_clock(monkeypatch)


class TestMemoryOrdinals(CatalogueOrdinalsContract):
    """Likewise."""


class TestPacksInMemory(CataloguePacksContract):
    """A catalogue in memory: packs."""


class TestMemoryPaging(CataloguePagingContract):
    """Likewise."""


class TestMemoryPurge(CataloguePurgeContract):
    """Likewise."""


class TestReferencesInMemory(CatalogueReferencesContract):
    """Likewise."""


class TestMemoryTotals(CatalogueTotalsContract):
    """Likewise."""


class TestMemoryUploads(CatalogueUploadsContract):
    """Likewise."""


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


def count(database: MemoryDatabase) -> int:
    with database.read() as connection:
        ((found,),) = select(connection, "SELECT count(*) FROM tombstone")
    return int(found)


def bury(database: MemoryDatabase, key: str) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO tombstone VALUES (?, 0)", (key,))


class TestTransactions:
    """They are whole, or nothing of them is there."""

    def test_what_a_block_wrote_before_it_raised_is_undone(self, database: MemoryDatabase) -> None:
        def interrupted() -> None:
            with database.write() as connection:
                connection.execute("INSERT INTO tombstone VALUES ('a', 0)")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert count(database) == 0
        bury(database, "b")
        assert count(database) == 1

    def test_another_thread_reads_after_a_write_and_not_within_it(self, database: MemoryDatabase) -> None:
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(count(database)))
        with database.write() as connection:
            connection.execute("INSERT INTO tombstone VALUES ('a', 0)")
            reader.start()
            connection.execute("INSERT INTO tombstone VALUES ('b', 0)")
            assert not found
        reader.join(30)
        assert found == [2]

    def test_the_thread_that_writes_reads_what_it_has_written(self, database: MemoryDatabase) -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO tombstone VALUES ('a', 0)")
            assert count(database) == 1

    def test_the_thread_that_reads_may_write_meanwhile(self, database: MemoryDatabase) -> None:
        for key in "abc":
            bury(database, key)
        with database.read() as connection:
            reading = connection.execute("SELECT key FROM tombstone WHERE key < 'd' ORDER BY key")
            assert next(reading) == ("a",)
            bury(database, "d")
            assert list(reading) == [("b",), ("c",)]
        assert count(database) == 4

    def test_a_statement_that_runs_for_too_long_is_ended(
        self, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_database, "STATEMENT_TIMEOUT_S", 0.0)
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        with pytest.raises(LimitExceededError, match="a statement ran for longer than"), database.read() as connection:
            select(connection, endless)
        bury(database, "a")
        assert count(database) == 1


class TestTurns:
    """Nobody waits for ever."""

    def test_a_call_gives_up_where_another_does_not_end(
        self, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_database, "_TURN_TIMEOUT_S", 0.01)
        outcomes: list[str] = []

        def call() -> None:
            for call in (lambda: count(database), lambda: bury(database, "a"), lambda: database.close(0.01)):
                try:
                    call()
                except StoreBusyError as error:
                    outcomes.append(str(error))

        with database.write():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(30)
        assert outcomes == ["another call of the catalogue has not ended after 0 s"] * 3
        bury(database, "a")
        assert count(database) == 1

    def test_a_closed_one_says_so(self, database: MemoryDatabase) -> None:
        database.close(1)
        database.close(1)
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            count(database)
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            bury(database, "a")


def test_a_catalogue_takes_no_more_than_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_database, "_pages_max", lambda: 200)
    catalogue = SqliteCatalogue(None)
    dataset = create(catalogue)
    committed: list[str] = []

    def fill() -> None:
        while True:
            new = stored_tensor(dataset, f"t{len(committed)}", inline_payload=bytes(20_000))
            commit(catalogue, new)
            committed.append(new.new.id)

    with pytest.raises(StorageFullError, match="the catalogue in memory is full, limit is 819200 bytes"):
        fill()
    assert committed
    assert ids_of(catalogue, "dataset") == committed
    assert catalogue.tensors.delete("dataset", committed) == committed
    commit(catalogue, stored_tensor(dataset, "t", inline_payload=bytes(20_000)))
    catalogue.close()
