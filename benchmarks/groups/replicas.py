"""A store beyond one machine, PostgreSQL and SeaweedFS, through one replica and directly, beside obstore alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from common.backends import CREDENTIALS, ObjectStore, object_store, postgres
from common.processes import Client, run_server, tensorus_server
from common.result import (
    GIGABYTES,
    Bars,
    Figure,
    Goal,
    Picture,
    Row,
    Spread,
    Table,
    at_least,
    bar_of,
    measured_row,
)
from common.runs import Contestant, Measured, Transfer, alternate
from common.settings import KIB, MIB, Settings
from contestants import replicas

from tensorus_server.limits import INLINE_BYTES_MAX

__all__ = ["measure"]

PRESETS = ("none", "lossless")

MEBIBYTES_MAX = 64
"""Of the large tensor."""

COUNTED = 4 * replicas.SMALL
"""Tensors of 4 KiB whose requests are counted."""
MILLION = 1_000_000
PUTS_MAX = 1_000
"""Of a million tensors of 4 KiB."""

PUT, GET, DIRECT = "obstore alone, put", "obstore alone, get", "obstore alone, get as a direct read"
PUT_MANY, GET_MANY = f"{PUT} {replicas.MANY} x 1 MiB", f"{GET} {replicas.MANY} x 1 MiB"
LOCAL = "get, none, from a local folder"

INSERT_SHARE, GET_SHARE, DIRECT_SHARE, CACHED_SHARE = 0.5, 0.6, 0.9, 0.9
"""Of what the same bytes take by obstore alone; of cache hits, from a local folder."""

NOTES = (
    "GB of canonical bytes, also of obstore alone. Clients, replicas, PostgreSQL and SeaweedFS share this machine.",
    "obstore alone has as many requests at once as Tensorus: puts of 8 MiB, gets of 4 MiB, of 8 as a direct read, of 1 MiB.",
    "What obstore alone reads goes into a fresh array, unchecked.",
    "Store: SeaweedFS. Objects: stored by one run, one PUT each.",
    f"Tensors of up to {INLINE_BYTES_MAX // KIB} KiB are in the catalogue, and take no object.",
)


@dataclass(frozen=True)
class _Entry:
    """A row to be."""

    transfer: Transfer
    nbytes: int
    peer: str | None = None
    """Which row it is compared with; None: none."""
    share: float = 0.0
    """Of that row's rate, at least."""
    tensors: int = 1
    is_ours: bool = True


def measure(settings: Settings) -> Table:
    """Return GB/s of canonical bytes, one stream, and how many objects the tensors take."""
    size = min(MEBIBYTES_MAX, settings.mebibytes)
    with ExitStack() as stack:
        store = stack.enter_context(object_store(stack.enter_context(settings.folder()) / "weed"))
        entries, counted = _entries(settings, stack, store, size)
        contestants: dict[str, Contestant] = {name: entry.transfer for name, entry in entries.items()}
        found = alternate(contestants, settings.repeats, settings.report)
        settings.report("counting objects")
        inserts = {name: entry.transfer for name, entry in entries.items() if name.startswith("insert")}
        objects = {name: _objects(store, transfer) for name, transfer in inserts.items()}
        puts = _objects(store, counted)
    spreads = {name: GIGABYTES.spread(found[name], entry.nbytes / 1e9) for name, entry in entries.items()}
    rows, bars = [], []
    for name, entry in entries.items():
        goals = _goals(name, entry, spreads)
        row = measured_row(name, found[name], GIGABYTES, entry.nbytes / 1e9, goals=goals)
        more = _more(entry, found[name], spreads[name], objects.get(name))
        rows.append(Row(name, _without_memory(row.figures) | more, goals))
        bars.append(bar_of(name, spreads[name], ours=entry.is_ours, goals=goals))
    rows.append(_million(puts))
    title = f"a store beyond one machine; large: {size} MiB"
    return Table(title, "float32 N(0, 0.02)", rows, Picture(title, [Bars("", "GB/s", bars)]), NOTES)


