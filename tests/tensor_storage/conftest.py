"""Every test of `TensorStorage` runs in all three places: a folder, memory, and a server. They must not differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import tensorus
from support.servers import running_server
from tensorus.tensor_storage import TensorStorage
from tensorus_server.processes.server import Server

Opening: TypeAlias = Callable[..., TensorStorage]


@pytest.fixture(scope="module", autouse=True)
def quick_stores(few_shards: None) -> None:
    """Give every store few folders."""


@pytest.fixture(params=["folder", "memory", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """What goes in as `storage_path`."""
    yield from _place(request, tmp_path)


@pytest.fixture(params=["folder", "server"])
def lasting_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Of a place that can be opened twice."""
    yield from _place(request, tmp_path)


@pytest.fixture(params=["folder", "server"])
def own_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Of a place whose files are below `tmp_path`, for the test to damage."""
    if request.param == "server":
        with running_server(tmp_path / "server") as server:
            yield f"grpc://{server.address}"
    else:
        yield tmp_path / "folder"


@pytest.fixture
def opened() -> Iterator[Opening]:
    """Open storages that are closed in the end."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(TensorStorage(*arguments, **options))


@pytest.fixture
def storage(place: Any, opened: Opening) -> TensorStorage:
    """A storage without a configuration, and without datasets."""
    return opened(place)


@pytest.fixture(scope="session")
def storage_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is without datasets at the beginning of each test."""
    with running_server(tmp_path_factory.mktemp("storage-server")) as server:
        yield server


def _place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "server":
        server: Server = request.getfixturevalue("storage_server")
        yield f"grpc://{server.address}"
        with tensorus.connect(server.address) as client:
            for dataset in client.datasets():
                client.delete_dataset(dataset.name)
    else:
        yield tmp_path / "folder" if request.param == "folder" else None
