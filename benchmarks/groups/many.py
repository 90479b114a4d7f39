"""Many clients at once, on a server of one process and on one of two.

Clients are spread over up to `_processes()` processes, each with threads: a client in Python moves about 2 GB/s before its
interpreter lock is the limit, and two processors cannot run more than four of them anyway. Every stream is a client of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from common.processes import Action, Client, Server, options_of_serve, run_server, tensorus_server
from common.result import GIGABYTES, Bar, Bars, Picture, Row, Table, measured_row
from common.runs import Transfer, alternate
from common.settings import KIB, MIB, Settings
from common.work import Load
from contestants import flight, ours

__all__ = ["measure"]

STREAMS = (1, 4, 16)
TENSORS = 16
"""Moved in a run, by all streams together."""

WORKERS = (1, 2)


@dataclass(frozen=True)
class _Key:
    """What a row is about."""

    verb: str
    count: int
    server: str

    @property
    def without_verb(self) -> str:
        return f"{self.count} stream{'s' if self.count > 1 else ''}, {self.server}"

    def __str__(self) -> str:
        return f"{self.verb}, {self.without_verb}"


NOTES = (
    f"Every run moves {TENSORS} tensors, shared among the streams. Inserts are durable.",
    "Memory is of all processes of a side together, beyond one tensor for each stream.",
)


def measure(settings: Settings) -> Table:
    """Return GB/s of all streams together, stored as they are."""
    load = Load(STREAMS, _processes(), TENSORS, max(1, settings.mebibytes // 32))
    notes: list[str] = []
    with ExitStack() as stack:
        transfers: dict[_Key, Transfer] = {}
        for name, server in _servers(settings, stack, notes).items():
            clients = _clients(ours.streams, server, load, stack)
            for verb in ("get", "insert"):
                transfers |= {
                    _Key(verb, count, name): Transfer(clients[:count], f"{verb} {count}", server) for count in STREAMS
                }
        transfers |= _of_flight(load, settings, stack)
        contestants = {str(key): transfer for key, transfer in transfers.items()}
        found = alternate(contestants, settings.repeats, settings.report)
    amount = TENSORS * load.mebibytes * MIB / 1e9
    rows: list[Row] = []
    bars: dict[str, list[Bar]] = {}
    for key in sorted(transfers, key=lambda key: (key.verb, key.count)):
        measured = found[str(key)]
        rows.append(measured_row(str(key), measured, GIGABYTES, amount))
        bar = Bar(key.without_verb, GIGABYTES.spread(measured, amount), "Flight" not in key.server)
        bars.setdefault(key.verb, []).append(bar)
    title = f"many clients at once, {TENSORS} tensors of {load.mebibytes} MiB"
    panels = [Bars(verb, "GB/s, all streams together", of_verb) for verb, of_verb in bars.items()]
    all_notes = (*NOTES, f"Streams are in up to {load.processes} processes.", *notes)
    return Table(title, "", rows, Picture(title, panels), all_notes)


def _servers(settings: Settings, stack: ExitStack, notes: list[str]) -> dict[str, Server]:
    servers: dict[str, Server] = {}
    has_workers = "--workers" in options_of_serve()
    for workers in WORKERS:
        name = f"Tensorus, {workers} worker{'s' if workers > 1 else ''}"
        if workers > 1 and not has_workers:
            notes.append(f"skipped: {name}: `tensorus serve` has no option --workers")
            continue
        options = ("--workers", str(workers)) if has_workers else ()
        servers[name] = stack.enter_context(tensorus_server(stack.enter_context(settings.folder()), *options))
    return servers


def _of_flight(load: Load, settings: Settings, stack: ExitStack) -> dict[_Key, Transfer]:
    folder = stack.enter_context(settings.folder())
    server = stack.enter_context(run_server(*flight.serve_command(load.mebibytes * KIB, folder)))
    clients = _clients(flight.streams, server, load, stack)
    gets = {_Key("get", count, "Flight DoGet"): Transfer(clients[:count], f"get {count}", server) for count in STREAMS}
    return gets | {
        _Key("insert", count, "Flight DoPut, file synced"): Transfer(clients[:count], f"put {count}", server, "remove")
        for count in STREAMS
    }


def _clients(make: Callable[..., dict[str, Action]], server: Server, load: Load, stack: ExitStack) -> list[Client]:
    return [stack.enter_context(Client(make, server.address, process, load)) for process in range(load.processes)]


def _processes() -> int:
    """Return how many processes clients are spread over: four, more where there are many processors."""
    return min(max(STREAMS), max(4, (os.cpu_count() or 1) // 2))
