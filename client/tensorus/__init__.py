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
from tensorus._request_ids import request_id
from tensorus._version import __version__
from tensorus.client import Client
from tensorus.errors import TensorusError
from tensorus.types import DatasetInfo, NewTensor, Policy, Progress, Record, Schema, TensorInfo

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
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
    "request_id",
]


def connect(
    address: str | None = None,
    *,
    ca: str | os.PathLike[str] | bytes | None = None,
    cert: str | os.PathLike[str] | bytes | None = None,
    key: str | os.PathLike[str] | bytes | None = None,
    token: str | Callable[[], str] | None = None,
    insecure: bool = False,
    profile: str | None = None,
    timeout_s: float = 30.0,
    retry_timeout_s: float = 60.0,
    tune_allocator: bool = True,
    direct_reads: bool = True,
) -> Client:
    """Return a client of the server at `address`, such as "grpcs://store:7733". It connects on first use.

    Without an address, the environment variable TENSORUS_ADDRESS or the file ~/.config/tensorus/config.toml says where the
    server is, and with which certificates and token to connect; see the page Connecting of the guide. Without these, it is
    127.0.0.1:7733.

    Several servers of the same store are named by a list, "grpcs://a:7733,b:7733", or by one name that resolves to several
    addresses. Each call goes to a server that its dataset and tensor determine, so that the caches of all servers add up. If
    that server cannot be reached, is about to stop or has lost its store, the next one takes the call at once, and transfers
    resume there.

    The client can be pickled. It can also be used in forked processes, provided that no other thread is in a call during the
    fork; each process opens its own connection.

    Args:
        address: host and port of the server, or of several, separated by commas; "grpcs://" before it means TLS. A name is
            resolved on first use, and again after failures; all servers behind it need certificates of that name.
        ca: the certificates of the authorities that may have signed the server's: the path of a PEM file, or its bytes. None:
            those that the operating system trusts.
        cert: the client's own certificate, for servers that ask for one (mTLS), likewise. Needs `key`.
        key: its private key, not encrypted. Files are read when the client connects, and again if it cannot connect and they
            have changed.
        token: what the server knows the caller by; or a function that returns it, for tokens that expire. It is called for
            every call, so it must be fast, and picklable if the client is pickled. A pickled client contains the token.
        insecure: send the token although the address is neither `grpcs://` nor on this machine: whoever sees the traffic can
            then use it.
        profile: name of a profile in the file.
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

    Raises:
        ValueError: an argument, or what stands in for it, is wrong or contradicts another: a file that cannot be read, a
            certificate without its key, a token that would be sent in clear text.
        UnavailableError: the address is empty.
    """
    from tensorus._grpc.remote import RemoteBackend  # noqa: PLC0415 - each way in loads only what it needs
    from tensorus._profiles import checked_arguments, connection_of  # noqa: PLC0415 - likewise

    given = checked_arguments(address, ca=ca, cert=cert, key=key, token=token, insecure=insecure)
    return Client(
        RemoteBackend(
            connection_of(given, profile=profile),
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
    read_only: bool = False,
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
        read_only: open the store for reading only. Nothing in its folder is changed or created, so it may be on a disk that
            cannot be written, or be a backup; a server may write it meanwhile. Calls that write raise `ReadOnlyError`. Only for
            stores in a folder.
        tune_allocator: as for `connect`; reads of compressed tensors are then up to a third faster.

    Raises:
        ImportError: the engine is not installed; install it with pip install 'tensorus[server]'.
        UnavailableError: the store cannot be opened; the message says which part of it, and why.
        NotImplementedByServerError: a store beyond one machine is to be opened for reading only.
        ValueError: the arguments name no store.
    """
    from tensorus import _allocator  # noqa: PLC0415 - each way in loads only what it needs
    from tensorus.embedded import EmbeddedBackend  # noqa: PLC0415 - the thin client has no engine

    if chunks is None and catalogue is None and path is not None:
        backend = EmbeddedBackend.in_folder(path, read_only=read_only)
    else:
        backend = EmbeddedBackend.beyond_one_machine(
            path, catalogue, chunks, cache_dir, cache_bytes, read_only=read_only
        )
    if tune_allocator:
        _allocator.tune_allocator()
    return Client(backend)
