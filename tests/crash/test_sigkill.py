"""SIGKILL in the middle of inserts: what was acknowledged is there and exact, and nothing is there by halves.

Clients on several threads insert tensors of mixed sizes and presets; the content of each follows from its id, so that
whatever is found later can be checked. At a random acknowledgement the server is killed. The next round goes on with the same
store.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.engine import set_aside_now
from support.payload_files import payload_bytes
from support.servers import ServerProcess, engine_config
from tensorus_server.app import open_engine

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

WRITERS = 4
ACKNOWLEDGEMENTS_MAX = 60

SIZES = (1, 100, 4_000, 20_000, 300_000, 1_000_000)
"""Elements: inline and in files, one chunk and several."""

PRESETS = ("none", "lossless")


class Writer(threading.Thread):
    """Inserts until the server is gone, and notes what was acknowledged."""

    def __init__(self, address: str, prefix: str, acknowledged: Acknowledged) -> None:
        super().__init__(name=prefix)
        self.address = address
        self.prefix = prefix
        self.acknowledged = acknowledged
        self.unexpected: Exception | None = None

    def run(self) -> None:
        try:
            with tensorus.connect(self.address, tune_allocator=False, retry_timeout_s=0) as client:
                for number in range(10_000):
                    tensor_id = f"{self.prefix}-{number}"
                    info = client.insert("d", content(tensor_id), id=tensor_id, preset=PRESETS[number % 2])
                    self.acknowledged.add(info.id)
        except tensorus.errors.UnavailableError:
            pass
        except Exception as error:  # noqa: BLE001 - the main thread fails with it
            self.unexpected = error


class Acknowledged:
    """Ids that the server has acknowledged; kills it when there are enough."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self._wanted = 0

    def begin_round(self, count: int) -> None:
        self._enough.clear()
        self._wanted = len(self.ids) + count

    def add(self, tensor_id: str) -> None:
        with self._lock:
            self.ids.add(tensor_id)
            if len(self.ids) >= self._wanted:
                self._enough.set()

    def wait(self) -> None:
        assert self._enough.wait(120)


def content(tensor_id: str) -> np.ndarray:
    source = random.Random(tensor_id)
    return random_bits("float32", (source.choice(SIZES),), seed=source.randrange(2**32))


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.long)])
def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path, rounds: int) -> None:
    folder = tmp_path / "store"
    acknowledged = Acknowledged()
    source = random.Random(20)
    for round_number in range(rounds):
        server = ServerProcess(folder)
        try:
            with tensorus.connect(server.address, tune_allocator=False, retry_timeout_s=0) as client:
                client.create_dataset("d", exist_ok=True)
                check_everything(client, acknowledged.ids, sample=source if round_number < rounds - 1 else None)
            acknowledged.begin_round(source.randint(1, ACKNOWLEDGEMENTS_MAX))
            writers = [Writer(server.address, f"{round_number}-{number}", acknowledged) for number in range(WRITERS)]
            for writer in writers:
                writer.start()
            acknowledged.wait()
        finally:
            server.kill()
        for writer in writers:
            writer.join()
            assert writer.unexpected is None
    check_files(folder, acknowledged.ids, kills=rounds)


def check_everything(client: tensorus.Client, acknowledged: set[str], sample: random.Random | None) -> None:
    """Compare what is there with what must be: all of it, or a sample of what was acknowledged."""
    found = {info.id for info in client.list("d")}
    assert acknowledged <= found
    ids = sorted(found)
    chosen = ids if sample is None else sample.sample(ids, min(len(ids), 30))
    for record in client.get_many("d", chosen, as_="numpy"):
        assert_same_bits(record.tensor, content(record.info.id))


def check_files(folder: Path, acknowledged: set[str], *, kills: int) -> None:
    """Open the store once more: every tensor is exact, and no file is there that belongs to none."""
    with tensorus.open(folder) as client:
        check_everything(client, acknowledged, sample=None)
        stored = {info.id: info for info in client.list("d")}
    engine = open_engine(engine_config(folder, delete_grace_s=0.0))
    try:
        engine.sweep()
        # At most what each kill left between the publishing of a group and its commit.
        assert set_aside_now(engine) <= kills * WRITERS
    finally:
        engine.close()
    files = list((folder / "chunks").glob("*/*"))
    in_files = [info for info in stored.values() if info.stored_bytes > 64 * 1024]
    assert len(files) == len(in_files)
    assert sorted(payload_bytes(path) for path in files) == sorted(info.stored_bytes for info in in_files)
    assert list((folder / "tmp").iterdir()) == []
