"""Inserts and gets of large tensors under every preset, compared with Arrow Flight, raw grpcio, sockets, and the disk."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from common.processes import Client, run_server, tensorus_server
from common.result import GIGABYTES, Bar, Bars, Figure, Goal, Picture, Row, Table, at_least, bar_of, measured_row
from common.runs import Transfer, alternate
from common.settings import KIB, MEMORY_FOLDER, MIB, Settings
from contestants import disk, flight, minimal, ours, raw_grpc, sockets

from tensorus_codecs.presets import PRESETS

__all__ = ["measure"]

SLOW_PRESETS = ("archive",)
"""Measured on an eighth of the tensor: they are slow by intent."""

BFLOAT16_PRESETS = ("none", "lossless")

DISK_SHARE = 10
"""How many times the size of the tensor all inserts of one turn take on the disk, at most. Measured: 8."""

DO_GET, DO_PUT, DO_PUT_SYNCED = "Flight DoGet", "Flight DoPut, only counted", "Flight DoPut, file synced"
FLOOR = "write and fdatasync of the same bytes, nothing else"
LEAST_GET = "least Python: raw grpcio, file read, CRC32C twice"
LEAST_INT8 = "least Python: the same, a quarter as int8, made float32"
LEAST_PUT = "least Python: raw grpcio, CRC32C twice, file synced"
IN_MEMORY = "insert, preset none, store in memory: the disk taken out"

NOTES = (
    "GB of canonical bytes: of what the caller has, however few travel. Every insert is synced before it is acknowledged.",
    "Every get is checked, and goes into a fresh array; so does what peers receive, unchecked.",
    "Memory: peak over what the process had before the run, whatever earlier rows have left there; group memory starts afresh.",
    f"x Flight: what comes out against {DO_GET}, what goes in against {DO_PUT_SYNCED}.",
)


@dataclass(frozen=True)
class _Entry:
    """A row to be."""

    transfer: Transfer
    mebibytes: int
    is_ours: bool = False

    @property
    def gigabytes(self) -> float:
        return self.mebibytes * MIB / 1e9


def measure(settings: Settings) -> Table:
    """Return GB/s of canonical bytes, one stream."""
    missing = settings.missing_space(settings.mebibytes * MIB * DISK_SHARE * (settings.repeats + 2))
    if missing is not None:
        raise SystemExit(f"large: {missing}; take a smaller --mebibytes or --repeats, or another --scratch")
    notes: list[str] = []
    with ExitStack() as stack:
        peers_out, peers_in = _peers(settings, stack)
        out, into = _ours(settings, stack)
        out = peers_out | out
        into = peers_in | into | _in_memory(settings, stack, notes)
        contestants = {name: entry.transfer for name, entry in (out | into).items()}
        found = alternate(contestants, settings.repeats, settings.report)
    spreads = {name: GIGABYTES.spread(found[name], entry.gigabytes) for name, entry in (out | into).items()}
    rates = {name: spread.median for name, spread in spreads.items()}
    rows: list[Row] = []
    panels: list[Bars] = []
    for title, entries, peer in (("out of the store", out, DO_GET), ("into the store", into, DO_PUT_SYNCED)):
        bars: list[Bar] = []
        for name, entry in entries.items():
            goals = _goals(name, rates)
            label = name if entry.mebibytes == settings.mebibytes else f"{name} ({entry.mebibytes} MiB)"
            more: dict[str, Figure] = {"x Flight": rates[name] / rates[peer]}
            rows.append(measured_row(label, found[name], GIGABYTES, entry.gigabytes, goals=goals, more=more))
            bars.append(bar_of(label, spreads[name], ours=entry.is_ours, goals=goals))
        panels.append(Bars(title, "GB/s", bars))
    title = f"large tensors in and out, {settings.mebibytes} MiB, one stream"
    heading = "float32 N(0, 0.02), unless it says otherwise"
    return Table(title, heading, rows, Picture(title, panels), (*NOTES, *notes))


def _goals(name: str, rates: dict[str, float]) -> tuple[Goal, ...]:
    """Return the goals of a row: a share of what another one reached."""
    shares = {
        _name("get", "none"): ((1.0, DO_GET, "Flight DoGet"),),
        _name("get", "fp16_only"): ((2.0, DO_GET, "Flight DoGet"),),
        _name("get", "int8_only"): ((2.0, DO_GET, "Flight DoGet"),),
        _bfloat16_name("get", "lossless"): ((1.0, _bfloat16_name("get", "none"), "preset none"),),
        _name("insert", "none"): ((0.8, DO_PUT, "DoPut, counted"), (1.0, DO_PUT_SYNCED, "DoPut, synced")),
        IN_MEMORY: ((0.8, DO_PUT, "DoPut, counted"),),
    }
    return tuple(at_least(share, rates[name], rates[peer], shown) for share, peer, shown in shares.get(name, ()))


def _peers(settings: Settings, stack: ExitStack) -> tuple[dict[str, _Entry], dict[str, _Entry]]:
    """Return what peers send to their clients, and what they take from them."""
    enter, size = stack.enter_context, settings.mebibytes
    arrow = enter(run_server(*flight.serve_command(size * KIB, enter(settings.folder()))))
    grpcio = enter(run_server(*raw_grpc.SERVE))
    least = enter(run_server(*minimal.serve_command(enter(settings.folder()))))
    socket = enter(run_server(*sockets.SERVE))
    arrow_client = [enter(Client(flight.transfers, arrow.address, size))]
    grpcio_client = [enter(Client(raw_grpc.transfers, grpcio.address, size * KIB, (KIB,)))]
    least_client = [enter(Client(minimal.transfers, least.address, size))]
    socket_client = [enter(Client(sockets.transfers, socket.address, size * KIB, (KIB,)))]
    disk_client = [enter(Client(disk.writes, str(enter(settings.folder())), size))]
    out = {
        "Python sockets": Transfer(socket_client, f"receive {KIB}", socket),
        "raw grpcio, 1 MiB messages": Transfer(grpcio_client, f"receive {KIB}", grpcio),
        LEAST_GET: Transfer(least_client, "get", least),
        LEAST_INT8: Transfer(least_client, "get int8", least),
        DO_GET: Transfer(arrow_client, "get", arrow),
    }
    into = {
        "Python sockets, sending": Transfer(socket_client, f"send {KIB}", socket),
        "raw grpcio, 1 MiB messages, sending": Transfer(grpcio_client, f"send {KIB}", grpcio),
        FLOOR: Transfer(disk_client, "write", after="remove"),
        LEAST_PUT: Transfer(least_client, "put", least, "remove"),
        DO_PUT: Transfer(arrow_client, "put, counted", arrow),
        DO_PUT_SYNCED: Transfer(arrow_client, "put, file synced", arrow, "remove"),
    }
    return (
        {name: _Entry(transfer, size) for name, transfer in out.items()},
        {name: _Entry(transfer, size) for name, transfer in into.items()},
    )


def _ours(settings: Settings, stack: ExitStack) -> tuple[dict[str, _Entry], dict[str, _Entry]]:
    """Return gets and inserts with every preset, and those of bfloat16 weights."""
    enter, size = stack.enter_context, settings.mebibytes
    server = enter(tensorus_server(enter(settings.folder())))
    sizes = {preset: max(1, size // 8) if preset in SLOW_PRESETS else size for preset in PRESETS}
    client = [enter(Client(ours.transfers, server.address, sizes))]
    bfloat16_client = [enter(Client(ours.bfloat16_transfers, server.address, size, BFLOAT16_PRESETS))]

    def entries(verb: str) -> dict[str, _Entry]:
        floats = {
            _name(verb, preset): _Entry(Transfer(client, f"{verb} {preset}", server), sizes[preset], is_ours=True)
            for preset in PRESETS
        }
        return floats | {
            _bfloat16_name(verb, preset): _Entry(
                Transfer(bfloat16_client, f"{verb} {preset}", server), size, is_ours=True
            )
            for preset in BFLOAT16_PRESETS
        }

    return entries("get"), entries("insert")


def _in_memory(settings: Settings, stack: ExitStack, notes: list[str]) -> dict[str, _Entry]:
    """Return the insert into a store that is in memory, where that is possible; note where it is not."""
    missing = (
        settings.missing_space(settings.mebibytes * MIB * (settings.repeats + 4), within=MEMORY_FOLDER)
        if MEMORY_FOLDER.is_dir()
        else f"there is no {MEMORY_FOLDER}"
    )
    if missing is not None:
        notes.append(f"skipped: {IN_MEMORY}: {missing}")
        return {}
    folder = stack.enter_context(settings.folder(within=MEMORY_FOLDER))
    server = stack.enter_context(tensorus_server(folder, "--reserve-bytes", "0"))
    client = [stack.enter_context(Client(ours.transfers, server.address, {"none": settings.mebibytes}))]
    return {IN_MEMORY: _Entry(Transfer(client, "insert none", server), settings.mebibytes, is_ours=True)}


def _name(verb: str, preset: str) -> str:
    return f"{verb}, preset {preset}"


def _bfloat16_name(verb: str, preset: str) -> str:
    return f"{verb}, preset {preset}, bfloat16 weights"
