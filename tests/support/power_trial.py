"""Clients that write until the power goes, and what must be there afterwards.

Each writer inserts, replaces, edits and deletes tensors of its own, alone and in groups that are stored all or none. It knows
which versions of every tensor are possible: one if its last operation was acknowledged, two if it was under way at the cut.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

import tensorus
from support.arrays import random_bits
from support.engine import set_aside_now
from support.power import Disk
from support.servers import ServerProcess, engine_config
from support.workers import worker_pids
from tensorus_server.app import open_engine
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.engine.engine import Engine

__all__ = ["WRITERS", "Trial", "Writer", "version_of"]

_log = logging.getLogger(__name__)

WRITERS = 6
GROUP = 8
CHECKED_BEFORE = 50
"""Tensors that the round did not touch and that are read nevertheless; the last round reads all."""

SIZES = (0, 1, 100, 4_000, 20_000, 300_000, 600_000)
"""Elements: inline and in files, one chunk and several. The disk takes them all."""
PRESETS = ("none", "lossless")

ROW = 64
LOG_ROWS = 700
"""Of a tensor that is edited: 175 KiB, in 44 chunks of 4 KiB."""
EDITS_MAX = 20
"""Of one tensor, since its content is computed from all of them."""

ABSENT = 0
"""A version: the tensor is not there. Others count from 1."""


class Writer:
    """One client at a time, with ids of its own, and the versions that each of them may have."""

    def __init__(self, number: int) -> None:
        self._source = random.Random(number)
        self._prefix = f"w{number}"
        self._count = 0
        self._log = ""
        """The tensor that is edited now."""
        self.states: dict[str, set[int]] = {}
        """Of every id that was used: the versions that it may have. More than one: an operation was not acknowledged."""
        self.pending: dict[str, int] = {}
        """The versions that the operation under way would make."""
        self.touched: set[str] = set()
        """In this round."""
        self.failure: Exception | None = None
        self.acknowledgements = self.stored = self.edited = self.deleted = 0

    def run(self, address: str, on_acknowledgement: Callable[[], bool]) -> None:
        """Write until an operation fails.

        Args:
            on_acknowledgement: returns whether it counts.
        """
        try:
            with tensorus.connect(address, tune_allocator=False, retry_timeout_s=0) as client:
                while True:
                    changed = self._do(client)
                    if not on_acknowledgement():
                        return
                    self._acknowledged(changed)
        except Exception as error:  # noqa: BLE001 - how it fails does not matter; that it did before the cut does
            self.failure = error

    def step(self, client: tensorus.Client) -> None:
        """Do one operation, which counts."""
        self._acknowledged(self._do(client))

    def _do(self, client: tensorus.Client) -> dict[str, int]:
        return self._source.choices(*OPERATIONS)[0](self, client)

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

    def _insert_equal(self, client: tensorus.Client) -> dict[str, int]:
        """Insert what is stored already, under another id: both share a payload."""
        stored = self._present()
        if stored is None or self.states[stored] != {1}:
            return self._insert(client)
        changed = self._begin({f"{self._new_id()}={original(stored)}": 1})
        (tensor_id,) = changed
        client.insert("d", content(tensor_id, 1), id=tensor_id, preset="none")
        return changed

    def _edit(self, client: tensorus.Client) -> dict[str, int]:
        """Append to a tensor, or write into it; or begin a new one that can be edited."""
        name = self._log
        version = max(self.states.get(name, {ABSENT}))
        if version in {ABSENT, EDITS_MAX}:
            name = self._log = f"{self._prefix}-log-{self._next()}"
            changed = self._begin({name: 1})
            policy = tensorus.Policy(self._source.choice(PRESETS), chunk_bytes=4096)
            client.insert("d", content(name, 1), id=name, policy=policy)
            return changed
        changed = self._begin({name: version + 1})
        place, values = edit_of(name, version + 1)
        if place is None:
            client.append("d", name, values)
        else:
            client.write("d", name, place, values)
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

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _new_id(self) -> str:
        return f"{self._prefix}-{self._next()}"

    def _present(self) -> str | None:
        """Return a tensor that is there and is never edited, if there is any."""
        found = [name for name, versions in self.states.items() if versions != {ABSENT} and "log" not in name]
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
            self.edited += version > 1 and "log" in tensor_id
            self.deleted += version == ABSENT
        self.pending = {}
        self.acknowledgements += 1


OPERATIONS = (
    [Writer._insert, Writer._insert_equal, Writer._group, Writer._replace, Writer._edit, Writer._delete],
    [8, 2, 2, 4, 6, 3],
)
"""What a writer does, and how often."""


class Trial:
    """Rounds on one store: write, cut, start again, compare."""

    def __init__(self, disk: Disk, start: Callable[[Path], ServerProcess], *, acknowledgements_max: int = 150) -> None:
        """Make the store.

        Args:
            start: starts a server on the store in a folder.
            acknowledgements_max: of a round; the cut comes at a random one.
        """
        self._disk = disk
        self._start = start
        self._acknowledgements_max = acknowledgements_max
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
        try:
            self._server = self._start(self._disk.folder / "store")
        except RuntimeError as error:
            self.violations.append(("refused", str(error)))
            return
        with connected(self._server) as client:
            self._compare(client, thorough=thorough)

    def check_files(self) -> int:
        """Sweep the store, which must have no server: every file belongs to a tensor. Return how many orphans cuts left."""
        folder = self._disk.folder / "store"
        end(self._server)
        engine = open_engine(engine_config(folder, delete_grace_s=0.0, sweeps=False))
        try:
            engine.sweep(in_grace=True)
            orphans = set_aside_now(engine)
            referred = referred_keys(engine)
        finally:
            engine.close()
        files = {f"{path.parent.name}/{path.name}" for path in (folder / "chunks").glob("*/*")}
        if files != referred:
            self.violations.append(("files", f"{sorted(files - referred)} stray, {sorted(referred - files)} missing"))
        if stray := [*(folder / "tmp").glob("*/*"), *(folder / "uploads").iterdir()]:
            self.violations.append(("files", f"{stray} stray"))
        return orphans

    def describe(self) -> str:
        """Return the figures."""
        acknowledgements, stored, edited, deleted = (
            sum(getattr(writer, name) for writer in self.writers)
            for name in ("acknowledgements", "stored", "edited", "deleted")
        )
        return (
            f"{self.cuts} cuts: {acknowledgements} acknowledgements of {stored} tensors, {edited} of them edits, and {deleted} "
            f"deletions; {self.compared} values read back; {self.pending} operations under way at a cut, of which "
            f"{self.pending_done} were done"
        )

    def _write_until_the_cut(self) -> None:
        self._cut = False
        self._enough.clear()
        self._left = self._source.randint(1, self._acknowledgements_max)
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
        self.violations += [("failed", repr(writer.failure)) for writer in self.writers if writer.failure is not None]
        assert self._enough.is_set() or self.violations
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
                if tensor_id not in chosen:
                    # Not read: at least it is listed, or not, as it must be.
                    if (tensor_id in present) == (versions == {ABSENT}):
                        self.violations.append(("lost" if versions != {ABSENT} else "back", tensor_id))
                    continue
                found, wrong = version_of(client, tensor_id, versions, present)
                self.violations += [(wrong, tensor_id)] if wrong else []
                self.compared += tensor_id in present
                if tensor_id in writer.pending:
                    self.pending += 1
                    self.pending_done += found == writer.pending[tensor_id]
                writer.states[tensor_id] = {found}
            writer.touched.clear()
            writer.pending = {}


def version_of(client: tensorus.Client, tensor_id: str, versions: set[int], present: set[str]) -> tuple[int, str]:
    """Return the version that a tensor has, and what is wrong with it: nothing, "lost", "corrupt", "back" or "wrong".

    Args:
        versions: those that it may have.
        present: the ids of all tensors.
    """
    if tensor_id not in present:
        return ABSENT, "" if ABSENT in versions else "lost"
    try:
        tensor = client.get("d", tensor_id, as_="numpy")
    except tensorus.errors.TensorusError as error:
        _log.debug("%s: %s", tensor_id, error)
        return max(versions), "corrupt"
    for version in versions - {ABSENT}:
        if tensor.tobytes() == content(tensor_id, version).tobytes():
            return version, ""
    return max(versions), "back" if versions == {ABSENT} else "wrong"


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


def referred_keys(engine: Engine) -> set[str]:
    """Return the keys of all files that a tensor needs."""
    catalogue = engine._catalogue
    assert isinstance(catalogue, SqliteCatalogue)
    with catalogue._database.read() as connection:
        return {key for (key,) in connection.execute(_REFERRED)}


_REFERRED = """
SELECT key FROM tensor WHERE inline = 0 UNION SELECT key FROM past_tensor WHERE inline = 0
UNION SELECT key FROM reference UNION SELECT base FROM payload_base
"""


def original(tensor_id: str) -> str:
    """Return the tensor whose content this one has: itself, or the one that it is equal to."""
    return tensor_id.rpartition("=")[2]


def content(tensor_id: str, version: int) -> np.ndarray[Any, Any]:
    """Return what a tensor is in a version; that follows from its id."""
    if "log" in tensor_id:
        array = np.zeros((LOG_ROWS, ROW), np.float32)
        for number in range(2, version + 1):
            place, values = edit_of(tensor_id, number)
            if place is None:
                array = np.concatenate([array, values])
            else:
                array[place] = values
        return array
    source = random.Random(f"{original(tensor_id)} {version}")
    return random_bits("float32", (source.choice(SIZES),), seed=source.randrange(2**32))


def edit_of(tensor_id: str, version: int) -> tuple[tuple[slice, slice] | None, np.ndarray[Any, Any]]:
    """Return the edit that makes a version: where it writes, None for an append, and what."""
    source = random.Random(f"{tensor_id} {version}")
    rows = source.choice((1, 3, 100, 1000))
    if source.random() < 0.5:
        return None, np.full((rows, ROW), version, np.float32)
    first = source.randrange(LOG_ROWS)
    place = slice(first, min(first + rows, LOG_ROWS), source.choice((1, 3))), slice(source.randrange(ROW), None)
    return place, np.full((), version, np.float32)
