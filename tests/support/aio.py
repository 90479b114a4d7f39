"""The asynchronous client in a test: on an event loop of its own, and bounded in time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import tensorus.aio

TIMEOUT_S = 30

AsyncClient = tensorus.aio.AsyncClient


def run(action: Callable[[AsyncClient], Awaitable[Any]], address: str, **settings: Any) -> Any:
    """Run `action` with a client of its own, on an event loop of its own, bounded in time."""

    async def main() -> Any:
        async with asyncio.timeout(TIMEOUT_S), tensorus.aio.connect(address, **settings) as client:
            return await action(client)

    return asyncio.run(main())


async def collected(found: Any) -> Any:
    """Await a value, or the values of an iteration."""
    return await found if inspect.isawaitable(found) else [value async for value in found]
