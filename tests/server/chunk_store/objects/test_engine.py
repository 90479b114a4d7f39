"""An engine whose payloads are objects: the requests that its reads make, and damage that its checksums find."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw_objects import RawObjects
from support.arrays import random_bits
from support.calls import a_call
from support.engine import find, insert, read
from support.packs import CatalogueLog
from support.seaweed import Seaweed
from support.verifying import verified
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import ChunkReader
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.footer import read_footer
from tensorus_server.engine.query import Query
from tensorus_server.engine.read.ahead import announced
from tensorus_server.errors import DataCorruptError
from tensorus_server.limits import PACKED_BYTES_MAX, READ_AHEAD_BYTES
from tensorus_server.model import SliceSet
from tensorus_server.rpc.read_call import ReadCall

MIB = 1024 * 1024


@pytest.fixture
def catalogue() -> SqliteCatalogue:
    return SqliteCatalogue(None)


@pytest.fixture
def store(catalogue: SqliteCatalogue, seaweed: Seaweed, prefix: str) -> ObjectChunkStore:
    return ObjectChunkStore(seaweed.url(prefix), writes=CatalogueLog(catalogue))


@pytest.fixture
def engine(catalogue: SqliteCatalogue, store: ObjectChunkStore) -> Iterator[Engine]:
    opened = Engine(catalogue, store, CodecPool(2), sweeps=False)
    opened.create_dataset("data")
    yield opened
    opened.close()


def counted(store: ObjectChunkStore) -> dict[str, int]:
    """Return the requests since this was last called."""
    found = dict(store.client.requests)
    store.client.requests.clear()
    return found


TENSORS = {
    "inline": (4 * 1024, {}, {}),
    "in a pack": (MIB, {"put": 1}, {"get": 1}),
    "in a segment": (6 * MIB, {"put": 1}, {"get": 3}),
    "in three segments": (24 * MIB, {"put": 3}, {"get": 7}),
    "in eight segments": (64 * MIB, {"put": 8}, {"get": 17}),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_takes_few_requests(engine: Engine, store: ObjectChunkStore, kind: str) -> None:
    size, puts, gets_max = TENSORS[kind]
    array = random_bits("float32", (size // 4,))
    counted(store)
    insert(engine, "data", "t", array)
    assert counted(store) == puts
    assert read(engine, "data", "t").tobytes() == array.tobytes()
    found = counted(store)
    assert found.keys() == gets_max.keys()
    assert all(count <= gets_max[name] for name, count in found.items())


def test_a_slice_fetches_only_what_it_needs(engine: Engine, store: ObjectChunkStore) -> None:
    array = random_bits("float32", (24, MIB // 4))
    insert(engine, "data", "t", array)
    counted(store)
    part = SliceSet((slice(3, 4), slice(0, 1000)))
    assert read(engine, "data", "t", part).tobytes() == array[3:4, :1000].tobytes()
    assert counted(store)["get"] <= 2


def test_a_flipped_byte_of_a_segment_is_found_as_on_a_disk(
    engine: Engine, store: ObjectChunkStore, raw: RawObjects
) -> None:
    array = random_bits("float32", (3 * MIB,))
    insert(engine, "data", "t", array)
    name = next(name for name in raw.objects() if name.startswith("t/") and not name.endswith("-end"))
    data = bytearray(raw.objects()[name])
    data[len(data) // 2] ^= 0x10
    raw.put(name, bytes(data))
    with pytest.raises(DataCorruptError, match=r"CRC32C of chunk \d+ is") as error:
        read(engine, "data", "t")
    assert error.value.facts["tensor"] == "t"
    assert len(verified(engine).damages) == 1


def test_every_payload_ends_with_the_footer_that_describes_its_row(engine: Engine, store: ObjectChunkStore) -> None:
    for name, size in (("small", MIB), ("large", 10 * MIB)):
        insert(engine, "data", name, random_bits("uint8", (size,)))
        with store.open(find(engine, "data", name).locator.key) as reader:
            footer = read_footer(reader.read, reader.length)
        assert (footer.dataset, footer.id) == ("data", name)


def test_tensors_of_one_commit_share_a_pack(engine: Engine, store: ObjectChunkStore) -> None:
    for number in range(3):
        insert(engine, "data", f"t{number}", random_bits("uint8", (MIB,), seed=number))
    assert len(list(store.packs.packs())) == 3
    assert all(find(engine, "data", f"t{number}").locator.length < PACKED_BYTES_MAX for number in range(3))


def test_a_query_sends_the_same_messages_whether_payloads_are_fetched_ahead(
    engine: Engine, store: ObjectChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, size in enumerate((100, 300_000, MIB, 2 * MIB, 5 * MIB, 200_000, 0, 400_000)):
        insert(engine, "data", f"t{number}", random_bits("uint8", (size,), seed=number))

    def messages() -> list[bytes]:
        options = pb.ReadOptions()
        call = ReadCall(
            a_call("Query"), engine.reader, pb.QueryResponse, options, borrow=lambda _: None, fail_fast=False
        )
        found = engine.select(Query("data", seed=1), with_payloads=True)
        return list(call.responses(((tensor, None) for tensor in found), found))

    ahead = messages()
    monkeypatch.setattr(ObjectChunkStore, "fetches_ahead", False)
    alone = messages()
    parsed = [pb.QueryResponse.FromString(message) for message in ahead]
    assert ahead == alone
    assert sum(1 for message in parsed if message.resume_token) > 1
    assert store.read_budget.taken == 0


class _Chunks:
    """Chunks of 3 MiB, of a store that fetches ahead or not."""

    def __init__(self, *, fetches_ahead: bool) -> None:
        self.fetches_ahead = fetches_ahead
        self.announced: list[list[int]] = []

    def record_bytes_of(self, chunk: int) -> int:
        del chunk
        return 3 * MIB

    def announce(self, chunks: list[int]) -> None:
        self.announced.append(list(chunks))


def ahead(chunks: Any, count: int) -> Iterator[tuple[int, int]]:
    """Yield each chunk, with the highest one that was announced by then."""
    for chunk in announced(chunks, range(count), lambda number: number):
        yield chunk, max((number for group in chunks.announced for number in group), default=-1)


def test_chunks_are_announced_in_order_once_and_within_the_limit() -> None:
    chunks = _Chunks(fetches_ahead=True)
    found = list(ahead(chunks, 40))
    assert [chunk for chunk, _ in found] == list(range(40))
    assert [number for group in chunks.announced for number in group] == list(range(40))
    assert all(chunk <= highest for chunk, highest in found)
    # One record may be above the limit.
    assert max(highest - chunk for chunk, highest in found) * 3 * MIB <= READ_AHEAD_BYTES
    assert len(chunks.announced) < 20


def test_nothing_is_announced_to_a_store_that_fetches_nothing_ahead() -> None:
    chunks = _Chunks(fetches_ahead=False)
    assert [chunk for chunk, _ in ahead(chunks, 5)] == list(range(5))
    assert chunks.announced == []


def test_a_reader_in_memory_fetches_nothing_ahead() -> None:
    reader: ChunkReader = BytesReader(np.arange(4, dtype=np.uint8).tobytes())
    reader.prefetch([(0, 4)])
    assert not reader.fetches_ahead
