"""Arrow Flight, C++ on both sides: run as a module it serves until it is ended; the functions are its client.

It holds its tensor in memory and sends it in batches of 1 MiB. What it is sent it counts, or writes to a file that it syncs.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from common.client_process import Action
from common.settings import MIB
from common.values import Array, normal
from common.work import Load, at_once, repeat
from pyarrow import flight

__all__ = ["serve_command", "sizes", "small", "streams", "transfers"]

BATCH_VALUES = MIB // 4


class Server(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """One tensor to get, and two ways to put one."""

    def __init__(self, values: Array, folder: str, certificate: tuple[bytes, bytes] | None = None) -> None:
        """Bind a free loopback port; files go below `folder`.

        Args:
            certificate: with its key, both PEM; None: without TLS.
        """
        if certificate is None:
            super().__init__("grpc://127.0.0.1:0")
        else:
            super().__init__("grpc+tls://127.0.0.1:0", tls_certificates=[certificate])
        self._batches = batches(values)
        self._folder = folder

    def do_get(self, _context: object, ticket: flight.Ticket) -> flight.RecordBatchStream:
        """Send so many batches of the tensor."""
        reader = pa.RecordBatchReader.from_batches(self._batches[0].schema, self._batches[: int(ticket.ticket)])
        return flight.RecordBatchStream(reader)

    def do_put(self, _context: object, descriptor: flight.FlightDescriptor, reader: object, _writer: object) -> None:
        """Count what comes; where the path says so, write and sync it."""
        if descriptor.path[0] == b"count":
            for chunk in reader:  # type: ignore[attr-defined]
                _ = chunk.data.nbytes
            return
        path = Path(self._folder) / uuid.uuid4().hex
        with path.open("wb") as file:
            for chunk in reader:  # type: ignore[attr-defined]
                file.write(memoryview(chunk.data.column(0).buffers()[1])[: chunk.data.num_rows * 4])
            file.flush()
            os.fdatasync(file.fileno())

    def do_action(self, _context: object, _action: object) -> list[flight.Result]:
        """Remove the files: how long that takes is not part of a put."""
        for path in Path(self._folder).iterdir():
            path.unlink()
        return []


def serve_command(kibibytes: int, folder: object, *tls: object) -> list[str]:
    """Return what Python is told in order to serve a tensor of this size.

    Args:
        tls: the files of a certificate and its key; none: without TLS.
    """
    return ["-m", "contestants.flight", str(kibibytes), str(folder), *map(str, tls)]


def transfers(address: str, mebibytes: int, *, ca: str | None = None) -> dict[str, Action]:
    """Return "get", "put, counted" and "put, file synced" of a whole tensor, "remove" of files, and "first byte".

    Args:
        ca: file of the CA of the server's certificate; None: without TLS.
    """
    if ca is None:
        client = flight.connect(f"grpc://{address}")
    else:
        client = flight.connect(f"grpc+tls://{address}", tls_root_certs=Path(ca).read_bytes())
    values = normal(mebibytes)
    return {
        "get": lambda: get(client, values.size),
        "put, counted": lambda: put(client, values, "count"),
        "put, file synced": lambda: put(client, values, "file"),
        "remove": lambda: list(client.do_action("remove")),
        "first byte": lambda: _first_byte(client, values.size),
    }


def sizes(address: str, mebibytes: Sequence[int], run_bytes: int) -> dict[str, Action]:
    """Return "get SIZE" and "put SIZE" into synced files, and "remove" of these: see `contestants.ours.sizes`."""
    client = flight.connect(f"grpc://{address}")
    values = normal(max(mebibytes))
    actions: dict[str, Action] = {"remove": lambda: list(client.do_action("remove"))}
    for size in mebibytes:
        part = values[: size * MIB // 4]
        count = max(1, run_bytes // part.nbytes)
        actions[f"get {size}"] = partial(repeat, count, partial(get, client, part.size))
        actions[f"put {size}"] = partial(repeat, count, partial(put, client, part, "file"))
    return actions


def small(address: str, count: int) -> dict[str, Action]:
    """Return "get, one by one", `count` times, of the server's tensor of 4 KiB, and "put, one by one" of one as large."""
    client = flight.connect(f"grpc://{address}")
    values = normal(1)[:1024]

    def gets() -> None:
        for _ in range(count):
            get(client, values.size)

    def puts() -> None:
        for _ in range(count):
            put(client, values, "count")

    return {"get, one by one": gets, "put, one by one": puts}


def streams(address: str, process: int, load: Load) -> dict[str, Action]:
    """Return "get COUNT", "put COUNT" into synced files, and "remove" of these: see `contestants.ours.streams`."""
    values = normal(load.mebibytes)
    clients = [flight.connect(f"grpc://{address}") for _ in load.streams_of(process)]
    pool = ThreadPoolExecutor(len(clients))
    actions: dict[str, Action] = {"remove": lambda: list(clients[0].do_action("remove"))}
    for count in load.counts:
        mine = clients[: len(load.streams_of(process, count))]
        if mine:
            gets = [partial(get, client, values.size) for client in mine]
            puts = [partial(put, client, values, "file") for client in mine]
            actions[f"get {count}"] = partial(at_once, pool, gets, load.tensors // count)
            actions[f"put {count}"] = partial(at_once, pool, puts, load.tensors // count)
    return actions


def batches(values: Array) -> list[pa.RecordBatch]:
    """Return the values as batches that share their memory."""
    return [
        pa.record_batch([pa.array(values[start : start + BATCH_VALUES])], names=["values"])
        for start in range(0, values.size, BATCH_VALUES)
    ]


def get(client: flight.FlightClient, size: int) -> Array:
    """Return the tensor, or so many values of it, in one fresh array."""
    values: Array = np.empty(size, np.float32)
    position = 0
    for chunk in client.do_get(_ticket(size)):
        part = chunk.data.column(0).to_numpy()
        values[position : position + part.size] = part
        position += part.size
    return values


def put(client: flight.FlightClient, values: Array, path: str) -> None:
    """Send the values, and wait until they have been taken."""
    parts = batches(values)
    writer, reader = client.do_put(flight.FlightDescriptor.for_path(path), parts[0].schema)
    for part in parts:
        writer.write_batch(part)
    writer.done_writing()
    reader.read()
    writer.close()


def _ticket(size: int) -> flight.Ticket:
    return flight.Ticket(str(-(-size // BATCH_VALUES)).encode())


def _first_byte(client: flight.FlightClient, size: int) -> None:
    reader = client.do_get(_ticket(size))
    reader.read_chunk()
    reader.cancel()


if __name__ == "__main__":
    held = normal(max(1, int(sys.argv[1]) // 1024))[: int(sys.argv[1]) * 256]
    files = [Path(name).read_bytes() for name in sys.argv[3:]]
    server = Server(held, sys.argv[2], (files[0], files[1]) if files else None)
    print(server.port, flush=True)
    server.serve()
