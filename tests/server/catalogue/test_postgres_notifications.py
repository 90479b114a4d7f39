"""Processes hear of each other's leases through PostgreSQL."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from support.postgres import new_dsn, shared_server
from tensorus_server.catalogue.postgres import PostgresCatalogue

WAIT_S = 60.0


@pytest.fixture
def pair() -> Iterator[tuple[PostgresCatalogue, PostgresCatalogue]]:
    dsn = new_dsn()
    one, two = PostgresCatalogue(dsn), PostgresCatalogue(dsn)
    one.members.join("one", 60.0)
    two.members.join("two", 60.0)
    yield one, two
    one.close()
    two.close()


def wait_for_listener(than: int = 0) -> int:
    """Wait until a connection other than `than` listens, and return the number of its process."""
    give_up_s = time.monotonic() + WAIT_S
    with psycopg.connect(shared_server().dsn(), autocommit=True) as connection:
        while True:
            statement = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND pid <> %s"
            for (pid,) in connection.execute(statement, (than,)).fetchall():
                return int(pid)
            assert time.monotonic() < give_up_s
            time.sleep(0.01)


def test_who_has_a_lease_hears_that_another_process_asks_for_it(
    pair: tuple[PostgresCatalogue, PostgresCatalogue],
) -> None:
    one, two = pair
    heard: queue.Queue[str] = queue.Queue()
    one.members.watch(heard.put)
    listener = wait_for_listener()
    assert one.members.try_acquire("insert/a") is not None
    two.members.ask("insert/a")
    assert heard.get(timeout=WAIT_S) == "insert/a"
    # The connection breaks; another one takes its place.
    with psycopg.connect(shared_server().dsn(), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (listener,))
    wait_for_listener(than=listener)
    one.members.release(["insert/a"])
    assert heard.get(timeout=WAIT_S) == "insert/a"


def test_an_error_of_who_is_called_does_not_end_the_thread(pair: tuple[PostgresCatalogue, PostgresCatalogue]) -> None:
    one, two = pair
    heard: queue.Queue[str] = queue.Queue()

    def called(text: str) -> None:
        heard.put(text)
        raise RuntimeError(text)

    one.members.watch(called)
    listener = wait_for_listener()
    two.members.ask("a")
    assert heard.get(timeout=WAIT_S) == "a"
    wait_for_listener(than=listener)
    two.members.ask("b")
    assert heard.get(timeout=WAIT_S) == "b"


def test_nobody_listens_behind_pgbouncer_or_after_close() -> None:
    before = threading.active_count()
    catalogue = PostgresCatalogue(f"{new_dsn()}&pgbouncer=true")
    catalogue.members.watch(print)
    assert threading.active_count() == before
    catalogue.close()
    catalogue = PostgresCatalogue(new_dsn())
    catalogue.members.watch(print)
    assert threading.active_count() == before + 1
    catalogue.close()
    assert threading.active_count() == before
