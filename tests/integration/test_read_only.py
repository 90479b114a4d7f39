"""Stores that are opened for reading only: nothing of them changes, and nothing that was acknowledged is missing."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

import tensorus
from support.cases import each
from support.client import run_command
from support.read_only import mounted_read_only, state_of, unprivileged, unwritable
from support.servers import ServerProcess, engine_config
from support.stores import few_shards
from tensorus.errors import NotImplementedByServerError, ReadOnlyError, UnavailableError
from tensorus_server.app import open_engine
from tensorus_server.catalogue.sqlite.read_only import ReadOnlySqliteCatalogue
from tensorus_server.chunk_store.read_only import ReadOnlyLocalChunkStore
from tensorus_server.engine.engine import Engine
from tensorus_server.errors import ReadOnlyError as EngineReadOnlyError
from tensorus_server.errors import StoreBusyError

LARGE = np.arange(100_000, dtype=np.float64)
SMALL = np.arange(3)

READS = {
    "Engine": {
        "check_writable",
        "close",
        "dataset_stats",
        "find",
        "get_dataset",
        "get_tensor",
        "insert_status",
        "list_datasets",
        "list_tensors",
        "select",
        "store_stats",
        "verify",
    },
    "Snapshots": {"generation_of", "page"},
    "Copies": set(),
}
"""The engine's methods that write nothing. All others must be refused."""

_WRITER = """
import sys, tensorus, numpy
with tensorus.open(sys.argv[1]) as client:
    print("open", flush=True)
    for line in sys.stdin:
        client.insert("weights", numpy.full(30000, int(line)), id=line.strip())
        print("done", flush=True)
"""


