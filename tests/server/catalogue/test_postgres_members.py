"""Members of a store in PostgreSQL get in each other's way, as only several writers at a time can, and nothing fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from contract.catalogue_uploads import mark, upload
from support.engine import create, stored_tensor
from support.interrupted import wait_until
from support.postgres import empty_schema
from support.sessions import WAIT_S

pytest.importorskip("psycopg")

from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.model import Tensor


@pytest.fixture
def pair() -> Iterator[tuple[PostgresCatalogue, PostgresCatalogue]]:
    dsn = empty_schema()
    one, two = PostgresCatalogue(dsn), PostgresCatalogue(dsn)
    one.members.join("one", 60.0)
    two.members.join("two", 60.0)
    yield one, two
    one.close()
    two.close()


def waits(catalogue: PostgresCatalogue, event: str) -> bool:
    """Whether a transaction waits: for the end of another one that changed a row, or for the writers' lock."""
    with catalogue._database.read() as connection:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = ?"
        return connection.execute(waiting, (event,)).fetchall() == [(1,)]


def test_who_asks_for_an_insert_while_it_is_committed_fails_no_commit_and_no_mark(
    pair: tuple[PostgresCatalogue, PostgresCatalogue],
) -> None:
    one, two = pair
    dataset = create(one)
    small = replace(stored_tensor(dataset, "t", inline_payload=b"x"), session="request")
    one.members.try_acquire("insert/request")
    for work in (
        lambda: one.tensors.commit([small]),
        lambda: one.uploads.save([mark(upload(dataset))]),
    ):
        with ThreadPoolExecutor(1) as pool:
            with two._database.change() as connection:
                connection.execute("DELETE FROM lease WHERE name = 'insert/request'")
                connection.execute(
                    "INSERT INTO lease (name, member, wanter) VALUES ('insert/request', ?, ?)",
                    (one.members.number, two.members.number),
                )
                working = pool.submit(work)
                wait_until(lambda: waits(one, "transactionid"))
            (outcome,) = working.result(WAIT_S)
        assert outcome is None or isinstance(outcome, Tensor)


def test_a_lease_that_is_taken_by_force_waits_for_the_commit_that_has_it(
    pair: tuple[PostgresCatalogue, PostgresCatalogue],
) -> None:
    one, two = pair
    one.members.try_acquire("insert/request")
    ticket = two.members.ask("insert/request")
    with ThreadPoolExecutor(1) as pool:
        with one._database.write():
            taking = pool.submit(two.members.take, "insert/request", ticket, force=True)
            wait_until(lambda: waits(one, "advisory"))
            assert two.members.holder("insert/request") == one.members.number
        assert taking.result(WAIT_S)
    assert one.members.holder("insert/request") == two.members.number
