"""What tests of the client share: awkward arrays, outcomes that compare, and servers that do what a test tells them to."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
from click.testing import CliRunner
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import tensorus
from support.arrays import random_bits
from support.logs import log_restored
from support.servers import engine_config
from tensorus.access import ServerStatus
from tensorus.cli._app import app
from tensorus.types import PolicyExplanation, RestoreReport, SnapshotInfo, StoreStats, TensorInfo
from tensorus_server.config import ServerConfig
from tensorus_server.processes.server import Server

REPOSITORY = Path(__file__).parents[2]

SOURCE_ROOTS = [str(REPOSITORY / root) for root in ("protos", "codecs", "server", "client")]

PROCESS_TIMEOUT_S = 60


def facts_of(error: tensorus.TensorusError) -> dict[str, str]:
    """Return the facts of an error, without the id that every call has, another one each time."""
    return {name: value for name, value in error.facts.items() if name != "request_id"}


# ---- Arrays -------------------------------------------------------------------------------------------------------------


def _strided(dtype: str) -> np.ndarray[Any, Any]:
    """Return a view whose axes are swapped, reversed and thinned out: nothing about it is dense."""
    return random_bits(dtype, (9, 14, 5), seed=3).transpose(2, 0, 1)[::-1, ::2, 1::3]


def _unaligned() -> np.ndarray[Any, Any]:
    return np.frombuffer(bytes(range(1, 66)), np.uint8)[1:].view(np.float32)


def _read_only() -> np.ndarray[Any, Any]:
    array = np.arange(12.0).reshape(3, 4)
    array.flags.writeable = False
    return array


DENSE_ARRAYS: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "a vector": lambda: np.arange(1000, dtype=np.int32),
    "a matrix of float32": lambda: random_bits("float32", (31, 17)),
    "a scalar": lambda: np.array(7, np.int64),
    "an empty one": lambda: np.empty((0, 3), np.float32),
    "bfloat16": lambda: random_bits("bfloat16", (33, 9)),
    "float8": lambda: random_bits("float8_e5m2", (33, 9)),
    "bool": lambda: random_bits("bool", (77,)),
    "complex128": lambda: random_bits("complex128", (19, 3)),
    "read-only": _read_only,
    "not aligned": _unaligned,
    "single bytes marked big-endian": lambda: np.arange(9, dtype=">u1"),
}
"""Their canonical bytes are their memory."""

SCATTERED_ARRAYS: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "Fortran order": lambda: np.asfortranarray(random_bits("float32", (23, 41))),
    "a transposed matrix": lambda: random_bits("float64", (23, 41)).T,
    "a reversed vector": lambda: np.arange(1000, dtype=np.int16)[::-1],
    "every third element": lambda: np.arange(1000, dtype=np.uint64)[1::3],
    "a column": lambda: random_bits("int64", (50, 4))[:, 2],
    "strided float32": lambda: _strided("float32"),
    "strided bfloat16": lambda: _strided("bfloat16"),
    "strided float8": lambda: _strided("float8_e4m3fn"),
    "strided bool": lambda: _strided("bool"),
    "strided complex64": lambda: _strided("complex64"),
    "broadcast from one element": lambda: np.broadcast_to(np.float32(1.5), (20, 30)),
    "broadcast from a row": lambda: np.broadcast_to(np.arange(30), (20, 30)),
    "broadcast bfloat16": lambda: np.broadcast_to(np.ones(7, ml_dtypes.bfloat16), (5, 7)),
    "big-endian": lambda: random_bits("float32", (31, 17)).astype(">f4"),
    "big-endian and strided": lambda: np.arange(600, dtype=">i8").reshape(20, 30)[::2, ::-1],
    "big-endian complex": lambda: random_bits("complex64", (100,)).astype(">c8"),
    "a big-endian scalar": lambda: np.array(258, ">u2"),
    "a field of records": lambda: np.zeros(100, [("id", "<u2"), ("value", "<f4")])["value"],
    "reversed and not aligned": lambda: _unaligned()[::-1],
}
"""Their canonical bytes have to be gathered."""

ARRAYS = {**DENSE_ARRAYS, **SCATTERED_ARRAYS}


# ---- Datasets -----------------------------------------------------------------------------------------------------------

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)

FIVE_IDS = ["matrix", "vector", "scalar", "empty", "bytes"]
"""In the order in which `fill_with_five` commits them."""


def fill_with_five(client: tensorus.Client, dataset: str) -> None:
    """Make a dataset of five tensors, in this order, of different sizes and metadata."""
    client.create_dataset(dataset, preset="none")
    tensors = [MATRIX, np.arange(100), np.float32(7), np.empty((0, 3)), np.ones(50, np.int8)]
    metadata: list[dict[str, Any]] = [
        {"layer": 1, "kind": "weight", "rate": 0.5},
        {"layer": 2, "kind": "bias"},
        {"layer": 3, "kind": "bias", "best": True},
        {"kind": 'a "quoted" \\ kind'},
        {"layer": 2.0, "tags": {"split": "test"}},
    ]
    client.insert_many(dataset, map(tensorus.NewTensor, tensors, FIVE_IDS, metadata))


# ---- Outcomes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raised:
    """An error as far as two clients must agree on it."""

    kind: str
    reason: str | None
    message: str


def outcome_of(action: Callable[[], Any]) -> Any:
    """Return what `action` returns, in a form that compares, or what it raises."""
    try:
        return comparable(action())
    except Exception as error:  # noqa: BLE001 - whatever it is, the two clients are compared by it
        found = re.sub(r"\b[0-9a-f]{32}\b", "<id>", str(error))
        found = re.sub(r"\b(generations?(?: is| from)?) \d+\b", r"\1 <number>", found)
        reason = getattr(error, "reason", None) if isinstance(error, tensorus.TensorusError) else None
        return Raised(f"{type(error).__module__}.{type(error).__qualname__}", reason, found)


_NOT_SHARED: dict[type, dict[str, Any]] = {
    ServerStatus: {"started": None, "store": ""},
    tensorus.DatasetInfo: {"created": None},
    SnapshotInfo: {"generation": 0, "created": None},
    RestoreReport: {"generation": 0},
}


def comparable(value: Any) -> Any:
    """Return `value` without what two stores may not share: random ids, generations, times and speeds."""
    if isinstance(value, TensorInfo):
        shared = dataclasses.replace(value, generation=0, created=None)
        if re.fullmatch("[0-9a-f]{32}", value.id):
            shared = dataclasses.replace(shared, id="<id>")
        # It does not take part in the equality of what is stored.
        return shared, value.inserted
    if isinstance(value, PolicyExplanation):
        encodes, decodes = value.encode_bytes_per_second > 0, value.decode_bytes_per_second > 0
        return dataclasses.replace(value, encode_bytes_per_second=encodes, decode_bytes_per_second=decodes)
    if type(value) in _NOT_SHARED:
        return dataclasses.replace(value, **_NOT_SHARED[type(value)])
    if isinstance(value, StoreStats):
        has_garbage = value.garbage_until is not None
        return dataclasses.replace(value, catalogue_bytes=0, garbage_until=has_garbage, disk_free_bytes=0)
    if isinstance(value, tensorus.Record):
        return (comparable(value.info), comparable(value.tensor))
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    if hasattr(value, "detach"):
        return ("torch", str(value.dtype), value.tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return (type(value).__name__, str(value.dtype), value.tolist())
    return value


# ---- Servers ------------------------------------------------------------------------------------------------------------

Method = Callable[[Iterator[bytes], grpc.ServicerContext], Iterable[bytes]]
"""Raw requests in, raw responses out."""


@contextmanager
def scripted_server(**methods: Method) -> Iterator[str]:
    """Serve the calls of the contract that are named by these functions; yields the address.

    What a real server never does can be tried out this way: lies, fragments, answers from the future.
    """
    # On the wire a unary call is a stream of one message, so one kind of handler serves all of them.
    handlers = {name: grpc.stream_stream_rpc_method_handler(method) for name, method in methods.items()}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tensorus.v1.TensorService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def answering(*responses: Any) -> Method:
    """Return a method that reads its requests and answers with these messages, or raw bytes."""

    def method(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in requests:
            pass
        for response in responses:
            yield response if isinstance(response, bytes) else response.SerializeToString()

    return method


def status_details(reason: str, message: str = "what is wrong", domain: str = "tensorus", **facts: str) -> bytes:
    """Return a `google.rpc.Status` as a server puts it into the trailers."""
    return status_of(reason, message, domain, **facts).SerializeToString()


def status_of(reason: str, message: str = "what is wrong", domain: str = "tensorus", **facts: str) -> status_pb2.Status:
    """Return a `google.rpc.Status` with one reason."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=facts))
    return status_pb2.Status(code=3, message=message, details=[detail])


