"""Throughput of grpcio and Python sockets by message size: the reason why messages have about 1 MiB."""

from __future__ import annotations

from contextlib import ExitStack

from common.processes import Client, run_server
from common.result import GIGABYTES, Line, Lines, Picture, Table, measured_row
from common.runs import Transfer, alternate
from common.settings import KIB, MIB, Settings
from contestants import raw_grpc, sockets

__all__ = ["measure"]

MESSAGE_KIBIBYTES = (64, 256, 512, 1024, 2048, 4096)


def measure(settings: Settings) -> Table:
    """Return GB/s of raw messages in each direction; nothing is stored or checked."""
    kibibytes = settings.mebibytes * KIB
    with ExitStack() as stack:
        enter = stack.enter_context
        transfers = {}
        for peer, module in (("raw grpcio", raw_grpc), ("Python sockets", sockets)):
            server = enter(run_server(*module.SERVE))
            client = [enter(Client(module.transfers, server.address, kibibytes, MESSAGE_KIBIBYTES))]
            for verb in ("receive", "send"):
                for size in MESSAGE_KIBIBYTES:
                    transfers[peer, verb, size] = Transfer(client, f"{verb} {size}", server)
        names = {key: f"{key[0]}, {key[1]}, {key[2]} KiB" for key in transfers}
        contestants = {names[key]: transfer for key, transfer in transfers.items()}
        found = alternate(contestants, settings.repeats, settings.report)
    amount = settings.mebibytes * MIB / 1e9
    rows = [measured_row(name, found[name], GIGABYTES, amount) for name in names.values()]
    panels = [
        Lines(
            title,
            "KiB in a message",
            "GB/s",
            [
                Line(
                    peer,
                    MESSAGE_KIBIBYTES,
                    [GIGABYTES.spread(found[names[peer, verb, size]], amount) for size in MESSAGE_KIBIBYTES],
                    ours=peer == "raw grpcio",
                )
                for peer in ("raw grpcio", "Python sockets")
            ],
        )
        for verb, title in (("receive", "receiving"), ("send", "sending"))
    ]
    title = "raw transport, by size of message"
    note = "Nothing is stored or checked; what is received goes into a fresh array."
    return Table(title, "", rows, Picture(title, panels, columns=2), [note])
