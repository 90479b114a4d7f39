"""What a catalogue in PostgreSQL does when connections break, servers die and others take too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from support.engine import commit, create, ids_of, stored_tensor
from support.postgres import PostgresServer, new_dsn, own_server, shared_server
from tensorus_server.catalogue.postgres import PostgresCatalogue, commits, database
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import (
    DataCorruptError,
    LimitExceededError,
    StoreBusyError,
    StoreUnavailableError,
)
from tensorus_server.model import Outcome, Tensor

SLOW_COMMIT = """
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON last_commit DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION sleep();
"""
"""Makes each COMMIT wait before it takes effect."""

WAIT_S = 60.0


@pytest.fixture
def dsn() -> str:
    return new_dsn()


@pytest.fixture
def catalogue(dsn: str) -> Iterator[PostgresCatalogue]:
    opened = PostgresCatalogue(dsn)
    yield opened
    opened.close()


@contextmanager
def admin(dsn: str) -> Iterator[Any]:
    """Yield a connection of the administrator's to the same schema."""
    with psycopg.connect(shared_server().dsn(), autocommit=True) as connection:
        connection.execute(f"SET search_path = {dsn.rpartition('schema=')[2]}")
        yield connection


def terminate(connection: Any, condition: str) -> None:
    """End the server's side of the connections of catalogues that meet a condition, as soon as there is one."""
    give_up_s = time.monotonic() + WAIT_S
    statement = (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tensorus' AND {condition}"
    )
    while not connection.execute(statement).fetchall():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


class Inserting(threading.Thread):
    """Commits one tensor in a thread."""

    def __init__(self, catalogue: PostgresCatalogue, dataset: Any, tensor_id: str) -> None:
        super().__init__()
        self._work = catalogue, dataset, tensor_id
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        catalogue, dataset, tensor_id = self._work
        try:
            (self.outcome,) = catalogue.tensors.commit([stored_tensor(dataset, tensor_id)])
        except StoreUnavailableError as error:
            self.outcome = error

    def ended(self) -> Any:
        self.join(WAIT_S)
        assert not self.is_alive()
        return self.outcome


def test_a_commit_that_broke_before_it_took_effect_is_known_to_have_failed(
    catalogue: PostgresCatalogue, dsn: str
) -> None:
    dataset = create(catalogue)
    with admin(dsn) as connection:
        connection.execute(SLOW_COMMIT)
        inserting = Inserting(catalogue, dataset, "t")
        terminate(connection, "wait_event = 'PgSleep'")
        error = inserting.ended()
        assert isinstance(error, StoreUnavailableError)
        assert "the connection broke during a commit; nothing was written" in str(error)
        assert error.facts["retry_after_s"] == "1.0"
        connection.execute("DROP TRIGGER slow ON last_commit")
    assert ids_of(catalogue, "dataset") == []
    commit(catalogue, stored_tensor(dataset, "t"))
    assert ids_of(catalogue, "dataset") == ["t"]


def test_a_commit_that_broke_after_it_took_effect_is_known_to_have_succeeded(
    catalogue: PostgresCatalogue, dsn: str
) -> None:
    dataset = create(catalogue)
    with admin(dsn) as connection:
        # The commit takes effect, and then waits for a standby that there is not.
        connection.execute("SET synchronous_commit = local")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW synchronous_standby_names").fetchall() != [("nobody",)]:
                time.sleep(0.01)
            inserting = Inserting(catalogue, dataset, "t")
            terminate(connection, "wait_event = 'SyncRep'")
            tensor = inserting.ended()
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
    assert isinstance(tensor, Tensor)
    assert tensor.outcome is Outcome.INSERTED
    assert ids_of(catalogue, "dataset") == ["t"]
    commit(catalogue, stored_tensor(dataset, "next"))


