"""What systemd is told: readiness, a sign of life that means that calls are served, and the stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.cases import each
from support.servers import ServerProcess, running_server
from tensorus_server.processes import server as server_module
from tensorus_server.processes.server import Server
from tensorus_server.processes.service_manager import SILENT, ServiceManager

WAIT_S = 20.0


class Receiver:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(WAIT_S)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(65536).decode().split("\n"))

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        give_up_s = time.monotonic() + WAIT_S
        while not wanted(message := self.next()):
            assert time.monotonic() < give_up_s, message
        return message

    def waiting(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        self.socket.setblocking(False)
        while True:
            try:
                found.append(self.next())
            except BlockingIOError:
                self.socket.settimeout(WAIT_S)
                return found


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    # Relative, since the name of a Unix socket has at most 107 bytes.
    monkeypatch.chdir(tmp_path)
    made = Receiver("n")
    yield made
    made.socket.close()


@pytest.fixture(autouse=True)
def no_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


# ---- The protocol ------------------------------------------------------------------------------------------------------


def test_the_messages_are_those_of_sd_notify(receiver: Receiver) -> None:
    manager = ServiceManager(receiver.address, 60.0)
    manager.ready("serves /a\nREADY=0 on b")
    manager.status("one of two")
    manager.sign_of_life()
    manager.stopping(30.0)
    assert receiver.waiting() == [
        {"READY": "1", "STATUS": "serves /a READY=0 on b"},
        {"STATUS": "one of two"},
        {"WATCHDOG": "1"},
        {"STOPPING": "1", "STATUS": "stops; open calls get 30 s"},
    ]


def test_an_abstract_socket_is_reached() -> None:
    receiver = Receiver(f"@tensorus-test-{os.getpid()}-{time.monotonic_ns()}")
    try:
        ServiceManager(receiver.address).ready("serves")
        assert receiver.next()["READY"] == "1"
    finally:
        receiver.socket.close()


def test_signs_of_life_are_given_several_times_in_each_period_and_not_more_often(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("tensorus_server.processes.service_manager.time.monotonic", lambda: now_s)
    manager = ServiceManager(receiver.address, 8.0)
    for _ in range(40):
        manager.sign_of_life()
        now_s += 0.5
    assert len(receiver.waiting()) == 10


@each(
    ("variables", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
    ],
)
def test_the_environment_names_it_and_child_processes_do_not_inherit_it(
    variables: dict[str, str], watchdog_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name, value in ({"NOTIFY_SOCKET": "/run/none"} | variables).items():
            patch.setenv(name, value)
        assert ServiceManager.from_environment().watchdog_s == watchdog_s
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@each("address", [None, "", "vsock:2:1234", "relative"])
def test_without_a_socket_nothing_is_sent(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WATCHDOG_USEC", "1000000")
        if address is not None:
            patch.setenv("NOTIFY_SOCKET", address)
        manager = ServiceManager.from_environment()
        patch.setattr(socket, "socket", None)
        assert manager.watchdog_s is None
        for silent in (manager, SILENT):
            silent.ready("serves")
            silent.sign_of_life()
            silent.stopping(1.0)


def test_a_service_manager_that_is_gone_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager(str(tmp_path / "gone")).ready("serves")
    assert "was not told READY=1: " in caplog.text


# ---- What the sign of life means ---------------------------------------------------------------------------------------


class Watched:
    """A server that is watched on a thread."""

    def __init__(self, server: Server) -> None:
        self.stopping = threading.Event()
        self.signs = 0
        self._thread = threading.Thread(target=server.watch, args=(self.stopping, self._sign))
        self._thread.start()

    def _sign(self) -> None:
        self.signs += 1

    def end(self) -> None:
        self.stopping.set()
        self._thread.join()


def wait_for(happens: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not happens():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Watched]]:
    monkeypatch.setattr(server_module, "_STORE_CHECK_S", 0.01)
    with running_server(tmp_path / "store", streams_max=2) as server:
        watched = Watched(server)
        yield server, watched
        watched.end()


def occupy(server: Server, event: threading.Event) -> list[Any]:
    threads = server._threads
    return [threads.submit(event.wait) for _ in range(threads._max_workers)]


def test_an_idle_server_is_alive(watched: tuple[Server, Watched]) -> None:
    wait_for(lambda: watched[1].signs > 3)


def test_a_server_whose_threads_all_hang_is_not_alive_until_they_go_on(watched: tuple[Server, Watched]) -> None:
    server, watching = watched
    go_on = threading.Event()
    try:
        occupied = occupy(server, go_on)
        # The empty task that was there before may still end.
        wait_for(lambda: all(task.running() for task in occupied))
        checks = _count_checks(server)
        wait_for(lambda: checks() > 2)
        before = watching.signs
        checks = _count_checks(server)
        wait_for(lambda: checks() > 10)
        assert watching.signs == before
    finally:
        go_on.set()
    wait_for(lambda: watching.signs > before)


def _count_checks(server: Server) -> Callable[[], int]:
    """Return a function that returns how often the store was checked from now on."""
    count, check = 0, type(server).check

    def counted() -> None:
        nonlocal count
        count += 1
        check(server)

    server.check = counted  # type: ignore[method-assign]
    return lambda: count


def test_a_busy_server_is_alive_though_calls_wait_for_threads(watched: tuple[Server, Watched]) -> None:
    server, watching = watched
    busy = threading.Event()
    threads = server._threads

    def work() -> None:
        time.sleep(0.001)
        if not busy.is_set():
            # More work than threads, always.
            threads.submit(work)

    for _ in range(2 * threads._max_workers):
        threads.submit(work)
    try:
        before = watching.signs
        wait_for(lambda: watching.signs > before + 3)
        assert threads._work_queue.qsize() > 0
    finally:
        busy.set()


def test_a_server_that_takes_no_more_calls_is_not_alive(watched: tuple[Server, Watched]) -> None:
    server, watching = watched
    (taker,) = server._takers
    assert taker.is_alive()
    ended = threading.Thread()
    server._takers = [ended]
    checks = _count_checks(server)
    wait_for(lambda: checks() > 2)
    before = watching.signs
    wait_for(lambda: checks() > 10)
    assert watching.signs == before


# ---- Processes ---------------------------------------------------------------------------------------------------------


def environment(receiver: Receiver, watchdog_s: float) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(Path(receiver.address).absolute()), "WATCHDOG_USEC": f"{watchdog_s * 1e6:.0f}"}


@pytest.mark.slow
def test_a_server_says_when_it_is_ready_lives_and_stops(receiver: Receiver, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", environment=environment(receiver, 4.0), grace_s=2.0)
    try:
        ready = receiver.next()
        assert ready == {"READY": "1", "STATUS": f"serves {tmp_path / 'store'} on {server.address}"}
        assert receiver.next() == {"WATCHDOG": "1"}
        assert receiver.next() == {"WATCHDOG": "1"}
        assert server.terminate() == 0
        stopping = receiver.until(lambda message: "WATCHDOG" not in message)
        assert stopping == {"STOPPING": "1", "STATUS": "stops; open calls get 2 s"}
        assert receiver.waiting() == []
    finally:
        server.kill()


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_the_server_lives_on(receiver: Receiver, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", workers=2, environment=environment(receiver, 2.0), grace_s=1.0)
    try:
        assert receiver.next() == {
            "READY": "1",
            "STATUS": f"serves {tmp_path / 'store'} on {server.address}, 2 workers",
        }
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGSTOP)
        # On a machine that is busy, the other one may be killed before.
        hung = Path("/proc", children[0])
        receiver.until(lambda message: message.get("STATUS") == "2 of 2 workers serve" and not hung.exists())
        with tensorus.connect(server.address) as client:
            client.create_dataset("d")
            client.insert("d", np.arange(3), id="t")
        server.process.terminate()
        _, log = server.process.communicate(timeout=30)
        assert server.process.returncode == 0
        assert f"(process {children[0]}) has served no calls for 2 s: it hangs, and is killed" in log
    finally:
        server.kill()
