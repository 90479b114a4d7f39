"""Waits for the database end, and its errors belong to the call that met them, unless nobody knows what was written."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import apsw
import pytest

from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import readers, writer_lock
from tensorus_server.catalogue.sqlite.database import Database
from tensorus_server.catalogue.sqlite.sqlite_errors import engine_error
from tensorus_server.errors import EngineError, StorageFullError, StoreBusyError, StoreUnavailableError


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path)
    yield found
    found.close()


BEFORE_COMMIT = [
    (apsw.BusyError("database is locked"), StoreBusyError),
    (apsw.LockedError("database table is locked"), StoreBusyError),
    (apsw.FullError("database or disk is full"), StorageFullError),
    (apsw.NoMemError("out of memory"), StoreUnavailableError),
    (apsw.CantOpenError("unable to open database file"), StoreUnavailableError),
    (apsw.SQLError("no such table"), StoreUnavailableError),
    (OSError(24, "Too many open files"), StoreUnavailableError),
]


@pytest.mark.parametrize(
    ("raised", "expected"), BEFORE_COMMIT, ids=lambda found: getattr(found, "__name__", repr(found))
)
class TestErrors:
    """An error before COMMIT is undone, and the next transaction goes on."""

    def test_of_a_write(self, opened: Database, raised: Exception, expected: type[EngineError]) -> None:
        def write_and_fail() -> None:
            with opened.write() as connection:
                connection.execute("INSERT INTO tombstone VALUES ('a', 1)")
                raise raised

        with pytest.raises(expected) as caught:
            write_and_fail()
        assert caught.value.__cause__ is raised
        opened.check_writable()
        with opened.write() as connection:
            assert select(connection, "SELECT * FROM tombstone") == []

    def test_of_a_read(self, opened: Database, raised: Exception, expected: type[EngineError]) -> None:
        for _ in range(20):
            with pytest.raises(expected), opened.read():
                raise raised
        with opened.read() as connection:
            assert select(connection, "SELECT 1") == [(1,)]


def test_only_what_nobody_foresaw_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for error, _ in BEFORE_COMMIT:
            engine_error(error, "read")  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == ["SQLite refused a statement"]


def test_a_busy_store_says_when_to_try_again() -> None:
    assert float(engine_error(apsw.BusyError("database is locked"), "written").facts["retry_after_s"]) > 0


class TestTurns:
    """Threads take turns, and none waits for ever."""

    def test_a_write_gives_up_where_another_does_not_end(
        self, opened: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer_lock, "_TURN_TIMEOUT_S", 0.01)
        outcomes: list[object] = []

        def write() -> None:
            try:
                with opened.write():
                    outcomes.append("written")
            except StoreBusyError as error:
                outcomes.append(error)

        with opened.write():
            thread = threading.Thread(target=write)
            thread.start()
            thread.join(30)
        (error,) = outcomes
        assert isinstance(error, StoreBusyError)
        assert "another write of the catalogue has not ended after" in str(error)
        write()
        assert outcomes[1:] == ["written"]

    def test_a_read_gives_up_where_all_connections_are_lent(
        self, opened: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "_TURN_TIMEOUT_S", 0.01)
        with ExitStack() as lent:
            for _ in range(readers._READERS_MAX):
                lent.enter_context(opened.read())
            with pytest.raises(StoreBusyError, match="8 reads of the catalogue have been going on"), opened.read():
                pass
        with opened.read():
            pass

    def test_open_connections_are_lent_while_no_other_can_be_opened(
        self, opened: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ExitStack() as lent:
            lent.enter_context(opened.read())

            def fail() -> apsw.Connection:
                # Another thread returns its connection meanwhile.
                lent.close()
                raise apsw.CantOpenError("unable to open database file")

            monkeypatch.setattr(opened._readers, "_connect", fail)
            with pytest.raises(StoreUnavailableError, match="unable to open database file"), opened.read():
                pass
        with opened.read() as connection:
            assert select(connection, "SELECT 1") == [(1,)]


class TestClosing:
    """`close` waits for what goes on, but not for ever; who waits for a connection then is told that the store is closed."""

    def test_a_read_that_waits_for_a_connection_ends(self, opened: Database) -> None:
        ended: list[object] = []

        def read() -> None:
            try:
                with opened.read():
                    ended.append("read")
            except StoreUnavailableError as error:
                ended.append(error)

        with ExitStack() as lent:
            for _ in range(readers._READERS_MAX):
                lent.enter_context(opened.read())
            reading = threading.Thread(target=read)
            reading.start()
            closing = threading.Thread(target=opened.close)
            closing.start()
            reading.join(30)
            assert not reading.is_alive()
            assert [str(error) for error in ended] == ["the store is closed"]
        closing.join(30)
        assert not closing.is_alive()

    def test_a_read_that_does_not_end_is_left(self, opened: Database) -> None:
        with opened.read(), pytest.raises(StoreBusyError, match="a read of the catalogue has not ended after 0 s"):
            opened.close(0.01)
        with pytest.raises(StoreUnavailableError, match="the store is closed"), opened.read():
            pass

    def test_a_write_that_does_not_end_is_left(self, opened: Database) -> None:
        with (
            opened.write(),
            pytest.raises(StoreBusyError, match="another write of the catalogue has not ended after 0 s"),
        ):
            opened.close(0.01)
        with opened.write():
            pass


def test_a_database_that_is_closed_while_its_folder_is_looked_for_says_so(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_folder = opened._epochs.require_folder

    def close_and_require_folder() -> None:
        opened.close()
        require_folder()

    monkeypatch.setattr(opened._epochs, "require_folder", close_and_require_folder)
    opened.check_folder()
    with pytest.raises(StoreUnavailableError, match="the store is closed"):
        opened.check_writable()


@pytest.mark.parametrize("call", ["check_folder", "checkpoint"])
def test_a_disk_that_does_not_answer_is_an_error_of_the_store(
    opened: Database, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened.write():
        pass
    monkeypatch.setattr(os, "fstat", fail)
    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StoreUnavailableError, match="Input/output error"):
        opened.check_folder() if call == "check_folder" else opened.checkpoint(idle=True)
    monkeypatch.undo()
    opened.check_writable()
