"""A get of a whole tensor is compared with the checksum of its values, whatever the checksums of its chunks say."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import tensorus
import tensorus.aio
from tensorus.errors import DataCorruptError
from tensorus_codecs.checksum import crc32c
from tensorus_server.engine.read import reader as server_read
from tensorus_server.engine.read.reader import Piece
from tensorus_server.processes.server import Server


@pytest.fixture
def array() -> np.ndarray[Any, Any]:
    """Three chunks."""
    return np.arange(700_000, dtype=np.float32)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine read other values than were written from the first chunk, with checksums that fit them."""
    read_run = server_read._read_run

    def other(*arguments: Any, **options: Any) -> Piece:
        piece = read_run(*arguments, **options)
        if piece.offset or piece.decoded_length < 1000:
            return piece
        data = bytearray(piece.data)
        data[100] ^= 1
        return Piece(piece.offset, piece.decoded_length, bytes(data), crc32c(data))

    monkeypatch.setattr(server_read, "_read_run", other)


@pytest.fixture
def stored(client: tensorus.Client, dataset: str, array: np.ndarray[Any, Any]) -> str:
    client.create_dataset(dataset, preset="none")
    client.insert(dataset, array, id="t")
    assert np.array_equal(client.get(dataset, "t", as_="numpy"), array)
    return dataset


def test_other_values_than_were_written_are_damage(client: tensorus.Client, stored: str, wrong: None) -> None:
    with pytest.raises(DataCorruptError, match="not those of the tensor's value checksum"):
        client.get(stored, "t")
    damages: list[DataCorruptError] = []
    assert list(client.get_many(stored, ["t"], on_damaged=damages.append)) == []
    assert [error.facts["tensor"] for error in damages] == ["t"]


def test_a_part_has_no_checksum_of_its_own(
    client: tensorus.Client, stored: str, wrong: None, array: np.ndarray[Any, Any]
) -> None:
    # The chunks' checksums are what a slice and a cast have.
    assert np.array_equal(client.get(stored, "t", index=slice(300_000, 300_010), as_="numpy"), array[300_000:300_010])
    client.get(stored, "t", dtype="float64")


def test_the_asynchronous_client_compares_it_too(
    server: Server, remote: tensorus.Client, dataset: str, array: np.ndarray[Any, Any], wrong: None
) -> None:
    async def check() -> None:
        async with tensorus.aio.connect(server.address) as client:
            with pytest.raises(DataCorruptError, match="not those of the tensor's value checksum"):
                await client.get(dataset, "t")

    remote.create_dataset(dataset, preset="none")
    remote.insert(dataset, array, id="t")
    asyncio.run(check())
