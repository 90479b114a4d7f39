"""Readers: how many requests they make, what they fetch ahead and keep, and what they do with damage."""

from __future__ import annotations

import os
import threading

import pytest

from contract.chunk_store_raw_objects import RawObjects
from server.chunk_store.objects.conftest import CommittedStore, MakeStore
from server.chunk_store.objects.test_writing import KIB, MIB, written
from support.http_proxy import HttpProxy, Passed, Treatment
from support.seaweed import Seaweed
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.objects.client import RequestLimits
from tensorus_server.errors import StoreUnavailableError


def gets(store: CommittedStore) -> int:
    """Return how many GETs were made since this was last called."""
    return store.client.requests.pop("get", 0)


def test_a_small_payload_takes_one_request_for_everything(make_store: MakeStore) -> None:
    store = make_store()
    for payload in (os.urandom(10), os.urandom(3 * MIB)):
        key = written(store, payload)
        with store.open(key) as reader:
            assert reader.read(len(payload) - 5, 5) + reader.read(0, 5) == payload[-5:] + payload[:5]
        assert gets(store) == 1


def test_opening_a_large_payload_takes_one_request_that_also_has_its_end(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=MIB, packed_bytes_max=KIB)
    payload = os.urandom(5 * MIB + 300 * KIB)
    key = written(store, payload, pieces=7)
    with store.open(key) as reader:
        assert reader.length == len(payload)
        assert reader.read(len(payload) - 100 * KIB, 100 * KIB) == payload[-100 * KIB :]
        assert gets(store) == 1
        assert reader.read(100, 10) == payload[100:110]
        assert gets(store) == 1


def test_a_range_may_span_segments(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=1000, packed_bytes_max=-1)
    payload = os.urandom(300 * KIB)
    key = written(store, payload, pieces=1)
    with store.open(key) as reader:
        for offset, length in ((0, len(payload)), (500, 1), (999, 2), (950, 5000), (1000, 1000)):
            assert reader.read(offset, length) == payload[offset : offset + length]
        reader.prefetch([(10, 5000), (5010, 3000)])
        assert reader.read(10, 5000) + reader.read(5010, 3000) == payload[10:8010]


def test_announced_ranges_that_follow_each_other_are_fetched_together(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=64 * MIB, packed_bytes_max=KIB)
    payload = os.urandom(9 * MIB)
    key = written(store, payload)
    with store.open(key) as reader:
        gets(store)
        ranges = [(start, 256 * KIB) for start in range(0, 8 * MIB, 256 * KIB)]
        reader.prefetch(ranges)
        assert [reader.read(*one) == payload[one[0] : sum(one)] for one in ranges] == [True] * len(ranges)
        assert gets(store) == 2
        # A gap that is larger than what another request costs is not fetched.
        reader.prefetch([(0, KIB), (4 * MIB, KIB), (4 * MIB + 2 * KIB, KIB)])
        assert reader.read(0, KIB) + reader.read(4 * MIB, KIB) == payload[:KIB] + payload[4 * MIB : 4 * MIB + KIB]
        assert gets(store) == 2
        assert reader.read(4 * MIB + 2 * KIB, KIB) == payload[4 * MIB + 2 * KIB : 4 * MIB + 3 * KIB]
        assert gets(store) == 0


def test_what_was_fetched_is_released_once_it_is_read_or_the_reader_closed(make_store: MakeStore) -> None:
    store = make_store(packed_bytes_max=KIB)
    key = written(store, os.urandom(5 * MIB))
    reader = store.open(key)
    held = store.read_budget.taken
    reader.prefetch([(0, MIB), (2 * MIB, MIB)])
    assert store.read_budget.taken == held + 2 * MIB
    reader.read(0, MIB)
    assert store.read_budget.taken == held + MIB
    reader.close()
    reader.close()
    # A request that was running keeps its memory until it ends.
    assert store._gets.close(30)
    assert store.read_budget.taken == 0


def test_readers_fetch_no_more_ahead_than_their_memory_allows_and_read_the_rest_at_once(make_store: MakeStore) -> None:
    store = make_store(packed_bytes_max=KIB, read_bytes_max=3 * MIB)
    payload = os.urandom(6 * MIB)
    key = written(store, payload)
    readers = [store.open(key) for _ in range(2)]
    ranges = [(start, MIB) for start in range(0, 5 * MIB, MIB)]
    for reader in readers:
        reader.prefetch(ranges)
        reader.prefetch([(start, MIB - 1) for start, _ in ranges])
    assert store.read_budget.peak <= 3 * MIB
    for reader in readers:
        for start, length in ranges:
            assert reader.read(start, length) == payload[start : start + length]
        reader.close()
    assert store.read_budget.peak <= 3 * MIB


