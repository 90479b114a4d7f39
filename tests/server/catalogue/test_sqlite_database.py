"""The file behind the catalogue: its version gate, its schema, its log, its connections and locks."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import apsw
import pytest

from support.engine import Reopen, commit, create, listed, stored_tensor
from support.faults import open_descriptors
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue, database, requirements, schema
from tensorus_server.catalogue.sqlite.database import Database
from tensorus_server.errors import StoreUnavailableError


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path)
    yield found
    found.close()


def pragma(connection: apsw.Connection, name: str) -> Any:
    """Return what a connection says of one setting."""
    ((value,),) = select(connection, f"PRAGMA {name}")
    return value


class TestVersionGate:
    """Some versions of SQLite can corrupt a database that two connections use."""

    # What counts is the library that runs. The one that apsw was compiled against is another where apsw uses the system's
    # library, and that is the case the gate is for.

    @pytest.mark.parametrize("version", ["3.51.3", "3.54.1", "4.0.0", "3.50.7", "3.44.6"])
    def test_a_safe_sqlite_is_accepted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
        Database(tmp_path).close()

    @pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.50.6", "3.50.8", "3.44.5", "3.44.7"])
    def test_an_unsafe_sqlite_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
        with pytest.raises(StoreUnavailableError, match=rf"SQLite is {version}.*3\.51\.3 or newer is needed"):
            Database(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestSchema:
    """Its version is in the file; steps run once, and all or none."""

    def test_a_new_file_has_every_step_noted(self, opened: Database) -> None:
        with opened.read() as connection:
            versions = select(connection, "SELECT version FROM schema_version ORDER BY version")
        assert versions == [(version,) for version in sorted(schema.migrations())]

    def test_opening_again_runs_no_step_again(self, tmp_path: Path) -> None:
        Database(tmp_path).close()
        opened = Database(tmp_path)
        with opened.read() as connection:
            assert select(connection, "SELECT count(*) FROM schema_version") == [(len(schema.migrations()),)]
        opened.close()

    def test_a_newer_schema_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        opened = Database(tmp_path)
        with opened.write() as connection:
            connection.execute("INSERT INTO schema_version VALUES (99, 0)")
        opened.close()
        latest = max(schema.migrations())
        message = f"schema version 99, this version of Tensorus knows up to {latest};"
        with pytest.raises(StoreUnavailableError, match=message):
            Database(tmp_path)
        assert open_descriptors(tmp_path) == []
        connection = apsw.Connection(str(tmp_path / "catalogue.db"))
        assert select(connection, "SELECT max(version) FROM schema_version") == [(99,)]
        connection.close()

    def test_a_step_that_fails_leaves_nothing_of_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Database(tmp_path).close()
        steps = schema.migrations()
        latest = max(steps)
        half = "CREATE TABLE half (a INTEGER); INSERT INTO half VALUES (1); SELECT * FROM no_such_table"
        broken = {**steps, latest + 1: half}
        monkeypatch.setattr(schema, "migrations", lambda: broken)
        with pytest.raises(StoreUnavailableError, match=r"cannot be opened: .*no_such_table"):
            Database(tmp_path)
        monkeypatch.setattr(schema, "migrations", lambda: steps)
        opened = Database(tmp_path)
        with opened.read() as connection:
            assert select(connection, "SELECT max(version) FROM schema_version") == [(latest,)]
            assert select(connection, "SELECT 1 FROM sqlite_schema WHERE name = 'half'") == []
        opened.close()

    def test_later_steps_run_on_an_older_file_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Database(tmp_path).close()
        steps = schema.migrations()
        latest = max(steps)
        later = {
            **steps,
            latest + 2: "INSERT INTO added VALUES (2); INSERT INTO added VALUES (3)",
            latest + 1: "CREATE TABLE added (a INTEGER); INSERT INTO added VALUES (1)",
        }
        monkeypatch.setattr(schema, "migrations", lambda: later)
        opened = Database(tmp_path)
        with opened.read() as connection:
            assert select(connection, "SELECT a FROM added ORDER BY a") == [(1,), (2,), (3,)]
            assert select(connection, "SELECT max(version) FROM schema_version") == [(latest + 2,)]
        opened.close()


SETTINGS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "busy_timeout": 10_000,
    "page_size": 4096,
    "wal_autocheckpoint": 0,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    "journal_size_limit": 67_108_864,
}


class TestSettings:
    """What every connection must have; each has lost data in somebody's hands."""

    @pytest.mark.parametrize(("name", "value"), SETTINGS.items(), ids=SETTINGS)
    def test_every_connection_has_the_setting(self, opened: Database, name: str, value: object) -> None:
        with opened.write() as connection:
            assert pragma(connection, name) == value
        with opened.read() as connection:
            assert pragma(connection, name) == value

    def test_a_connection_that_reads_cannot_write(self, opened: Database) -> None:
        with pytest.raises(StoreUnavailableError, match="readonly"), opened.read() as connection:
            connection.execute("DELETE FROM dataset")

    def test_the_files_belong_to_their_owner_alone_where_they_lock(self, opened: Database, tmp_path: Path) -> None:
        assert oct((tmp_path / "writer.lock").stat().st_mode & 0o777) == oct(0o600)


