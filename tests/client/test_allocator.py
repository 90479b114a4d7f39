"""Glibc's allocator is set up for bulk transfers, once, and only where it is wanted."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

import tensorus
from tensorus import _allocator
from tensorus._allocator import tune_allocator

# Source: malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

MIB = 1024 * 1024


class Library:
    """A C library that writes down what it is told."""

    def __init__(self, accepted: dict[int, int]) -> None:
        self.settings: dict[int, int] = {}
        self._accepted = accepted

    def mallopt(self, setting: int, value: int) -> int:
        self.settings[setting] = value
        return self._accepted.get(setting, 1)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library({})
    monkeypatch.setattr(ctypes, "CDLL", lambda _: found)
    return found


def tune_afresh(**settings: Any) -> bool:
    """Apply the settings as if for the first time in this process."""
    return tune_allocator.__wrapped__(**settings)


def test_messages_stay_on_the_heap_and_free_memory_with_the_process(library: Library) -> None:
    assert tune_afresh()
    assert library.settings == {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 32 * MIB}


def test_a_server_asks_for_few_heaps(library: Library) -> None:
    assert tune_afresh(arenas_max=2)
    assert library.settings[M_ARENA_MAX] == 2


def test_a_setting_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library({M_TRIM_THRESHOLD: 0}))
    assert not tune_afresh()


@pytest.mark.parametrize("error", [OSError, AttributeError], ids=["no glibc", "no mallopt"])
def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(_: str) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not tune_afresh()


def test_the_settings_are_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tune_allocator()

    def called(_: str) -> Any:
        raise AssertionError("applied a second time")

    monkeypatch.setattr(ctypes, "CDLL", called)
    tune_allocator()


@pytest.mark.parametrize(("options", "calls"), [({}, 1), ({"tune_allocator": False}, 0)], ids=["unasked", "refused"])
@pytest.mark.parametrize("way_in", [tensorus.connect, tensorus.open])
def test_connecting_and_opening_tune_unless_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way_in: Any, options: dict[str, Any], calls: int
) -> None:
    tuned: list[None] = []
    monkeypatch.setattr(_allocator, "tune_allocator", lambda: tuned.append(None))
    where = "127.0.0.1:1" if way_in is tensorus.connect else tmp_path
    way_in(where, **options).close()
    assert len(tuned) == calls
