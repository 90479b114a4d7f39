"""Raw bytes over grpcio: the upper limit of every stream. Run as a module, it is the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import numpy as np
from common.client_process import Action
from common.settings import KIB, MIB
from common.values import Array

from tensorus._allocator import tune_allocator

__all__ = ["SERVE", "transfers"]

SERVE = ("-m", "contestants.raw_grpc")
"""What Python is told in order to serve."""

OPTIONS = (("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB))


def transfers(address: str, total_kibibytes: int, message_kibibytes: Sequence[int]) -> dict[str, Action]:
    """Return "receive SIZE" into a fresh array and "send SIZE", in messages of SIZE KiB; nothing is stored or checked.

    And "ask", one by one: a call that sends a message of the first size and receives one.
    """
    tune_allocator()
    channel = grpc.insecure_channel(address, OPTIONS)
    # `Any`: grpcio's types do not know raw bytes.
    receive: Any = channel.unary_stream("/bench/receive")
    send: Any = channel.stream_stream("/bench/send")
    ask: Any = channel.unary_unary("/bench/ask")
    actions: dict[str, Action] = {}
    for size in message_kibibytes:
        count = total_kibibytes // size
        actions[f"receive {size}"] = partial(_receive, receive, size, count)
        actions[f"send {size}"] = partial(_send, send, size, count)
        actions[f"ask {size}"] = partial(_ask, ask, size, count)
    return actions


def _receive(method: Any, kibibytes: int, count: int) -> Array:
    target: Array = np.empty(kibibytes * KIB * count, np.uint8)
    position = 0
    for message in method(f"{kibibytes},{count}".encode()):
        target[position : position + len(message)] = np.frombuffer(message, np.uint8)
        position += len(message)
    return target


def _send(method: Any, kibibytes: int, count: int) -> None:
    message = bytes(kibibytes * KIB)
    list(method(message for _ in range(count)))


def _ask(method: Any, kibibytes: int, count: int) -> None:
    message = bytes(kibibytes * KIB)
    for _ in range(count):
        method(message)


class _Handler(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == "/bench/receive":
            return grpc.unary_stream_rpc_method_handler(_serve_receive)
        if details.method == "/bench/ask":
            return grpc.unary_unary_rpc_method_handler(_serve_ask)
        return grpc.stream_stream_rpc_method_handler(_serve_send)


def _serve_receive(wish: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
    kibibytes, count = map(int, wish.split(b","))
    message = bytes(kibibytes * KIB)
    yield from (message for _ in range(count))


def _serve_send(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield str(sum(len(message) for message in messages)).encode()


def _serve_ask(message: bytes, _: grpc.ServicerContext) -> bytes:
    return message


if __name__ == "__main__":
    tune_allocator(arenas_max=2)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Handler()], options=[("grpc.so_reuseport", 0), *OPTIONS])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()