class TestTransactions:
    """A block is one transaction; it happens as a whole or not at all."""

    def test_an_exception_undoes_the_block(self, opened: Database) -> None:
        def fail_after_a_statement() -> None:
            with opened.write() as connection:
                connection.execute("INSERT INTO tombstone VALUES ('a', 1)")
                raise KeyError

        with pytest.raises(KeyError):
            fail_after_a_statement()
        with opened.write() as connection:
            connection.execute("INSERT INTO tombstone VALUES ('b', 1)")
        with opened.read() as connection:
            assert select(connection, "SELECT key FROM tombstone") == [("b",)]

    def test_a_block_that_reads_sees_one_state(self, opened: Database) -> None:
        with opened.read() as connection:
            before = select(connection, "SELECT count(*) FROM tombstone")
            with opened.write() as writer:
                writer.execute("INSERT INTO tombstone VALUES ('a', 1)")
            assert select(connection, "SELECT count(*) FROM tombstone") == before
        with opened.read() as connection:
            assert select(connection, "SELECT count(*) FROM tombstone") == [(1,)]

    def test_writes_of_many_threads_take_turns(self, opened: Database) -> None:
        def add(number: int) -> None:
            with opened.write() as connection:
                ((count,),) = select(connection, "SELECT count(*) FROM tombstone")
                connection.execute("INSERT INTO tombstone VALUES (?, ?)", (f"{number}", count))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(add, range(80)))
        with opened.read() as connection:
            # Had two overlapped, both would have counted the same.
            rows = select(connection, "SELECT delete_after_us FROM tombstone ORDER BY delete_after_us")
        assert rows == [(number,) for number in range(80)]

    def test_more_threads_read_than_there_are_connections(self, opened: Database) -> None:
        together = threading.Barrier(8, timeout=30)

        def count(_: int) -> int:
            with opened.read() as connection:
                # All eight connections are lent at once; whoever comes later waits for one.
                together.wait()
                ((found,),) = select(connection, "SELECT count(*) FROM dataset")
            return int(found)

        with ThreadPoolExecutor(24) as threads:
            assert list(threads.map(count, range(24))) == [0] * 24

    def test_the_file_lock_is_held_while_writing_and_free_otherwise(self, opened: Database, tmp_path: Path) -> None:
        other = os.open(tmp_path / "writer.lock", os.O_RDWR)
        try:
            with opened.write(), pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_UN)
            with opened.read():
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)

    def test_the_file_lock_is_free_again_after_a_block_that_failed(self, opened: Database, tmp_path: Path) -> None:
        with pytest.raises(KeyError), opened.write():
            raise KeyError
        other = os.open(tmp_path / "writer.lock", os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


class TestLog:
    """The write-ahead log is copied into the database between commits, never by SQLite on its own."""

    def test_a_commit_is_in_the_log_until_it_is_copied(self, catalogue: SqliteCatalogue, tmp_path: Path) -> None:
        log = tmp_path / "catalogue.db-wal"
        commit(catalogue, stored_tensor(create(catalogue), "t", inline_payload=bytes(60_000)))
        assert log.stat().st_size > 60_000
        catalogue.maintain(idle=True)
        assert log.stat().st_size == 0

    def test_a_busy_catalogue_copies_the_log_when_it_has_grown(
        self, catalogue: SqliteCatalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create(catalogue)
        size = (tmp_path / "catalogue.db").stat().st_size
        dataset = catalogue.datasets.get("dataset")
        commit(catalogue, stored_tensor(dataset, "t", inline_payload=bytes(60_000)))
        catalogue.maintain(idle=False)
        assert (tmp_path / "catalogue.db").stat().st_size == size
        monkeypatch.setattr(database, "_CHECKPOINT_BYTES", 50_000)
        catalogue.maintain(idle=False)
        assert (tmp_path / "catalogue.db").stat().st_size > size + 50_000

    def test_a_log_is_copied_once_however_long_its_file_stays(
        self, catalogue: SqliteCatalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "_CHECKPOINT_BYTES", 300_000)
        dataset, log = create(catalogue), tmp_path / "catalogue.db-wal"
        modes: list[int | None] = []
        for number in range(30):
            # About 100,000 bytes of log: the payload, and a page of each index.
            commit(catalogue, stored_tensor(dataset, f"{number}", inline_payload=bytes(60_000)))
            modes.append(catalogue._database._checkpoint_mode(idle=False))
            catalogue.maintain(idle=False)
        assert log.stat().st_size > 300_000
        assert 5 <= modes.count(apsw.SQLITE_CHECKPOINT_PASSIVE) <= 15

    def test_closing_leaves_no_log(self, reopen: Reopen, tmp_path: Path) -> None:
        catalogue = reopen()
        commit(catalogue, stored_tensor(create(catalogue), "t"))
        catalogue.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "catalogue.db",
            "index-check.lock",
            "spare",
            "writer.lock",
        ]

    @pytest.mark.parametrize("idle", [False, True])
    def test_a_checkpoint_neither_waits_for_a_reader_nor_fails(
        self, catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch, *, idle: bool
    ) -> None:
        monkeypatch.setattr(database, "_CHECKPOINT_BYTES", 1)
        dataset = create(catalogue)
        with catalogue._database.read() as connection:
            select(connection, "SELECT count(*) FROM tensor")
            commit(catalogue, stored_tensor(dataset, "t"))
            catalogue.maintain(idle=idle)
            assert select(connection, "SELECT count(*) FROM tensor") == [(0,)]
        assert catalogue.tensors.get("dataset", ["t"]) != [None]
        with catalogue._database.write() as connection:
            # What it set for itself does not stay.
            assert pragma(connection, "busy_timeout") == 10_000

    def test_a_log_that_was_not_copied_is_found_by_the_next_opening(self, tmp_path: Path) -> None:
        folder = tmp_path / "copy"
        folder.mkdir()
        first = SqliteCatalogue(tmp_path)
        tensors = commit(first, stored_tensor(create(first), "t", inline_payload=b"bytes"))
        # As a crash leaves it: the files as they are, without a last checkpoint.
        for name in ("catalogue.db", "catalogue.db-wal"):
            (folder / name).write_bytes((tmp_path / name).read_bytes())
        second = SqliteCatalogue(folder)
        assert second.tensors.get("dataset", ["t"]) == tensors
        first.close()
        second.close()


class TestClosing:
    """A closed catalogue refuses everything, and holds nothing."""

    def test_nothing_is_open_afterwards(self, catalogue: SqliteCatalogue, tmp_path: Path) -> None:
        commit(catalogue, stored_tensor(create(catalogue), "t"))
        catalogue.tensors.get("dataset", ["t"])
        catalogue.close()
        assert open_descriptors(tmp_path) == []

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda catalogue: catalogue.check_writable(), id="check"),
            pytest.param(create, id="write"),
            pytest.param(listed, id="read"),
        ],
    )
    def test_every_call_says_that_it_is_closed(self, catalogue: SqliteCatalogue, call: Any) -> None:
        catalogue.close()
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            call(catalogue)

    def test_maintenance_of_a_closed_catalogue_does_nothing(self, catalogue: SqliteCatalogue) -> None:
        catalogue.close()
        catalogue.maintain(idle=True)


MOUNTS = """\
/dev/vda / ext4 rw 0 0
proc /proc proc rw 0 0
server:/export {0}/remote nfs4 rw 0 0
//server/share {0}/remote/windows cifs rw 0 0
/dev/vdb {0}/remote/disk xfs rw 0 0
user@host: {0}/a\\040share fuse.sshfs rw 0 0
tmpfs {0}/rem tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("here", None),
        ("remote", "nfs4"),
        ("remote/below", "nfs4"),
        ("remote/windows", "cifs"),
        ("a share", r"fuse\.sshfs"),
        ("remote/disk", None),
        ("remotely", None),
        ("rem/ote", None),
    ],
)
def test_a_remote_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str | None
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    monkeypatch.setattr(requirements, "open", lambda *_, **__: StringIO(MOUNTS.format(tmp_path)), raising=False)
    if kind is None:
        Database(folder).close()
        return
    with pytest.raises(StoreUnavailableError, match=rf"is on a network file system \({kind}\), whose locks and syncs"):
        Database(folder)


def test_a_machine_that_names_no_mounts_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(requirements, "open", missing, raising=False)
    Database(tmp_path).close()


def test_a_file_that_is_no_database_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreUnavailableError, match="file is not a database"):
        Database(tmp_path)
