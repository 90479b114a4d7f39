"""Small tensors: many in one stream, and one by one."""

from __future__ import annotations

from contextlib import ExitStack

from common.processes import Client, run_server, tensorus_server
from common.result import TENSORS, Bars, Goal, Picture, Table, bar_of, measured_row
from common.runs import Transfer, alternate
from common.settings import Settings
from contestants import flight, minimal_small, ours, raw_grpc

__all__ = ["measure"]

KIBIBYTES = 4

GOALS = {"insert_many": 10_000, "get_many": 20_000}
"""Tensors per second in one stream."""

LEAST_INSERT = "least Python: raw grpcio, one stream, CRC32C twice, SQLite, synced"
LEAST_GET = "least Python: raw grpcio, one stream, SQLite, CRC32C three times"


def measure(settings: Settings) -> Table:
    """Return tensors of 4 KiB per second; inserts are durable."""
    many, few = ours.SMALL_COUNT, ours.ONE_BY_ONE_COUNT
    with ExitStack() as stack:
        enter = stack.enter_context
        server = enter(tensorus_server(enter(settings.folder())))
        arrow = enter(run_server(*flight.serve_command(KIBIBYTES, enter(settings.folder()))))
        grpcio = enter(run_server(*raw_grpc.SERVE))
        least = enter(run_server(*minimal_small.serve_command(enter(settings.folder()))))
        client = [enter(Client(ours.small, server.address))]
        arrow_client = [enter(Client(flight.small, arrow.address, few))]
        least_client = [enter(Client(minimal_small.transfers, least.address, many))]
        messages = [enter(Client(raw_grpc.transfers, grpcio.address, KIBIBYTES * many, (KIBIBYTES,)))]
        calls = [enter(Client(raw_grpc.transfers, grpcio.address, KIBIBYTES * few, (KIBIBYTES,)))]
        ours_of = {
            name: (Transfer(client, name, server), many)
            for name in ("insert_many", "get_many", "query, with the values", "query, headers only")
        }
        ours_of |= {name: (Transfer(client, name, server), few) for name in ("insert, one by one", "get, one by one")}
        peers = {
            LEAST_INSERT: (Transfer(least_client, "insert_many", least), many),
            LEAST_GET: (Transfer(least_client, "get_many", least), many),
            "raw grpcio, one stream of messages, sending": (Transfer(messages, "send 4", grpcio), many),
            "raw grpcio, one stream of messages": (Transfer(messages, "receive 4", grpcio), many),
            "raw grpcio, one call each, 4 KiB both ways": (Transfer(calls, "ask 4", grpcio), few),
            "Flight DoPut, only counted, one by one": (Transfer(arrow_client, "put, one by one", arrow), few),
            "Flight DoGet, one by one": (Transfer(arrow_client, "get, one by one", arrow), few),
        }
        plans = ours_of | peers
        contestants = {name: transfer for name, (transfer, _) in plans.items()}
        found = alternate(contestants, settings.repeats, settings.report)
    rows, bars = [], []
    for name, (_, count) in plans.items():
        spread = TENSORS.spread(found[name], count)
        goals = (_goal(GOALS[name], spread.median),) if name in GOALS else ()
        rows.append(measured_row(name, found[name], TENSORS, count, goals=goals))
        bars.append(bar_of(name, spread, ours=name in ours_of, goals=goals))
    title = "small tensors, 4 KiB each"
    picture = Picture(title, [Bars("", "tensors per second", bars)])
    note = (
        "Inserts are durable when they are acknowledged: in one stream, in groups; one by one, each. "
        "Of the peers, only the least in Python stores anything."
    )
    return Table(title, "", rows, picture, [note])


def _goal(limit: int, found: float) -> Goal:
    return Goal(f"≥ {limit:,} /s", f"{found:,.0f} /s", found >= limit, limit)
