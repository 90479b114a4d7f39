"""A catalogue of the test alone, which it may close and open again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.engine import Reopen
from tensorus_server.catalogue.sqlite import SqliteCatalogue


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Reopen]:
    opened: list[SqliteCatalogue] = []

    def open_again(*, delete_grace_s: float = 3600.0, upload_expiry_s: float = 3600.0) -> SqliteCatalogue:
        for catalogue in opened:
            catalogue.close()
        opened[:] = [SqliteCatalogue(tmp_path, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s)]
        return opened[0]

    yield open_again
    for catalogue in opened:
        catalogue.close()


@pytest.fixture
def set_clock_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the database's clock back by seconds; SQLite's is that of this process."""

    def set_back(by_s: float) -> None:
        now_ns = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now_ns - int(by_s * 1e9))

    return set_back


@pytest.fixture
def catalogue(reopen: Reopen) -> SqliteCatalogue:
    opened = reopen()
    assert isinstance(opened, SqliteCatalogue)
    return opened
