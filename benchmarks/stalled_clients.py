"""Measures what 100 stalled clients cost a healthy one: its throughput with and without them, alternating, on a real server.

    python benchmarks/stalled_clients.py [--clients 100] [--rounds 5] [--mib 32]

Half of the stalled clients began an insert and send nothing more, half began a get of a large tensor and take nothing more.
Each has a connection of its own. Every round measures inserts and gets without them, then beside them. The stalled clients
come anew each time, so that the server has them to deal with, and a pause lets them be silent.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import numpy as np

import tensorus
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub

_PAUSE_S = 5.0
"""Longer than a stream must be silent before it makes room."""


@contextmanager
def serving(folder: str) -> Iterator[str]:
    """Run a server with its defaults; yields its address."""
    command = [sys.executable, "-m", "tensorus", "serve", "--data-dir", folder, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(" on ")[1].split(",")[0]
        finally:
            process.terminate()


@contextmanager
def stalled(address: str, count: int) -> Iterator[int]:
    """Be so many stalled clients; yields how many of them the server admitted."""
    may_end = threading.Event()
    admitted = 0

    def messages(number: int) -> Iterator[pb.InsertRequest]:
        yield pb.InsertRequest(open=pb.OpenInsert(dataset="d", request_id=f"stalled {time.monotonic_ns()} {number}"))
        spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[1 << 30])
        first = pb.Segment(
            tensor=pb.Tensor(id=f"stalled {number}", spec=spec), decoded_length=1 << 16, payload_length=1 << 16
        )
        yield pb.InsertRequest(segments=[first], payload=bytes(1 << 16))
        may_end.wait()

    with ExitStack() as opened:
        opened.callback(may_end.set)
        calls: list[Any] = []
        for number in range(count):
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 1 << 23)]
            channel = opened.enter_context(grpc.insecure_channel(address, options=options))
            stub: Any = TensorServiceStub(channel)  # type: ignore[no-untyped-call]
            if number % 2:
                calls.append(stub.Insert(messages(number)))
            else:
                calls.append(stub.Get(pb.GetRequest(dataset="d", reads=[pb.TensorRead(id="large")])))
            opened.callback(calls[-1].cancel)
        for call in calls:
            try:
                next(call)
                admitted += 1
            except grpc.RpcError:
                pass
        yield admitted


def throughputs(client: tensorus.Client, array: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return how fast three inserts and three gets were, in MB/s."""
    found = []
    for transfer in (lambda n: client.insert("d", array, id=f"t{n}"), lambda n: client.get("d", f"t{n}", as_="numpy")):
        began_s = time.perf_counter()
        for number in range(3):
            transfer(number)
        found.append(3 * array.nbytes / (time.perf_counter() - began_s) / 1e6)
    client.delete("d", [f"t{number}" for number in range(3)])
    return found[0], found[1]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=32, help="of the healthy client's tensors")
    arguments = parser.parse_args()
    array = np.random.default_rng(1).integers(0, 256, arguments.mib << 20, np.uint8)
    alone, beside = [], []
    with tempfile.TemporaryDirectory() as folder, serving(folder) as address, tensorus.connect(address) as client:
        client.create_dataset("d", preset="none")
        client.insert("d", np.zeros(64 << 20, np.uint8), id="large")
        throughputs(client, array)
        for number in range(arguments.rounds):
            alone.append(throughputs(client, array))
            with stalled(address, arguments.clients) as admitted:
                time.sleep(_PAUSE_S)
                beside.append(throughputs(client, array))
            print(f"round {number + 1}: {admitted} of {arguments.clients} stalled clients admitted", flush=True)
    for place, name in enumerate(("insert", "get")):
        without, with_them = (statistics.median(found[place] for found in runs) for runs in (alone, beside))
        print(f"{name:7} {without:8.0f} MB/s alone {with_them:8.0f} MB/s beside them {with_them / without:7.2f}")


if __name__ == "__main__":
    main()
