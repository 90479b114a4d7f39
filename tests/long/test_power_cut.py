"""The power goes while clients write: what was acknowledged is there and exact, and nothing is there by halves.

Clients insert, replace and delete tensors of many sizes, alone and in groups that are stored all or none. At a random
acknowledgement the disk loses what it has not written, the server is killed, the disk is mounted again, and the next round goes
on with the same store.

What is acknowledged after a cut has begun does not count, since the kernel itself errs then: programs that do nothing but write
and sync are told of success within milliseconds of the cut, and the bytes are gone (19 of 150 cuts on XFS, 13 of 80 on ext4).
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.power import Disk, Kind
from support.servers import ServerProcess
from support.workers import worker_pids

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

pytestmark = [pytest.mark.long, pytest.mark.crash, pytest.mark.timeout(1800)]

CUTS = 25
WRITERS = 6
GROUP = 8
ACKNOWLEDGEMENTS_MAX = 150
"""Of a round."""
CHECKED_BEFORE = 50
"""Tensors that the round did not touch and that are read nevertheless; the last round reads all."""

SIZES = (0, 1, 100, 4_000, 20_000, 300_000, 600_000)
"""Elements: inline and in files, one chunk and several. The disk takes them all; what is deleted stays on it for an hour."""
PRESETS = ("none", "lossless")

ABSENT = 0
"""A version: the tensor is not there. Others count from 1."""

UNSYNCED = """
import os

from tensorus.cli import main

fsync, fdatasync = os.fsync, os.fdatasync


def of_identity(descriptor):
    return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) in ("store", "store.new", "chunks")


