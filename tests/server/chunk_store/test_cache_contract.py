"""A store that is read through a cache keeps the promises of a store, and returns the bytes of the store below."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.chunk_store_contract import ChunkStoreContract
from contract.chunk_store_payloads import PayloadStoreContract
from contract.chunk_store_raw import RawAccess, RawFolder, RawMemory
from support import stores
from support.caches import CountingStore, ThroughCache, cache_of
from tensorus_server.chunk_store.cache import block_files
from tensorus_server.chunk_store.cache.block_files import blocks_of
from tensorus_server.chunk_store.cache.lru import BlockIndex
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.chunk_store.memory import MemoryChunkStore


class OverMemory:
    @pytest.fixture
    def below(self) -> MemoryChunkStore:
        return MemoryChunkStore()

    @pytest.fixture
    def raw(self, below: MemoryChunkStore) -> RawAccess:
        return RawMemory(below)

    @pytest.fixture
    def store(self, below: MemoryChunkStore, tmp_path: Path) -> Iterator[ThroughCache]:
        with cache_of(below, tmp_path / "cache") as cached:
            yield ThroughCache(below, cached)


class OverFiles:
    @pytest.fixture
    def below(self, tmp_path: Path) -> Iterator[LocalChunkStore]:
        with stores.few_shards():
            opened = LocalChunkStore(tmp_path)
        yield opened
        opened.close()

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawAccess:
        return RawFolder(tmp_path)

    @pytest.fixture
    def store(self, below: LocalChunkStore, tmp_path: Path) -> Iterator[ThroughCache]:
        with cache_of(below, tmp_path / "cache") as cached:
            yield ThroughCache(below, cached)


class TestCachedMemoryPayloads(OverMemory, PayloadStoreContract):
    """Nothing beyond the contract."""


class TestCachedMemoryStore(OverMemory, ChunkStoreContract):
    """Likewise."""


class TestCachedLocalPayloads(OverFiles, PayloadStoreContract):
    """Likewise."""


class TestCachedLocalStore(OverFiles, ChunkStoreContract):
    """Likewise."""


@pytest.mark.parametrize("size_bytes", [2**30, 3 * 4096, 0], ids=["all fits", "hardly anything fits", "nothing fits"])
def test_every_read_returns_what_the_store_below_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    monkeypatch.setattr(block_files, "BLOCK_BYTES", 64)
    rng = random.Random(5)
    below = CountingStore()
    payloads = {below.keep(payload): payload for payload in (rng.randbytes(size) for size in (1, 63, 64, 96, 97, 700))}
    with cache_of(below, tmp_path, size_bytes) as cached:
        for _ in range(600):
            key, payload = rng.choice(list(payloads.items()))
            begin = rng.randint(0, len(payload))
            end = rng.randint(begin, len(payload))
            with cached.open(key) as reader:
                if rng.random() < 0.3:
                    reader.prefetch([(begin, end - begin), (0, len(payload) + 1)])
                assert reader.read(begin, end - begin) == payload[begin:end]
        assert bool(cached.statistics.hits) == bool(size_bytes)


@given(st.integers(1, 5 * block_files.BLOCK_BYTES), st.data())
def test_blocks_cover_a_range_without_gaps_and_are_the_same_for_every_range(
    payload_bytes: int, data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, payload_bytes - 1))
    end = data.draw(st.integers(begin + 1, payload_bytes))
    blocks = blocks_of("0" * 32, payload_bytes, begin, end)
    assert blocks[0].offset <= begin < blocks[0].end
    assert blocks[-1].offset < end <= blocks[-1].end
    assert all(before.end == after.offset for before, after in itertools.pairwise(blocks))
    every = blocks_of("0" * 32, payload_bytes, 0, payload_bytes)
    assert every[0].offset == 0
    assert every[-1].end == payload_bytes
    assert set(blocks) <= set(every)
    assert all(min(block_files.BLOCK_BYTES // 2, payload_bytes) <= block.length for block in every)
    assert all(block.length < 3 * block_files.BLOCK_BYTES // 2 + 1 for block in every)
    assert set(every).isdisjoint(blocks_of("1" * 32, payload_bytes, 0, payload_bytes))


@given(st.lists(st.tuples(st.sampled_from("atrro"), st.integers(0, 12), st.integers(1, 9)), max_size=120))
def test_the_index_of_blocks_is_a_dict_in_the_order_of_use(program: list[tuple[str, int, int]]) -> None:
    index, model = BlockIndex(6), OrderedDict[int, int]()
    for what, number, units in program:
        # Of few buckets, so that chains are long.
        name = number * 8 + 2**59
        if what == "a" and (len(model) < 6 or name in model):
            index.add(name, units)
            model.pop(name, None)
            model[name] = units
        elif what == "t":
            assert index.touch(name) == (name in model)
            if name in model:
                model.move_to_end(name)
        elif what == "r":
            assert index.remove(name) == model.pop(name, 0)
        elif what == "o":
            assert index.oldest() == next(iter(model), None)
        assert list(index) == list(model)
        assert (len(index), index.units, index.is_full) == (len(model), sum(model.values()), len(model) == 6)
        assert (name in index) == (name in model)


def test_the_index_refuses_more_entries_than_it_has_room_for() -> None:
    index = BlockIndex(1)
    index.add(1, 1)
    with pytest.raises(ValueError, match="holds 1 blocks"):
        index.add(2, 1)
