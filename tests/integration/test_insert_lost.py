"""A client stops sending an insert of all or nothing as soon as one of its tensors has failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorus
import tensorus.aio
from tensorus import errors
from tensorus_server.processes.server import Server
from tensorus_server.rpc import insert_call

COUNT = 300
ARRAY = np.zeros(1024 * 1024, np.uint8)

Source = Callable[[], Iterator[tuple[str, Any]]]


class Counted:
    """Tensors of which the first does not fit the dataset's schema; the others take their time."""

    def __init__(self) -> None:
        """Start with none asked for."""
        self.asked = 0

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield them."""
        for number in range(COUNT):
            self.asked += 1
            yield f"{number}", ARRAY if number else ARRAY.view(np.int8)
            time.sleep(0.01)


def assert_stopped(source: Counted, error: errors.InsertManyError) -> None:
    assert 1 < source.asked < COUNT
    assert error.inserted == []
    assert [position for position, _ in error.failed] == list(range(source.asked))
    assert isinstance(error.failed[0][1], errors.SchemaMismatchError)
    assert {type(failure) for _, failure in error.failed[1:]} == {errors.InsertAbandonedError}


def test_a_client_stops_sending(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, schema=tensorus.Schema(dtype="uint8"))
    source = Counted()
    with pytest.raises(errors.InsertManyError) as caught:
        client.insert_many(dataset, source, all_or_nothing=True)
    if source.asked > 1:
        assert_stopped(source, caught.value)
    assert list(client.list(dataset)) == []
    # The connection is as good as before.
    client.insert_many(dataset, [("t", ARRAY)], all_or_nothing=True)


def test_a_client_for_asyncio_stops_sending(server: Server, dataset: str) -> None:
    source = Counted()

    async def insert() -> None:
        async with tensorus.aio.connect(server.address) as client:
            await client.create_dataset(dataset, schema=tensorus.Schema(dtype="uint8"))
            await client.insert_many(dataset, source, all_or_nothing=True)

    with pytest.raises(errors.InsertManyError) as caught:
        asyncio.run(insert())
    assert_stopped(source, caught.value)


def test_a_server_neither_checks_nor_stores_what_still_comes(
    server: Server, remote: tensorus.Client, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    crc32c = insert_call.crc32c
    monkeypatch.setattr(insert_call, "crc32c", lambda data: (checked.append(1), crc32c(data))[1])
    remote.create_dataset(dataset, schema=tensorus.Schema(dtype="uint8"))
    # All in the first message: the client cannot know before it has sent everything.
    tensors = [(f"{number}", np.zeros(100, np.uint8 if number else np.int8)) for number in range(100)]
    with pytest.raises(errors.InsertManyError) as caught:
        remote.insert_many(dataset, tensors, all_or_nothing=True)
    assert len(caught.value.failed) == 100
    assert len(checked) == 1
