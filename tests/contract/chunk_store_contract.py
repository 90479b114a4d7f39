"""What every chunk store promises, as a class of tests. A store adds a class of its own that supplies the fixtures."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import pytest

from tensorus_server.chunk_store.abc import ChunkStore, PayloadMissingError, Quarantined, StagedPayload, new_payload_key
from tensorus_server.model import StoreIdentity


class RawAccess(Protocol):
    """What lies in a store, seen past the store: so writing and reading are tested apart."""

    def published(self) -> dict[str, bytes]:
        """Return every published payload by key."""

    def unfinished(self) -> int:
        """Return how many payloads lie there that were begun and not published."""

    def plant(self, key: str, payload: bytes) -> None:
        """Put a payload where a published one would be."""


def staged(store: ChunkStore, *buffers: Any) -> StagedPayload:
    """Return a finished payload."""
    writer = store.begin(new_payload_key())
    writer.append(buffers)
    return writer.finish()


def published(store: ChunkStore, payload: bytes) -> str:
    """Return the key of a published payload."""
    (key,) = store.publish([staged(store, payload)])
    return key


def content(store: ChunkStore, key: str, length: int) -> bytes:
    """Return the first `length` bytes of a published payload."""
    with store.open(key) as reader:
        return reader.read(0, length)


BUFFERS = [
    pytest.param([], id="no buffers"),
    pytest.param([b""], id="an empty buffer"),
    pytest.param([b"one"], id="one buffer"),
    pytest.param([b"one", b"", b"two"], id="several buffers, one empty"),
    pytest.param([bytearray(b"ab"), memoryview(b"cd"), np.arange(3, dtype="<u4")], id="buffers of every kind"),
    pytest.param([np.arange(6, dtype="<u2").reshape(2, 3)], id="a buffer of two dimensions"),
    pytest.param([bytes([number % 251]) for number in range(3000)], id="more buffers than one system call takes"),
]

BEYOND_THE_END = [
    pytest.param(0, 11, id="one byte more than there is"),
    pytest.param(10, 1, id="from the end on"),
    pytest.param(9, 2, id="across the end"),
    pytest.param(1000, 1, id="far beyond"),
]


IDENTITIES = [
    StoreIdentity("0123456789abcdef" * 2, 1),
    StoreIdentity("0123456789abcdef" * 2, 2),
    StoreIdentity("0123456789abcdef" * 2, 3),
    # Two at once: where a process was killed in between.
    StoreIdentity("0123456789abcdef" * 2, 5),
    StoreIdentity("fedcba9876543210" * 2, 4),
]


class ChunkStoreContract:
    """What every chunk store promises. A subclass supplies the fixtures `store` and `raw`."""

    @pytest.mark.parametrize("buffers", BUFFERS)
    def test_a_published_payload_has_exactly_the_appended_bytes(
        self, store: ChunkStore, raw: RawAccess, buffers: list[Any]
    ) -> None:
        expected = b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers)
        payload = staged(store, *buffers)
        (key,) = store.publish([payload])
        assert raw.published() == {key: expected}
        assert payload.length == len(expected)

    def test_reading_returns_exactly_what_lies_there(self, store: ChunkStore, raw: RawAccess) -> None:
        key = published(store, b"to be removed")
        raw.plant(key, b"0123456789")
        with store.open(key) as reader:
            assert [reader.read(0, 10), reader.read(3, 4), reader.read(9, 1)] == [b"0123456789", b"3456", b"9"]

    def test_appends_follow_each_other(self, store: ChunkStore) -> None:
        writer = store.begin(new_payload_key())
        for number in range(10):
            writer.append([bytes([number]) * number, b"|"])
        payload = writer.finish()
        (key,) = store.publish([payload])
        expected = b"".join(bytes([number]) * number + b"|" for number in range(10))
        assert content(store, key, payload.length) == expected

    def test_a_buffer_may_be_reused_once_it_is_appended(self, store: ChunkStore) -> None:
        buffer = bytearray(b"first")
        writer = store.begin(new_payload_key())
        writer.append([buffer])
        buffer[:] = b"other"
        (key,) = store.publish([writer.finish()])
        assert content(store, key, 5) == b"first"

    def test_payloads_that_grow_side_by_side_do_not_mix(self, store: ChunkStore) -> None:
        writers = [store.begin(new_payload_key()) for _ in range(4)]
        for _ in range(5):
            for number, writer in enumerate(writers):
                writer.append([bytes([number]) * 3])
        keys = store.publish([writer.finish() for writer in writers])
        assert [content(store, key, 15) for key in keys] == [bytes([number]) * 15 for number in range(4)]

    def test_a_staged_payload_says_its_name_and_length(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        writer.append([b"12345"])
        assert writer.finish() == StagedPayload(payload_key, 5)

    def test_a_finished_payload_is_not_readable_yet(self, store: ChunkStore, raw: RawAccess) -> None:
        payload = staged(store, b"bytes")
        assert list(store.published()) == []
        assert raw.published() == {}
        with pytest.raises(PayloadMissingError):
            store.open(payload.payload_key)

    def test_an_aborted_payload_leaves_nothing(self, store: ChunkStore, raw: RawAccess) -> None:
        writer = store.begin(new_payload_key())
        writer.append([b"bytes"])
        writer.abort()
        writer.abort()
        assert (raw.published(), raw.unfinished()) == ({}, 0)

    def test_a_payload_that_was_begun_and_aborted_leaves_nothing(self, store: ChunkStore, raw: RawAccess) -> None:
        store.begin(new_payload_key()).abort()
        assert (raw.published(), raw.unfinished()) == ({}, 0)

    def test_abort_after_finish_has_no_effect(self, store: ChunkStore) -> None:
        writer = store.begin(new_payload_key())
        writer.append([b"bytes"])
        payload = writer.finish()
        writer.abort()
        (key,) = store.publish([payload])
        assert content(store, key, 5) == b"bytes"

    def test_a_discarded_payload_leaves_nothing(self, store: ChunkStore, raw: RawAccess) -> None:
        kept, dropped = staged(store, b"kept"), staged(store, b"dropped")
        store.discard(dropped)
        store.discard(dropped)
        assert raw.unfinished() == 1
        (key,) = store.publish([kept])
        assert raw.published() == {key: b"kept"}

    def test_a_group_is_published_in_its_own_order(self, store: ChunkStore, raw: RawAccess) -> None:
        group = [staged(store, b"payload %d" % number) for number in range(20)]
        keys = store.publish(group)
        assert [raw.published()[key] for key in keys] == [b"payload %d" % number for number in range(20)]
        assert raw.unfinished() == 0

    def test_a_key_ends_with_the_name_under_which_the_payload_was_begun(self, store: ChunkStore) -> None:
        # The name seeds the chunks' CRCs; readers find it in the key.
        group = [staged(store, b"x") for _ in range(3)]
        assert [key.rpartition("/")[2] for key in store.publish(group)] == [payload.payload_key for payload in group]

    def test_publishing_nothing_returns_nothing(self, store: ChunkStore) -> None:
        assert store.publish([]) == []

    def test_published_lists_exactly_what_is_published(self, store: ChunkStore) -> None:
        staged(store, b"not published")
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

    def test_a_deleted_payload_is_gone(self, store: ChunkStore, raw: RawAccess) -> None:
        kept, deleted = published(store, b"kept"), published(store, b"deleted")
        store.delete(deleted)
        assert raw.published() == {kept: b"kept"}
        with pytest.raises(PayloadMissingError, match=deleted):
            store.open(deleted)

    def test_deleting_twice_or_what_never_was_does_nothing(self, store: ChunkStore, raw: RawAccess) -> None:
        key = published(store, b"x")
        store.delete(key)
        store.delete(key)
        store.delete(f"00/{new_payload_key()}")
        assert raw.published() == {}

    def test_a_deletion_does_not_hurt_an_open_reader(self, store: ChunkStore) -> None:
        key = published(store, b"0123456789")
        with store.open(key) as reader:
            store.delete(key)
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

    def test_a_new_store_has_no_identity(self, store: ChunkStore) -> None:
        assert store.read_identity() is None

    def test_the_identity_is_what_was_written_last(self, store: ChunkStore) -> None:
        for identity in IDENTITIES:
            store.write_identity(identity)
            assert store.read_identity() == identity
        assert list(store.published()) == []

    def test_what_is_put_into_quarantine_is_neither_published_nor_lost(self, store: ChunkStore, raw: RawAccess) -> None:
        moved, stays = published(store, b"moved"), published(store, b"stays")
        assert store.quarantine.put(moved, until_s=2e9)
        assert store.quarantine.entries() == [Quarantined(moved, 5, 2e9)]
        assert raw.published() == {stays: b"stays"}
        with pytest.raises(PayloadMissingError):
            store.open(moved)

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

    def test_a_sweep_leaves_what_this_process_has_under_way(self, store: ChunkStore) -> None:
        writer = store.begin(new_payload_key())
        writer.append([b"first"])
        payload = staged(store, b"staged")
        key = published(store, b"published")
        assert store.sweep_unfinished() == 0
        writer.append([b" second"])
        keys = store.publish([writer.finish(), payload])
        assert [content(store, keys[0], 12), content(store, keys[1], 6)] == [b"first second", b"staged"]
        assert content(store, key, 9) == b"published"

    def test_space_can_be_had_on_a_store_without_a_reserve(self, store: ChunkStore) -> None:
        store.require_space()

    def test_a_store_may_be_closed_twice(self, store: ChunkStore) -> None:
        store.close()
        store.close()

    def test_many_threads_write_read_and_delete_at_once(self, store: ChunkStore, raw: RawAccess) -> None:
        def work(number: int) -> dict[str, bytes]:
            kept = {}
            for turn in range(20):
                payload = os.urandom(50 + turn) + bytes([number])
                writer = store.begin(new_payload_key())
                for begin in range(0, len(payload), 17):
                    writer.append([payload[begin : begin + 17]])
                (key,) = store.publish([writer.finish()])
                assert content(store, key, len(payload)) == payload
                if turn % 3:
                    kept[key] = payload
                else:
                    store.delete(key)
            return kept

        with ThreadPoolExecutor(8) as threads:
            kept = {key: payload for part in threads.map(work, range(8)) for key, payload in part.items()}
        assert raw.published() == kept
        assert raw.unfinished() == 0

    def test_many_threads_read_through_one_reader(self, store: ChunkStore) -> None:
        payload = os.urandom(4096)
        with store.open(published(store, payload)) as reader, ThreadPoolExecutor(8) as threads:
            parts = list(threads.map(lambda offset: reader.read(offset, 16), list(range(0, 4096, 16)) * 4))
        assert b"".join(parts) == payload * 4


def test_payload_keys_are_random_names_of_32_hex_digits() -> None:
    keys = {new_payload_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
