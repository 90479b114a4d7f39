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

from tensorus._allocator import tune_allocator as _tune
from tensorus.aio._client import AsyncClient

__all__ = ["AsyncClient", "connect"]


def connect(
    address: str,
    *,
    timeout_s: float = 30.0,
    retry_timeout_s: float = 60.0,
    tune_allocator: bool = True,
    direct_reads: bool = True,
) -> AsyncClient:
    """Return a client of the server at `address`. It connects on first use, and belongs to the event loop that uses it first.

    Arguments as for `tensorus.connect`.
    """
    if tune_allocator:
        _tune()
    return AsyncClient(address, timeout_s=timeout_s, retry_timeout_s=retry_timeout_s, direct_reads=direct_reads)
