"""Replicas: servers in processes of their own that share a catalogue in PostgreSQL and an object store.

Each has a proxy in front, whose address stays the same when the replica is killed and started again, and which counts bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from support.proxy import FaultProxy
from support.servers import ServerProcess

_START_S = 60.0


class Cluster:
    """A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        catalogue: str,
        chunks: Sequence[str],
        environment: Mapping[str, str],
        cache: bool = False,
    ) -> None:
        """Describe them.

        Args:
            folder: for what they may write locally.
            chunks: the object store's URL for each; they may have other ways to it.
            environment: the object store's credentials.
            cache: whether each has a cache on disk.
        """
        self._folder = folder
        self._options = [["--catalogue", catalogue, "--chunks", url] for url in chunks]
        self._environment = environment
        self._cache = cache
        self._running: list[ServerProcess | None] = [None] * len(chunks)
        self._turn = threading.Lock()
        self._stack = ExitStack()
        self.proxies: list[FaultProxy] = []

    def __enter__(self) -> Self:
        for number in range(len(self._running)):
            self.start(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            for server in self._running:
                if server is not None:
                    server.kill()
            self._running = []
        self._stack.close()

    @property
    def address(self) -> str:
        """What a client connects to."""
        return ",".join(proxy.address for proxy in self.proxies)

    def start(self, number: int) -> None:
        """Start a replica that does not run."""
        options = [*self._options[number]]
        if self._cache:
            options += ["--cache-dir", str(self._folder / f"cache-{number}"), "--cache-size", "256MiB"]
        server = self._started(number, options)
        with self._turn:
            if not self._running:
                server.kill()
                return
            self._running[number] = server
            if number == len(self.proxies):
                self.proxies.append(self._stack.enter_context(FaultProxy(server.address)))
            else:
                self.proxies[number].target = server.address

    def _started(self, number: int, options: Sequence[str]) -> ServerProcess:
        """Start it, again and again while its database or its object store is away, as whoever supervises it does."""
        give_up_s = time.monotonic() + _START_S
        while True:
            try:
                return ServerProcess(
                    self._folder / f"unused-{number}", grace_s=2.0, options=options, environment=self._environment
                )
            except RuntimeError:
                if time.monotonic() > give_up_s:
                    raise

    def kill(self, number: int) -> None:
        """End a replica as a crash would."""
        with self._turn:
            server, self._running[number] = self._running[number], None
        if server is not None:
            server.kill()
