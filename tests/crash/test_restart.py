"""A server that goes away and comes back while one large tensor goes in: it arrives exact, once, and little is sent twice.

The server is a process of its own, killed, or told to stop, at places that the client's progress chooses; another one
takes its port and its store. What the client sends is counted by a proxy before the port. The long form sends 2 GiB and ends
the server ten times.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.interrupted import FRAMING_BYTES, FRAMING_SHARE, MIB, RETRY_S, SENT_TWICE_MAX, WAIT_S
from support.payload_files import payload_bytes
from support.proxy import FaultProxy
from support.servers import ServerProcess
from tensorus.types import Progress

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

pytestmark = pytest.mark.crash

FORMS = [
    pytest.param(96 * MIB, 2, id="96 MiB"),
    pytest.param(2048 * MIB, 10, id="2 GiB", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]
"""Bytes of the tensor, and how often its server ends."""


class Restarts:
    """A server that is ended whenever the client has come a certain way, and started again meanwhile."""

    def __init__(
        self, folder: Path, pool: ThreadPoolExecutor, how: Literal["SIGKILL", "SIGTERM"], places: Sequence[int]
    ) -> None:
        self._folder = folder
        self._pool = pool
        self._how = how
        self._places = list(places)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._running: Future[ServerProcess] = pool.submit(self._start)
        self.interruptions = 0

    @property
    def running(self) -> ServerProcess:
        return self._running.result(WAIT_S)

    def on_progress(self, progress: Progress) -> None:
        self.interruptions = max(self.interruptions, progress.interruptions)
        if self._places and progress.done_bytes >= self._places[0]:
            self._places.pop(0)
            self._running = self._pool.submit(self._restart, self.running)

    @property
    def is_over(self) -> bool:
        return not self._places

    def _start(self) -> ServerProcess:
        # With so short a grace, a transfer is not over when it ends.
        return ServerProcess(self._folder, port=self._port, grace_s=0.1)

    def _restart(self, server: ServerProcess) -> ServerProcess:
        if self._how == "SIGKILL":
            server.kill()
        else:
            assert server.terminate() == 0
        return self._start()


@contextmanager
def restarting(folder: Path, how: Literal["SIGKILL", "SIGTERM"], places: Sequence[int]) -> Iterator[Restarts]:
    with ThreadPoolExecutor(1) as pool:
        restarts = Restarts(folder, pool, how, places)
        try:
            yield restarts
        finally:
            restarts.running.kill()


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize(("size", "ends"), FORMS)
def test_a_large_tensor_outlives_its_servers(
    tmp_path: Path, how: Literal["SIGKILL", "SIGTERM"], size: int, ends: int
) -> None:
    tensor = random_bits("uint8", (size,), seed=size)
    folder = tmp_path / "store"
    with (
        restarting(folder, how, [size * number // (ends + 1) for number in range(1, ends + 1)]) as restarts,
        FaultProxy(restarts.running.address) as proxy,
        tensorus.connect(proxy.address, tune_allocator=False, retry_timeout_s=RETRY_S) as client,
    ):
        client.create_dataset("d", preset="none")
        before = proxy.upward_bytes
        info = client.insert("d", tensor, id="t", on_progress=restarts.on_progress)
        sent = proxy.upward_bytes - before
        twice = sent - size
        _log.info(
            "%s: %.1f MiB were sent for %d MiB, %.1f MiB twice for each of %d ends, %d interruptions",
            how,
            sent / MIB,
            size // MIB,
            twice / MIB / ends,
            ends,
            restarts.interruptions,
        )
        assert restarts.is_over
        assert restarts.interruptions >= ends
        framing = sent * FRAMING_SHARE + proxy.connections * FRAMING_BYTES
        assert twice <= ends * SENT_TWICE_MAX + framing
        assert [found.generation for found in client.list("d")] == [info.generation]
        assert_same_bits(client.get("d", "t", as_="numpy"), tensor)
    assert [payload_bytes(path) for path in (folder / "chunks").glob("*/*")] == [info.stored_bytes]
    assert list((folder / "uploads").iterdir()) == []
