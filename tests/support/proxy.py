"""A network that breaks on purpose: a TCP proxy between a client and a server, on a thread of its own.

Each connection has its own faults, which a function of the connection's number chooses: a list that a test wrote, or
`random_faults` by a seed. A fault waits until so many bytes have passed one way, and then

    reset        ends the connection as a crash or a firewall does: RST both ways, and what is under way is lost
    finish       ends it in order: FIN both ways
    half_close   FIN the way the bytes go; the other way stays open until the peer closes it
    pause        keeps the bytes back for a while
    throttle     lets through at most so many bytes in a second from then on

What was read from one side counts as sent by it, whether or not the other side got it.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

_BLOCK_BYTES = 64 * 1024
_STOP_TIMEOUT_S = 10
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing the socket sends RST."""


@dataclass(frozen=True)
class Fault:
    """What happens to one connection, once."""

    kind: Literal["reset", "finish", "half_close", "pause", "throttle"]
    after_bytes: int
    """Of this connection, in the direction of `upward`."""
    upward: bool = True
    """Whether bytes from the client to the server are meant, or the others."""
    seconds: float = 0.0
    """Of a pause."""
    bytes_per_s: int = 0
    """Of a throttle."""


Faults = Callable[[int], Sequence[Fault]]
"""From the number of a connection, from 0, to what happens to it."""


def cuts(*after_bytes: int, kind: Literal["reset", "finish", "half_close"] = "reset", upward: bool = True) -> Faults:
    """Cut the first connection after so many bytes, the second after the next, and let all others be."""
    return lambda number: [Fault(kind, after_bytes[number], upward)] if number < len(after_bytes) else []


def random_faults(seed: int, *, mean_bytes: int, pause_s: float = 0.05) -> Faults:
    """Cut each connection somewhere, either way after `mean_bytes` on average; some pause or crawl before."""

    def choose(number: int) -> Sequence[Fault]:
        source = random.Random(f"{seed}-{number}")
        faults = []
        for upward in (True, False):
            cut_bytes = int(2 * mean_bytes * source.random())
            faults.append(Fault(source.choice(("reset", "reset", "finish", "half_close")), cut_bytes, upward))
            before = int(cut_bytes * source.random())
            if source.random() < 0.2:
                faults.append(Fault("pause", before, upward, seconds=pause_s * source.random()))
            if source.random() < 0.1:
                faults.append(Fault("throttle", before, upward, bytes_per_s=8 * 1024 * 1024))
        return faults

    return choose


@dataclass(eq=False)
class _Connection:
    """Two sockets and what will happen to them."""

    client: asyncio.StreamWriter
    faults: list[Fault]
    server: asyncio.StreamWriter | None = None
    rates: dict[bool, int] = field(default_factory=dict)

    def due(self, passed_bytes: int, *, upward: bool) -> Fault | None:
        """Remove and return a fault whose time has come."""
        for fault in self.faults:
            if fault.upward == upward and fault.after_bytes <= passed_bytes:
                self.faults.remove(fault)
                return fault
        return None

    def room(self, passed_bytes: int, *, upward: bool) -> int:
        """Return how many bytes may pass before the next fault."""
        left = (fault.after_bytes - passed_bytes for fault in self.faults if fault.upward == upward)
        return min((_BLOCK_BYTES, *left))

    def end(self, *, reset: bool) -> None:
        """Close both sockets."""
        for writer in (self.client, self.server):
            if writer is None:
                continue
            if reset:
                # The peer may have closed it already.
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                writer.transport.abort()
            else:
                writer.close()

    async def closed(self) -> None:
        """Wait until both sockets are closed, and what was sent before a FIN has gone; not for long."""
        for writer in (self.client, self.server):
            if writer is not None:
                try:
                    with suppress(OSError, TimeoutError):
                        await asyncio.wait_for(writer.wait_closed(), 1)
                finally:
                    writer.transport.abort()


class FaultProxy:
    """See the module's description. A context manager; what it counts may be read at any time."""

    def __init__(self, target: str, faults: Faults = lambda _: ()) -> None:
        """Forward to the server at `target`, such as "127.0.0.1:7733"; it need not be there yet, or always."""
        self.target = target
        """Of the connections to come; may be changed."""
        self.faults = faults
        """Of the connections to come; may be changed."""
        self.address = ""
        self.upward_bytes = 0
        self.downward_bytes = 0
        self.connections = 0
        self.cuts = 0
        """Connections that a fault, or `cut`, ended."""
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="fault-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_STOP_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_TIMEOUT_S)
        assert not self._thread.is_alive()
        self._loop.close()

    def cut(self, *, after_s: float = 0.0) -> None:
        """Reset every connection that is open, soon."""
        self._loop.call_soon_threadsafe(self._loop.call_later, after_s, self._cut_all)

    def _cut_all(self) -> None:
        for connection in list(self._open):
            self._cut(connection, reset=True)

    def _cut(self, connection: _Connection, *, reset: bool) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self.cuts += 1
            connection.end(reset=reset)

    async def _run(self) -> None:
        self._stopping = stopping = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if stopping.is_set():
                writer.transport.abort()
                return
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_BLOCK_BYTES)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await stopping.wait()
        server.close()
        # Whoever is still connected is not waited for.
        for connection in list(self._open):
            connection.end(reset=True)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        # What was being accepted when the server closed is only now told apart, and then takes a turn to be gone.
        for _ in range(3):
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, list(self.faults(self.connections)))
        self.connections += 1
        self._open.add(connection)
        try:
            host, _, port = self.target.rpartition(":")
            answers, connection.server = await asyncio.open_connection(host, int(port), limit=_BLOCK_BYTES)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, reader, connection.server, upward=True))
                pumps.create_task(self._pump(connection, answers, writer, upward=False))
            connection.end(reset=False)
        except* OSError:
            # A side has gone, and the other shall know; or a fault was in time to tell both.
            if connection in self._open:
                connection.end(reset=True)
        finally:
            self._open.discard(connection)
            await connection.closed()

    async def _pump(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upward: bool
    ) -> None:
        """Pass bytes one way until the source ends, or a fault does."""
        passed = 0
        while True:
            while (fault := connection.due(passed, upward=upward)) is not None:
                if fault.kind in {"reset", "finish"}:
                    self._cut(connection, reset=fault.kind == "reset")
                    raise ConnectionAbortedError
                if fault.kind == "half_close":
                    self.cuts += 1
                    sink.write_eof()
                    return
                if fault.kind == "pause":
                    await asyncio.sleep(fault.seconds)
                else:
                    connection.rates[upward] = fault.bytes_per_s
            data = await source.read(connection.room(passed, upward=upward))
            if not data:
                if sink.can_write_eof() and not sink.is_closing():
                    sink.write_eof()
                return
            passed += len(data)
            if upward:
                self.upward_bytes += len(data)
            else:
                self.downward_bytes += len(data)
            sink.write(data)
            await sink.drain()
            if rate := connection.rates.get(upward):
                await asyncio.sleep(len(data) / rate)