def _entries(settings: Settings, stack: ExitStack, store: ObjectStore, size: int) -> tuple[dict[str, _Entry], Transfer]:
    """Return the rows, and what inserts the tensors whose requests are counted."""
    enter = stack.enter_context
    options = ("-m", "tensorus", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(enter(settings.folder())))
    shared = ("--catalogue", enter(postgres()), "--chunks", store.url)
    cache = ("--cache-dir", str(enter(settings.folder())), "--cache-size", "1GiB")
    replica = enter(run_server(*options, *shared, environment=CREDENTIALS))
    cached = enter(run_server(*options, *shared, *cache, environment=CREDENTIALS))
    local = enter(tensorus_server(enter(settings.folder())))
    # One after the other, since the first one makes what all of them read.
    through = enter(Client(replicas.clients, replica.address, size, PRESETS, direct_reads=False))
    direct = enter(Client(replicas.clients, replica.address, size, PRESETS, direct_reads=True))
    hits = enter(Client(replicas.clients, cached.address, size, PRESETS, direct_reads=False))
    folder = enter(Client(replicas.clients, local.address, size, ("none",), direct_reads=False))
    alone = enter(Client(replicas.obstore_alone, store.endpoint, size))

    ours = partial(Transfer, [through], server=replica, store_cpu_s=store.cpu_s)
    peer = partial(Transfer, [alone], store_cpu_s=store.cpu_s)
    large, many, small = size * MIB, replicas.MANY * MIB, replicas.SMALL * 4 * KIB
    # Each peer is followed by what is compared with it, so that they run under the same load.
    shown = f"{replicas.MANY} x 1 MiB"
    entries = {PUT: _Entry(peer("put", after="remove"), large, is_ours=False)}
    for preset in PRESETS:
        entries[f"insert, {preset}"] = _Entry(ours(f"insert large {preset}"), large, PUT, INSERT_SHARE)
    entries[PUT_MANY] = _Entry(peer("put many", after="remove"), many, tensors=replicas.MANY, is_ours=False)
    for preset in PRESETS:
        entries[f"insert, {preset}, {shown}"] = _Entry(
            ours(f"insert many {preset}"), many, PUT_MANY, INSERT_SHARE, replicas.MANY
        )
    entries[f"insert, none, {replicas.SMALL:,} x 4 KiB"] = _Entry(ours("insert small"), small, tensors=replicas.SMALL)
    entries[GET] = _Entry(peer("get"), large, is_ours=False)
    for preset in PRESETS:
        entries[f"get, {preset}"] = _Entry(ours(f"get large {preset}"), large, GET, GET_SHARE)
    entries[GET_MANY] = _Entry(peer("get many"), many, tensors=replicas.MANY, is_ours=False)
    for preset in PRESETS:
        entries[f"get, {preset}, {shown}"] = _Entry(
            ours(f"get many {preset}"), many, GET_MANY, GET_SHARE, replicas.MANY
        )
    entries[DIRECT] = _Entry(peer("direct"), large, is_ours=False)
    for preset in PRESETS:
        transfer = Transfer([direct], f"get large {preset}", replica, store_cpu_s=store.cpu_s)
        entries[f"direct read, {preset}"] = _Entry(transfer, large, DIRECT, DIRECT_SHARE)
    entries[LOCAL] = _Entry(Transfer([folder], "get large none", local), large, is_ours=False)
    hit = Transfer([hits], "get large none", cached, store_cpu_s=store.cpu_s)
    entries["get, none, cache hits"] = _Entry(hit, large, LOCAL, CACHED_SHARE)
    return entries, ours("insert counted")


def _objects(store: ObjectStore, transfer: Transfer) -> int:
    """Return how many objects an insert stores. Others may be deleted meanwhile."""
    before = store.names()
    transfer.run()
    return len(store.names() - before)


def _goals(name: str, entry: _Entry, spreads: Mapping[str, Spread]) -> tuple[Goal, ...]:
    if entry.peer is None:
        return ()
    return (at_least(entry.share, spreads[name].median, spreads[entry.peer].median, entry.peer),)


def _without_memory(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    return {column: figure for column, figure in figures.items() if not column.endswith("MiB")}


def _more(entry: _Entry, measured: Measured, spread: Spread, objects: int | None) -> dict[str, Figure]:
    """Return what other groups do not show."""
    store_cpu_s = measured.store_cpu_s
    return {
        "store CPU s/GB": None if store_cpu_s is None else store_cpu_s / entry.nbytes * 1e9,
        "tensors/s": None if entry.tensors == 1 else spread.median * 1e9 / entry.nbytes * entry.tensors,
        "objects": None if objects is None else f"{objects}",
    }


def _million(puts: int) -> Row:
    """Return what the counted tensors say of a million."""
    of_million = puts * MILLION / COUNTED
    goal = Goal(f"< {PUTS_MAX:,} PUTs of {MILLION:,}", f"{of_million:,.0f}, extrapolated", of_million < PUTS_MAX)
    return Row(f"insert, none, {COUNTED:,} x 4 KiB, once", {"objects": f"{puts}"}, (goal,))
