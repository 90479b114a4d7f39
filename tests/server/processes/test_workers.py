"""The supervisor: what becomes of a server when its workers serve, die, or cannot begin. Its workers here are scripts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cases import each
from support.servers import engine_config
from tensorus_server.config import ServerConfig
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes import supervisor as workers_module
from tensorus_server.processes.service_manager import SILENT, ServiceManager
from tensorus_server.processes.supervisor import _Supervisor

pytestmark = pytest.mark.slow

WAIT_S = 20.0

WORKER = """
import json, os, sys, threading, time
from pathlib import Path
from tensorus_server.processes.control import Channel, Kind, Message

folder, descriptor = sys.argv[1:]
settings = os.environ["TENSORUS_WORKER_SETTINGS"]
channel = Channel.inherited(int(descriptor))
# The first process takes the first act, the second one the second, and so on; after the last, all do as the last.
for number, act in enumerate(json.loads(Path(folder, "acts").read_text())):
    try:
        os.close(os.open(Path(folder, f"{number}-{act}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        break
    except FileExistsError:
        continue
Path(folder, f"pid-{os.getpid()}").write_text(settings)
if act == "fail":
    channel.send(Message(Kind.FAILED, "no store"))
    sys.exit(4)
if act == "miss":
    channel.send(Message(Kind.NOT_INSTALLED, "apsw is not installed"))
    sys.exit(1)
if act == "die":
    os._exit(3)
def live():
    while channel.send(Message(Kind.SERVED)):
        time.sleep(0.02)
if act == "live":
    threading.Thread(target=live, daemon=True).start()
if act != "wait":
    channel.send(Message(Kind.READY))
while act == "ask" and not Path(folder, "heard-0").exists():
    channel.send(Message(Kind.NEWER, "request", 7))
    time.sleep(0.01)
while (message := channel.receive()) is not None and message.kind is not Kind.STOP:
    Path(folder, f"heard-{number}").write_text(f"{message.kind.value} {message.text} {message.ticket}")
    if message.text == "break":
        channel.send(Message(Kind.FAILED, "the disk is gone"))
sys.exit(0 if message is not None else 1)
"""


class Stage:
    """A supervisor on a thread, whose workers act as they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = threading.Event()
        self.complete = threading.Event()
        self.failure: BaseException | None = None
        self.supervisor: _Supervisor | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self, *acts: str, manager: ServiceManager = SILENT) -> None:
        (self.folder / "acts").write_text(json.dumps(acts))
        config = ServerConfig(engine_config(self.folder), workers=2)
        command = [sys.executable, "-c", WORKER, str(self.folder)]
        self.supervisor = _Supervisor(config, command, "127.0.0.1:1", self.stopping, manager)
        self._thread.start()

    def end(self) -> None:
        self.stopping.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def over(self) -> BaseException | None:
        """Return what ended the server by itself."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.failure

    def pids(self) -> list[int]:
        """Return the workers that are there now."""
        assert self.supervisor is not None
        return [worker.running[0].pid for worker in self.supervisor._workers if worker.running and worker.serves]

    def acts(self) -> int:
        """Return how many processes have been started."""
        return len(list(self.folder.glob("pid-*")))

    def _run(self) -> None:
        assert self.supervisor is not None
        try:
            self.supervisor.run(self.complete.set)
        except (StoreUnavailableError, ImportError) as error:
            self.failure = error
        finally:
            self.supervisor.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path)
    yield found
    found.end()
    # Whatever happened, no worker is left.
    for path in tmp_path.glob("pid-*"):
        assert not Path("/proc", path.name.removeprefix("pid-")).exists()


def wait_until(holds: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_it_is_complete_when_all_serve_and_each_has_its_share(stage: Stage) -> None:
    stage.begin("serve", "serve")
    assert stage.complete.wait(WAIT_S)
    assert len(stage.pids()) == 2
    for pid in stage.pids():
        found = ServerConfig.from_json((stage.folder / f"pid-{pid}").read_text())
        assert (found.listen, found.shares_port, found.streams_max) == ("127.0.0.1:1", True, 32)


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        pytest.param("fail", StoreUnavailableError, r"^no store$", id="its store cannot be opened"),
        pytest.param("miss", ImportError, r"^apsw is not installed$", id="a library is missing"),
        pytest.param(
            "die",
            StoreUnavailableError,
            r"^worker [12] \(process \d+\) ended with exit code 3 before it served$",
            id="it crashes",
        ),
    ],
)
def test_where_no_worker_can_begin_the_server_ends(stage: Stage, act: str, kind: type[Exception], message: str) -> None:
    stage.begin(act)
    with pytest.raises(kind, match=message):
        raise stage.over() or AssertionError
    assert not stage.complete.is_set()
    # Each had its chance, and the first one at most a second.
    assert stage.acts() in {2, 3}


@pytest.mark.parametrize("act", ["fail", "miss", "die"])
def test_a_worker_that_cannot_begin_is_tried_again_while_another_one_serves(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setattr(workers_module, "_DELAYS_S", (0.01,))
    stage.begin("serve", act, act, act, "serve")
    assert stage.complete.wait(WAIT_S)
    assert (stage.acts(), stage.failure) == (5, None)


def test_a_worker_that_is_killed_before_any_serves_does_not_end_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_DELAYS_S", (0.01,))
    stage.begin("die", "serve", "die", "serve")
    assert stage.complete.wait(WAIT_S)
    assert (stage.acts(), stage.failure) == (4, None)


def test_one_that_is_killed_is_started_again_and_the_other_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.begin("serve")
    assert stage.complete.wait(WAIT_S)
    killed, other = stage.pids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: stage.acts() == 3 and len(stage.pids()) == 2)
    assert other in stage.pids()
    assert killed not in stage.pids()
    assert f"(process {killed}) was ended by SIGKILL; it starts again in 0 s" in caplog.text


def test_whatever_happens_while_another_one_serves_it_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "_DELAYS_S", (0.0, 0.01))
    stage.begin("serve", "serve", "fail", "die", "miss", "serve")
    assert stage.complete.wait(WAIT_S)
    killed, other = stage.pids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: stage.acts() == 6 and len(stage.pids()) == 2)
    assert other in stage.pids()
    for said in ("no store", "ended with exit code 3", "apsw is not installed"):
        assert said in caplog.text


def test_a_process_that_cannot_be_started_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "_DELAYS_S", (0.0, 0.01))
    stage.begin("serve")
    assert stage.complete.wait(WAIT_S)
    start, refusals = subprocess.Popen, iter(range(2))

    def popen(*arguments: Any, **settings: Any) -> Any:
        if next(refusals, None) is not None:
            raise OSError("no memory")
        return start(*arguments, **settings)

    monkeypatch.setattr(workers_module.subprocess, "Popen", popen)
    os.kill(stage.pids()[0], signal.SIGKILL)
    wait_until(lambda: stage.acts() == 3 and len(stage.pids()) == 2)
    assert caplog.text.count("cannot be started: no memory") == 2


def test_where_nobody_serves_any_more_and_none_can_begin_the_server_ends(stage: Stage) -> None:
    stage.begin("serve", "serve", "fail")
    assert stage.complete.wait(WAIT_S)
    for pid in stage.pids():
        os.kill(pid, signal.SIGKILL)
    assert str(stage.over()) == "no store"


def test_a_store_that_fails_while_it_is_served_ends_all(stage: Stage) -> None:
    stage.begin("serve")
    assert stage.complete.wait(WAIT_S)
    assert stage.supervisor is not None
    running = stage.supervisor._workers[0].running
    assert running is not None
    running[1].send(workers_module.Message(workers_module.Kind.NEWER, "break"))
    assert str(stage.over()) == "the disk is gone"
    assert stage.acts() == 2


def test_what_a_worker_asks_for_is_passed_on_to_the_others(stage: Stage) -> None:
    stage.begin("serve", "ask")
    heard = stage.folder / "heard-0"
    wait_until(lambda: heard.exists() and heard.read_text() == "newer request 7")
    assert not (stage.folder / "heard-1").exists()


def test_one_that_is_told_to_stop_while_its_workers_begin_stops(stage: Stage) -> None:
    stage.stopping.set()
    stage.begin("serve")
    assert stage.over() is None


def test_the_delay_grows_and_begins_anew_after_a_steady_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(workers_module.time, "monotonic", lambda: now_s[0])
    worker = workers_module._Worker(1)
    delays = []
    for lived_s in [0.0] * 8 + [59.0, 61.0, 0.0]:
        worker.begin_to_serve()
        now_s[0] += lived_s
        delays.append(worker.end())
        assert worker.due_s == now_s[0] + delays[-1]
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 0.0, 1.0]


@each(
    ("code", "how"),
    [
        (0, "ended with exit code 0"),
        (4, "ended with exit code 4"),
        (-9, "was ended by SIGKILL"),
        (-64, "was ended by SIGRTMAX"),
    ],
)
def test_how_a_process_ended_is_said_in_words(code: int, how: str) -> None:
    assert workers_module._how(code) == how


def test_the_supervisor_knows_nothing_of_grpc() -> None:
    source = "import sys, tensorus_server.processes.supervisor; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=WAIT_S).returncode == 0


@pytest.fixture(autouse=True)
def all_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


class Signs(ServiceManager):
    """Counts the signs of life, and expects one every 0.3 s."""

    def __init__(self) -> None:
        super().__init__("/nowhere", 0.3)
        self.count = 0
        self.told: list[str] = []

    def sign_of_life(self) -> None:
        self.count += 1

    def status(self, status: str) -> None:
        self.told.append(status)


def test_a_worker_that_serves_no_calls_is_killed_while_the_server_gives_signs_of_life(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "_DELAYS_S", (0.01,))
    signs = Signs()
    stage.begin("live", "serve", "live", manager=signs)
    wait_until(lambda: signs.told[-2:] == ["1 of 2 workers serve", "2 of 2 workers serve"])
    before = signs.count
    wait_until(lambda: signs.count > before + 3)
    assert stage.acts() == 3
    assert caplog.text.count("it hangs, and is killed") == 1
    assert "was ended by SIGKILL; it starts again in 0 s" in caplog.text


def test_there_is_no_sign_of_life_once_no_worker_serves(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_DELAYS_S", (0.01,))
    signs = Signs()
    stage.begin("serve", "serve", "wait", manager=signs)
    assert stage.complete.wait(WAIT_S)
    wait_until(lambda: stage.acts() == 4)
    assert stage.supervisor is not None
    before, watch, looks = signs.count, stage.supervisor._watch, []
    monkeypatch.setattr(stage.supervisor, "_watch", lambda watchdog_s: looks.append(watch(watchdog_s)))
    wait_until(lambda: len(looks) > 5)
    assert signs.count == before
    assert stage.failure is None
