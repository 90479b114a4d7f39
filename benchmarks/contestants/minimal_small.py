"""Minimal inserts and gets of many small tensors in Python, as a lower bound for ours. Run as a module, it is the server.

Raw bytes over grpcio in messages of about 1 MiB, each of many tensors; one table of SQLite with a row for each, synced in
groups as large as ours; the CRC32C of each on both sides. Nothing is validated, hashed, summed up or indexed but the id, and
there are no chunks, no metadata and no resumption.

    message   count, then id bytes, header bytes, payload bytes and CRC32C of each tensor, then id, header and payload of each
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import grpc
import numpy as np
from common.client_process import Action
from common.settings import KIB, MIB
from common.values import Array, normal
from crc32c import crc32c

from tensorus._allocator import tune_allocator

__all__ = ["serve_command", "transfers"]

OPTIONS = (("grpc.max_receive_message_length", 4 * MIB), ("grpc.max_send_message_length", 4 * MIB))

SHAPE = (32, 32)
"""Of the tensors, float32: 4 KiB."""

GROUP_MAX = 512
"""Tensors of one commit, as ours."""

PAGE = 64
"""Rows that one statement looks up, as ours."""

ROWS_AT_ONCE = (64, 1)
"""Rows of one statement that inserts, as ours."""

COUNT = struct.Struct("<I")
SIZES = struct.Struct("<HHII")

Entry: TypeAlias = tuple[bytes, bytes, Any]
"""Id, header, and the payload's buffer."""


def serve_command(folder: object) -> list[str]:
    """Return what Python is told in order to serve a store in this folder."""
    return ["-m", "contestants.minimal_small", str(folder)]


def transfers(address: str, count: int) -> dict[str, Action]:
    """Return "insert_many" and "get_many" of so many tensors of 4 KiB, each in one call."""
    tune_allocator()
    channel = grpc.insecure_channel(address, OPTIONS)
    # `Any`: grpcio's types do not know raw bytes.
    insert: Any = channel.stream_stream("/minimal/insert")
    get: Any = channel.unary_stream("/minimal/get")
    values = normal(1)[: 4 * KIB // 4].reshape(SHAPE)
    header = json.dumps({"dtype": values.dtype.str, "shape": values.shape}).encode()
    numbers = itertools.count()

    def insert_many(names: Iterable[str]) -> None:
        entries = ((name.encode(), header, memoryview(values).cast("B")) for name in names)
        acknowledged = sum(map(int, insert(_messages(entries))))
        assert acknowledged == count, acknowledged

    kept = [f"kept-{number}" for number in range(count)]
    insert_many(kept)
    wish = json.dumps(kept).encode()
    return {
        "insert_many": lambda: insert_many(str(next(numbers)) for _ in range(count)),
        "get_many": lambda: sum(1 for message in get(wish) for _ in _arrays(message)),
    }


def _arrays(message: bytes) -> Iterator[Array]:
    """Yield each tensor of a message as an array of its own."""
    for _, header, payload in _entries(message):
        fields = json.loads(header)
        array: Array = np.empty(fields["shape"], fields["dtype"])
        memoryview(array).cast("B")[:] = payload
        yield array


def _messages(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield messages of about 1 MiB of payloads."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if size + len(entry[2]) > MIB:
            yield _message(group)
            group, size = [], 0
        group.append(entry)
        size += len(entry[2])
    yield _message(group)


def _message(entries: Sequence[Entry]) -> bytes:
    sizes = [SIZES.pack(len(name), len(header), len(payload), crc32c(payload)) for name, header, payload in entries]
    return b"".join((COUNT.pack(len(entries)), *sizes, *chain.from_iterable(entries)))


def _entries(message: bytes) -> Iterator[Entry]:
    """Yield the tensors of a message, whose payloads are as they were sent."""
    view = memoryview(message)
    (count,) = COUNT.unpack_from(message)
    position = COUNT.size + count * SIZES.size
    for name_bytes, header_bytes, payload_bytes, expected in SIZES.iter_unpack(view[COUNT.size : position]):
        header_at = position + name_bytes
        payload_at = header_at + header_bytes
        end = payload_at + payload_bytes
        payload = view[payload_at:end]
        if crc32c(payload) != expected:
            raise ValueError("a tensor was damaged on its way")
        yield message[position:header_at], message[header_at:payload_at], payload
        position = end


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "tensors.db")
        connection = self._connect()
        for statement in (
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE tensor (id TEXT PRIMARY KEY, header BLOB NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)",
        ):
            connection.execute(statement).fetchall()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handlers: dict[str, Callable[[], Any]] = {
            "/minimal/insert": lambda: grpc.stream_stream_rpc_method_handler(self._insert),
            "/minimal/get": lambda: grpc.unary_stream_rpc_method_handler(self._get),
        }
        return handlers[details.method]()

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self._path)
        connection.execute("PRAGMA synchronous = FULL").fetchall()
        # The log is copied every 16 MiB, as ours.
        connection.execute("PRAGMA wal_autocheckpoint = 4096").fetchall()
        return connection

    def _insert(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        """Commit tensors in groups, and say how many after each commit."""
        connection = self._connect()
        rows: list[tuple[Any, ...]] = []
        for message in messages:
            rows += ((name.decode(), header, crc32c(data), data) for name, header, data in _entries(message))
            if len(rows) >= GROUP_MAX:
                yield _commit(connection, rows)
                rows = []
        yield _commit(connection, rows)
        connection.close()

    def _get(self, wish: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        names = json.loads(wish)
        connection = self._connect()
        statement = (
            "SELECT t.id, t.header, t.crc, t.payload "
            "FROM json_each(?) wanted CROSS JOIN tensor t ON t.id = wanted.value"
        )

        def entries() -> Iterator[Entry]:
            for start in range(0, len(names), PAGE):
                # `Any`: what a column holds no type here can say.
                rows: list[Any] = connection.execute(statement, (json.dumps(names[start : start + PAGE]),)).fetchall()
                for name, header, expected, payload in rows:
                    if crc32c(payload) != expected:
                        raise ValueError("a tensor was damaged on the disk")
                    yield name.encode(), header, payload

        yield from _messages(entries())
        connection.close()


def _commit(connection: apsw.Connection, rows: Sequence[tuple[Any, ...]]) -> bytes:
    with connection:
        start = 0
        for size in ROWS_AT_ONCE:
            places = ",".join(["(?,?,?,?)"] * size)
            while len(rows) - start >= size:
                part = tuple(chain.from_iterable(rows[start : start + size]))
                connection.execute(f"INSERT INTO tensor VALUES {places}", part)
                start += size
    return str(len(rows)).encode()


if __name__ == "__main__":
    tune_allocator(arenas_max=2)
    handler = _Handler(Path(sys.argv[1]))
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler], options=[("grpc.so_reuseport", 0), *OPTIONS])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()
