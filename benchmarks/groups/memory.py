"""Memory growth of server and client while one large tensor passes through, in fresh processes."""

from __future__ import annotations

from common.processes import Client, run_server, tensorus_server
from common.result import GIGABYTES, Bar, Bars, Picture, Row, Spread, Table, at_most, measured_row
from common.runs import Measured, Transfer, alternate
from common.settings import KIB, MIB, Settings
from contestants import flight, ours

__all__ = ["measure"]

PRESETS = ("none", "lossless", "maximum")

SMALL_PRESET = "lossless"
"""Measured with a tensor of a quarter of the size, too."""

LIMIT_MIB = 64
"""Of the server for a stream, and of the client beyond the tensor."""

NOTES = (
    "Peaks of resident memory over what the process had before: of the server; of the client, beyond the tensor itself.",
    "Every row has a server and a client of its own, which have done nothing before. One run: speeds are of cold processes.",
)


def measure(settings: Settings) -> Table:
    """Return peaks for tensors of two sizes; one run each, since a second one finds memory that the first one took."""
    small, large = settings.mebibytes, 4 * settings.mebibytes
    rows: list[Row] = []
    for preset, size in ((SMALL_PRESET, small), *((preset, large) for preset in PRESETS)):
        for verb, measured in _ours(settings, size, preset).items():
            rows.append(_row(f"{verb}, preset {preset}, {size:,} MiB", measured, size, is_ours=True))
    for verb, measured in _flight(settings, large).items():
        rows.append(_row(f"Flight {verb}, {large:,} MiB", measured, large, is_ours=False))
    title = "memory while one large tensor passes through"
    panels = [_bars(rows, "server"), _bars(rows, "client", with_names=False)]
    return Table(title, "", rows, Picture(title, panels, columns=2), NOTES)


def _ours(settings: Settings, mebibytes: int, preset: str) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    with settings.folder() as folder:
        for verb in ("insert", "get"):
            with (
                tensorus_server(folder) as server,
                Client(ours.once, server.address, mebibytes, preset) as client,
            ):
                transfer = Transfer([client], verb, server)
                found |= alternate({verb: transfer}, 1, settings.report, warm_ups=0)
    return found


def _flight(settings: Settings, mebibytes: int) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    with settings.folder() as folder:
        for verb, action in (("DoPut, file synced", "put, file synced"), ("DoGet", "get")):
            with (
                run_server(*flight.serve_command(mebibytes * KIB, folder)) as server,
                Client(flight.transfers, server.address, mebibytes) as client,
            ):
                transfer = Transfer([client], action, server)
                found |= alternate({verb: transfer}, 1, settings.report, warm_ups=0)
    return found


def _row(name: str, measured: Measured, mebibytes: int, *, is_ours: bool) -> Row:
    row = measured_row(name, measured, GIGABYTES, mebibytes * MIB / 1e9)
    figures = {column: figure for column, figure in row.figures.items() if column not in {"from", "to"}}
    if not is_ours:
        return Row(name, figures)
    goals = [
        at_most(LIMIT_MIB, grown, f"MiB {who}")
        for who, grown in (("server", measured.server_mib), ("client", measured.client_mib))
        if grown is not None
    ]
    return Row(name, figures, tuple(goals))


def _bars(rows: list[Row], who: str, *, with_names: bool = True) -> Bars:
    bars = []
    for row in rows:
        grown = row.figures[f"{who} MiB"]
        assert isinstance(grown, float)
        name = row.name if with_names else ""
        bars.append(Bar(name, Spread(grown, grown, grown), bool(row.goals), (LIMIT_MIB,) if row.goals else ()))
    return Bars(who, "MiB", bars)
