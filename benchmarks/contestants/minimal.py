"""A minimal get and durable insert in Python, as a lower bound for ours. Run as a module, it is the server.

Raw bytes over grpcio in messages of 1 MiB, a file, CRC32C on both sides, and a sync at the end. There are no chunks, no tensors
and no catalogue, nothing is hashed or summed up, and nothing can be resumed. Codes of eight bits are multiplied by one number
for all of them, which needs two calls of NumPy a message.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from common.client_process import Action
from common.settings import MIB
from common.values import Array, normal
from crc32c import crc32c

from tensorus._allocator import tune_allocator

__all__ = ["serve_command", "transfers"]

OPTIONS = (("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB))

HEAD_BYTES = 4
"""Of a message: the CRC32C of what follows."""


def serve_command(folder: object) -> list[str]:
    """Return what Python is told in order to serve files in this folder."""
    return ["-m", "contestants.minimal", str(folder)]


def transfers(address: str, mebibytes: int) -> dict[str, Action]:
    """Return "put", into a synced file that is removed unmeasured by "remove", and "get" of one that is there.

    "get int8" reads a quarter of it, and makes float32 of that: as many bytes as "get" returns.
    """
    tune_allocator()
    channel = grpc.insecure_channel(address, OPTIONS)
    # `Any`: grpcio's types do not know raw bytes.
    write: Any = channel.stream_unary("/minimal/write")
    read: Any = channel.unary_stream("/minimal/read")
    remove: Any = channel.unary_unary("/minimal/remove")
    values = normal(mebibytes)
    write(_messages(values))

    def get() -> Array:
        target: Array = np.empty(mebibytes * MIB, np.uint8)
        position = 0
        for block in map(_checked, read(str(target.nbytes).encode())):
            target[position : position + block.nbytes] = block
            position += block.nbytes
        return target

    def get_int8() -> Array:
        target: Array = np.empty(values.size, np.float32)
        position = 0
        for block in map(_checked, read(str(target.size).encode())):
            part = target[position : position + block.nbytes]
            part[:] = np.frombuffer(block, np.int8)
            part *= np.float32(2.0**-7)
            position += block.nbytes
        return target

    return {"get": get, "get int8": get_int8, "put": lambda: write(_messages(values)), "remove": lambda: remove(b"")}


def _messages(values: Array) -> Iterator[bytes]:
    data = memoryview(values).cast("B")
    return (_message(data[start : start + MIB]) for start in range(0, data.nbytes, MIB))


def _message(block: memoryview | bytes) -> bytes:
    return b"".join((crc32c(block).to_bytes(HEAD_BYTES, "little"), block))


def _checked(message: bytes) -> memoryview:
    block = memoryview(message)[HEAD_BYTES:]
    if crc32c(block) != int.from_bytes(message[:HEAD_BYTES], "little"):
        raise ValueError("a block was damaged on its way")
    return block


class _Handler(grpc.GenericRpcHandler):
    """The first file is the one to read; later ones are removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handlers: dict[str, Callable[[], Any]] = {
            "/minimal/write": lambda: grpc.stream_unary_rpc_method_handler(self._write),
            "/minimal/read": lambda: grpc.unary_stream_rpc_method_handler(self._read),
            "/minimal/remove": lambda: grpc.unary_unary_rpc_method_handler(self._remove),
        }
        return handlers[details.method]()

    def _write(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        file = os.open(self._folder / str(self._count), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._count += 1
        try:
            for message in messages:
                os.write(file, _checked(message))
            os.fdatasync(file)
        finally:
            os.close(file)
        return b""

    def _read(self, size: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        file = os.open(self._folder / "0", os.O_RDONLY)
        try:
            for start in range(0, int(size), MIB):
                yield _message(os.pread(file, MIB, start))
        finally:
            os.close(file)

    def _remove(self, _: bytes, __: grpc.ServicerContext) -> bytes:
        for path in self._folder.iterdir():
            if path.name != "0":
                path.unlink()
        return b""


if __name__ == "__main__":
    tune_allocator(arenas_max=2)
    handler = _Handler(Path(sys.argv[1]))
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler], options=[("grpc.so_reuseport", 0), *OPTIONS])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()
