"""What TLS, tokens and metrics cost: small calls and large tensors, beside Arrow Flight with and without TLS."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from common.processes import Client, run_server, tensorus_server
from common.result import (
    GIGABYTES,
    TENSORS,
    Bars,
    Goal,
    Picture,
    Row,
    Spread,
    Table,
    at_least,
    bar_of,
    measured_row,
)
from common.runs import Contestant, Transfer, alternate
from common.settings import KIB, MIB, Settings
from contestants import flight, ours

import tensorus
from tensorus_server.processes.self_signed import make_self_signed

__all__ = ["measure"]

MEBIBYTES_MAX = 256
"""Of the large tensor."""

SHARE, FREE_SHARE = 0.95, 0.97
"""What is left of small calls with tokens, and of large tensors: nothing measurable, within what these runs can tell."""

METRICS_SHARE = 0.98

NOTES = (
    "Small: 4 KiB each, one call after the other; inserts are durable.",
    "Token: the server asks every caller who it is (--auth). Metrics: it asks nobody, and counts (--metrics-listen).",
    "Flight holds its tensor in memory; what it is put, it writes to a file that it syncs.",
)

PLAIN, TOKEN, TLS, METRICS = "", ", token", ", TLS and token", ", metrics"


def measure(settings: Settings) -> Table:
    """Return tensors per second of small calls, and GB/s of one large tensor."""
    size = min(MEBIBYTES_MAX, settings.mebibytes)
    count = ours.ONE_BY_ONE_COUNT
    with ExitStack() as stack:
        large, small = _contestants(settings, stack, size)
        found = alternate(small | large, settings.repeats, settings.report)
    spreads = {name: TENSORS.spread(found[name], count) for name in small}
    spreads |= {name: GIGABYTES.spread(found[name], size * MIB / 1e9) for name in large}
    rows: list[Row] = []
    panels: list[Bars] = []
    for unit, names, per_run, title in (
        (TENSORS, small, float(count), "tensors per second"),
        (GIGABYTES, large, size * MIB / 1e9, "GB/s"),
    ):
        group = []
        for name in names:
            goals = _goals(name, spreads)
            rows.append(measured_row(name, found[name], unit, per_run, goals=goals))
            group.append(bar_of(name, spreads[name], ours="Flight" not in name, goals=goals))
        panels.append(Bars("small tensors" if unit is TENSORS else f"{size} MiB", title, group))
    title = f"TLS, tokens and metrics; large: {size} MiB"
    return Table(title, "float32 N(0, 0.02), preset none", rows, Picture(title, panels), NOTES)


def _contestants(
    settings: Settings, stack: ExitStack, size: int
) -> tuple[dict[str, Contestant], dict[str, Contestant]]:
    """Return what moves large tensors, and what moves small ones."""
    enter = stack.enter_context
    folder: Path = enter(settings.folder())
    cert, key = folder / "cert.pem", folder / "key.pem"
    for file, content in zip((cert, key), make_self_signed(("localhost", "127.0.0.1"), 2), strict=True):
        file.write_bytes(content)
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    stores = {kind: enter(settings.folder()) for kind in (PLAIN, TOKEN, TLS, METRICS)}
    secrets = {kind: _token(stores[kind]) for kind in (TOKEN, TLS)}
    options = {
        PLAIN: (),
        TOKEN: ("--auth",),
        TLS: ("--auth", *tls),
        METRICS: ("--metrics-listen", "127.0.0.1:0"),
    }
    large: dict[str, Contestant] = {}
    small: dict[str, Contestant] = {}
    for kind, store in stores.items():
        server = enter(tensorus_server(store, *options[kind]))
        connection = {} if kind not in secrets else {"token": secrets[kind]}
        address = server.address
        if kind == TLS:
            connection["ca"] = str(cert)
            address = f"grpcs://{address}"
        one = [enter(Client(ours.small, address, **connection))]
        many = [enter(Client(ours.transfers, address, {"none": size}, **connection))]
        for name in ("insert, one by one", "get, one by one"):
            small[f"{name}{kind}"] = Transfer(one, name, server)
        for name in ("insert", "get"):
            large[f"{name}{kind}"] = Transfer(many, f"{name} none", server)
    for kind, files in ((PLAIN, ()), (", TLS", (cert, key))):
        command = flight.serve_command(size * MIB // KIB, enter(settings.folder()), *files)
        arrow = enter(run_server(*command))
        make = partial(Client, flight.transfers, arrow.address, size)
        peer = [enter(make() if not files else make(ca=str(cert)))]
        large[f"Flight DoPut, file synced{kind}"] = Transfer(peer, "put, file synced", arrow, after="remove")
        large[f"Flight DoGet{kind}"] = Transfer(peer, "get", arrow)
    return large, small


def _token(folder: Path) -> str:
    with tensorus.open(folder) as store:
        made = store.access.create_token("bench")
        store.access.grant(made.token.principal, "admin", "*")
        return made.secret


def _goals(name: str, spreads: dict[str, Spread]) -> tuple[Goal, ...]:
    for kind, share in ((TOKEN, SHARE if "one by one" in name else FREE_SHARE), (METRICS, METRICS_SHARE)):
        if name.endswith(kind) and "TLS" not in name:
            plain = name.removesuffix(kind)
            return (at_least(share, spreads[name].median, spreads[plain].median, plain),)
    return ()
