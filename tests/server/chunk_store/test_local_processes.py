"""A folder of payloads under way whose lock is held belongs to a living process; any other is garbage."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_contract import published, staged
from contract.chunk_store_raw import RawFolder
from support.faults import open_descriptors
from tensorus_server.chunk_store import local_leases
from tensorus_server.chunk_store.abc import PayloadBusyError, new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore

pytestmark = pytest.mark.slow

OTHER_PROCESS = """
import sys
from pathlib import Path
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore

store = LocalChunkStore(Path(sys.argv[1]))
for _ in range(3):
    store.begin(new_payload_key()).append([b"unfinished"])
(key,) = store.publish([store.begin(new_payload_key()).finish()])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has three payloads under way and one published."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_the_files_of_a_living_process_stay(
    store: LocalChunkStore, raw: RawFolder, other_process: subprocess.Popen[str]
) -> None:
    assert store.sweep_unfinished() == 0
    assert raw.unfinished() == 3


def test_the_files_of_a_dead_process_go(
    store: LocalChunkStore, raw: RawFolder, tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    other_process.kill()
    other_process.wait()
    payload = staged(store, b"mine")
    assert store.sweep_unfinished() == 3
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [store._leases.own_folder.name]
    # What it had published is another matter: only the catalogue knows whether anybody needs it.
    assert len(raw.published()) == 1
    store.publish([payload])


def test_a_store_that_is_closed_takes_its_folder_along(tmp_path: Path) -> None:
    first, second = LocalChunkStore(tmp_path), LocalChunkStore(tmp_path)
    staged(first, b"x")
    first.close()
    assert second.sweep_unfinished() == 0
    second.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_one_living_process_among_dead_ones_is_left_alone(store: LocalChunkStore, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "tmp" / f"dead{number}").mkdir()
    other = LocalChunkStore(tmp_path)
    payload = staged(other, b"x")
    assert store.sweep_unfinished() == 0
    assert sorted((tmp_path / "tmp").iterdir()) == sorted([store._leases.own_folder, other._leases.own_folder])
    other.publish([payload])
    other.close()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LocalChunkStore(tmp_path).close()
    lock = local_leases.fcntl.flock
    swept = []

    def sweep_first(descriptor: int, operation: int) -> None:
        if not swept:
            swept.extend((tmp_path / "tmp").iterdir())
            shutil.rmtree(swept[0])
        lock(descriptor, operation)

    monkeypatch.setattr(local_leases.fcntl, "flock", sweep_first)
    store = LocalChunkStore(tmp_path)
    assert store._leases.own_folder.is_dir()
    assert store._leases.own_folder != swept[0]
    published(store, b"x")
    store.close()
    assert open_descriptors(tmp_path) == []


def test_a_folder_that_another_sweep_removes_meanwhile_is_no_failure(
    store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / "tmp" / name).mkdir()
        (tmp_path / "tmp" / name / "left").touch()
    lock = local_leases.fcntl.flock
    removed: list[Path] = []

    def remove_first(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        if not removed:
            removed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            shutil.rmtree(removed[0])

    monkeypatch.setattr(local_leases.fcntl, "flock", remove_first)
    assert store.sweep_unfinished() == 1
    assert len(removed) == 1
    assert list((tmp_path / "tmp").iterdir()) == [store._leases.own_folder]


def test_a_living_process_is_another_user_and_a_dead_one_is_none(
    store: LocalChunkStore, other_process: subprocess.Popen[str]
) -> None:
    assert store.leases.has_other_users()
    other_process.kill()
    other_process.wait()
    assert not store.leases.has_other_users()


def test_leases_exclude_other_users_of_the_store_until_they_are_closed(tmp_path: Path) -> None:
    first, second = LocalChunkStore(tmp_path), LocalChunkStore(tmp_path)
    released, closed = new_payload_key(), new_payload_key()
    for key in (released, closed):
        first.leases.acquire(key)
        with pytest.raises(PayloadBusyError, match=key):
            second.leases.acquire(key)
    first.leases.release(released)
    second.leases.acquire(released)
    first.close()
    second.leases.acquire(closed)
    second.close()
