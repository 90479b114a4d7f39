"""Servers for tests: in this process, where faults can be put into them, and as processes, where they can be killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from support.stores import few_shards
from tensorus_server.config import EngineConfig, ServerConfig
from tensorus_server.metrics.board import Board
from tensorus_server.processes.server import Server

START_TIMEOUT_S = 30


def engine_config(folder: Path | str, **settings: Any) -> EngineConfig:
    """Return a configuration that asks no free space of the machine that runs the tests."""
    return EngineConfig(Path(folder), **{"reserve_bytes": 0, "reserve_share": 0.0, **settings})


@contextmanager
def running_server(
    folder: Path,
    *,
    streams_max: int = 64,
    memory_budget_bytes: int = 1024**3,
    board: Board | None = None,
    **settings: Any,
) -> Iterator[Server]:
    """Run a server on a free loopback port in this process, on a store of few folders.

    Args:
        board: for the values of its metrics.
        settings: of `ServerConfig` where it has such a field, otherwise of `EngineConfig`.
    """
    names = {field.name for field in fields(ServerConfig)}
    of_engine = {name: value for name, value in settings.items() if name not in names}
    of_server = {"listen": "127.0.0.1:0", "grace_s": 1.0, **{n: v for n, v in settings.items() if n in names}}
    config = ServerConfig(
        engine_config(folder, **of_engine),
        streams_max=streams_max,
        memory_budget_bytes=memory_budget_bytes,
        **of_server,
    )
    with few_shards():
        server = Server(config, board=board)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class ServerProcess:
    """A `tensorus serve` of its own, on a loopback port unless a test says otherwise."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        grace_s: float = 30.0,
        workers: int = 1,
        program: Sequence[str] = ("-m", "tensorus"),
        options: Sequence[str] = (),
        descriptors_max: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and wait until it serves.

        Args:
            port: 0: any free one.
            program: what Python runs as the command line.
            options: more of them, as of the command line.
            descriptors_max: its hard limit.
            environment: variables that are added to this process's.
        """
        command = [sys.executable, *program, "serve", "--reserve-bytes", "0", "--grace", str(grace_s), *options]
        if descriptors_max is not None:
            command = ["sh", "-c", f'ulimit -n {descriptors_max}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(folder), "--listen", f"{host}:{port}", "--workers", str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdout is not None
        self.said = line = self.process.stdout.readline()
        """What it prints when it serves."""
        found = re.search(r" on (\S+?)(?:,|\. Ctrl-C)", line)
        if found is None:
            self.process.kill()
            raise RuntimeError(f"the server did not start: {line!r} {self.process.communicate()[1]}")
        self.address = found.group(1)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.communicate()

    def terminate(self) -> int:
        """End it as an operator would, and return its exit code."""
        self.process.terminate()
        self.process.communicate(timeout=START_TIMEOUT_S)
        return self.process.returncode


@contextmanager
def black_hole() -> Iterator[str]:
    """Yield an address that answers nothing: its queue of connections is full, so the kernel drops what comes."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"
