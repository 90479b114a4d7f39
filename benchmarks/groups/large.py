"""Large tensors in and out, beside Arrow Flight."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from pyarrow import flight as arrow

import tensorus
from groups import flight
from groups.common import MIB, alternate, process, rates, tensorus_server, warm_up_memory

PRESETS = ("none", "lossless", "balanced", "int8_only")


def measure(*, mebibytes: int, repeats: int) -> list[dict[str, Any]]:
    """Return GB/s of float32 N(0, 0.02), one stream; ratios to Flight's DoGet, and to its DoPut into a synced file."""
    values = np.random.default_rng(0).standard_normal(mebibytes * 2**18, dtype=np.float32) * np.float32(0.02)
    warm_up_memory(mebibytes * (repeats + 2) * len(PRESETS))
    flight_command = ["-m", "groups.flight", str(mebibytes)]
    with tensorus_server() as (address, _), process(flight_command) as (port, _), tensorus.connect(address) as client:
        peer = arrow.connect(f"grpc://127.0.0.1:{int(port)}")
        numbers = itertools.count()
        for preset in PRESETS:
            client.create_dataset(preset, preset=preset)
            client.insert(preset, values, id="kept")

        def insert(preset: str) -> None:
            name = str(next(numbers))
            client.insert(preset, values, id=name)
            client.delete(preset, name)

        contestants: dict[str, Callable[[], object]] = {
            "Flight DoPut, counted": lambda: flight.put(peer, values, "count"),
            "Flight DoPut, file synced": lambda: flight.put(peer, values, "file"),
            "Flight DoGet": lambda: flight.get(peer, values.size),
        }
        for preset in PRESETS:
            contestants[f"insert {preset}, durable"] = partial(insert, preset)
            contestants[f"get {preset}"] = partial(client.get, preset, "kept", as_="numpy")
        seconds = alternate(contestants, repeats)
    amount = mebibytes * MIB / 1e9
    put_rate = rates(seconds["Flight DoPut, file synced"], amount)[0]
    get_rate = rates(seconds["Flight DoGet"], amount)[0]
    rows = []
    for name, runs in sorted(seconds.items()):
        median, smallest, largest = rates(runs, amount)
        peer_rate = get_rate if "get" in name.lower() else put_rate
        rows.append({"": name, "GB/s": median, "from": smallest, "to": largest, "x Flight": median / peer_rate})
    return rows
