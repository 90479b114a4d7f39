"""Payloads in packs that are fetched before they are opened: the same bytes as otherwise, by fewer requests."""

from __future__ import annotations

import os
import random
import threading
from contextlib import closing
from pathlib import Path

import pytest

from server.chunk_store.objects.conftest import CommittedStore, MakeStore
from server.chunk_store.objects.test_reading import gets
from server.chunk_store.objects.test_writing import KIB, MIB
from support.caches import wait_for
from support.http_proxy import HttpProxy, Treatment
from support.seaweed import Seaweed
from tensorus_server.chunk_store.abc import PayloadMissingError, new_payload_key
from tensorus_server.chunk_store.cache import CachedPayloads
from tensorus_server.chunk_store.objects.client import RequestLimits
from tensorus_server.errors import StoreUnavailableError


def packed(store: CommittedStore, payloads: list[bytes]) -> list[str]:
    """Publish payloads together."""
    staged = []
    for payload in payloads:
        writer = store.begin(new_payload_key())
        writer.append([payload])
        staged.append(writer.finish())
    return store.publish(staged)


def opened(store: CommittedStore, key: str) -> bytes:
    with store.open(key) as reader:
        return reader.read(0, reader.length)


@pytest.mark.parametrize("order", ["as stored", "backwards", "random, some twice", "every third"])
def test_what_was_fetched_ahead_is_what_opening_alone_returns(make_store: MakeStore, order: str) -> None:
    store = make_store()
    payloads = [os.urandom(size) for size in (1, 100 * KIB, MIB, 3 * MIB, 10, 2 * MIB, 70 * KIB, MIB, 4 * MIB, 5)]
    keys = packed(store, payloads)
    content = dict(zip(keys, payloads, strict=True))
    announced = {
        "as stored": keys,
        "backwards": keys[::-1],
        "random, some twice": random.Random(0).choices(keys, k=20),
        "every third": keys[::3],
    }[order]
    assert [opened(store, key) for key in announced] == [content[key] for key in announced]
    alone = gets(store)
    give_up = store.fetch_ahead(announced)
    assert [opened(store, key) for key in announced] == [content[key] for key in announced]
    give_up()
    assert gets(store) <= alone
    assert store.read_budget.taken == 0
    # Nothing is kept for another opening.
    assert opened(store, keys[0]) == payloads[0]
    assert gets(store) == 1


def test_payloads_that_follow_each_other_are_fetched_together(make_store: MakeStore) -> None:
    store = make_store()
    keys = packed(store, [os.urandom(100 * KIB) for _ in range(80)])
    give_up = store.fetch_ahead(keys)
    for key in keys:
        opened(store, key)
    give_up()
    assert gets(store) == 2


def test_what_is_given_up_is_released(make_store: MakeStore) -> None:
    store = make_store()
    keys = packed(store, [os.urandom(MIB) for _ in range(8)])
    give_up = store.fetch_ahead([*keys, "no key", "t" * 40])
    assert store.read_budget.taken == 8 * MIB
    opened(store, keys[1])
    give_up()
    give_up()
    # A request that was running keeps its memory until it ends.
    assert store._gets.close(30)
    assert store.read_budget.taken == 0
    assert not store._ahead._groups


def test_two_reads_may_announce_the_same_payloads(make_store: MakeStore) -> None:
    store = make_store()
    payloads = [os.urandom(MIB) for _ in range(4)]
    keys = packed(store, payloads)
    first, second = store.fetch_ahead(keys), store.fetch_ahead(keys)
    assert opened(store, keys[0]) == payloads[0]
    first()
    assert [opened(store, key) for key in keys] == payloads
    second()
    assert store._gets.close(30)
    assert store.read_budget.taken == 0


def test_no_more_is_fetched_ahead_than_the_memory_allows(make_store: MakeStore) -> None:
    store = make_store(read_bytes_max=5 * MIB)
    payloads = [os.urandom(MIB) for _ in range(12)]
    keys = packed(store, payloads)
    give_up = store.fetch_ahead(keys)
    assert store.read_budget.peak <= 5 * MIB
    assert [opened(store, key) for key in keys] == payloads
    give_up()
    assert store.read_budget.taken == 0


def test_a_payload_whose_fetch_failed_is_fetched_when_it_is_opened(
    make_store: MakeStore, seaweed: Seaweed, prefix: str
) -> None:
    away = threading.Event()
    with HttpProxy(seaweed.port, lambda _: Treatment("status") if away.is_set() else None) as proxy:
        store = make_store(url=f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}", requests=RequestLimits(attempts=1))
        payloads = [os.urandom(KIB) for _ in range(3)]
        keys = packed(store, payloads)
        away.set()
        give_up = store.fetch_ahead(keys)
        with pytest.raises(StoreUnavailableError, match="answers with an error"):
            store.open(keys[0])
        away.clear()
        assert [opened(store, key) for key in keys] == payloads
        give_up()
        assert store.read_budget.taken == 0


def test_a_pack_that_is_gone_is_found_missing_when_it_is_opened(make_store: MakeStore) -> None:
    store = make_store()
    keys = packed(store, [b"one", b"two"])
    for key in keys:
        store.delete(key)
    give_up = store.fetch_ahead(keys)
    with pytest.raises(PayloadMissingError, match="no payload has the key"):
        store.open(keys[1])
    give_up()
    assert store.read_budget.taken == 0


def test_a_cache_lets_only_what_it_has_not_be_fetched_ahead(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    payloads = [os.urandom(200 * KIB) for _ in range(6)]
    keys = packed(store, payloads)
    with closing(CachedPayloads(store, tmp_path / "cache", 64 * MIB)) as cache:
        assert cache.fetches_ahead
        wait_for(lambda: cache._cache.is_ready)
        with cache.open(keys[0]) as reader:
            assert reader.read(0, reader.length) == payloads[0]
        gets(store)
        give_up = cache.fetch_ahead(keys)
        assert store.read_budget.taken == 5 * 200 * KIB
        found = []
        for key in keys:
            with cache.open(key) as reader:
                found.append(reader.read(0, reader.length))
        give_up()
        assert found == payloads
        assert gets(store) == 1
        assert store.read_budget.taken == 0
