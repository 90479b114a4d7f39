"""What grpcio itself does, by size of its messages: the ceiling of every stream. Run as a module it is the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import numpy as np

from groups.common import MIB, alternate, process, rates
from tensorus._allocator import tune_allocator

MESSAGE_KIBIBYTES = (256, 512, 1024, 2048)
OPTIONS = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]


def measure(*, mebibytes: int, repeats: int) -> list[dict[str, Any]]:
    """Return GB/s of raw messages in each direction; nothing is stored or checked."""
    tune_allocator()
    with (
        process(["-m", "groups.transport"]) as (port, _),
        grpc.insecure_channel(f"127.0.0.1:{int(port)}", OPTIONS) as channel,
    ):
        receive: Any = channel.unary_stream("/bench/receive")
        send: Any = channel.stream_stream("/bench/send")
        target = np.empty(mebibytes * MIB, np.uint8)
        contestants: dict[str, Callable[[], object]] = {}
        for kibibytes in MESSAGE_KIBIBYTES:
            count = mebibytes * 1024 // kibibytes
            contestants[f"receive {kibibytes} KiB"] = partial(_receive, receive, target, f"{kibibytes},{count}")
            contestants[f"send {kibibytes} KiB"] = partial(_send, send, kibibytes * 1024, count)
        seconds = alternate(contestants, repeats)
    rows = []
    for name, runs in sorted(seconds.items(), key=lambda item: item[0].split()[0]):
        median, smallest, largest = rates(runs, mebibytes * MIB / 1e9)
        rows.append({"raw grpcio": name, "GB/s": median, "from": smallest, "to": largest})
    return rows


def _receive(method: Any, target: np.ndarray, wish: str) -> None:
    position = 0
    for message in method(wish.encode()):
        target[position : position + len(message)] = np.frombuffer(message, np.uint8)
        position += len(message)


def _send(method: Any, message_bytes: int, count: int) -> None:
    message = bytes(message_bytes)
    list(method(message for _ in range(count)))


class _Handler(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == "/bench/receive":
            return grpc.unary_stream_rpc_method_handler(_serve_receive)
        return grpc.stream_stream_rpc_method_handler(_serve_send)


def _serve_receive(wish: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
    kibibytes, count = map(int, wish.split(b","))
    message = bytes(kibibytes * 1024)
    yield from (message for _ in range(count))


def _serve_send(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield str(sum(len(message) for message in messages)).encode()


if __name__ == "__main__":
    tune_allocator(arenas_max=2)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Handler()], options=[("grpc.so_reuseport", 0), *OPTIONS])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()
