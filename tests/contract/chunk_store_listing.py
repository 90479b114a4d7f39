"""What the roles `PayloadListing` and `Quarantine` promise: the second net, by which orphans are found and held."""

from __future__ import annotations

import time

import pytest

from contract.chunk_store_contract import content, published
from contract.chunk_store_kept import KEPT, kept_keys, kept_writer, parked
from contract.chunk_store_raw import RawAccess
from tensorus_server.chunk_store.abc import (
    ChunkStore,
    PayloadBusyError,
    PayloadMissingError,
    Quarantined,
    new_payload_key,
)


class PayloadListingContract:
    """What the role `PayloadListing` promises. A subclass supplies the fixture `store`."""

    def test_published_lists_exactly_what_is_published(self, store: ChunkStore) -> None:
        keys = [published(store, b"x") for _ in range(5)]
        store.delete(keys.pop(2))
        assert sorted(stored.key for stored in store.published()) == sorted(keys)

    def test_published_says_when_a_payload_was_written(self, store: ChunkStore) -> None:
        before_s = time.time()
        published(store, b"x")
        (stored,) = store.published()
        # The sweep compares it with the wall clock; a second of tolerance is far below any age that it asks for.
        assert before_s - 1 <= stored.modified_s <= time.time() + 1

    def test_payloads_may_be_deleted_while_they_are_listed(self, store: ChunkStore) -> None:
        keys = {published(store, b"x") for _ in range(5)}
        seen = set()
        for stored in store.published():
            seen.add(stored.key)
            store.delete(stored.key)
        assert seen == keys
        assert list(store.published()) == []

    def test_kept_lists_exactly_what_is_kept(self, store: ChunkStore) -> None:
        before_s = time.time()
        keys = {parked(store) for _ in range(3)}
        other = store.begin(new_payload_key())
        other.append([b"not kept"])
        store.publish([kept_writer(store, new_payload_key()).finish()])
        found = list(store.kept())
        assert {stored.key for stored in found} == keys
        assert all(before_s - 1 <= stored.modified_s <= time.time() + 1 for stored in found)
        other.drop()

    def test_kept_payloads_may_be_dropped_while_they_are_listed(self, store: ChunkStore) -> None:
        keys = {parked(store) for _ in range(5)}
        seen = set()
        for stored in store.kept():
            seen.add(stored.key)
            store.drop_kept(stored.key)
        assert (seen, kept_keys(store)) == (keys, [])


class QuarantineContract:
    """What the role `Quarantine` promises. A subclass supplies the fixtures `store` and `raw`."""

    def test_what_is_put_into_quarantine_is_neither_listed_nor_lost(self, store: ChunkStore) -> None:
        moved, stays = published(store, b"moved"), published(store, b"stays")
        assert store.quarantine.put(moved, until_s=2e9)
        assert store.quarantine.entries() == [Quarantined(moved, 5, 2e9)]
        assert [stored.key for stored in store.published()] == [stays]

    def test_a_kept_payload_goes_into_quarantine_and_back(self, store: ChunkStore) -> None:
        payload_key = parked(store)
        assert store.quarantine.put(f"uploads/{payload_key}", until_s=2e9)
        assert kept_keys(store) == []
        (entry,) = store.quarantine.entries()
        store.quarantine.restore(entry)
        assert kept_keys(store) == [payload_key]
        writer, reader = store.resume(payload_key, len(KEPT))
        with reader:
            assert reader.read(0, len(KEPT)) == KEPT
        writer.drop()

    def test_a_payload_that_a_writer_has_cannot_be_put_into_quarantine(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        with pytest.raises(PayloadBusyError, match=payload_key):
            store.quarantine.put(f"uploads/{payload_key}", until_s=2e9)
        assert store.quarantine.entries() == []
        (key,) = store.publish([writer.finish()])
        assert content(store, key, len(KEPT)) == KEPT

    def test_what_is_restored_is_as_it_was(self, store: ChunkStore, raw: RawAccess) -> None:
        key = published(store, b"payload")
        store.quarantine.put(key, until_s=2e9)
        (entry,) = store.quarantine.entries()
        store.quarantine.restore(entry)
        assert raw.published() == {key: b"payload"}
        assert store.quarantine.entries() == []
        with pytest.raises(PayloadMissingError, match=key):
            store.quarantine.restore(entry)

    def test_what_is_deleted_from_quarantine_is_gone(self, store: ChunkStore) -> None:
        for until_s in (2e9, 1e9):
            store.quarantine.put(published(store, b"x"), until_s=until_s)
        first, second = store.quarantine.entries()
        assert (first.until_s, second.until_s) == (1e9, 2e9)
        store.quarantine.delete(first)
        store.quarantine.delete(first)
        assert store.quarantine.entries() == [second]

    @pytest.mark.parametrize("key", ["00/" + "0" * 32, "uploads/" + "0" * 32])
    def test_what_is_not_there_cannot_be_put_into_quarantine(self, store: ChunkStore, key: str) -> None:
        assert not store.quarantine.put(key, until_s=2e9)
        assert store.quarantine.entries() == []
