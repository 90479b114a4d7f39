"""What a whole chunk store promises, and helpers for the contracts of its roles, which are in the modules beside this one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.chunk_store_raw import RawAccess
from contract.chunk_store_writing import staged
from tensorus_server.chunk_store.abc import ChunkStore, PayloadMissingError, PayloadStore, new_payload_key

__all__ = ["ChunkStoreContract", "SingleHostContract", "content", "published", "staged"]


def published(store: ChunkStore, payload: bytes) -> str:
    """Return the key of a published payload."""
    (key,) = store.publish([staged(store, payload)])
    return key


def content(store: PayloadStore, key: str, length: int) -> bytes:
    """Return the first `length` bytes of a published payload."""
    with store.open(key) as reader:
        return reader.read(0, length)


class ChunkStoreContract:
    """What the roles of one store promise together. A subclass supplies the fixtures `store` and `raw`."""

    def test_a_store_may_be_closed_twice(self, store: ChunkStore) -> None:
        store.close()
        store.close()

    def test_the_space_of_a_disk_is_known_or_there_is_none(self, store: ChunkStore) -> None:
        space = store.space()
        assert space is None or 0 <= space.free_bytes <= space.total_bytes

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


class SingleHostContract:
    """What stores in files and in memory promise beyond their roles: every change is seen at once, and by everybody.

    A store of objects need not: see `Staging.publish`, `ChunkReader.read` and `Quarantine.put`. A subclass supplies the
    fixtures `store` and `raw`.
    """

    def test_a_finished_payload_is_not_readable_yet(self, store: ChunkStore, raw: RawAccess) -> None:
        payload = staged(store, b"bytes")
        assert list(store.published()) == []
        assert raw.published() == {}
        with pytest.raises(PayloadMissingError):
            store.open(payload.payload_key)

    def test_a_deletion_does_not_hurt_an_open_reader(self, store: ChunkStore) -> None:
        key = published(store, b"0123456789")
        with store.open(key) as reader:
            store.delete(key)
            assert reader.read(2, 5) == b"23456"

    def test_a_payload_in_quarantine_cannot_be_opened(self, store: ChunkStore, raw: RawAccess) -> None:
        moved, stays = published(store, b"moved"), published(store, b"stays")
        assert store.quarantine.put(moved, until_s=2e9)
        assert raw.published() == {stays: b"stays"}
        with pytest.raises(PayloadMissingError):
            store.open(moved)


def test_payload_keys_are_random_names_of_32_hex_digits() -> None:
    keys = {new_payload_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
