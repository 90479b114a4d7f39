"""What the role `PayloadStore` promises: ranges of published payloads, and their deletion."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from contract.chunk_store_contract import published
from contract.chunk_store_raw import RawAccess
from tensorus_server.chunk_store.abc import ChunkStore, PayloadMissingError, new_payload_key

BEYOND_THE_END = [
    pytest.param(0, 11, id="one byte more than there is"),
    pytest.param(10, 1, id="from the end on"),
    pytest.param(9, 2, id="across the end"),
    pytest.param(1000, 1, id="far beyond"),
]


class PayloadStoreContract:
    """What the role `PayloadStore` promises. A subclass supplies the fixtures `store` and `raw`."""

    def test_reading_returns_exactly_what_lies_there(self, store: ChunkStore, raw: RawAccess) -> None:
        key = published(store, b"to be removed")
        raw.plant(key, b"0123456789")
        with store.open(key) as reader:
            assert [reader.read(0, 10), reader.read(3, 4), reader.read(9, 1)] == [b"0123456789", b"3456", b"9"]

    def test_an_open_payload_says_its_length(self, store: ChunkStore) -> None:
        for payload in (b"", b"0123456789"):
            with store.open(published(store, payload)) as reader:
                assert reader.length == len(payload)

    def test_a_deleted_payload_is_gone(self, store: ChunkStore, raw: RawAccess) -> None:
        kept, deleted = published(store, b"kept"), published(store, b"deleted")
        store.delete(deleted)
        assert raw.published() == {kept: b"kept"}
        with pytest.raises(PayloadMissingError, match=deleted):
            store.open(deleted)

    def test_several_sweeps_may_delete_at_the_same_time(self, store: ChunkStore) -> None:
        with store.sweeping() as first, store.sweeping() as second:
            assert first
            assert second

    def test_deleting_twice_or_what_never_was_does_nothing(self, store: ChunkStore, raw: RawAccess) -> None:
        key = published(store, b"x")
        store.delete(key)
        store.delete(key)
        store.delete(f"00/{new_payload_key()}")
        assert raw.published() == {}

    def test_a_reader_of_a_deleted_payload_returns_its_bytes_or_says_that_it_is_missing(
        self, store: ChunkStore
    ) -> None:
        key = published(store, b"0123456789")
        with store.open(key) as reader:
            store.delete(key)
            with suppress(PayloadMissingError):
                assert reader.read(2, 5) == b"23456"

    @pytest.mark.parametrize(("offset", "length"), BEYOND_THE_END)
    def test_reading_beyond_the_end_is_refused(self, store: ChunkStore, offset: int, length: int) -> None:
        with store.open(published(store, b"0123456789")) as reader:
            with pytest.raises(PayloadMissingError, match=f"{offset + length} are needed"):
                reader.read(offset, length)
            # What it does have, it still gives.
            assert reader.read(0, 10) == b"0123456789"

    def test_nothing_can_be_read_at_the_very_end(self, store: ChunkStore) -> None:
        with store.open(published(store, b"0123456789")) as reader:
            assert reader.read(10, 0) == b""

    @pytest.mark.parametrize("key", ["00/" + "0" * 32, "0" * 32, "no such shard/" + "0" * 32])
    def test_an_unknown_key_is_missing(self, store: ChunkStore, key: str) -> None:
        with pytest.raises(PayloadMissingError, match=key):
            store.open(key)

    def test_a_reader_may_be_closed_twice(self, store: ChunkStore) -> None:
        reader = store.open(published(store, b"x"))
        reader.close()
        reader.close()

    def test_many_threads_read_through_one_reader(self, store: ChunkStore) -> None:
        payload = os.urandom(4096)
        with store.open(published(store, payload)) as reader, ThreadPoolExecutor(8) as threads:
            parts = list(threads.map(lambda offset: reader.read(offset, 16), list(range(0, 4096, 16)) * 4))
        assert b"".join(parts) == payload * 4
