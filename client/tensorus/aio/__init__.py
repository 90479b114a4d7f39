"""The asyncio client. It has the methods of `tensorus.Client`, to be awaited.

async with tensorus.aio.connect("localhost:7733") as client:
    await client.insert("weights", tensor, id="layer1")
    tensor = await client.get("weights", "layer1")
    async for record in client.query("weights", "layer >= 1"):
        print(record.info.ratio)

Cancelling a task cancels its call, on the server too. An iteration that is left early keeps its call open until the iterator is
closed; `contextlib.aclosing` closes it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._allocator import tune_allocator as _tune
from tensorus._profiles import checked_arguments, connection_of
from tensorus.aio._client import AsyncClient

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["AsyncClient", "connect"]


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
) -> AsyncClient:
    """Return a client of the server at `address`. It connects on first use, and belongs to the event loop that uses it first.

    Arguments and errors as for `tensorus.connect`. A function that is given as `token` is called on the event loop.
    """
    given = checked_arguments(address, ca=ca, cert=cert, key=key, token=token, insecure=insecure)
    connection = connection_of(given, profile=profile)
    if tune_allocator:
        _tune()
    return AsyncClient(connection, timeout_s=timeout_s, retry_timeout_s=retry_timeout_s, direct_reads=direct_reads)
