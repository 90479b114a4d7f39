"""Places: folders that survive and are shared, memory that does not survive, servers, and what is none of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import tensorus
from support.client import REPOSITORY
from support.old_tensorus import Written
from support.servers import running_server
from tensorus.compression import CompressionError
from tensorus.tensor_storage import DamagedRecordError, NameTakenError, TensorStorage, _memory
from tensorus.tensor_storage._memory import MemoryFolder

PROCESS_TIMEOUT_S = 60


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders in memory are made: here, since other processes of this machine may make some of their own."""
    monkeypatch.setattr(_memory, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(_memory, "_FREE_BYTES_MIN", 0)
    return tmp_path


# ---- Folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_made_with_its_parents(tmp_path: Path, opened: Any) -> None:
    storage = opened(str(tmp_path / "a" / "b"))
    assert storage.storage_path == tmp_path / "a" / "b"
    assert storage.storage_path.is_dir()
    assert storage.fallback_reason is None


def test_the_default_folder_is_tensor_data(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert opened().storage_path == Path("tensor_data")
    assert (tmp_path / "tensor_data").is_dir()


def test_a_relative_folder_stays_the_same_when_the_working_directory_changes(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = opened("data", compression_preset="none")
    storage.create_dataset("images")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for count in (3, 100_000):
        record_id = storage.insert("images", torch.ones(count))
        assert storage.get_tensor_by_id("images", record_id)["tensor"].shape == (count,)
    assert list(Path().iterdir()) == []


def test_what_was_inserted_survives_reopening(lasting_place: Any) -> None:
    tensor = torch.rand(3, 5)
    with TensorStorage(lasting_place) as storage:
        storage.create_dataset("images", schema={"metadata": {"label": "str"}})
        record_id = storage.insert("images", tensor, {"label": "cat"})
        before = storage.get_tensor_by_id("images", record_id)
    with TensorStorage(lasting_place) as reopened:
        after = reopened.get_tensor_by_id("images", record_id)
        assert torch.equal(after["tensor"], tensor)
        assert after["metadata"] == before["metadata"]
        assert reopened.datasets["images"]["schema"] == {"metadata": {"label": "str"}}


def test_without_closing_everything_survives_too(lasting_place: Any) -> None:
    storage = TensorStorage(lasting_place)
    storage.create_dataset("images")
    storage.insert("images", torch.ones(3))
    with TensorStorage(lasting_place) as reopened:
        assert reopened.count("images") == 1
    del storage


def test_an_empty_dataset_survives_reopening(lasting_place: Any) -> None:
    with TensorStorage(lasting_place) as storage:
        storage.create_dataset("empty")
    with TensorStorage(lasting_place) as reopened:
        assert reopened.list_datasets() == ["empty"]
        assert reopened.get_dataset("empty") == []


def test_changes_and_deletes_survive_reopening(lasting_place: Any) -> None:
    with TensorStorage(lasting_place) as storage:
        storage.create_dataset("images")
        storage.create_dataset("gone")
        kept, deleted = storage.batch_insert("images", [(torch.ones(3), {"n": n}) for n in range(2)])
        storage.update_tensor_metadata("images", kept, {"n": 7})
        storage.delete_tensor("images", deleted)
        storage.delete_dataset("gone")
    with TensorStorage(lasting_place) as reopened:
        assert reopened.list_datasets() == ["images"]
        assert [metadata["n"] for metadata in reopened.datasets["images"]["metadata"]] == [7]


def test_a_third_instance_sees_what_a_second_did(lasting_place: Any, opened: Any) -> None:
    first = opened(lasting_place)
    first.create_dataset("images")
    record_id = first.insert("images", torch.ones(3))
    second = opened(lasting_place)
    second.delete_tensor("images", record_id)
    second.insert("images", torch.zeros(3))
    for storage in (opened(lasting_place), first):
        assert [tensor.tolist() for tensor in storage.get_dataset("images")] == [[0, 0, 0]]


def test_instances_that_are_open_together_may_all_write(lasting_place: Any, opened: Any) -> None:
    storages = [opened(lasting_place) for _ in range(3)]
    storages[0].create_dataset("images")
    threads = [
        threading.Thread(target=lambda storage=storage: [storage.insert("images", torch.ones(8)) for _ in range(20)])
        for storage in storages
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for storage in storages:
        versions = [metadata["version"] for metadata in storage.iter_metadata("images")]
        assert versions == list(range(1, 121))


def test_instances_may_make_a_folder_at_once(tmp_path: Path, opened: Any) -> None:
    for attempt in range(5):
        with ThreadPoolExecutor(8) as pool:
            storages = list(pool.map(opened, [tmp_path / str(attempt)] * 8))
        storages[0].create_dataset("images")
        assert all(storage.dataset_exists("images") for storage in storages)


def test_a_client_of_the_store_sees_the_same(lasting_place: Any, opened: Any) -> None:
    storage = opened(lasting_place)
    storage.create_dataset("images")
    storage.insert("images", torch.ones(3), {"record_id": "a", "label": "cat"})
    client = (
        tensorus.connect(lasting_place.removeprefix("grpc://"))
        if isinstance(lasting_place, str)
        else tensorus.open(lasting_place)
    )
    with client:
        assert [record.info.id for record in client.query("images", 'label = "cat"')] == ["a"]
        client.insert("images", torch.zeros(2), id="b", metadata={"label": "dog"})
    metadata = storage.get_tensor_by_id("images", "b")["metadata"]
    assert metadata["label"] == "dog"
    assert metadata["version"] == 2
    assert isinstance(metadata["timestamp_utc"], float)
    assert len(storage.query_by_metadata("images", "timestamp_utc", metadata["timestamp_utc"])) == 1


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/no/such"])
def test_a_folder_that_cannot_be_used_is_flagged_and_replaced_by_memory(tmp_path: Path, path: str, opened: Any) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.warns(RuntimeWarning, match="kept in memory"):
        storage = opened(tmp_path / path)
    assert storage.storage_path is None
    assert storage.fallback_reason
    storage.create_dataset("images")
    storage.insert("images", torch.ones(3))
    assert storage.count("images") == 1
    assert (tmp_path / "file").read_text() == "a file"


def test_damage_is_named_and_hurts_no_other_record(own_place: Any, tmp_path: Path, opened: Any) -> None:
    storage = opened(own_place, compression_preset="balanced")
    storage.create_dataset("images")
    damaged = storage.insert("images", torch.rand(400, 400))
    files = {path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 10_000}
    sound = storage.insert("images", torch.rand(3))
    (payload,) = (path for path in files if path.parent.parent != tmp_path)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    for read in (
        lambda: storage.get_tensor_by_id("images", damaged),
        lambda: storage.get_dataset("images"),
        lambda: storage.query("images", lambda *_: True),
    ):
        with pytest.raises(DamagedRecordError, match="chunk") as raised:
            read()
        assert isinstance(raised.value, RuntimeError)
        assert isinstance(raised.value, CompressionError)
        assert raised.value.facts["tensor"] == damaged
        assert "dataset=images" in str(raised.value)
    assert storage.get_tensor_by_id("images", sound)["tensor"].shape == (3,)


# ---- Memory -------------------------------------------------------------------------------------------------------------


def test_memory_is_gone_when_it_is_closed(memory: Path) -> None:
    with TensorStorage(None) as storage:
        assert storage.storage_path is None
        assert storage.fallback_reason is None
        storage.create_dataset("images")
        storage.insert("images", torch.ones(100_000))
        assert len(list(memory.iterdir())) == 1
    assert list(memory.iterdir()) == []


def test_an_empty_path_is_memory(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert opened("").storage_path is None
    assert list(tmp_path.iterdir()) == []


def test_two_storages_in_memory_share_nothing(opened: Any) -> None:
    opened(None).create_dataset("images")
    assert opened(None).list_datasets() == []


def test_memory_is_gone_at_the_end_of_a_process_even_of_one_that_forked(tmp_path: Path) -> None:
    program = """
import atexit, os, sys
from pathlib import Path
from tensorus.tensor_storage import TensorStorage, _memory
_memory._SHARED_MEMORY, _memory._FREE_BYTES_MIN = Path(sys.argv[1]), 0
storage = TensorStorage(None)
storage.create_dataset("images")
child = os.fork()
if child == 0:
    # What a child does at its end, but for taking Python apart: there SQLite may wait for a thread that only the parent has.
    atexit._run_exitfuncs()
    os._exit(0)
os.waitpid(child, 0)
print(storage.count("images"))
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / root) for root in ("protos", "codecs", "server", "client"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_in_memory_is_removed() -> None:
    alive, killed, other = MemoryFolder(), MemoryFolder(), MemoryFolder()
    try:
        killed._lock.close()
        for folder in (alive, killed):
            os.utime(folder.path, (0, 0))
        MemoryFolder().remove()
        assert alive.path.exists()
        assert other.path.exists()
        assert not killed.path.exists()
    finally:
        for folder in (alive, killed, other):
            folder.remove()


def test_an_iterator_keeps_its_storage_open() -> None:
    def tensors() -> Any:
        storage = TensorStorage(None)
        storage.create_dataset("images")
        storage.insert("images", torch.ones(3))
        return storage.iter_dataset("images")

    assert [tensor.tolist() for tensor in tensors()] == [[1, 1, 1]]


# ---- Servers, and others ------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_raises() -> None:
    with pytest.raises(ConnectionError):
        TensorStorage("grpc://127.0.0.1:1")


def test_a_server_that_goes_away_raises(tmp_path: Path, opened: Any) -> None:
    with running_server(tmp_path / "server") as server:
        storage = opened(f"grpc://{server.address}")
        assert storage.storage_path == f"grpc://{server.address}"
        storage.create_dataset("images")
        storage._client._backend._retry_timeout_s = 0.5
    with pytest.raises(ConnectionError):
        storage.count("images")


@pytest.mark.parametrize("place", ["s3://bucket/prefix", "gs://bucket", "http://host:1"])
def test_other_places_are_named_and_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotImplementedError, match=place):
        TensorStorage(place)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_storage_says_so(place: Any) -> None:
    storage = TensorStorage(place)
    storage.close()
    storage.close()
    with pytest.raises(ConnectionError, match="closed"):
        storage.list_datasets()


# ---- Files of Tensorus 0.1 ----------------------------------------------------------------------------------------------


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """A folder with a dataset of two records, and a file that is none."""
    old = Written()
    old.insert(torch.tensor([1.0, 2.0]), "first", label="x")
    old.insert(torch.tensor([[3]]), "second", label="y")
    old.save(tmp_path / "images.pt")
    (tmp_path / "broken.pt").write_bytes(b"no dataset")
    return tmp_path


def test_old_files_are_imported_once_and_stay_as_they_are(old_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in old_folder.glob("*.pt")}
    with TensorStorage(old_folder) as storage:
        assert [report.dataset for report in storage.import_report] == ["broken", "images"]
        assert storage.list_datasets() == ["images"]
        first, second = storage.get_dataset_with_metadata("images")
        assert first["tensor"].tolist() == [1, 2]
        assert (second["metadata"]["record_id"], second["metadata"]["label"]) == ("second", "y")
        assert [first["metadata"]["version"], second["metadata"]["version"]] == [1, 2]
        assert first["metadata"]["timestamp_utc"] == 1756684800.25
        assert storage.query_by_metadata("images", "label", "y")[0]["tensor"].tolist() == [[3]]
        storage.delete_dataset("images")
    with TensorStorage(old_folder) as reopened:
        assert [report.dataset for report in reopened.import_report] == ["broken"]
        assert reopened.list_datasets() == []
    assert {path.name: path.read_bytes() for path in old_folder.glob("*.pt")} == before


def test_instances_that_open_old_files_at_once_import_them_once(old_folder: Path, opened: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        storages = list(pool.map(opened, [old_folder] * 4))
    for storage in storages:
        assert [metadata["record_id"] for metadata in storage.iter_metadata("images")] == ["first", "second"]
    imported = [report for storage in storages for report in storage.import_report if report.dataset == "images"]
    assert len(imported) == 1


def test_the_name_of_a_file_that_cannot_be_imported_stays_taken(old_folder: Path, opened: Any) -> None:
    storage = opened(old_folder)
    with pytest.raises(NameTakenError, match=r"broken\.pt could not be imported"):
        storage.create_dataset("broken")
    assert not storage.dataset_exists("broken")


def test_compressed_old_records_keep_the_names_that_were_asked_for(tmp_path: Path, opened: Any) -> None:
    old = Written()
    old.insert(torch.linspace(-1, 1, 100), "r", "gzip-6", "int8", label="x")
    old.save(tmp_path / "images.pt")
    storage = opened(tmp_path)
    record = storage.get_tensor_by_id("images", "r")
    assert torch.allclose(record["tensor"], torch.linspace(-1, 1, 100), atol=0.01)
    assert record["metadata"]["compression_metadata"]["compression"] == "gzip-6"
    storage.update_tensor_metadata("images", "r", {"label": "y"})
    assert storage.get_tensor_by_id("images", "r")["metadata"]["compressed"] is True
