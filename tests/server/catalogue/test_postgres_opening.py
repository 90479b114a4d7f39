"""Opening a catalogue in PostgreSQL: what is refused, with which words, and what several processes do at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from support.engine import commit, create, ids_of, stored_tensor
from support.postgres import PASSWORD, new_dsn, shared_server
from tensorus_server.access.quotas import Usage
from tensorus_server.access.state import AccessState
from tensorus_server.catalogue.postgres import PostgresCatalogue, identity, schema
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import StoreIdentity


class Payloads:
    """The identity of a chunk store, and the keys of its payloads."""

    def __init__(self, *keys: str) -> None:
        self.identity: StoreIdentity | None = None
        self.keys = keys

    def read_identity(self) -> StoreIdentity | None:
        return self.identity

    def write_identity(self, identity: StoreIdentity) -> None:
        self.identity = identity

    def published(self) -> Iterator[SimpleNamespace]:
        return (SimpleNamespace(key=key) for key in self.keys)


def open_and_close(dsn: str, payloads: Payloads | None = None, *, accept_loss: bool = False) -> None:
    PostgresCatalogue(dsn, payloads=payloads, accept_loss=accept_loss).close()


def execute(statement: str, dsn: str) -> None:
    name = dsn.rpartition("schema=")[2]
    with psycopg.connect(shared_server().dsn(), autocommit=True) as connection:
        connection.execute(f"SET search_path = {name}")
        connection.execute(statement)


def refusal(dsn: str, payloads: Payloads | None = None) -> StoreUnavailableError:
    with pytest.raises(StoreUnavailableError) as caught:
        open_and_close(dsn, payloads)
    assert PASSWORD not in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    return caught.value


def test_of_many_who_open_a_new_catalogue_all_succeed() -> None:
    dsn = new_dsn()
    with ThreadPoolExecutor(6) as threads:
        catalogues = list(threads.map(lambda _: PostgresCatalogue(dsn), range(6)))
    dataset = create(catalogues[0])
    for number, catalogue in enumerate(catalogues):
        commit(catalogue, stored_tensor(dataset, f"{number}"))
    assert ids_of(catalogues[0], "dataset") == ["0", "1", "2", "3", "4", "5"]
    for catalogue in catalogues:
        catalogue.close()


def test_a_wrong_password_is_refused_for_good() -> None:
    server = shared_server()
    error = refusal(server.tcp_dsn().replace(PASSWORD, "wrong-secret"))
    assert str(error).startswith(f"PostgreSQL at 127.0.0.1:{server.port}/postgres: ")
    assert "password authentication failed" in str(error)
    assert "retry_after_s" not in error.facts
    open_and_close(server.tcp_dsn(schema="by_tcp"))


def test_a_missing_database_is_refused_for_good() -> None:
    error = refusal(shared_server().dsn("nowhere"))
    assert 'database "nowhere" does not exist' in str(error)
    assert "retry_after_s" not in error.facts


def test_a_server_that_is_away_may_come_back() -> None:
    error = refusal("postgresql://me:wrong-secret@127.0.0.1:1/db")
    assert str(error).startswith("PostgreSQL at 127.0.0.1:1/db: it cannot be reached")
    assert error.facts["retry_after_s"] == "1.0"


def test_a_user_who_may_not_create_the_schema_is_told_so() -> None:
    execute("DO $$ BEGIN CREATE ROLE poor LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$", "public")
    error = refusal(new_dsn().replace("postgres@", "poor@"))
    assert "permission denied" in str(error)
    assert "retry_after_s" not in error.facts


def test_a_newer_version_is_refused_and_nothing_is_changed() -> None:
    dsn = new_dsn()
    open_and_close(dsn)
    execute("INSERT INTO schema_version (version) VALUES (9999)", dsn)
    assert "has version 9999, this version of Tensorus knows up to" in str(refusal(dsn))
    execute("DELETE FROM schema_version WHERE version = 9999", dsn)
    open_and_close(dsn)


def test_an_open_catalogue_writes_nothing_once_a_newer_version_has_migrated_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = new_dsn()
    old = PostgresCatalogue(dsn)
    commit(old, stored_tensor(create(old), "before"))
    steps = dict(schema.migrations())
    with monkeypatch.context() as newer:
        newer.setattr(schema, "migrations", lambda: {**steps, max(steps) + 1: "SELECT 1"})
        open_and_close(dsn)
    with pytest.raises(StoreUnavailableError, match="a newer version of Tensorus has migrated the catalogue"):
        create(old, "another")
    with pytest.raises(StoreUnavailableError, match="has migrated the catalogue"):
        old.members.join("old", 15.0)
    assert ids_of(old, "dataset") == ["before"]
    old.close()


def test_a_migration_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = new_dsn()
    steps = dict(schema.migrations())
    with monkeypatch.context() as broken:
        broken.setattr(schema, "migrations", lambda: {**steps, max(steps) + 1: "SELECT nonsense"})
        refusal(dsn)
    open_and_close(dsn)


def test_a_catalogue_of_the_version_before_access_gets_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = new_dsn()
    steps = schema.migrations()
    with monkeypatch.context() as before:
        before.setattr(schema, "migrations", lambda: {version: text for version, text in steps.items() if version < 3})
        old = PostgresCatalogue(dsn)
        commit(old, stored_tensor(create(old), "before", stored_bytes=10))
        old.close()
    catalogue = PostgresCatalogue(dsn)
    assert ids_of(catalogue, "dataset") == ["before"]
    assert catalogue.access.state() == AccessState(0)
    catalogue.access.set_owner("dataset", "token:a")
    commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "after", stored_bytes=5))
    assert catalogue.access.usage(["token:a"]) == {"token:a": Usage(15, 2)}
    catalogue.close()


def test_an_old_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_VERSION_MIN", 990000)
    assert "99 or newer is needed" in str(refusal(new_dsn()))


def test_two_schemas_are_two_stores() -> None:
    one, other = PostgresCatalogue(new_dsn()), PostgresCatalogue(new_dsn())
    commit(one, stored_tensor(create(one), "a"))
    commit(other, stored_tensor(create(other), "b"))
    assert (ids_of(one, "dataset"), ids_of(other, "dataset")) == (["a"], ["b"])
    one.close()
    other.close()


# ---- Catalogue and payloads ---------------------------------------------------------------------------------------------


def test_each_opening_raises_the_epoch_and_tells_the_payloads() -> None:
    dsn, payloads = new_dsn(), Payloads()
    open_and_close(dsn, payloads)
    first = payloads.identity
    open_and_close(dsn, payloads)
    assert first is not None
    assert payloads.identity == StoreIdentity(first.id, first.epoch + 1)


def test_an_older_copy_of_the_catalogue_is_refused() -> None:
    dsn, payloads = new_dsn(), Payloads()
    open_and_close(dsn, payloads)
    open_and_close(dsn, payloads)
    before = payloads.identity
    execute("UPDATE store SET epoch = epoch - 1", dsn)
    assert "the catalogue is older than its payloads: it is at epoch 1, the payloads are at epoch 2" in str(
        refusal(dsn, payloads)
    )
    assert payloads.identity == before


def test_payloads_of_another_store_are_refused() -> None:
    dsn, payloads = new_dsn(), Payloads()
    open_and_close(dsn, Payloads())
    payloads.identity = StoreIdentity("f" * 32, 1)
    assert f"the payloads are of store {'f' * 32}" in str(refusal(dsn, payloads))


def test_payloads_beside_a_new_catalogue_are_refused_and_the_schema_is_not_created() -> None:
    dsn, payloads = new_dsn(), Payloads()
    payloads.identity = StoreIdentity("f" * 32, 1)
    for _ in range(2):
        assert "the catalogue was empty" in str(refusal(dsn, payloads))
    assert "does not know 2" in str(refusal(dsn, Payloads("a" * 32, "b" * 32)))


def test_an_accepted_loss_gives_the_store_a_new_id() -> None:
    dsn, payloads = new_dsn(), Payloads()
    payloads.identity = StoreIdentity("f" * 32, 7)
    open_and_close(dsn, payloads, accept_loss=True)
    assert payloads.identity.id != "f" * 32
    open_and_close(dsn, payloads)


def test_the_epoch_is_raised_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = Payloads()
    catalogue = PostgresCatalogue(new_dsn(), payloads=payloads)
    before = payloads.identity
    catalogue.maintain(idle=True)
    assert payloads.identity == before
    catalogue._maintain_next_s = 0.0
    catalogue.maintain(idle=True)
    assert payloads.identity == before
    monkeypatch.setattr(identity, "RAISED_EVERY_S", 0.0)
    catalogue._maintain_next_s = 0.0
    catalogue.maintain(idle=True)
    assert before is not None
    assert payloads.identity == StoreIdentity(before.id, before.epoch + 1)
    catalogue.close()


def test_who_uses_sqlite_does_not_import_psycopg(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tensorus_server.app import open_engine; "
        "from tensorus_server.config import EngineConfig; "
        f"open_engine(EngineConfig(data_dir=Path({str(tmp_path)!r}))).close(); "
        "print([name for name in sys.modules if name.startswith('psycopg')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