def test_an_announcement_never_fails_and_the_read_does(make_store: MakeStore, seaweed: Seaweed, prefix: str) -> None:
    away = threading.Event()
    with HttpProxy(seaweed.port, lambda _: Treatment("status") if away.is_set() else None) as proxy:
        store = make_store(
            url=f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}",
            packed_bytes_max=KIB,
            requests=RequestLimits(attempts=2, backoff_s=0.01),
        )
        payload = os.urandom(5 * MIB)
        key = written(store, payload)
        with store.open(key) as reader:
            away.set()
            reader.prefetch([(0, MIB), (10 * MIB, 1), (0, -1)])
            with pytest.raises(StoreUnavailableError, match="HTTP 503"):
                reader.read(0, MIB)
            away.clear()
            assert reader.read(0, MIB) == payload[:MIB]


def test_a_get_that_is_cut_or_refused_is_repeated(make_store: MakeStore, seaweed: Seaweed, prefix: str) -> None:
    count = iter(range(1000))

    def sometimes(request: Passed) -> Treatment | None:
        if request.method != "GET":
            return None
        return {0: Treatment("cut_after"), 1: Treatment("status", 500), 2: Treatment("delay", seconds=3)}.get(
            next(count) % 4
        )

    with HttpProxy(seaweed.port, sometimes) as proxy:
        requests = RequestLimits(attempt_s=1.0, attempts=5, backoff_s=0.01)
        store = make_store(url=f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}", requests=requests)
        payload = os.urandom(100)
        key = written(store, payload)
        with store.open(key) as reader:
            assert reader.read(0, 100) == payload
        assert gets(store) == 4


def test_a_flipped_byte_of_a_segment_directory_is_found(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store(segment_bytes=100, packed_bytes_max=-1)
    key = written(store, bytes(250))
    (name,) = (name for name in raw.objects() if name.endswith("-end"))
    whole = raw.objects()[name]
    for place in range(1, 24 + 3 * 12 + 1, 7):
        damaged = bytearray(whole)
        damaged[-place] ^= 1
        raw.put(name, bytes(damaged))
        with store.open(key) as reader:
            with pytest.raises(PayloadUnreadableError, match="segment"):
                reader.read(0, 1)
            with pytest.raises(PayloadUnreadableError, match="segment"):
                _ = reader.length


def test_a_payload_that_is_deleted_while_it_is_read_is_missing(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=MIB, packed_bytes_max=KIB)
    key = written(store, bytes(3 * MIB))
    with store.open(key) as reader:
        store.delete(key)
        with pytest.raises(PayloadMissingError):
            reader.read(0, 10)


@pytest.mark.parametrize("payload_bytes", [100, 700 * KIB])
def test_presigned_ranges_are_the_bytes_of_the_payload(make_store: MakeStore, payload_bytes: int) -> None:
    import urllib.error  # noqa: PLC0415 - of this test alone
    import urllib.request  # noqa: PLC0415

    store = make_store(segment_bytes=200 * KIB, packed_bytes_max=KIB)
    payload = os.urandom(payload_bytes)
    written(store, b"before it in the pack")
    key = written(store, payload)
    ranges = [(0, 10), (payload_bytes // 3, payload_bytes // 2), (payload_bytes - 1, 1)]
    signed = store.presign(key, ranges, 60.0)
    assert signed is not None
    for (offset, length), pieces in zip(ranges, signed, strict=True):
        data = b""
        for piece in pieces:
            last = piece.offset + piece.length - 1
            request = urllib.request.Request(piece.url, headers={"Range": f"bytes={piece.offset}-{last}"})
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 206
                data += answer.read()
        assert data == payload[offset : offset + length]
    with pytest.raises(PayloadMissingError, match=f"{payload_bytes + 1} are needed"):
        store.presign(key, [(0, payload_bytes + 1)], 60.0)


def test_a_payload_is_looked_for_once_to_presign_its_ranges(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=200 * KIB, packed_bytes_max=KIB)
    key = written(store, os.urandom(700 * KIB))
    store.client.requests.clear()
    first = store.presign(key, [(0, 10)], 60.0)
    assert store.client.requests["get"] == 1
    again = store.presign(key, [(0, 10)], 60.0)
    assert store.client.requests["get"] == 1
    assert first is not None
    assert again is not None
    assert [(piece.offset, piece.length) for piece in again[0]] == [(piece.offset, piece.length) for piece in first[0]]


def test_a_store_that_cannot_sign_says_so(make_store: MakeStore) -> None:
    store = make_store(url="memory://tests")
    key = written(store, b"payload")
    assert store.presign(key, [(0, 1)], 60.0) is None
