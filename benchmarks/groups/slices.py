"""Latency of reading parts of tensors, and of the first byte of a whole one."""

from __future__ import annotations

from contextlib import ExitStack

from common.processes import Client, run_server, tensorus_server
from common.result import MILLISECONDS, Bars, Picture, Table, at_most, bar_of, measured_row
from common.runs import Transfer, alternate
from common.settings import GIB, KIB, Settings
from contestants import flight, ours, parts

__all__ = ["measure"]

FULL_MEBIBYTES = 10 * KIB
FULL_FREE_BYTES = 25 * GIB
"""What must be free for a tensor of 10 GiB."""

LIMIT_MS = 20
"""Of the first byte, and of 1 MiB."""

PLACES = "local, no server"

NOTES = (
    f"A part: one of {ours.SLICES}, one by one, each at its own place, into a fresh array. Page cache warm, if it all fits.",
    "First byte: from the call to the first message of the whole tensor, which is then given up.",
)


def measure(settings: Settings) -> Table:
    """Return milliseconds for one part."""
    notes: list[str] = []
    big = 4 * settings.mebibytes
    if settings.full:
        missing = settings.missing_space(FULL_FREE_BYTES)
        if missing is None:
            big = FULL_MEBIBYTES
        else:
            notes.append(f"skipped: the tensor of 10 GiB: {missing}; {big:,} MiB instead")
    names = {"big": f"{_size(big)}, int8, as it is", "floats": f"{_size(settings.mebibytes)}, float32, lossless"}
    with ExitStack() as stack:
        enter = stack.enter_context
        server = enter(tensorus_server(enter(settings.folder())))
        arrow = enter(run_server(*flight.serve_command(settings.mebibytes * KIB, enter(settings.folder()))))
        settings.report(f"inserting {_size(big)}")
        client = [enter(Client(ours.slices, server.address, big, settings.mebibytes))]
        arrow_client = [enter(Client(flight.transfers, arrow.address, settings.mebibytes))]
        local_client = [enter(Client(parts.readers, str(enter(settings.folder())), settings.mebibytes))]
        mine = {action: Transfer(client, action, server) for action in ours.SLICES_OF}
        contestants = {_name(action, names): transfer for action, transfer in mine.items()}
        peer = f"Flight, first byte: {_size(settings.mebibytes)}, from memory"
        contestants[peer] = Transfer(arrow_client, "first byte", arrow)
        for size in parts.SIZES:
            for library in parts.LIBRARIES:
                action = f"{library}, {size}"
                contestants[f"{action}: {_size(settings.mebibytes)}, {PLACES}"] = Transfer(local_client, action)
        found = alternate(contestants, settings.repeats, settings.report)
    rows, bars = [], []
    for name, measured in found.items():
        count = 1 if "first byte" in name else ours.SLICES
        spread = MILLISECONDS.spread(measured, count)
        is_ours = name in {_name(action, names) for action in mine}
        has_goal = is_ours and ("first byte" in name or name.startswith("1 MiB:"))
        goals = (at_most(LIMIT_MS, spread.median, "ms"),) if has_goal else ()
        rows.append(measured_row(name, measured, MILLISECONDS, count, goals=goals))
        bars.append(bar_of(name, spread, ours=is_ours, goals=goals))
    title = f"parts of a tensor of {_size(big)}, and its first byte"
    return Table(title, "", rows, Picture(title, [Bars("", "milliseconds", bars)]), (*NOTES, *notes))


def _name(action: str, names: dict[str, str]) -> str:
    tensor, _, part = action.partition(", ")
    return f"{part}: {names[tensor]}"


def _size(mebibytes: int) -> str:
    return f"{mebibytes // KIB} GiB" if mebibytes % KIB == 0 and mebibytes else f"{mebibytes} MiB"
