"""The catalogue's disk fails, or a statement takes too long: nothing is promised that is not kept."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from support.engine import Reopen, commit, create, listed, stored_tensor
from support.faults import FailingCommits
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue, readers
from tensorus_server.errors import EngineError, LimitExceededError, StorageFullError, StoreUnavailableError
from tensorus_server.model import Schema

UNKNOWN_OUTCOME = [
    pytest.param(apsw.IOError("disk I/O error"), id="broken disk"),
    pytest.param(apsw.CorruptError("database disk image is malformed"), id="malformed"),
    pytest.param(apsw.BusyError("database is locked"), id="busy"),
]

WRITES = [
    pytest.param(lambda catalogue: create(catalogue, "new"), id="create"),
    pytest.param(lambda catalogue: catalogue.datasets.update("dataset", None, Schema(dtype="int8")), id="update"),
    pytest.param(lambda catalogue: catalogue.datasets.delete("dataset"), id="delete dataset"),
    pytest.param(lambda catalogue: catalogue.tensors.replace_metadata("dataset", "there", {"a": 1}), id="replace"),
    pytest.param(lambda catalogue: catalogue.tensors.delete("dataset", ["there"]), id="delete"),
    pytest.param(lambda catalogue: catalogue.garbage.delete(["key"]), id="delete tombstones"),
    pytest.param(
        lambda catalogue: catalogue.tensors.commit([stored_tensor(catalogue.datasets.get("dataset"), "new")]),
        id="commit",
    ),
]


@pytest.fixture
def catalogue(reopen: Reopen) -> SqliteCatalogue:
    """A catalogue with one tensor."""
    opened = reopen()
    assert isinstance(opened, SqliteCatalogue)
    commit(opened, stored_tensor(create(opened), "there"))
    return opened


def break_commits(catalogue: SqliteCatalogue, error: Exception, *, committed: bool = False) -> None:
    """Let every COMMIT fail from now on."""
    writer = catalogue._database._writer
    catalogue._database._writer = FailingCommits(writer, error, committed=committed)  # type: ignore[assignment]


def contents(catalogue: Catalogue) -> str:
    """Return all that a catalogue says of itself, in one notation."""
    datasets = listed(catalogue)
    return repr([(dataset, catalogue.tensors.page(dataset.name, PageRequest()).tensors) for dataset in datasets])


@pytest.mark.parametrize("write", WRITES)
class TestFullDisk:
    """The log cannot grow: the transaction is still open, and its outcome is ours to decide."""

    def test_nothing_is_written_and_writes_may_go_on(self, catalogue: SqliteCatalogue, write, reopen: Reopen) -> None:
        before = contents(catalogue)
        writer = catalogue._database._writer
        break_commits(catalogue, apsw.FullError("database or disk is full"))
        with pytest.raises(StorageFullError, match="no space is left on the catalogue's disk"):
            write(catalogue)
        assert contents(catalogue) == before
        catalogue.check_writable()
        catalogue._database._writer = writer
        write(catalogue)
        after = contents(catalogue)
        assert contents(reopen()) == after

    def test_reads_go_on(self, catalogue: SqliteCatalogue, write) -> None:
        break_commits(catalogue, apsw.FullError("database or disk is full"))
        with pytest.raises(StorageFullError):
            write(catalogue)
        (found,) = catalogue.tensors.get("dataset", ["there"])
        assert found is not None


def test_a_database_that_may_not_grow_is_full(catalogue: SqliteCatalogue) -> None:
    # SQLite's own bound on pages fails a statement before the COMMIT, as a disk without space does.
    ((pages,),) = select(catalogue._database._writer, "PRAGMA page_count")
    select(catalogue._database._writer, f"PRAGMA max_page_count = {pages}")
    dataset = catalogue.datasets.get("dataset")
    with pytest.raises(StorageFullError, match="no space is left on the catalogue's disk"):
        catalogue.tensors.commit([stored_tensor(dataset, "large", inline_payload=bytes(60_000))])
    assert catalogue.tensors.get("dataset", ["large"]) == [None]
    catalogue.tensors.delete("dataset", ["there"])
    select(catalogue._database._writer, "PRAGMA max_page_count = 1000000")
    commit(catalogue, stored_tensor(dataset, "large", inline_payload=bytes(60_000)))


class TestUnknownOutcome:
    """Whether the log was synced nobody knows: no more writes until a restart, which finds out."""

    @pytest.mark.parametrize("write", WRITES)
    def test_it_is_said_and_nothing_is_written_any_more(self, catalogue: SqliteCatalogue, write) -> None:
        error = "disk I/O error"
        break_commits(catalogue, apsw.IOError(error), committed=True)
        with pytest.raises(StoreUnavailableError, match=f"outcome of a commit is unknown until a restart: {error}"):
            write(catalogue)
        catalogue._database._writer = catalogue._database._writer._connection
        with pytest.raises(StoreUnavailableError, match=f"takes no more writes until a restart: {error}"):
            catalogue.check_writable()
        for again in (write, lambda catalogue: create(catalogue, "other")):
            with pytest.raises(StoreUnavailableError, match="takes no more writes until a restart"):
                again(catalogue)

    @pytest.mark.parametrize("error", UNKNOWN_OUTCOME)
    @pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
    def test_reads_go_on_and_a_restart_finds_the_truth(
        self, catalogue: SqliteCatalogue, reopen: Reopen, error: Exception, *, committed: bool
    ) -> None:
        break_commits(catalogue, error, committed=committed)
        with pytest.raises(StoreUnavailableError, match=f"outcome of a commit is unknown until a restart: {error}"):
            catalogue.tensors.delete("dataset", ["there"])
        catalogue.tensors.get("dataset", ["there"])
        catalogue.maintain(idle=True)
        found = reopen()
        assert (found.tensors.get("dataset", ["there"]) == [None]) == committed
        found.check_writable()
        create(found, "other")


@pytest.mark.parametrize("error", [apsw.IOError("disk I/O error"), apsw.CorruptError("malformed")])
def test_a_statement_that_finds_the_database_broken_ends_all_writes(
    catalogue: SqliteCatalogue, error: Exception
) -> None:
    with pytest.raises(StoreUnavailableError, match=f"the catalogue failed: {error}"), catalogue._database.write():
        raise error
    with pytest.raises(StoreUnavailableError, match=f"takes no more writes until a restart: {error}"):
        create(catalogue, "other")


class TestCheckpoints:
    """Copying the log can fail, too; a full disk costs nothing, a broken one ends all writes."""

    @pytest.fixture
    def failing(self, catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
        """Return a place for the error that the next checkpoint fails with."""
        errors: list[Exception] = []
        writer = catalogue._database._writer

        class Writer:
            def wal_checkpoint(self, **_: object) -> None:
                raise errors[0]

            def __getattr__(self, name: str) -> object:
                return getattr(writer, name)

        monkeypatch.setattr(catalogue._database, "_writer", Writer())
        return errors

    @pytest.mark.parametrize("error", [apsw.FullError("full"), apsw.BusyError("locked")], ids=["full", "busy"])
    def test_one_that_has_to_wait_harms_nothing(
        self, catalogue: SqliteCatalogue, failing: list[Exception], error: Exception
    ) -> None:
        failing.append(error)
        catalogue.maintain(idle=True)
        catalogue.check_writable()
        create(catalogue, "other")

    def test_one_that_breaks_ends_all_writes(self, catalogue: SqliteCatalogue, failing: list[Exception]) -> None:
        failing.append(apsw.IOError("disk I/O error"))
        with pytest.raises(StoreUnavailableError, match="could not be synced: disk I/O error"):
            catalogue.maintain(idle=True)
        with pytest.raises(StoreUnavailableError, match="takes no more writes until a restart: disk I/O error"):
            create(catalogue, "other")


class TestStatementTimeout:
    """A statement that runs for too long is ended, and the connection serves the next one."""

    ENDLESS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    @pytest.fixture(autouse=True)
    def _no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readers, "STATEMENT_TIMEOUT_S", 0.0)

    def test_it_is_a_limit(self, catalogue: SqliteCatalogue) -> None:
        with (
            pytest.raises(LimitExceededError, match=r"ran for longer than 0.0 s \(statement_timeout_s\)") as caught,
            catalogue._database.read() as connection,
        ):
            select(connection, self.ENDLESS)
        assert caught.value.facts == {"limit": "0.0"}

    def test_every_connection_can_be_used_again(self, catalogue: SqliteCatalogue) -> None:
        for _ in range(20):
            with pytest.raises(LimitExceededError), catalogue._database.read() as connection:
                select(connection, self.ENDLESS)
        (found,) = catalogue.tensors.get("dataset", ["there"])
        assert found is not None
        assert listed(catalogue) != []


@pytest.mark.parametrize("error", [apsw.IOError("disk I/O error"), apsw.CorruptError("malformed")])
def test_a_read_that_finds_the_database_broken_is_no_unforeseen_error(
    catalogue: SqliteCatalogue, error: Exception
) -> None:
    with pytest.raises(EngineError), catalogue._database.read():
        raise error


def test_a_damaged_database_is_refused_with_the_reason(
    catalogue: SqliteCatalogue, reopen: Reopen, tmp_path: Path
) -> None:
    catalogue.close()
    path = tmp_path / "catalogue.db"
    damaged = bytearray(path.read_bytes())
    # The head of every page but the first says what kind of page it is.
    for begin in range(4096, len(damaged), 4096):
        damaged[begin] ^= 0x55
    path.write_bytes(damaged)
    with pytest.raises(StoreUnavailableError, match="malformed"):
        reopen()