def test_an_outcome_is_waited_for_while_the_broken_commit_goes_on(
    catalogue: PostgresCatalogue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks on the client's side; the server still commits, and takes a while."""
    dataset = create(catalogue)
    with admin(dsn) as connection:
        connection.execute(SLOW_COMMIT.replace("60", "0.5"))
        real = commits._took_effect
        asked: list[bool] = []

        def took_effect(*arguments: Any) -> bool:
            running = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            asked.append(connection.execute(running).fetchall() != [])
            return real(*arguments)

        def execute(raw: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            if not query.endswith(b"COMMIT"):
                return psycopg.Connection.execute(raw, query, *arguments, **options)
            raw.pgconn.send_query(query)
            while raw.pgconn.flush():
                pass
            while not connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchall():
                time.sleep(0.01)
            raw.close()
            raise psycopg.OperationalError("the network is gone")

        monkeypatch.setattr(commits, "_took_effect", took_effect)
        pooled = catalogue._database._pool.take()
        monkeypatch.setattr(pooled.raw, "execute", lambda *a, **o: execute(pooled.raw, *a, **o))
        catalogue._database._pool.give_back(pooled)
        (tensor,) = catalogue.tensors.commit([stored_tensor(dataset, "t")])
    assert asked == [True]
    assert isinstance(tensor, Tensor)
    assert ids_of(catalogue, "dataset") == ["t"]


def test_a_server_that_stays_away_leaves_the_outcome_open_and_writes_go_on_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "OUTCOME_TIMEOUT_S", 0.5)
    with own_server() as server:
        catalogue = PostgresCatalogue(server.dsn())
        dataset = create(catalogue)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("SET search_path = tensorus")
            connection.execute(SLOW_COMMIT)
            inserting = Inserting(catalogue, dataset, "t")
            while not connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchall():
                time.sleep(0.01)
        server.kill()
        error = inserting.ended()
        assert "the outcome of a commit is unknown" in str(error)
        assert error.facts["retry_after_s"] == "1.0"
        with pytest.raises(StoreUnavailableError, match=r"^PostgreSQL at .*: it cannot be reached") as caught:
            catalogue.tensors.get("dataset", ["t"])
        assert caught.value.facts["retry_after_s"] == "1.0"
        with pytest.raises(StoreUnavailableError, match="it cannot be reached"):
            catalogue.check_present()
        server.start()
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("DROP TRIGGER slow ON tensorus.last_commit")
        catalogue.check_present()
        commit(catalogue, stored_tensor(dataset, "t"))
        assert ids_of(catalogue, "dataset") == ["t"]
        catalogue.close()


def insert_until(
    catalogue: PostgresCatalogue, dataset: Any, name: str, stop: threading.Event, stored: list[str]
) -> None:
    """Insert tensors one after the other; repeat each until it is acknowledged."""
    number = 0
    while not stop.is_set():
        tensor_id = f"{name}-{number}"
        try:
            (outcome,) = catalogue.tensors.commit([stored_tensor(dataset, tensor_id)])
        except (StoreUnavailableError, StoreBusyError):
            time.sleep(0.01)
            continue
        assert isinstance(outcome, Tensor), outcome
        stored.append(tensor_id)
        number += 1


def test_no_acknowledged_commit_is_lost_or_doubled_when_the_server_is_killed() -> None:
    with own_server() as server:
        catalogues = [PostgresCatalogue(server.dsn()) for _ in range(2)]
        dataset = create(catalogues[0])
        stop, stored = threading.Event(), [list[str]() for _ in range(4)]
        threads = [
            threading.Thread(target=insert_until, args=(catalogues[n % 2], dataset, f"{n}", stop, stored[n]))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for _ in range(3):
            _wait_for_more(stored)
            server.kill()
            server.start()
        _wait_for_more(stored)
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        found = _all_ids(catalogues[0])
        assert len(found) == len(set(found))
        assert {tensor_id for ids in stored for tensor_id in ids} == set(found)
        for catalogue in catalogues:
            catalogue.close()


def _wait_for_more(stored: list[list[str]]) -> None:
    before, give_up_s = [len(ids) for ids in stored], time.monotonic() + WAIT_S
    while any(len(ids) < count + 5 for ids, count in zip(stored, before, strict=True)):
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def _all_ids(catalogue: PostgresCatalogue) -> list[str]:
    with catalogue._database.read() as connection:
        return [tensor_id for (tensor_id,) in select(connection, "SELECT id FROM tensor ORDER BY seq")]


def test_idle_connections_that_the_server_closed_are_not_noticed(catalogue: PostgresCatalogue, dsn: str) -> None:
    dataset = create(catalogue)
    with admin(dsn) as connection:
        for tensor_id in "abc":
            # Two at once, so that the pool has several connections.
            with catalogue._database.read() as one, catalogue._database.read() as other:
                assert select(one, "SELECT 1") == select(other, "SELECT 1")
            terminate(connection, "state = 'idle'")
            commit(catalogue, stored_tensor(dataset, tensor_id))
    assert ids_of(catalogue, "dataset") == ["a", "b", "c"]


def test_a_connection_that_breaks_within_a_transaction_leaves_nothing(catalogue: PostgresCatalogue, dsn: str) -> None:
    create(catalogue)

    def delete() -> None:
        with admin(dsn) as admin_connection, catalogue._database.write() as connection:
            connection.execute("DELETE FROM dataset")
            terminate(admin_connection, "state = 'idle in transaction'")
            connection.execute("DELETE FROM dataset")

    with pytest.raises(StoreUnavailableError, match=r"^PostgreSQL at .*: the catalogue cannot be written"):
        delete()
    assert catalogue.datasets.get("dataset").name == "dataset"


# ---- Waits ---------------------------------------------------------------------------------------------------------------


def test_a_statement_of_a_read_has_a_time_limit(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_S", 0.1)
    catalogue = PostgresCatalogue(dsn)
    with (
        pytest.raises(LimitExceededError, match="statement_timeout_s"),
        catalogue._database.read() as connection,
    ):
        select(connection, "SELECT pg_sleep(60)")
    with catalogue._database.read(timed=False) as connection:
        select(connection, "SELECT pg_sleep(0.2)")
    catalogue.close()


def test_a_writer_waits_for_others_for_a_bounded_time(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_WRITER_WAIT_S", 0.2)
    catalogue, other = PostgresCatalogue(dsn), PostgresCatalogue(dsn)
    with other._database.write():
        with pytest.raises(StoreBusyError, match=r"^PostgreSQL at .* is busy") as caught:
            create(catalogue)
        assert caught.value.facts["retry_after_s"] == "1.0"
        # What has nothing to do with tensors goes on, and so do reads.
        with catalogue._database.change() as connection:
            connection.execute("DELETE FROM tombstone")
        assert catalogue.datasets.page(0, 10).datasets == []
    create(catalogue)
    catalogue.close()
    other.close()


def test_a_writer_that_hangs_is_ended_by_the_server(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_IDLE_S", 0.2)
    hanging, other = PostgresCatalogue(dsn), PostgresCatalogue(dsn)

    def hang() -> None:
        with hanging._database.write() as connection:
            connection.execute("DELETE FROM tombstone")
            create(other)
            connection.execute("DELETE FROM tombstone")

    with pytest.raises(StoreUnavailableError, match=r"^PostgreSQL at .*: the (catalogue|connection)"):
        hang()
    create(hanging, "second")
    hanging.close()
    other.close()


def test_a_lock_is_held_by_one_process_and_free_after_it(dsn: str) -> None:
    one, other = PostgresCatalogue(dsn), PostgresCatalogue(dsn)
    with one._database.lock_file_if_free("a.lock") as is_free:
        assert is_free
        with other._database.lock_file_if_free("a.lock") as is_free_too:
            assert not is_free_too
        with other._database.lock_file_if_free("b.lock") as is_another_free:
            assert is_another_free
    with other._database.lock_file_if_free("a.lock") as is_free:
        assert is_free
    one.close()
    other.close()
    with pytest.raises(StoreUnavailableError, match="the store is closed"):
        one.tensors.get("dataset", ["t"])


# ---- Damage --------------------------------------------------------------------------------------------------------------


def test_a_changed_row_is_damage_in_its_place_and_can_be_replaced(catalogue: PostgresCatalogue, dsn: str) -> None:
    dataset = create(catalogue)
    commit(catalogue, *(stored_tensor(dataset, tensor_id) for tensor_id in "abc"))
    with admin(dsn) as connection:
        connection.execute("UPDATE tensor SET nbytes = nbytes + 1 WHERE id = 'b'")
    a, b, c = catalogue.tensors.get("dataset", ["a", "b", "c"])
    assert (type(a), type(b), type(c)) == (Tensor, DataCorruptError, Tensor)
    with pytest.raises(DataCorruptError, match="a row of the table tensor is damaged"):
        catalogue.garbage.require_intact()
    assert catalogue.tensors.delete("dataset", ["b"]) == ["b"]
    catalogue.garbage.require_intact()
    commit(catalogue, stored_tensor(dataset, "b"))
    assert ids_of(catalogue, "dataset") == ["a", "c", "b"]


def test_a_damaged_page_is_named_and_spares_the_rest() -> None:
    with own_server() as server:
        catalogue = PostgresCatalogue(server.dsn())
        dataset = create(catalogue)
        ids = [f"{number}" for number in range(60)]
        commit(catalogue, *(stored_tensor(dataset, tensor_id) for tensor_id in ids))
        _damage_page(server, "tensorus.tensor", 1)
        found = catalogue.tensors.get("dataset", ids)
        kinds = {type(tensor) for tensor in found}
        assert kinds == {Tensor, DataCorruptError}
        assert [t.id for t in found if isinstance(t, Tensor)] == [
            tensor_id for tensor_id, t in zip(ids, found, strict=True) if isinstance(t, Tensor)
        ]
        with pytest.raises(DataCorruptError, match="the table tensor of the catalogue is damaged"):
            catalogue.garbage.require_intact()
        commit(catalogue, stored_tensor(dataset, "more"))
        assert isinstance(catalogue.tensors.get("dataset", ["more"])[0], Tensor)
        catalogue.close()


def _damage_page(server: PostgresServer, table: str, page: int) -> None:
    """Overwrite the header of a table's page, while the server is not running."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        # Without statistics, the planner takes a scan of the whole dataset to be as good as a look-up.
        connection.execute("ANALYZE tensorus.tensor")
        connection.execute("CHECKPOINT")
        ((path,),) = connection.execute(f"SELECT pg_relation_filepath('{table}')").fetchall()
    server.kill()
    with (server.data_folder / path).open("r+b") as file:
        file.seek(8192 * page)
        file.write(b"\xff" * 24)
    server.start()