@contextmanager
def stoppable_server(folder: Path, *, port: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a server that can be stopped at once, in the middle of what it does; yields its address and how to stop it.

    Stopping happens on a thread of its own, so that it can be asked for from inside a call.
    """
    server = Server(ServerConfig(engine_config(folder), listen=f"127.0.0.1:{port}", grace_s=0.0))
    server.start()
    stopper = threading.Thread(target=server.stop)
    once = threading.Lock()

    def stop() -> None:
        if once.acquire(blocking=False):
            stopper.start()

    try:
        yield server.address, stop
    finally:
        stop()
        stopper.join()


# ---- Processes ----------------------------------------------------------------------------------------------------------


def thin_environment(folder: Path, *extra: str) -> list[str]:
    """Return the command of a Python that has the base dependencies of Tensorus and the libraries `extra`, and nothing else.

    Links to what the installed libraries brought stand in `folder`: what is not a base dependency, or a dependency of one, is
    as absent as if it had never been installed.
    """
    found = [_with_dependencies(name) for name in ("tensorus", *extra)]
    for name in {*extra, *itertools.chain.from_iterable(found)}:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    search = [*SOURCE_ROOTS, str(folder)]
    # -S leaves site-packages out; the search path is set before anything is imported.
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {search!r}; exec(sys.stdin.read())"]


def _with_dependencies(name: str) -> list[str]:
    """Return the names of what `name` needs without any extra, and what that needs."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        for requirement in importlib.metadata.requires(waiting.pop()) or ():
            needed = re.match(r"[\w.-]+", requirement)
            if needed is None or ";" in requirement or needed.group() in found:
                # Behind a ";" stand extras, and conditions that no library here depends on.
                continue
            found.append(needed.group())
            waiting.append(needed.group())
    return found


@dataclass(frozen=True)
class Ran:
    """What a command of the command line did."""

    exit_code: int
    output: str
    """Standard output."""
    errors: str
    """The error stream."""


def run_command(*arguments: object, **settings: Any) -> Ran:
    """Run the command line in this process; fails where a user would see a traceback."""
    with log_restored():
        result = CliRunner().invoke(app, list(map(str, arguments)), prog_name="tensorus", **settings)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback reaches the user of {arguments}") from result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def run_process(command: list[str], *, source: str | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `source` goes to its standard input."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **settings.pop("environment", {})}
    return subprocess.run(
        command,
        input=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS_TIMEOUT_S,
        env=environment,
        **settings,
    )
