"""The machine crashes at any call of the chunk store, on a disk that keeps no more than POSIX promises: nothing is lost.

A power cut of a real file system cannot show that a folder is not synced (`support/strict_files.py` says why). Here it shows.
"""

from __future__ import annotations

import copy
import logging
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tensorus
from support import power_trial
from support.power_trial import Writer, version_of
from support.servers import engine_config
from support.strict_files import StrictFiles
from tensorus.embedded import EmbeddedBackend
from tensorus_server.app import local as app
from tensorus_server.chunk_store import local
from tensorus_server.engine import engine as engine_module

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300), pytest.mark.usefixtures("few_shards")]

OPERATIONS = 40
SIZES = (0, 1, 100, 20_000, 40_000)
SYNC_EVERY_BYTES = 64 * 1024


class Crashes:
    """Crashes at random calls of one program of operations, and what was acknowledged before each."""

    def __init__(self, folder: Path, files: StrictFiles, seed: int, share: float) -> None:
        """Do the operations; a crash comes at this share of the calls."""
        self._folder = folder
        self._source = random.Random(seed)
        self._share = share
        self._files = files
        self._lock = threading.Lock()
        self._writer = Writer(seed)
        self.left: list[tuple[Path, dict[str, set[int]]]] = []
        """What each crash leaves, and which versions are possible."""
        self.calls = 0
        with tensorus.Client(EmbeddedBackend(folder / "store", settings)) as client:
            client.create_dataset("d")
            files.on_change = self._perhaps_crash
            for _ in range(OPERATIONS):
                self._writer.step(client)
            files.on_change = lambda: None

    def _perhaps_crash(self) -> None:
        with self._lock:
            self.calls += 1
            if self._source.random() >= self._share:
                return
            target = self._folder / f"crash-{len(self.left)}"
            before = copy.deepcopy(self._writer.states)
            self._files.crashed(self._folder / "store", target, self._source)
            # The sweep's thread may be the one that calls: then the writer goes on meanwhile.
            after = copy.deepcopy(self._writer.states)
            self.left.append((target, {name: before.get(name, {0}) | after[name] for name in after}))

    def violations(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong in what is left, and with which tensor."""
        for folder, states in self.left:
            try:
                with tensorus.Client(EmbeddedBackend(folder, settings)) as client:
                    present = {info.id for info in client.list("d")}
                    for tensor_id, versions in states.items():
                        _, wrong = version_of(client, tensor_id, versions, present)
                        if wrong:
                            yield wrong, tensor_id
            except tensorus.errors.UnavailableError as error:
                yield "refused", str(error)
            shutil.rmtree(folder)


def settings(folder: Path) -> Any:
    return engine_config(folder, delete_grace_s=0.0)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> StrictFiles:
    made = StrictFiles()
    monkeypatch.setattr(app, "Files", lambda: made)
    monkeypatch.setattr(power_trial, "SIZES", SIZES)
    monkeypatch.setattr(local, "SYNC_EVERY_BYTES", SYNC_EVERY_BYTES)
    # Payloads are deleted while others are written.
    monkeypatch.setattr(engine_module, "_SWEEP_EVERY_S", 0.05)
    return made


@pytest.mark.parametrize(
    ("programs", "share"),
    [(1, 0.1), pytest.param(12, 0.5, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
    ids=["few", "many"],
)
def test_crashes_lose_nothing_that_was_acknowledged(
    tmp_path: Path, files: StrictFiles, programs: int, share: float
) -> None:
    calls = crashes = 0
    for seed in range(programs):
        folder = tmp_path / str(seed)
        folder.mkdir()
        made = Crashes(folder, files, seed, share)
        calls, crashes = calls + made.calls, crashes + len(made.left)
        assert list(made.violations()) == []
        shutil.rmtree(folder)
    _log.info("%d crashes at %d calls", crashes, calls)
    assert crashes > 10 * programs


def no_sync_of_payloads(files: StrictFiles) -> None:
    sync = files.sync_data

    def sync_identity(descriptor: int) -> None:
        if "store" in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            sync(descriptor)

    files.sync_data = sync_identity  # type: ignore[method-assign]


def no_sync_of_folders(files: StrictFiles) -> None:
    sync = files.sync_folder

    def sync_others(folder: Path) -> None:
        if folder.parent.name != "chunks":
            sync(folder)

    files.sync_folder = sync_others  # type: ignore[method-assign]


@pytest.mark.parametrize("mutate", [no_sync_of_payloads, no_sync_of_folders])
def test_a_store_that_does_not_sync_is_found_out(
    tmp_path: Path, files: StrictFiles, mutate: Callable[[StrictFiles], None]
) -> None:
    mutate(files)
    assert any(wrong == "corrupt" for wrong, _ in Crashes(tmp_path, files, 0, 0.1).violations())
