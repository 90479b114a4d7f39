"""Callers are kept within their quotas, and told the figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from support.cases import each
from tensorus_server.access.quotas import Quota, Usage
from tensorus_server.errors import QuotaExceededError, RateLimitedError
from tensorus_server.rpc import quotas as module
from tensorus_server.rpc.quotas import Quotas

P = "token:p"


class Stored:
    """What `Quotas` asks of the engine's `Access`."""

    def __init__(self, **limits: Any) -> None:
        self.quota = Quota(P, **limits)
        self.used = Usage()
        self.asked = 0

    def quota_of(self, principal: str) -> Quota | None:
        return self.quota if principal == P else None

    def limits_storage(self) -> bool:
        return self.quota.stored_bytes is not None or self.quota.tensors is not None

    def owner_of(self, dataset: str) -> str:
        return P if dataset == "owned" else ""

    def usage(self, principals: list[str]) -> dict[str, Usage]:
        self.asked += 1
        return dict.fromkeys(principals, self.used)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets time pass; nothing else does."""
    now_s = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])

    def go(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(module.time, "sleep", go)
    return go


def made(**limits: Any) -> tuple[Any, Stored]:
    access: Any = Stored(**limits)
    return Quotas(access), access


class TestCalls:
    """Calls per second."""

    def test_a_burst_passes_and_the_rest_is_told_when_to_come_back(self, clock: Callable[[float], None]) -> None:
        quotas, _ = made(calls_per_s=5.0)
        for _ in range(10):
            quotas.admit(P)
        with pytest.raises(RateLimitedError, match=r"limit of 5 per second") as caught:
            quotas.admit(P)
        clock(float(caught.value.facts["retry_after_s"]))
        quotas.admit(P)

    def test_less_than_one_call_per_second_is_a_rate_too(self, clock: Callable[[float], None]) -> None:
        quotas, _ = made(calls_per_s=0.1)
        quotas.admit(P)
        with pytest.raises(RateLimitedError):
            quotas.admit(P)
        clock(10)
        quotas.admit(P)

    def test_others_are_not_affected(self) -> None:
        quotas, _ = made(calls_per_s=0.001)
        quotas.admit(P)
        for _ in range(100):
            quotas.admit("token:other")

    def test_a_changed_quota_counts_at_once(self, clock: Callable[[float], None]) -> None:
        quotas, access = made(calls_per_s=0.001)
        quotas.admit(P)
        access.quota = Quota(P, calls_per_s=1000.0)
        quotas.admit(P)

    def test_the_memory_for_rates_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_BUCKETS_MAX", 3)
        quotas, access = made()
        access.quota_of = lambda principal: Quota(principal, calls_per_s=1.0)
        for number in range(10):
            quotas.admit(f"token:{number}")
        assert list(quotas._calls) == ["token:7", "token:8", "token:9"]


class TestStreams:
    """Streams at the same time."""

    def test_one_above_the_limit_is_refused_until_another_ends(self) -> None:
        quotas, _ = made(streams=1)
        with quotas.stream(P):
            assert quotas.streams_of(P) == 1
            with pytest.raises(RateLimitedError, match="has 1 streams open, limit is 1") as caught, quotas.stream(P):
                pass
            assert "retry_after_s" in caught.value.facts
        with quotas.stream(P):
            pass
        assert quotas.streams_of(P) == 0


class TestBandwidth:
    """Bytes per second."""

    def test_a_stream_waits_until_nothing_is_owed(self, clock: Callable[[float], None]) -> None:
        quotas, _ = made(bytes_per_s=1000)
        begun_s = time.monotonic()
        for _ in range(11):
            quotas.pass_bytes(P, 1000, lambda: True)
        assert time.monotonic() - begun_s == pytest.approx(10.0)

    def test_nobody_waits_for_a_caller_that_has_gone(self, clock: Callable[[float], None]) -> None:
        quotas, _ = made(bytes_per_s=1)
        begun_s = time.monotonic()
        quotas.pass_bytes(P, 1_000_000, lambda: False)
        assert time.monotonic() == begun_s


class TestStorage:
    """Stored bytes and tensors, of the owner of the dataset."""

    @each(("limits", "unit"), [({"stored_bytes": 100}, "bytes"), ({"tensors": 100}, "tensors")])
    def test_what_reaches_the_limit_is_refused_with_the_figure(self, limits: dict[str, int], unit: str) -> None:
        quotas, access = made(**limits)
        access.used = Usage(100, 100)
        with pytest.raises(
            QuotaExceededError, match=f"token:p, .* has stored 100 {unit}, limit is 100 {unit}"
        ) as caught:
            quotas.budget_of("owned").require_room()
        assert caught.value.facts["limit"] == "100"

    def test_what_this_process_stores_counts_before_the_catalogue_says_so(self, clock: Callable[[float], None]) -> None:
        quotas, access = made(stored_bytes=100)
        budget = quotas.budget_of("owned")
        budget.require_room()
        budget.note(100, 1)
        with pytest.raises(QuotaExceededError):
            budget.require_room()
        assert access.asked == 1
        clock(2)
        # The catalogue knows better.
        budget.require_room()
        assert access.asked == 2

    def test_the_catalogue_is_not_asked_while_commits_wait(self, clock: Callable[[float], None]) -> None:
        quotas, access = made(stored_bytes=100)
        budget = quotas.budget_of("owned")
        budget.note(100, 1)
        assert access.asked == 0
        budget.require_room()
        clock(60.0)
        budget.note(100, 1)
        assert access.asked == 1

    def test_the_memory_for_stored_bytes_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_BUCKETS_MAX", 2)
        quotas, _ = made(stored_bytes=100)
        for name in ("a", "b", "a", "c"):
            quotas.stored_of(Quota(f"token:{name}"))
        assert len(quotas._stored) == 2
        assert "token:c" in quotas._stored

    def test_datasets_of_nobody_are_not_limited(self) -> None:
        quotas, _ = made(stored_bytes=0)
        assert quotas.budget_of("of nobody") is None

    def test_without_such_quotas_nobody_is_asked(self) -> None:
        quotas, access = made(calls_per_s=1.0)
        access.owner_of = None
        assert quotas.budget_of("owned") is None
