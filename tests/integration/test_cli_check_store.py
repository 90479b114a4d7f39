"""`tensorus check-store`: it says before a start what the start would say, and changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import apsw
import numpy as np
import psycopg
import pytest

import tensorus
from support.cases import each
from support.client import run_command
from support.postgres import PASSWORD, PostgresServer, shared_server
from support.seaweed import SECRET_KEY, new_prefix, shared_seaweed
from support.servers import ServerProcess
from tensorus_server.catalogue.sqlite.schema import migrations
from tensorus_server.processes.server import Server

LATEST = max(migrations())

CRASH = """
import os, sys
import numpy as np
import tensorus
client = tensorus.open(sys.argv[1])
client.create_dataset("d")
client.insert("d", np.random.rand(300, 300))
os._exit(9)
"""


def check(*options: object) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and the outcomes with their details."""
    ran = run_command("check-store", *options, "--json")
    document = json.loads(ran.output)
    assert document["ok"] == (ran.exit_code == 0)
    return ran.exit_code, {one["name"]: (one["outcome"], one["detail"]) for one in document["checks"]}


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything that a check could change in a folder."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a tensor in the catalogue, and one in a file."""
    with tensorus.open(tmp_path / "store") as client:
        client.create_dataset("d")
        client.insert("d", np.random.default_rng(1).random((300, 300)))
        client.insert("d", np.arange(3))
    return tmp_path / "store"


