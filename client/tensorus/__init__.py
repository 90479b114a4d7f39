"""Tensorus: a store for tensors.

import tensorus

with tensorus.connect("localhost:7733") as client:         # a server, or
with tensorus.open("./data") as client:                    # a folder, without one
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
else:  # for a type checker, every misspelt name would pass for one

    def __getattr__(name: str) -> NoReturn:
        """Explain names of Tensorus 0.1.

        An `ImportError`, since `from tensorus import` would replace the text of an `AttributeError`.
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
    address: str, *, timeout_s: float = 30.0, retry_timeout_s: float = 60.0, tune_allocator: bool = True
) -> Client:
    """Return a client of the server at `address`, such as "localhost:7733". Connects when it is first used.

    It can be pickled, and used in processes that are forked while no other thread is in a call: each connects for itself.

    Args:
        timeout_s: of each attempt of a short call, in seconds; transfers take as long as they take.
        retry_timeout_s: how long a call that was interrupted is tried again without progress, in seconds. Inserts and reads
            go on where they were: after a broken connection, and after a restart of the server. Short calls that may be
            repeated are tried again, too: all that read, `delete`, and `create_dataset` with `exist_ok`. Nothing is tried again
            before the server has answered for the first time: the address may be wrong. A call that fails twice without
            progress warns with `errors.ConnectionLostWarning`.
        tune_allocator: set glibc's allocator up for bulk transfers in this process: gets then run at up to twice the speed, and
            up to 32 MiB of freed memory stay with the process.
    """
    from tensorus._remote import RemoteBackend  # noqa: PLC0415 - each way in loads only what it needs

    return Client(
        RemoteBackend(address, timeout_s=timeout_s, retry_timeout_s=retry_timeout_s, tune_allocator=tune_allocator)
    )


def open(path: str | os.PathLike[str], *, tune_allocator: bool = True) -> Client:  # noqa: A001 - tensorus.open reads as it should
    """Return a client of the store in the folder `path`, without a server; the folder is made if it is not there.

    It is of this process alone: it cannot be pickled, and in a forked child every call fails. A child opens the store itself.

    Args:
        tune_allocator: as of `connect`; what is stored compressed is read up to a third faster.

    Raises:
        ImportError: the engine is not installed; pip install 'tensorus[server]' brings it.
        UnavailableError: the folder cannot be a store; the message says why.
    """
    from tensorus import _allocator  # noqa: PLC0415 - each way in loads only what it needs
    from tensorus.embedded import EmbeddedBackend  # noqa: PLC0415 - the thin client has no engine

    backend = EmbeddedBackend(path)
    if tune_allocator:
        _allocator.tune_allocator()
    return Client(backend)
