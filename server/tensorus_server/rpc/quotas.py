"""Keeps callers within their quotas.

    calls per second     a bucket of two seconds' worth; a call that finds it empty is refused, and told when to retry
    streams              a stream above the limit is refused, and told to retry
    bytes per second     a bucket of one second's worth, which may be overdrawn by a message; then the stream waits
    stored bytes, tensors   an item is refused once what the dataset's owner has stored reaches the limit

Rates and streams count in this process. What is stored is read from the catalogue every two seconds, and what this process
stored since then is added; so items that are stored at the same time may together exceed a limit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.access.quotas import Usage
from tensorus_server.errors import QuotaExceededError, RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.access.quotas import Quota
    from tensorus_server.engine.access import Access

__all__ = ["Quotas"]

_CALLS_BURST_S = 2.0
_BYTES_BURST_S = 1.0
_USAGE_S = 2.0
"""How long what the catalogue said of stored bytes is used."""

_STREAM_RETRY_S = 1.0
_LOOK_S = 0.2
"""How often a stream that waits for its bandwidth checks whether its caller is still there."""

_BUCKETS_MAX = 10_000
"""Principals whose rates and stored bytes are remembered; of more, the least recently used is forgotten."""


class Quotas:
    """See the module's description. Thread-safe."""

    def __init__(self, access: Access) -> None:
        """Start with full buckets and no streams."""
        self._access = access
        self._lock = threading.Lock()
        self._calls: dict[str, _Bucket] = {}
        self._bytes: dict[str, _Bucket] = {}
        self._streams: Counter[str] = Counter()
        self._stored: dict[str, _Stored] = {}

    def admit(self, principal: str) -> None:
        """Count a call.

        Raises:
            RateLimitedError: the principal makes too many per second; says when to retry.
        """
        quota = self._access.quota_of(principal)
        if quota is None or quota.calls_per_s is None:
            return
        rate = quota.calls_per_s
        with self._lock:
            bucket = _bucket_of(self._calls, principal, rate, max(rate * _CALLS_BURST_S, 1.0))
            wait_s = bucket.take(1.0)
        if wait_s > 0:
            raise RateLimitedError(
                f"{principal} makes more calls than its limit of {rate:g} per second (calls_per_second)",
                principal=principal,
                limit=f"{rate:g}",
                retry_after_s=round(wait_s + 0.001, 3),
            )

    @contextmanager
    def stream(self, principal: str) -> Iterator[None]:
        """Count a stream for the duration of the block.

        Raises:
            RateLimitedError: the principal has as many streams open as it may.
        """
        quota = self._access.quota_of(principal)
        limit = None if quota is None else quota.streams
        with self._lock:
            if limit is not None and self._streams[principal] >= limit:
                raise RateLimitedError(
                    f"{principal} has {self._streams[principal]} streams open, limit is {limit} (streams)",
                    principal=principal,
                    limit=limit,
                    retry_after_s=_STREAM_RETRY_S,
                )
            self._streams[principal] += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams[principal] -= 1
                if not self._streams[principal]:
                    del self._streams[principal]

    def streams_of(self, principal: str) -> int:
        """Return how many streams of a principal are open."""
        return self._streams.get(principal, 0)

    def limits_bandwidth(self, principal: str) -> bool:
        """Return whether a principal's bandwidth is limited."""
        quota = self._access.quota_of(principal)
        return quota is not None and quota.bytes_per_s is not None

    def pass_bytes(self, principal: str, count: int, is_active: Callable[[], bool]) -> None:
        """Count the bytes of a message of a stream, and wait until its principal may transfer more.

        Args:
            is_active: returns whether the caller is still there; if not, there is nothing to wait for.
        """
        quota = self._access.quota_of(principal)
        if quota is None or quota.bytes_per_s is None:
            return
        rate = float(quota.bytes_per_s)
        with self._lock:
            wait_s = _bucket_of(self._bytes, principal, rate, rate * _BYTES_BURST_S).overdraw(count)
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0 and is_active():
            time.sleep(min(left_s, _LOOK_S))

    def budget_of(self, dataset: str) -> Budget | None:
        """Return what the owner of a dataset may store; None: nothing limits that."""
        if not self._access.limits_storage():
            return None
        owner = self._access.owner_of(dataset)
        quota = self._access.quota_of(owner) if owner else None
        if quota is None or (quota.stored_bytes is None and quota.tensors is None):
            return None
        return Budget(self, quota, dataset)

    def stored_of(self, quota: Quota) -> _Stored:
        """Return what the principal of a quota has stored."""
        with self._lock:
            stored = self._stored.get(quota.principal)
        if stored is not None and time.monotonic() - stored.asked_s < _USAGE_S:
            return stored
        asked_s = time.monotonic()
        usage = self._access.usage([quota.principal]).get(quota.principal, Usage())
        stored = _Stored(usage.stored_bytes, usage.tensors, asked_s)
        with self._lock:
            if self._stored.pop(quota.principal, None) is None and len(self._stored) >= _BUCKETS_MAX:
                del self._stored[next(iter(self._stored))]
            self._stored[quota.principal] = stored
        return stored

    def note(self, principal: str, stored_bytes: int, tensors: int) -> None:
        """Count tensors that were stored, until the catalogue is asked again. Does not ask it: commits wait for this."""
        with self._lock:
            if (stored := self._stored.get(principal)) is not None:
                stored.bytes += stored_bytes
                stored.tensors += tensors


