"""SIGKILL before every write to a file, while another process has the store open: a lost log is noticed, and a kept one fits.

strace kills. It counts the writes of each process apart; each one makes so many other writes first that the one before which it
is killed is the next of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.engine import commit, create, stored_tensor
from support.lost_log import check_lost_log
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store import local
from tensorus_server.chunk_store.local import LocalChunkStore

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

WRITES = 160
"""More than the victim makes."""

STRIDES = [7, pytest.param(1, marks=pytest.mark.long)]
"""Writes from one kill to the next. A page of the log is two writes, its head and itself: an odd stride hits both."""

VICTIM = f"""
import os, sys
from pathlib import Path
from support.engine import commit, stored_tensor
from support.lost_log import payload_of
from tensorus_server.catalogue.sqlite import SqliteCatalogue, database
from tensorus_server.chunk_store import local
from tensorus_server.chunk_store.local import LocalChunkStore

local.SHARDS = local.SHARDS[:1]
database._CHECKPOINT_BYTES = 1


def live(folder):
    store = LocalChunkStore(folder)
    catalogue = SqliteCatalogue(folder, payloads=store)
    dataset = catalogue.datasets.get("dataset")
    said = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def insert(name):
        commit(catalogue, stored_tensor(dataset, name, inline_payload=payload_of(name, 6000)))
        os.write(said, f"{{name}}\\n".encode())

    insert("a")
    catalogue.maintain(idle=False)
    insert("b")
    catalogue.maintain(idle=True)
    insert("c")
    catalogue.close()


for number in range(1, {WRITES}, int(sys.argv[2])):
    victim = os.fork()
    if not victim:
        other = os.open("/dev/null", os.O_WRONLY)
        for _ in range({WRITES} - number):
            os.pwrite(other, b"x", 0)
        live(Path(sys.argv[1]) / str(number))
        os._exit(0)
    _, status = os.waitpid(victim, 0)
    if os.WIFEXITED(status):
        print(number, os.WEXITSTATUS(status), flush=True)
        break
"""


@pytest.mark.parametrize("stride", STRIDES)
def test_a_lost_log_is_noticed_wherever_a_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    monkeypatch.setattr(local, "SHARDS", local.SHARDS[:1])
    # Every file open that the test needs later: it must not open SQLite's files where it has them open already.
    others = [(folder, *opened(folder)) for number in range(1, WRITES, stride) if (folder := tmp_path / str(number))]
    tests = str(Path(__file__).parents[1])
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"]
    ran = subprocess.run(
        [
            *[*strace, "-e", f"inject=pwrite64:signal=KILL:when={WRITES}"],
            *[sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{VICTIM}", str(tmp_path), str(stride)],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in ran.stderr:
        pytest.skip("strace may not trace here")
    number, exit_code = map(int, ran.stdout.split())
    assert exit_code == 0, ran.stderr
    assert number > 30
    refused = 0
    for folder, store, catalogue in others[: (number - 1) // stride]:
        said = folder / "acknowledged"
        acknowledged = set(said.read_text(encoding="ascii").split()) if said.exists() else set()
        refused += check_lost_log(folder, folder / "copy", store.read_identity(), acknowledged)
        # The process that lives goes on.
        commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "mine", inline_payload=b"mine"))
        assert check_lost_log(folder, folder / "copy", store.read_identity(), acknowledged | {"mine"})
    assert refused > 20 // stride
    for _, store, catalogue in others:
        catalogue.close()
        store.close()


def opened(folder: Path) -> tuple[LocalChunkStore, SqliteCatalogue]:
    """Make a store that another process may die on."""
    folder.mkdir()
    store = LocalChunkStore(folder)
    catalogue = SqliteCatalogue(folder, payloads=store)
    # What is inserted later goes into free pages, which are copied after the one with the epoch: a copy that breaks off there
    # leaves a database that looks whole.
    commit(catalogue, stored_tensor(create(catalogue), "large", inline_payload=bytes(60_000)))
    catalogue.tensors.delete("dataset", ["large"])
    catalogue.maintain(idle=True)
    return store, catalogue
