"""Throughput by size of the tensor, from 1 MiB to 8 GiB."""

from __future__ import annotations

from contextlib import ExitStack

import psutil
from common.processes import Client, run_server, tensorus_server
from common.result import GIGABYTES, Line, Lines, Picture, Row, Table, measured_row
from common.runs import Measured, Transfer, alternate
from common.settings import GIB, KIB, MIB, Settings
from contestants import flight, ours

__all__ = ["measure"]

SIZES = (1, 8, 64, 512, 2 * KIB, 8 * KIB)
"""MiB of one tensor."""

RUN_MEBIBYTES = 64
"""Small tensors are moved one by one until it is so much."""

ONCE_ABOVE_MEBIBYTES = 512
"""Larger ones are moved once, and without Flight: they take much disk and memory."""

OURS = ("insert", "get")
FLIGHT = ("Flight DoPut, file synced", "Flight DoGet")

NOTES = (
    f"One stream, uncompressed, inserts durable; small tensors one by one, until it is {RUN_MEBIBYTES} MiB.",
    f"Above {ONCE_ABOVE_MEBIBYTES} MiB: one run.",
)


def measure(settings: Settings) -> Table:
    """Return GB/s by size of the tensor."""
    notes: list[str] = []
    sizes = _sizes(settings, notes)
    again = [size for size in sizes if size <= ONCE_ABOVE_MEBIBYTES]
    once = [size for size in sizes if size > ONCE_ABOVE_MEBIBYTES]
    with ExitStack() as stack:
        settings.report(f"inserting tensors of up to {sizes[-1]:,} MiB")
        mine = _ours(settings, sizes, stack)
        peers = _flight(settings, again, stack)
        repeated = {name: mine[name] for verb in OURS for name in [_name(verb, size) for size in again]}
        found = alternate(repeated | peers, settings.repeats, settings.report)
        large = {name: transfer for name, transfer in mine.items() if name not in repeated}
        found |= alternate(large, 1, settings.report, warm_ups=0)
    rows: list[Row] = []
    lines: list[Line] = []
    for verb in (*OURS, *FLIGHT):
        shown = sizes if verb in OURS else again
        rows += [_row(verb, size, found) for size in shown]
        spreads = [GIGABYTES.spread(found[_name(verb, size)], _gigabytes(size)) for size in shown]
        lines.append(Line(verb, shown, spreads, ours=verb in OURS))
    title = "speed by size of the tensor, uncompressed, one stream"
    panel = Lines("", "MiB of one tensor", "GB/s", lines)
    all_notes = (*NOTES[: 2 if once else 1], *notes)
    return Table(title, "", rows, Picture(title, [panel]), all_notes)


def _ours(settings: Settings, sizes: list[int], stack: ExitStack) -> dict[str, Transfer]:
    server = stack.enter_context(tensorus_server(stack.enter_context(settings.folder())))
    client = [stack.enter_context(Client(ours.sizes, server.address, sizes, "none", RUN_MEBIBYTES * MIB))]
    return {_name(verb, size): Transfer(client, f"{verb} {size}", server) for verb in OURS for size in sizes}


def _flight(settings: Settings, sizes: list[int], stack: ExitStack) -> dict[str, Transfer]:
    folder = stack.enter_context(settings.folder())
    server = stack.enter_context(run_server(*flight.serve_command(sizes[-1] * KIB, folder)))
    client = [stack.enter_context(Client(flight.sizes, server.address, sizes, RUN_MEBIBYTES * MIB))]
    put, get = FLIGHT
    puts = {_name(put, size): Transfer(client, f"put {size}", server, "remove") for size in sizes}
    return puts | {_name(get, size): Transfer(client, f"get {size}", server) for size in sizes}


def _sizes(settings: Settings, notes: list[str]) -> list[int]:
    """Return the sizes that this run, this disk and this memory allow."""
    largest = SIZES[-1] if settings.full else 2 * settings.mebibytes
    sizes = []
    for size in (size for size in SIZES if size <= largest):
        missing = _missing(settings, size) if size > ONCE_ABOVE_MEBIBYTES else None
        if missing is None:
            sizes.append(size)
        else:
            notes.append(f"skipped: a tensor of {size:,} MiB: {missing}")
    return sizes


def _missing(settings: Settings, mebibytes: int) -> str | None:
    """Say what a large tensor lacks.

    The client holds the tensor that it sends and the one that it receives; the disk has the one that is kept, and another.
    """
    need_bytes, free_bytes = 2.5 * mebibytes * MIB, psutil.virtual_memory().available
    if free_bytes < need_bytes:
        return f"it needs {need_bytes / GIB:.0f} GiB of memory, {free_bytes / GIB:.1f} GiB are free"
    return settings.missing_space(3 * mebibytes * MIB)


def _name(verb: str, size: int) -> str:
    return f"{verb}, {size:,} MiB"


def _row(verb: str, size: int, found: dict[str, Measured]) -> Row:
    name = _name(verb, size)
    return measured_row(name, found[name], GIGABYTES, _gigabytes(size))


def _gigabytes(size: int) -> float:
    """Return what a run moves of tensors of so many MiB."""
    return max(size, RUN_MEBIBYTES // size * size) * MIB / 1e9