class Writer:
    """A process that has a store open and inserts tensors when it is told to."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def insert(self, number: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        self._answer()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() in {"open", "done"}


@pytest.fixture(scope="module")
def closed_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed") / "store"
    with few_shards(), tensorus.open(folder) as client:
        client.create_dataset("weights")
        client.insert("weights", LARGE, id="large", metadata={"layer": 1})
        client.insert("weights", SMALL, id="small")
        client.snapshot("weights", "before")
        client.insert("weights", LARGE + 1, id="large", on_conflict="replace")
    return folder


@pytest.fixture(scope="module")
def killed_store(closed_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "store"
    shutil.copytree(closed_store, folder)
    writer = Writer(folder)
    writer.insert(7)
    writer.kill()
    assert (folder / "catalogue.db-wal").stat().st_size
    return folder


@pytest.fixture
def store(closed_store: Path, tmp_path: Path) -> Path:
    """The folder of a store that was closed."""
    return shutil.copytree(closed_store, tmp_path / "store")


@pytest.fixture
def crashed(killed_store: Path, tmp_path: Path) -> Path:
    """The folder of a store whose process was killed after it had acknowledged tensor "7"."""
    return shutil.copytree(killed_store, tmp_path / "store")


@pytest.fixture
def reading(store: Path) -> Iterator[Engine]:
    engine = open_engine(engine_config(store, read_only=True))
    yield engine
    engine.close()


def read_everything(client: tensorus.Client) -> None:
    """Call every reading method, and check what it finds."""
    assert [dataset.name for dataset in client.datasets()] == ["weights"]
    np.testing.assert_array_equal(client.get("weights", "large", as_="numpy"), LARGE + 1)
    np.testing.assert_array_equal(client.get("weights", "large", at="before", as_="numpy"), LARGE)
    assert client.info("weights", "small").shape == (3,)
    assert [info.id for info in client.list("weights")] == ["small", "large"]
    assert [record.info.id for record in client.query("weights", "layer = 1", at="before")] == ["large"]
    assert client.stats("weights").tensors == 2
    assert client.store_stats().tensors == 2
    assert [snapshot.name for snapshot in client.snapshots("weights")] == ["before"]
    assert client.verify().is_intact
    assert [record.info.id for record in client.get_many("weights", ["small"])] == ["small"]


def has(client: tensorus.Client, tensor_id: str) -> bool:
    return tensor_id in [info.id for info in client.list("weights")]


def methods_of(part: object) -> dict[str, Callable[..., Any]]:
    return {name: method for name, method in inspect.getmembers(part, inspect.ismethod) if not name.startswith("_")}


def test_every_method_of_the_engine_that_is_not_known_to_read_is_refused(reading: Engine) -> None:
    for part in (reading, reading.snapshots, reading.copies):
        kind = type(part).__name__
        methods = methods_of(part)
        assert READS[kind] <= set(methods), kind
        for name in set(methods) - READS[kind]:
            # Without arguments: it is refused before it looks at them.
            with pytest.raises(EngineReadOnlyError, match="open for reading only"):
                methods[name]()


def test_the_catalogue_and_the_chunk_store_refuse_what_the_engine_would_let_through(store: Path) -> None:
    payloads = ReadOnlyLocalChunkStore(store)
    catalogue = ReadOnlySqliteCatalogue(store, payloads=payloads, delete_grace_s=1, upload_expiry_s=1)
    before = state_of(store)
    writes: list[Callable[[], Any]] = [
        lambda: catalogue.datasets.delete("weights", drop_snapshots=True),
        lambda: catalogue.tensors.delete("weights", ["small"]),
        lambda: catalogue.datasets.purge(lambda _: False),
        lambda: catalogue.garbage.claim_listing(0.0),
        lambda: catalogue.snapshots.drop("weights", "before"),
        lambda: payloads.begin("0" * 32),
        lambda: payloads.delete("00/" + "0" * 32),
        lambda: payloads.quarantine.put("00/" + "0" * 32, until_s=0.0),
        payloads.sweep_unfinished,
    ]
    for write in writes:
        with pytest.raises(EngineReadOnlyError):
            write()
    catalogue.close()
    assert state_of(store) == before


def test_reading_changes_nothing_in_the_folder(store: Path) -> None:
    before = state_of(store)
    with tensorus.open(store, read_only=True) as client:
        read_everything(client)
        with pytest.raises(ReadOnlyError) as raised:
            client.insert("weights", SMALL)
    assert raised.value.reason == "READ_ONLY"
    assert state_of(store) == before


@each("command", [("ls",), ("grants",), ("quotas",), ("token", "list")])
def test_commands_that_only_read_change_nothing_in_a_backup(store: Path, command: tuple[str, ...]) -> None:
    (store / "backup.json").write_text("{}")
    before = state_of(store)
    ran = run_command(*command, "--store", store)
    assert (ran.exit_code, ran.errors) == (0, "")
    assert state_of(store) == before


def test_a_store_on_a_mount_that_cannot_be_written_is_read(crashed: Path, tmp_path: Path) -> None:
    before = state_of(crashed)
    with mounted_read_only(crashed, tmp_path / "mounted") as place, tensorus.open(place, read_only=True) as client:
        assert client.get("weights", "7", as_="numpy")[0] == 7
        assert client.verify().is_intact
    assert state_of(crashed) == before


def test_what_was_acknowledged_before_a_crash_is_there_and_its_log_stays(crashed: Path) -> None:
    before = state_of(crashed)
    with tensorus.open(crashed, read_only=True) as client:
        assert client.get("weights", "7", as_="numpy")[0] == 7
    assert state_of(crashed) == before


def test_a_log_without_its_index_is_refused_instead_of_being_ignored(crashed: Path) -> None:
    (crashed / "catalogue.db-shm").unlink()
    before = state_of(crashed)
    with pytest.raises(UnavailableError, match=r"has a log of \d+ bytes .* whose index .* is missing"):
        tensorus.open(crashed, read_only=True)
    assert state_of(crashed) == before
    # As the message says: opening it for writing once helps.
    with tensorus.open(crashed):
        pass
    with tensorus.open(crashed, read_only=True) as client:
        assert has(client, "7")


def test_a_catalogue_that_has_lost_its_log_is_refused(crashed: Path) -> None:
    for name in ("catalogue.db-shm", "catalogue.db-wal"):
        (crashed / name).unlink()
    with pytest.raises(UnavailableError, match="the catalogue is older than its payloads"):
        tensorus.open(crashed, read_only=True)


def test_commits_of_a_process_that_writes_are_seen_whenever_it_comes_and_goes(store: Path) -> None:
    with tensorus.open(store, read_only=True) as client:
        assert not has(client, "1")
        for round_ in range(2):
            writer = Writer(store)
            for number in (4 * round_ + 1, 4 * round_ + 2):
                writer.insert(number)
                assert client.get("weights", str(number), as_="numpy")[0] == number
            with tensorus.open(store, read_only=True) as other:
                assert other.get("weights", str(4 * round_ + 1), as_="numpy")[0] == 4 * round_ + 1
            writer.close() if round_ else writer.kill()
            assert has(client, str(4 * round_ + 2))
        assert client.verify().is_intact


def test_a_server_that_writes_is_not_hindered_by_readers(store: Path) -> None:
    server = ServerProcess(store)
    try:
        with tensorus.connect(server.address) as writing, tensorus.open(store, read_only=True) as reading:
            for number in range(20):
                writing.insert("weights", np.full(20_000, number), id="changing", on_conflict="replace")
                assert reading.get("weights", "changing", as_="numpy")[0] == number
            writing.delete("weights", ["changing"])
            assert not has(reading, "changing")
        # The reader is gone: what it could have left would show in how the server ends, and in the next opening.
        assert server.terminate() == 0
    finally:
        server.process.kill()
    assert not (store / "catalogue.db-wal").exists()


def test_a_read_during_which_the_file_was_written_fails_instead_of_mixing_two_states(store: Path) -> None:
    payloads = ReadOnlyLocalChunkStore(store)
    catalogue = ReadOnlySqliteCatalogue(store, payloads=payloads, delete_grace_s=1, upload_expiry_s=1)
    with (
        pytest.raises(StoreBusyError, match="read again"),
        catalogue._transactions.read(),
        tensorus.open(store) as client,
    ):
        client.delete("weights", ["small"])
    assert list(catalogue.tensors.get("weights", ["small"])) == [None]
    catalogue.close()


def test_what_is_no_store_is_refused_and_not_created(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UnavailableError, match="there is no store in"):
            tensorus.open(folder, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_an_older_schema_is_refused_with_what_to_do(store: Path) -> None:
    connection = apsw.Connection(str(store / "catalogue.db"))
    connection.execute("DELETE FROM schema_version WHERE version = (SELECT max(version) FROM schema_version)")
    connection.close()
    before = state_of(store)
    with pytest.raises(UnavailableError, match=r"must be migrated, .* once for writing"):
        tensorus.open(store, read_only=True)
    assert state_of(store) == before


def test_a_backup_is_read_without_being_changed(store: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    command = [sys.executable, "-m", "tensorus"]
    subprocess.run([*command, "backup", "create", str(store), str(backup)], check=True, capture_output=True)
    before = state_of(backup)
    with tensorus.open(backup, read_only=True) as client:
        read_everything(client)
    subprocess.run([*command, "ls", "--store", str(backup)], check=True, capture_output=True)
    assert state_of(backup) == before


def test_a_store_beyond_one_machine_is_not_opened_for_reading_only() -> None:
    with pytest.raises(NotImplementedByServerError, match="only stores in a folder"):
        tensorus.open(catalogue="postgresql://nowhere/db", chunks="s3://nowhere", read_only=True)


def test_reading_commands_work_on_a_folder_that_cannot_be_written(store: Path) -> None:
    with unwritable(store):
        before = state_of(store)
        for command in (["ls", "weights"], ["verify"]):
            ours = unprivileged(["-m", "tensorus", *command, "--store", str(store)])
            ran = subprocess.run(ours, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, (command, ran.stderr)
        assert state_of(store) == before


@pytest.mark.parametrize(
    "command",
    [
        "ls",
        "info weights small",
        "get weights small -o got.npy",
        "stats weights",
        "df",
        "snapshots weights",
        "explain small.npy --base weights",
        "copy --dry-run {store} {store}-copy",
    ],
    ids=lambda command: command.split()[0],
)
def test_a_reading_command_opens_what_cannot_be_written_for_reading_only(
    command: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("small.npy", SMALL)
    before = state_of(store)
    # As for a folder that this process may not write, whoever runs the test.
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    place = [] if command.startswith("copy") else ["--store", str(store)]
    ran = run_command(*command.format(store=store).split(), *place)
    assert ran.exit_code == 0, ran
    assert state_of(store) == before
