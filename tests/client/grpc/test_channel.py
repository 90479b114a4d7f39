"""Channels to a server whose certificates change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from support.certificates import the_ca
from tensorus._connection import Connection, Tls
from tensorus._grpc.aio_remote import AsyncRemoteBackend
from tensorus._grpc.channel import REPLACED_MAX, LazyChannel
from tensorus._grpc.servers import Servers
from tensorus.errors import UnavailableError

ADDRESS = "127.0.0.1:1"
BROKEN = UnavailableError("x", reason="UNAVAILABLE")


@pytest.fixture
def ca(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(the_ca().cert)
    return str(path)


@pytest.fixture
def rotate(ca: str) -> Callable[[], None]:
    """Return a function that changes the file with the authority."""

    def change() -> None:
        with open(ca, "ab") as file:  # noqa: PTH123 - a `Tls` has text
            file.write(b"\n")

    return change


def test_replaced_channels_are_kept_for_their_calls_but_not_without_end(
    ca: str, rotate: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = LazyChannel(Servers(ADDRESS).pick(""), Tls(ca))
    closed = []
    for number in range(REPLACED_MAX + 3):
        made = channel.get()
        monkeypatch.setattr(made, "close", lambda number=number: closed.append(number))
        rotate()
        channel.failed(BROKEN)
        assert channel.get() is not made
    assert closed == [0, 1, 2]
    channel.close()
    assert sorted(closed) == list(range(REPLACED_MAX + 3))


def test_an_asynchronous_client_closes_them_likewise(ca: str, rotate: Callable[[], None]) -> None:
    async def run() -> None:
        connection = Connection(ADDRESS, Tls(ca), None)
        backend = AsyncRemoteBackend(connection, timeout_s=1.0, retry_timeout_s=1.0)
        server = await backend.server("")
        closed = []
        for number in range(REPLACED_MAX + 3):
            made = backend.channel(server)

            async def close(grace: float | None = None, number: int = number) -> None:
                closed.append(number)

            made.close = close
            rotate()
            backend.failed(server, BROKEN)
            assert backend.channel(server) is not made
        await asyncio.sleep(0)
        assert closed == [0, 1, 2]
        await backend.close()
        assert sorted(closed) == list(range(REPLACED_MAX + 3))

    asyncio.run(run())
