"""Descriptors: the soft limit goes up to the hard one, within reason, and connections may have half of it."""

from __future__ import annotations

import resource

import pytest

from tensorus_server.processes import descriptors

INFINITE = resource.RLIM_INFINITY


class Limits:
    """Limits of a process that is not this one."""

    def __init__(self, soft: int, hard: int, *, refuses: bool = False) -> None:
        self.now = (soft, hard)
        self._refuses = refuses

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        if self._refuses:
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "found"),
    [
        (1024, 4096, (4096, 4096)),
        (1024, 1024, (1024, 1024)),
        (1024, 1 << 30, (65_536, 1 << 30)),
        (1024, INFINITE, (65_536, INFINITE)),
        (100_000, INFINITE, (100_000, INFINITE)),
        (INFINITE, INFINITE, (INFINITE, INFINITE)),
    ],
)
def test_the_soft_limit_is_raised(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, found: tuple[int, int]
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(descriptors.resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(descriptors.resource, "setrlimit", limits.setrlimit)
    descriptors.raise_limit()
    assert limits.now == found


def test_a_system_that_refuses_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(256, INFINITE, refuses=True)
    monkeypatch.setattr(descriptors.resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(descriptors.resource, "setrlimit", limits.setrlimit)
    descriptors.raise_limit()
    assert descriptors.connections_max() == 128


@pytest.mark.parametrize(("soft", "found"), [(1, 1), (1024, 512), (1 << 30, 32_768), (INFINITE, 32_768)])
def test_connections_may_have_half(monkeypatch: pytest.MonkeyPatch, soft: int, found: int) -> None:
    monkeypatch.setattr(descriptors.resource, "getrlimit", Limits(soft, INFINITE).getrlimit)
    assert descriptors.connections_max() == found
