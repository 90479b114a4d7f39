"""Whether an insert costs more as its dataset grows."""

from __future__ import annotations

from contextlib import ExitStack

from common.processes import Client, tensorus_server
from common.result import MILLISECONDS, Goal, Line, Lines, Picture, Row, Table, measured_row
from common.runs import Transfer, alternate
from common.settings import Settings
from common.stores import DATASET, filled_store
from contestants import ours

__all__ = ["measure"]

TENSORS = (100, 1_000, 10_000, 100_000, 1_000_000)

PROBES = 50
"""Inserts and gets of 4 KiB, one by one, in a run."""

FLAT = 1.5
"""An insert counts as flat up to so many times what it takes among the fewest tensors."""

VERBS = ("insert", "get")

NOTES = (
    "One by one, each insert synced; each size of the dataset in a store of its own, on a server of its own.",
    f"Flat: up to {FLAT:g} x the time among the fewest; medians wander by a third on a machine that others use.",
)


def measure(settings: Settings) -> Table:
    """Return milliseconds of one durable insert and of one get of 4 KiB, by size of the dataset."""
    counts = [count for count in TENSORS if count <= settings.tensors_max]
    stores = {count: filled_store(settings, count) for count in counts}
    with ExitStack() as stack:
        contestants: dict[str, Transfer] = {}
        for count, folder in stores.items():
            server = stack.enter_context(tensorus_server(folder))
            client = [stack.enter_context(Client(ours.probes, server.address, DATASET, PROBES))]
            contestants[_name("insert", count)] = Transfer(client, "insert", server, "delete")
            contestants[_name("get", count)] = Transfer(client, "get", server)
        found = alternate(contestants, settings.repeats, settings.report)
    spreads = {name: MILLISECONDS.spread(measured, PROBES) for name, measured in found.items()}
    few = spreads[_name("insert", counts[0])].median
    rows: list[Row] = []
    for verb in VERBS:
        for count in counts:
            name = _name(verb, count)
            goals = (_flat(spreads[name].median / few),) if verb == "insert" else ()
            rows.append(measured_row(name, found[name], MILLISECONDS, PROBES, goals=goals))
    title = "cost of one insert and one get of 4 KiB, as the dataset grows"
    lines = [Line(verb, counts, [spreads[_name(verb, count)] for count in counts]) for verb in VERBS]
    mark_name = f"goal: at most {FLAT:g} x an insert among {counts[0]}"
    panel = Lines("", "tensors in the dataset", "milliseconds", lines, FLAT * few, mark_name)
    return Table(title, "", rows, Picture(title, [panel]), NOTES)


def _name(verb: str, count: int) -> str:
    return f"{verb}, among {count:,} tensors"


def _flat(ratio: float) -> Goal:
    return Goal(f"flat: ≤ {FLAT:g} x", f"{ratio:.2f} x", ratio <= FLAT)