class Budget:
    """What the owner of one dataset may store. Thread-safe."""

    def __init__(self, quotas: Quotas, quota: Quota, dataset: str) -> None:
        """See `Quotas.budget_of`."""
        self._quotas = quotas
        self._quota = quota
        self._dataset = dataset

    def require_room(self) -> None:
        """Check that the owner may store more.

        Raises:
            QuotaExceededError: it may not.
        """
        quota, stored = self._quota, self._quotas.stored_of(self._quota)
        for name, used, limit, unit in (
            ("stored_bytes", stored.bytes, quota.stored_bytes, "bytes"),
            ("tensors", stored.tensors, quota.tensors, "tensors"),
        ):
            if limit is not None and used >= limit:
                raise QuotaExceededError(
                    f"{quota.principal}, the owner of the dataset, has stored {used} {unit}, limit is {limit} {unit} ({name})",
                    dataset=self._dataset,
                    principal=quota.principal,
                    used=used,
                    limit=limit,
                )

    def note(self, stored_bytes: int, tensors: int) -> None:
        """Count tensors that were stored. See `Quotas.note`."""
        self._quotas.note(self._quota.principal, stored_bytes, tensors)


@dataclass
class _Stored:
    """What an owner has stored; only approximately after it was read."""

    bytes: int
    tensors: int
    asked_s: float


class _Bucket:
    """A token bucket. Its fields belong to the lock of the quotas."""

    def __init__(self, rate: float, size: float) -> None:
        self.rate, self.size = rate, size
        self._left = size
        self._filled_s = time.monotonic()

    def take(self, count: float) -> float:
        """Take tokens, or return after how many seconds there will be enough."""
        self._fill()
        if self._left < count:
            return (count - self._left) / self.rate
        self._left -= count
        return 0.0

    def overdraw(self, count: float) -> float:
        """Take tokens, also if there are too few, and return after how many seconds none will be owed."""
        self._fill()
        self._left -= count
        return max(-self._left / self.rate, 0.0)

    def _fill(self) -> None:
        now_s = time.monotonic()
        self._left = min(self._left + (now_s - self._filled_s) * self.rate, self.size)
        self._filled_s = now_s


def _bucket_of(buckets: dict[str, _Bucket], principal: str, rate: float, size: float) -> _Bucket:
    bucket = buckets.pop(principal, None)
    if bucket is None or bucket.rate != rate:
        bucket = _Bucket(rate, size)
        if len(buckets) >= _BUCKETS_MAX:
            del buckets[next(iter(buckets))]
    # The dictionary is in order of use.
    buckets[principal] = bucket
    return bucket
