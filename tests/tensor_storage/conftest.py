"""Every test of `TensorStorage` runs in all three places: a folder, memory, and a server. They must not differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from support.servers import running_server
from tensorus.tensor_storage import TensorStorage

Opening: TypeAlias = Callable[..., TensorStorage]


@pytest.fixture(params=["folder", "memory", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """What goes in as `storage_path`."""
    yield from _place(request.param, tmp_path)


@pytest.fixture(params=["folder", "server"])
def lasting_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Of a place that can be opened twice."""
    yield from _place(request.param, tmp_path)


@pytest.fixture
def opened() -> Iterator[Opening]:
    """Open storages that are closed in the end."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(TensorStorage(*arguments, **options))


@pytest.fixture
def storage(place: Any, opened: Opening) -> TensorStorage:
    """A storage without a configuration, and without datasets."""
    return opened(place)


def _place(kind: str, tmp_path: Path) -> Iterator[Any]:
    if kind == "server":
        with running_server(tmp_path / "server") as server:
            yield f"grpc://{server.address}"
    else:
        yield tmp_path / "folder" if kind == "folder" else None