def change(store: Path, statement: str) -> None:
    connection = apsw.Connection(str(store / "catalogue.db"))
    connection.execute(statement)
    connection.close()


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A store whose process crashed: its last commits are in the log alone."""
    folder = tmp_path / "crashed"
    assert subprocess.run([sys.executable, "-c", CRASH, str(folder)], check=False).returncode == 9
    assert (folder / "catalogue.db-wal").stat().st_size > 0
    return folder


# ---- Stores in a folder ------------------------------------------------------------------------------------------------


def test_a_store_that_does_not_exist_will_be_created_and_is_not(tmp_path: Path) -> None:
    code, found = check("--data-dir", tmp_path / "a" / "b")
    assert code == 0
    assert found["folder"] == ("ok", f"{tmp_path / 'a' / 'b'} will be created")
    assert found["catalogue"] == ("ok", "a new store will be created")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_closed_is_checked_and_nothing_changes(store: Path) -> None:
    before = contents(store)
    code, found = check("--data-dir", store, "--reserve-bytes", "0")
    assert code == 0
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    assert list(found) == ["settings", "folder", "file system", "space", "processes", "catalogue"]
    assert found["catalogue"][1] == f"schema version {LATEST}, matches its payloads"
    assert contents(store) == before


def test_the_log_of_a_crash_is_read_and_nothing_changes(crashed: Path) -> None:
    before = contents(crashed)
    code, found = check("--data-dir", crashed)
    # Without its log, the catalogue would be older than its payloads.
    assert (code, found["catalogue"][0]) == (0, "ok")
    assert contents(crashed) == before


def test_a_log_without_its_index_is_not_passed_over(crashed: Path) -> None:
    (crashed / "catalogue.db-shm").unlink()
    before = contents(crashed)
    code, found = check("--data-dir", crashed)
    assert (code, found["catalogue"][0]) == (4, "failed")
    assert "whose index (catalogue.db-shm) is missing" in found["catalogue"][1]
    assert contents(crashed) == before


def test_a_catalogue_that_lost_its_log_is_refused_as_by_a_server(crashed: Path) -> None:
    (crashed / "catalogue.db-wal").unlink()
    code, found = check("--data-dir", crashed)
    assert (code, found["catalogue"][0]) == (4, "failed")
    ran = run_command("serve", "--data-dir", crashed, "--listen", "127.0.0.1:0")
    assert ran.errors == f"tensorus: {found['catalogue'][1]}\n"


def test_a_server_that_uses_the_store_is_told_of(fresh_server: Server) -> None:
    with tensorus.connect(fresh_server.address) as client:
        client.create_dataset("d")
        client.insert("d", np.arange(3))
    folder = fresh_server._config.engine.data_dir
    code, found = check("--data-dir", folder, "--listen", fresh_server.address)
    assert found["processes"] == ("warning", "1 process has the store open; writes take turns")
    assert found["catalogue"][0] == "ok"
    assert found["port"] == ("failed", f"cannot listen on {fresh_server.address}: is another server there?")
    assert code == 4
    with tensorus.connect(fresh_server.address) as client:
        client.insert("d", np.arange(4))


@each(
    ("statement", "outcome", "detail"),
    [
        (
            f"DELETE FROM schema_version WHERE version = {LATEST}",
            "warning",
            f"schema version {LATEST - 1} will be migrated to {LATEST}, and older versions cannot open it then",
        ),
        (
            f"INSERT INTO schema_version VALUES ({LATEST + 1}, 0)",
            "failed",
            f"the catalogue has schema version {LATEST + 1}, this version of Tensorus knows up to {LATEST}; ",
        ),
        (f"DELETE FROM schema_version WHERE version = {LATEST + 1}", "warning", f"schema version {LATEST - 1} will be"),
        (f"INSERT INTO schema_version VALUES ({LATEST}, 0)", "ok", f"schema version {LATEST}, matches its payloads"),
        ("CREATE TABLE strange (x)", "failed", "the catalogue's schema is damaged, at strange: "),
        ("DROP TABLE strange", "ok", ""),
        ("UPDATE store SET id = '0123456789abcdef0123456789abcdef'", "failed", "the store in "),
    ],
)
def test_a_catalogue_is_older_newer_damaged_or_of_another_store(
    store: Path, statement: str, outcome: str, detail: str
) -> None:
    change(store, statement)
    before = contents(store)
    code, found = check("--data-dir", store, "--reserve-bytes", "0")
    assert (found["catalogue"][0], code) == (outcome, 4 if outcome == "failed" else 0)
    assert found["catalogue"][1].startswith(detail)
    assert contents(store) == before


def test_payloads_without_a_catalogue_and_a_catalogue_that_is_none_are_refused(store: Path) -> None:
    (store / "catalogue.db").write_bytes(b"no database at all" * 100)
    code, found = check("--data-dir", store)
    assert (code, found["catalogue"]) == (
        4,
        ("failed", f"the catalogue {store / 'catalogue.db'} cannot be opened: file is not a database"),
    )
    (store / "catalogue.db").unlink()
    code, found = check("--data-dir", store)
    assert code == 4
    assert "there is no catalogue" in found["catalogue"][1]


def test_where_no_folder_can_be_nothing_else_is_checked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, found = check("--data-dir", tmp_path / "file" / "store")
    assert (code, list(found)) == (4, ["settings", "folder"])
    assert found["folder"] == ("failed", f"{tmp_path / 'file'} is not a folder")


def test_a_folder_that_may_not_be_written_to_fails(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A privileged user may write anywhere.
    allowed = os.access
    for refused, detail in (
        (store, f"{store} cannot be written to by this user"),
        (store / "writer.lock", f"writer.lock in {store} cannot be written to by this user"),
    ):
        refuse = lambda path, mode, refused=refused, **_: path != refused and allowed(path, mode)  # noqa: E731
        monkeypatch.setattr("tensorus_server.app.checking.os.access", refuse)
        monkeypatch.setattr("tensorus_server.app.checking.os.supports_effective_ids", {refuse})
        code, found = check("--data-dir", store)
        assert (code, found["folder"][0]) == (4, "failed")
        assert found["folder"][1].startswith(detail)


def test_less_space_than_the_reserve_is_a_warning(store: Path) -> None:
    code, found = check("--data-dir", store, "--reserve-bytes", "1000000GiB")
    assert (code, found["space"][0]) == (0, "warning")
    assert found["space"][1].startswith("inserts will be refused: free space is ")


def test_a_network_file_system_fails(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorus_server.catalogue.sqlite.requirements._NETWORK_FILE_SYSTEMS", frozenset(kinds()))
    code, found = check("--data-dir", store)
    assert (code, found["file system"][0]) == (4, "failed")
    assert "is on a network file system" in found["file system"][1]


def kinds() -> set[str]:
    return {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}


def test_the_port_is_checked_only_if_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file = tmp_path / "server.toml"
        file.write_text(f'listen = "{address}"\ndata_dir = "store"')
        assert "port" not in check("--data-dir", tmp_path)[1]
        for named in ("--listen", "--config"):
            code, found = check("--data-dir", tmp_path, named, address if named == "--listen" else file)
            assert (code, found["port"][0]) == (4, "failed")
        assert found["settings"] == ("ok", f"1 of {file}, 1 flag")
    assert check("--config", file)[1]["port"] == ("ok", f"{address} is free")


def test_people_get_a_table_and_a_verdict(store: Path, tmp_path: Path) -> None:
    ran = run_command("check-store", "--data-dir", store, "--reserve-bytes", "0")
    assert ran.exit_code == 0
    assert ran.output.splitlines()[0].split() == ["check", "outcome", "detail"]
    assert ran.output.endswith("\nA server can start.\n")
    ran = run_command("check-store", "--data-dir", store, "--reserve-bytes", "1000000GiB")
    assert ran.output.endswith("\nA server can start, with 1 warning.\n")
    (tmp_path / "file").touch()
    ran = run_command("check-store", "--data-dir", tmp_path / "file" / "x")
    assert (ran.exit_code, ran.errors) == (4, "")
    assert ran.output.endswith("\n1 check failed: a server would not start.\n")


def test_settings_that_are_wrong_are_wrong_usage() -> None:
    ran = run_command("check-store", "--cache-dir", "x")
    assert ran.exit_code == 2


# ---- Stores beyond one machine -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used() -> str:
    """The prefix and the schema of a store that exists."""
    name = new_prefix().replace("-", "_")
    server = ServerProcess(Path("unused"), options=places(name), environment=credentials(), grace_s=1.0)
    assert server.terminate() == 0
    return name


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    return shared_server()


def credentials() -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "writer",
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def places(name: str, catalogue: str | None = None) -> tuple[str, ...]:
    catalogue = catalogue or shared_server().tcp_dsn(schema=name)
    return ("--catalogue", catalogue, "--chunks", shared_seaweed().url(name))


@pytest.mark.slow
def test_a_new_and_an_existing_store_beyond_one_machine_are_checked_and_nothing_is_made(
    used: str, remote: PostgresServer
) -> None:
    free = new_prefix().replace("-", "_")
    code, found = check(*places(free))
    assert code == 0
    assert found["catalogue"][1].endswith(": a new store will be created")
    with psycopg.connect(remote.tcp_dsn()) as connection:
        assert connection.execute("SELECT to_regnamespace(%s)", (free,)).fetchone() == (None,)
    code, found = check(*places(used))
    assert (code, list(found)) == (0, ["settings", "object store", "catalogue", "processes"])
    assert found["catalogue"][1].endswith(", matches its payloads")
    assert found["processes"] == ("ok", "no process has the store open")


@pytest.mark.slow
def test_what_is_wrong_beyond_one_machine_fails_without_a_password(
    used: str, remote: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = new_prefix().replace("-", "_")
    wrong = remote.tcp_dsn(schema=free).replace(PASSWORD, "Sekret")
    _, found = check(*places(free, wrong))
    assert found["catalogue"][0] == "failed"
    assert "password authentication failed" in found["catalogue"][1]
    assert "Sekret" not in str(found)
    # The payloads of one store, and the catalogue of another, or of none.
    _, found = check(*places(used, remote.tcp_dsn(schema=free)))
    assert "and the catalogue was empty" in found["catalogue"][1]
    with psycopg.connect(remote.tcp_dsn(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS checked")
        connection.execute("CREATE ROLE checked LOGIN PASSWORD 'checked'")
        try:
            limited = remote.tcp_dsn(schema=used).replace(f":{PASSWORD}@", ":checked@")
            limited = limited.replace(limited.split("//")[1].split(":")[0] + ":", "checked:", 1)
            _, found = check(*places(used, limited))
            assert found["catalogue"][1].endswith(f"the user checked may not use the schema {used}")
            connection.execute(f"GRANT USAGE ON SCHEMA {used} TO checked")  # type: ignore[arg-type]
            _, found = check(*places(used, limited))
            assert "the user checked may not read and write the tables " in found["catalogue"][1]
        finally:
            connection.execute("DROP OWNED BY checked")
            connection.execute("DROP ROLE checked")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code, found = check(*places(used))
    assert (code, found["object store"][0], found["catalogue"][0]) == (4, "failed", "failed")
