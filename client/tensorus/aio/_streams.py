"""Iterations of the asynchronous client: on the event loop, fed by threads, and the other way round."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from tensorus._damage import tell

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
    from concurrent.futures import Future

    from tensorus._damage import OnDamaged
    from tensorus.errors import DataCorruptError

__all__ = ["Damages", "FromLoop", "each"]

T = TypeVar("T")


async def each(
    found: AsyncGenerator[list[T], None], before: Callable[[], None] = lambda: None
) -> AsyncGenerator[T, None]:
    """Yield the values of each list.

    Args:
        before: called before the values of a list, and at the end; what it raises ends the iteration.
    """
    async with aclosing(found):
        async for values in found:
            before()
            for value in values:
                yield value
        before()


class Damages:
    """The damaged tensors of a read: threads find them, and the task that reads tells of them, on the event loop."""

    def __init__(self, on_damaged: OnDamaged) -> None:
        """Tell `on_damaged`; None: nothing is added."""
        self._on_damaged = on_damaged
        self._found: deque[DataCorruptError] = deque()
        self.add: OnDamaged = None if on_damaged is None else self._found.append

    def tell(self) -> None:
        """Tell of what was found; what `on_damaged` raises ends the read."""
        while self._found:
            tell(self._found.popleft(), self._on_damaged)


class FromLoop:
    """An asynchronous iterable for the thread that makes messages; iterated on the event loop that it was made on."""

    def __init__(self, source: AsyncIterable[object]) -> None:
        """Iterate over `source` on the event loop that is running now."""
        self._source = aiter(source)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._asked: Future[object] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[object]:
        """Yield what the source yields."""
        while True:
            with self._lock:
                # Together: `close` cancels what was asked for before it, and nothing is asked for after it.
                if self._closed:
                    return
                asked = self._asked = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            found = asked.result()
            if found is self:
                return
            yield found

    def close(self) -> None:
        """Let the thread go: nobody wants the rest."""
        with self._lock:
            self._closed = True
            asked = self._asked
        if asked is not None:
            asked.cancel()

    async def _next(self) -> object:
        # `self` says that there is no more: no source has it.
        return await anext(self._source, self)
