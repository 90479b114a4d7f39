"""A program that works on a store as it is told, line by line, so that strace can put errors into its system calls.

Each kind of thread exists once, and nothing runs in the background: so the calls of an operation come in the same order, on the
same threads, whenever it is repeated.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tensorus
from support.arrays import random_bits
from support.engine import set_aside_now
from support.power_trial import referred_keys
from support.servers import engine_config
from tensorus.embedded import EmbeddedBackend
from tensorus_server.catalogue.sqlite import database
from tensorus_server.chunk_store import local
from tensorus_server.engine import engine as engine_module
from tensorus_server.engine.insert import committer

SMALL, LARGE = (8, 64), (640, 64)
"""Shapes of float32: inline, and in a file of three chunks."""
GROUP = 3
MIDDLE = (slice(3, 200, 3), slice(None))


class Child:
    """The store, and what can be done with it; every operation makes version 2 of its tensors, or removes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._backend = EmbeddedBackend(folder, _settings)
        self._engine: Any = self._backend._engine
        self._client = tensorus.Client(self._backend)
        self._client.create_dataset("d", policy=tensorus.Policy("none", chunk_bytes=64 * 1024), exist_ok=True)

    def prepare(self, operation: str, name: str) -> None:
        """Make what the operation works on, and let it find the log empty, so that the epoch has to be raised."""
        if operation == "checkpoint":
            self._engine._catalogue.maintain(idle=True)
        if operation in {"overwrite small", "overwrite large", "append", "write", "delete", "sweep", "checkpoint"}:
            self._client.insert("d", content(operation, name, 1), id=name)
        if operation == "sweep":
            self._client.delete("d", name)
            dead = self._folder / "tmp" / f"dead-{name}"
            dead.mkdir()
            (dead / "payload").write_bytes(b"begun")
        if operation != "checkpoint":
            self._engine._catalogue.maintain(idle=True)

    def run(self, operation: str, name: str) -> None:
        """Do the operation."""
        client = self._client
        if operation in {"insert small", "insert large"}:
            client.insert("d", content(operation, name, 2), id=name)
        elif operation == "insert together":
            parts = [(part, content(operation, part, 2)) for part in parts_of(operation, name)]
            list(client.insert_many("d", parts, all_or_nothing=True))
        elif operation in {"overwrite small", "overwrite large"}:
            generation = client.info("d", name).generation
            client.insert("d", content(operation, name, 2), id=name, if_generation_match=generation)
        elif operation == "append":
            client.append("d", name, content(operation, name, 2)[LARGE[0] :])
        elif operation == "write":
            client.write("d", name, MIDDLE, content(operation, name, 2)[MIDDLE])
        elif operation == "delete":
            client.delete("d", name)
        elif operation == "sweep":
            self._engine.sweep()
        else:
            assert operation == "checkpoint"
            self._engine._catalogue.maintain(idle=True)

    def versions(self, operation: str, name: str) -> list[int | str]:
        """Return the version of each of the operation's tensors: 0 if it is absent, an error, or "wrong"."""
        return [self._version(operation, part) for part in parts_of(operation, name)]

    def _version(self, operation: str, name: str) -> int | str:
        try:
            found = self._client.get("d", name, as_="numpy")
        except tensorus.errors.TensorNotFoundError:
            return 0
        except tensorus.errors.TensorusError as error:
            return said(error)
        for version in (1, 2):
            wanted = content(operation, name, version)
            if found.shape == wanted.shape and found.tobytes() == wanted.tobytes():
                return version
        return "wrong"

    def stray(self) -> list[str]:
        """Sweep, and return the files that no tensor needs, and those that are missing."""
        self._engine.sweep(in_grace=True)
        set_aside_now(self._engine)
        files = {f"{path.parent.name}/{path.name}" for path in (self._folder / "chunks").glob("*/*")}
        begun = [*(self._folder / "tmp").glob("*/*"), *(self._folder / "uploads").iterdir()]
        return [*sorted(files ^ referred_keys(self._engine)), *map(str, begun)]

    def descriptors(self) -> int:
        """Return how many are open."""
        return len(list(Path("/proc/self/fd").iterdir()))

    def threads(self) -> dict[str, int]:
        """Return the system's id of each thread, by its name."""
        return {str(thread.name): thread.native_id or 0 for thread in threading.enumerate()}


def parts_of(operation: str, name: str) -> list[str]:
    """Return the ids of the tensors that an operation changes."""
    return [f"{name}-{number}" for number in range(GROUP)] if operation == "insert together" else [name]


def content(operation: str, name: str, version: int) -> np.ndarray[Any, Any]:
    """Return what an operation's tensor is in a version."""
    shape = SMALL if operation in {"insert small", "overwrite small"} or name.endswith("-1") else LARGE

    def bits(which: int, shape: tuple[int, ...] = shape) -> np.ndarray[Any, Any]:
        return random_bits("float32", shape, seed=sum(f"{name}{which}".encode()) + 1000 * which)

    if operation == "append" and version == 2:
        return np.concatenate([bits(1), bits(2, SMALL)])
    if operation == "write" and version == 2:
        array = bits(1)
        array[MIDDLE] = bits(2)[MIDDLE]
        return array
    return bits(version)


def said(error: Exception) -> str:
    """Return an error as a line: its reason, and its text."""
    return f"{getattr(error, 'reason', None) or type(error).__name__}: {error}"


def _settings(folder: Path) -> Any:
    return engine_config(folder, delete_grace_s=0.0, sweeps=False, codec_threads=1)


def main(folder: Path, patch: Callable[[], None] = lambda: None) -> None:
    """Answer lines with lines, both in JSON: [command, *arguments] with {"value"} or {"error"}."""
    local.SHARDS = local.SHARDS[:1]
    local.SYNC_EVERY_BYTES = 64 * 1024
    local._SYNC_THREADS = engine_module._SEAL_THREADS = 1
    committer._IDLE_S = 3600.0
    database._BLOCKED_S = 0.0
    patch()
    child = Child(folder)
    _say({"value": None})
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer = {"value": getattr(child, command)(*arguments)}
        except Exception as error:  # noqa: BLE001 - the parent says what may fail how
            answer = {"error": said(error)}
        _say(answer)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
