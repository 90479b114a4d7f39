"""What tests of interrupted transfers share: clients behind a proxy, and what must not be left over."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import tensorus
from support.arrays import random_bits
from support.proxy import FaultProxy
from tensorus_server.processes.server import Server

KIB = 1024
MIB = 1024 * KIB

SENT_TWICE_MAX = 32 * MIB
"""Of an item and an interruption, as the contract says."""

FRAMING_SHARE = 0.001
"""Of what travels: HTTP/2 puts 9 bytes before every 16 KiB, and gRPC and the message's head come on top."""

FRAMING_BYTES = 64 * KIB
"""Of a connection beside its payload: greetings, windows, short calls."""

PRESETS = ["none", "fast", "lossless", "balanced", "maximum"]

RETRY_S = 60.0
WAIT_S = 60.0
"""For what happens in a moment: a test that waits as long fails."""


@contextmanager
def through(proxy: FaultProxy, *, retry_timeout_s: float = RETRY_S) -> Iterator[tensorus.Client]:
    """Connect a client that has heard of its server, on a connection that is broken on purpose from its next byte on."""
    chosen, proxy.faults = proxy.faults, lambda _: ()
    with tensorus.connect(proxy.address, retry_timeout_s=retry_timeout_s) as client:
        client.datasets()
        first = proxy.connections
        proxy.faults = lambda number: chosen(number - first)
        proxy.cut()
        yield client


def leftovers(server: Server) -> list[str]:
    """Return the payloads that are on their way in."""
    store = server._config.engine.data_dir
    return [str(path) for folder in ("uploads", "tmp") for path in (store / folder).rglob("*") if path.is_file()]


def assert_settled(server: Server) -> None:
    """Fail unless nothing of any insert is left soon: neither a session, nor a thread, nor a file."""
    sessions = server.sessions

    def left() -> list[Any]:
        threads = [thread.name for thread in threading.enumerate() if thread.name == "tensorus-insert"]
        return [*sessions._holders, *sessions._latest, *threads, *leftovers(server)]

    wait_until(lambda: not left())


def wait_until(holds: Callable[[], bool]) -> None:
    """Fail unless it soon does."""
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def sent_bytes_max(size: int, interruptions: int) -> float:
    """Return what a client may send for a tensor of this size."""
    payload = size + interruptions * SENT_TWICE_MAX
    return payload * (1 + FRAMING_SHARE) + (interruptions + 1) * FRAMING_BYTES


def mixed(count: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return tensors from nothing to 3 MiB, most of them small."""
    source = random.Random(seed)
    sizes = [0, 1, *(int(2 ** source.uniform(0, 21.58)) for _ in range(count - 2))]
    return {f"t{number}": random_bits("uint8", (size,), seed=number) for number, size in enumerate(sizes)}
