"""Tensorus: a store for tensors.

import tensorus

with tensorus.connect("localhost:7733") as client:         # a server
with tensorus.open("./data") as client:                    # or a local folder, without a server
    client.create_dataset("weights", preset="balanced")
    client.insert("weights", tensor, id="layer1", metadata={"layer": 1})
    client.get("weights", "layer1", index=(slice(0, 10), ...))
    for record in client.query("weights", "layer >= 1"):
        print(record.info.ratio, record.tensor.shape)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from tensorus import errors
from tensorus._version import __version__
from tensorus.client import Client
from tensorus.errors import TensorusError
from tensorus.types import DatasetInfo, NewTensor, Policy, Progress, Record, Schema, TensorInfo

if TYPE_CHECKING:
    import os
else:  # hidden from type checkers, which would otherwise accept every misspelt name

    def __getattr__(name: str) -> NoReturn:
        """Explain that a name existed only in Tensorus 0.1.

        Raises `ImportError`, because `from tensorus import ...` would replace the message of an `AttributeError`.
        """
        from tensorus._original import ABSENT_NAMES, absent  # noqa: PLC0415 - hardly ever needed

        if name in ABSENT_NAMES:
            raise absent(f"tensorus.{name}", "the class")
        raise AttributeError(f"module 'tensorus' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


__all__ = [
    "Client",
    "DatasetInfo",
    "NewTensor",
    "Policy",
    "Progress",
    "Record",
    "Schema",
    "TensorInfo",
    "TensorusError",
    "__version__",
    "connect",
    "errors",
    "open",
]


def connect(
    address: str,
    *,
    timeout_s: float = 30.0,
    retry_timeout_s: float = 60.0,
    tune_allocator: bool = True,
    direct_reads: bool = True,
) -> Client:
    """Return a client of the server at `address`, such as "localhost:7733". It connects on first use.

    Several servers of the same store are named by a list, "a:7733,b:7733", or by one name that resolves to several addresses.
    Each call goes to a server that its dataset and tensor determine, so that the caches of all servers add up. If that server
    cannot be reached, is about to stop or has lost its store, the next one takes the call at once, and transfers resume there.

    The client can be pickled. It can also be used in forked processes, provided that no other thread is in a call during the
    fork; each process opens its own connection.

    Args:
        address: host and port of the server, or of several, separated by commas. A name is resolved on first use, and again
            after failures.
        timeout_s: timeout of each attempt of a short call, in seconds. Transfers have no total timeout.
        retry_timeout_s: how long to retry an interrupted call that makes no progress, in seconds. Inserts and reads resume
            where they stopped, both after a broken connection and after a restart of the server. Short calls are retried if
            they are safe to repeat: all reads, `delete`, and `create_dataset` with `exist_ok`. Until a server has answered
            once, nothing is retried, except at the other servers, because the address may be wrong. A call that fails twice
            without progress emits `errors.ConnectionLostWarning`.
        tune_allocator: configure glibc's allocator for bulk transfers in this process. Reads are then up to twice as fast, and
            the process keeps up to 32 MiB of freed memory.
        direct_reads: read large tensors from the object store itself, by requests that the server has signed, if the server
            offers that. Whatever fails is read from the server instead.
    """
    from tensorus._grpc.remote import RemoteBackend  # noqa: PLC0415 - each way in loads only what it needs

    return Client(
        RemoteBackend(
            address,
            timeout_s=timeout_s,
            retry_timeout_s=retry_timeout_s,
            tune_allocator=tune_allocator,
            direct_reads=direct_reads,
        )
    )


def open(  # noqa: A001 - tensorus.open reads as it should
    path: str | os.PathLike[str] | None = None,
    *,
    catalogue: str | None = None,
    chunks: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int = 16 * 1024**3,
    tune_allocator: bool = True,
) -> Client:
    """Return a client of the store in the folder `path`, without a server. The folder is created if it does not exist.

    A store beyond one machine has its catalogue in PostgreSQL and its payloads in an object store. Servers and programs may
    use it at the same time:

        tensorus.open(catalogue="postgresql://host/db", chunks="s3://bucket/prefix")

    The client belongs to this process: it cannot be pickled, and every call in a forked child fails. A child must open the
    store itself.

    Args:
        path: the folder of the store; None: `catalogue` and `chunks` say where it is.
        catalogue: URL of the database with the catalogue; None: it is in `path`.
        chunks: URL of the object store with the payloads: s3://BUCKET/PREFIX, gs://... or az://...; None: they are in `path`.
            Credentials come from the environment.
        cache_dir: folder of a cache of the object store's payloads; None: no cache.
        cache_bytes: size of that cache.
        tune_allocator: as for `connect`; reads of compressed tensors are then up to a third faster.

    Raises:
        ImportError: the engine is not installed; install it with pip install 'tensorus[server]'.
        UnavailableError: the store cannot be opened; the message says which part of it, and why.
        ValueError: the arguments name no store.
    """
    from tensorus import _allocator  # noqa: PLC0415 - each way in loads only what it needs
    from tensorus.embedded import EmbeddedBackend  # noqa: PLC0415 - the thin client has no engine

    if chunks is None and catalogue is None and path is not None:
        backend = EmbeddedBackend(path)
    else:
        backend = EmbeddedBackend.beyond_one_machine(path, catalogue, chunks, cache_dir, cache_bytes)
    if tune_allocator:
        _allocator.tune_allocator()
    return Client(backend)
