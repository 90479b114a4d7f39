"""Stores beyond one machine: clients of replicas, and obstore alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from common.backends import obstore_store
from common.client_process import Action
from common.settings import KIB, MIB
from common.values import Array, normal

import tensorus

__all__ = ["MANY", "PEER_IN_FLIGHT", "SMALL", "clients", "obstore_alone"]

MANY = 64
"""Tensors of 1 MiB in a run: they are stored in packs."""

SMALL = 5000
"""Tensors of 4 KiB in a run."""

PEER_IN_FLIGHT = {"put": 2, "get": 4, "direct": 8}
"""Requests of obstore alone that are on their way at once, as many as Tensorus has: two segments of a payload, 16 MiB ahead in
GETs of 4 MiB, and the threads of a direct read."""

_PUT_BYTES = 8 * MIB
_GET_BYTES = {"get": 4 * MIB, "direct": 8 * MIB}


def clients(address: str, mebibytes: int, presets: Iterable[str], *, direct_reads: bool) -> dict[str, Action]:
    """Return "insert KIND PRESET" and "get KIND PRESET" for KIND large, many and, without a codec, small.

    Whoever comes later than another client of the store finds what is read there already.
    """
    client = tensorus.connect(address, direct_reads=direct_reads)
    actions: dict[str, Action] = {}
    values = normal(mebibytes)
    megabytes = normal(1)
    for preset in presets:
        client.create_dataset(preset, preset=preset, exist_ok=True)
        for kind, part, count in (("large", values, 1), ("many", megabytes, MANY)):
            kept = [f"{kind}-{number}" for number in range(count)]
            known = {info.id for info in client.list(preset)}
            client.insert_many(preset, ((name, part) for name in kept if name not in known))
            actions[f"insert {kind} {preset}"] = partial(_insert, client, preset, part, count)
            actions[f"get {kind} {preset}"] = partial(_get, client, preset, kept)
    client.create_dataset("small", preset="none", exist_ok=True)
    numbers = itertools.count()
    tiny = megabytes[: 4 * KIB // 4]

    def small(count: int) -> None:
        client.insert_many("small", ((str(next(numbers)), tiny) for _ in range(count)))

    return actions | {"insert small": partial(small, SMALL), "insert counted": partial(small, 4 * SMALL)}


def obstore_alone(endpoint: str, mebibytes: int) -> dict[str, Action]:
    """Return "put", "get" and "direct" for large values, "put many" and "get many" for values of 1 MiB, and "remove".

    What is read goes into a fresh array, unchecked. Values of 1 MiB are written 8 together, and read one by one.
    """
    import obstore  # noqa: PLC0415 - an extra

    store = obstore_store(endpoint)
    values = memoryview(normal(mebibytes)).cast("B")
    megabytes = np.concatenate([normal(1)] * MANY).view(np.uint8).data
    numbers = itertools.count()
    written: list[str] = []
    pools = {kind: ThreadPoolExecutor(count) for kind, count in PEER_IN_FLIGHT.items()}

    def put(data: memoryview, folder: str) -> None:
        names = [f"{folder}/{next(numbers)}" for _ in range(0, data.nbytes, _PUT_BYTES)]
        written.extend(names)
        parts = [data[start : start + _PUT_BYTES] for start in range(0, data.nbytes, _PUT_BYTES)]
        list(pools["put"].map(lambda name, part: obstore.put(store, name, part, use_multipart=False), names, parts))

    def kept(data: memoryview, folder: str) -> list[str]:
        for at in range(0, data.nbytes, _PUT_BYTES):
            name = f"{folder}/{at // _PUT_BYTES}"
            obstore.put(store, name, data[at : at + _PUT_BYTES], use_multipart=False)
        return [f"{folder}/{number}" for number in range(-(-data.nbytes // _PUT_BYTES))]

    def fetch(result: Array, names: list[str], length: int, at: int) -> None:
        name, start = names[at // _PUT_BYTES], at % _PUT_BYTES
        found = obstore.get_range(store, name, start=start, length=length)
        result[at : at + length] = np.frombuffer(found, np.uint8)

    def get(names: list[str], nbytes: int, kind: str) -> Array:
        result = np.empty(nbytes, np.uint8)
        size = _GET_BYTES[kind]
        work = [(min(size, nbytes - at), at) for at in range(0, nbytes, size)]
        list(pools[kind].map(lambda part: fetch(result, names, *part), work))
        return result

    def get_many(names: list[str]) -> list[Array]:
        def one(number: int) -> Array:
            name, start = names[number * MIB // _PUT_BYTES], number * MIB % _PUT_BYTES
            return np.frombuffer(obstore.get_range(store, name, start=start, length=MIB), np.uint8).copy()

        return list(pools["get"].map(one, range(MANY)))

    def remove() -> None:
        obstore.delete(store, written)
        written.clear()

    large, many = kept(values, "peer-large"), kept(megabytes, "peer-many")
    return {
        "put": partial(put, values, "peer-new"),
        "get": partial(get, large, values.nbytes, "get"),
        "direct": partial(get, large, values.nbytes, "direct"),
        "put many": partial(put, megabytes, "peer-new"),
        "get many": partial(get_many, many),
        "remove": remove,
    }


def _insert(client: tensorus.Client, dataset: str, values: Array, count: int) -> None:
    if count == 1:
        client.insert(dataset, values)
    else:
        client.insert_many(dataset, itertools.repeat(values, count))


def _get(client: tensorus.Client, dataset: str, names: list[str]) -> object:
    if len(names) == 1:
        return client.get(dataset, names[0], as_="numpy")
    return [record.tensor for record in client.get_many(dataset, names, as_="numpy")]
