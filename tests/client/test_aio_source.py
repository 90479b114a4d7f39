"""An asynchronous source of tensors, as the thread that makes messages sees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from tensorus.aio._streams import FromLoop


async def three() -> AsyncIterator[object]:
    for number in range(3):
        yield number


async def never() -> AsyncIterator[object]:
    await asyncio.Event().wait()
    yield 0


def test_it_is_iterated_to_its_end() -> None:
    async def run() -> list[object]:
        source = FromLoop(three())
        return await asyncio.to_thread(lambda: list(source))

    assert asyncio.run(run()) == [0, 1, 2]


def test_one_that_is_closed_while_it_is_asked_lets_its_thread_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> str:
        source = FromLoop(never())
        ask = asyncio.run_coroutine_threadsafe

        def ask_while_it_is_closed(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Any:
            closing = threading.Thread(target=source.close)
            closing.start()
            closing.join(0.1)
            return ask(coroutine, loop)

        def pull() -> str:
            try:
                list(source)
            except CancelledError:
                return "let go"
            return "ended"

        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", ask_while_it_is_closed)
        return await asyncio.to_thread(pull)

    assert asyncio.run(run()) == "let go"


def test_one_that_is_closed_is_asked_no_more() -> None:
    async def run() -> list[object]:
        source = FromLoop(never())
        source.close()
        return await asyncio.to_thread(lambda: list(source))

    assert asyncio.run(run()) == []