os.fsync = lambda descriptor: fsync(descriptor) if of_identity(descriptor) else None
os.fdatasync = lambda descriptor: fdatasync(descriptor) if of_identity(descriptor) else None
main()
"""
"""A server that syncs no payloads. It syncs the identity of its chunk store, without which it would not start after a cut."""


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    kind: Kind = request.param
    made = Disk(tmp_path, kind)
    yield made
    made.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_cuts_lose_nothing_that_was_acknowledged(disk: Disk, workers: int) -> None:
    with Trial(disk, lambda folder: ServerProcess(folder, workers=workers)) as trial:
        for number in range(CUTS):
            trial.round(thorough=number == CUTS - 1)
    _log.info(
        "%d cuts: %d acknowledgements of %d tensors and %d deletions, %d values read back, %d operations under way at a cut, "
        "of which %d were done",
        CUTS,
        sum(writer.acknowledgements for writer in trial.writers),
        sum(writer.stored for writer in trial.writers),
        sum(writer.deleted for writer in trial.writers),
        trial.compared,
        trial.pending,
        trial.pending_done,
    )
    assert trial.violations == []
    assert trial.compared > CUTS * WRITERS


def test_a_server_that_does_not_sync_is_found_out(disk: Disk) -> None:
    with Trial(disk, lambda folder: ServerProcess(folder, program=["-c", UNSYNCED])) as trial:
        while not trial.violations and trial.cuts < CUTS:
            trial.round(thorough=True)
    assert {what for what, _ in trial.violations} & {"corrupt", "wrong", "lost"}


class Writer:
    """One client at a time, with ids of its own, and the versions that each of them may have."""

    def __init__(self, number: int) -> None:
        self._source = random.Random(number)
        self._prefix = f"w{number}"
        self._count = 0
        self.states: dict[str, set[int]] = {}
        """Of every id that was used: the versions that it may have. More than one: an operation was not acknowledged."""
        self.pending: dict[str, int] = {}
        """The versions that the operation under way would make."""
        self.touched: set[str] = set()
        """In this round."""
        self.failure: Exception | None = None
        self.acknowledgements = self.stored = self.deleted = 0

    def run(self, address: str, on_acknowledgement: Callable[[], bool]) -> None:
        """Write until an operation fails.

        Args:
            on_acknowledgement: returns whether it counts.
        """
        try:
            with tensorus.connect(address, tune_allocator=False, retry_timeout_s=0) as client:
                while True:
                    operation = self._source.choices(
                        [self._insert, self._group, self._replace, self._delete], [8, 2, 5, 3]
                    )
                    changed = operation[0](client)
                    if not on_acknowledgement():
                        return
                    self._acknowledged(changed)
        except Exception as error:  # noqa: BLE001 - how it fails does not matter; that it did before the cut does
            self.failure = error

    def _insert(self, client: tensorus.Client) -> dict[str, int]:
        tensor_id = self._new_id()
        changed = self._begin({tensor_id: 1})
        client.insert("d", content(tensor_id, 1), id=tensor_id, preset=self._source.choice(PRESETS))
        return changed

    def _group(self, client: tensorus.Client) -> dict[str, int]:
        changed = self._begin({self._new_id(): 1 for _ in range(GROUP)})
        for _ in client.insert_many("d", [(name, content(name, 1)) for name in changed], all_or_nothing=True):
            pass
        return changed

    def _replace(self, client: tensorus.Client) -> dict[str, int]:
        tensor_id = self._present()
        if tensor_id is None:
            return self._insert(client)
        (version,) = self.states[tensor_id]
        generation = client.info("d", tensor_id).generation
        changed = self._begin({tensor_id: version + 1})
        client.insert("d", content(tensor_id, version + 1), id=tensor_id, if_generation_match=generation)
        return changed

    def _delete(self, client: tensorus.Client) -> dict[str, int]:
        tensor_id = self._present()
        if tensor_id is None:
            return self._insert(client)
        changed = self._begin({tensor_id: ABSENT})
        assert client.delete("d", [tensor_id]) == 1
        return changed

    def _new_id(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def _present(self) -> str | None:
        found = [tensor_id for tensor_id, versions in self.states.items() if versions != {ABSENT}]
        return self._source.choice(found) if found else None

    def _begin(self, changed: dict[str, int]) -> dict[str, int]:
        """From now on each may be as it was or as it becomes."""
        for tensor_id, version in changed.items():
            self.states.setdefault(tensor_id, {ABSENT}).add(version)
        self.touched |= set(changed)
        self.pending = changed
        return changed

    def _acknowledged(self, changed: dict[str, int]) -> None:
        for tensor_id, version in changed.items():
            self.states[tensor_id] = {version}
            self.stored += version != ABSENT
            self.deleted += version == ABSENT
        self.pending = {}
        self.acknowledgements += 1


class Trial:
    """Rounds on one store: write, cut, start again, compare."""

    def __init__(self, disk: Disk, start: Callable[[Path], ServerProcess]) -> None:
        self._disk = disk
        self._start = start
        self._source = random.Random(0)
        self._lock = threading.Lock()
        self._left = 0
        self._enough = threading.Event()
        self._cut = False
        self.writers = [Writer(number) for number in range(WRITERS)]
        self.violations: list[tuple[str, str]] = []
        """What is wrong, and with which tensor."""
        self.cuts = self.compared = self.pending = self.pending_done = 0
        self._server = start(disk.folder / "store")
        with connected(self._server) as client:
            client.create_dataset("d")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._server)

    def round(self, *, thorough: bool) -> None:
        """Write until the power goes, and compare afterwards.

        Args:
            thorough: compare every tensor, and not only a sample of those that this round did not touch.
        """
        self._write_until_the_cut()
        self._disk.restore()
        self._server = self._start(self._disk.folder / "store")
        with connected(self._server) as client:
            self._compare(client, thorough=thorough)

    def _write_until_the_cut(self) -> None:
        self._cut = False
        self._enough.clear()
        self._left = self._source.randint(1, ACKNOWLEDGEMENTS_MAX)
        threads = [
            threading.Thread(target=writer.run, args=(self._server.address, self._count), daemon=True)
            for writer in self.writers
        ]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + 120
        while (
            not self._enough.wait(0.1)
            and time.monotonic() < deadline_s
            and any(map(threading.Thread.is_alive, threads))
        ):
            pass
        failures = [writer.failure for writer in self.writers]
        assert (failures, self._enough.is_set()) == ([None] * WRITERS, True)
        self._cut = True
        self._disk.cut()
        self.cuts += 1
        end(self._server)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    def _count(self) -> bool:
        """Return whether an acknowledgement counts: one that came before the cut began."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self._enough.set()
        return not self._cut

    def _compare(self, client: tensorus.Client, *, thorough: bool) -> None:
        present = {info.id for info in client.list("d")}
        for writer in self.writers:
            writer.failure = None
            chosen = set(writer.states)
            if not thorough:
                others = sorted(chosen - writer.touched)
                chosen = writer.touched | set(self._source.sample(others, min(CHECKED_BEFORE, len(others))))
            if len(writer.pending) > 1 and len({tensor_id in present for tensor_id in writer.pending}) > 1:
                self.violations.append(("torn", min(writer.pending)))
            for tensor_id, versions in writer.states.items():
                found = self._found(client, tensor_id, versions, present) if tensor_id in chosen else None
                if found is None:
                    # Not read: at least it is listed, or not, as it must be.
                    if (tensor_id in present) == (versions == {ABSENT}):
                        self.violations.append(("lost" if versions != {ABSENT} else "back", tensor_id))
                    continue
                if tensor_id in writer.pending:
                    self.pending += 1
                    self.pending_done += found == writer.pending[tensor_id]
                writer.states[tensor_id] = {found}
            writer.touched.clear()
            writer.pending = {}

    def _found(self, client: tensorus.Client, tensor_id: str, versions: set[int], present: set[str]) -> int:
        """Return the version that a tensor has, and note what is wrong with it."""
        if tensor_id not in present:
            if ABSENT not in versions:
                self.violations.append(("lost", tensor_id))
            return ABSENT
        try:
            tensor = client.get("d", tensor_id, as_="numpy")
        except tensorus.errors.TensorusError as error:
            _log.debug("%s: %s", tensor_id, error)
            self.violations.append(("corrupt", tensor_id))
            return max(versions)
        self.compared += 1
        for version in versions - {ABSENT}:
            if tensor.tobytes() == content(tensor_id, version).tobytes():
                return version
        self.violations.append(("back" if versions == {ABSENT} else "wrong", tensor_id))
        return max(versions)


def connected(server: ServerProcess) -> tensorus.Client:
    return tensorus.connect(server.address, tune_allocator=False, retry_timeout_s=0)


def end(server: ServerProcess) -> None:
    """Kill every process of a server; workers may not outlive a mounted disk."""
    workers = worker_pids(server) if server.process.poll() is None else []
    server.process.kill()
    for pid in workers:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    server.kill()


def content(tensor_id: str, version: int) -> np.ndarray[Any, Any]:
    source = random.Random(f"{tensor_id} {version}")
    return random_bits("float32", (source.choice(SIZES),), seed=source.randrange(2**32))
