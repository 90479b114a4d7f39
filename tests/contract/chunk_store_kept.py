"""What every chunk store promises of payloads that are kept on their way in; a class of tests as the others."""

from __future__ import annotations

import time

import pytest

from contract.chunk_store_contract import content
from contract.chunk_store_raw import RawFolder, RawMemory
from tensorus_server.chunk_store.abc import (
    ChunkStore,
    ChunkWriter,
    PayloadBusyError,
    PayloadMissingError,
    StagedPayload,
    new_payload_key,
)

KEPT = b"0123456789"
LATER = b"not kept"


def kept_writer(store: ChunkStore, payload_key: str, payload: bytes = KEPT) -> ChunkWriter:
    """Return a writer whose payload is kept so far."""
    writer = store.begin(payload_key)
    writer.append([payload])
    writer.keep().result()
    return writer


def parked(store: ChunkStore) -> str:
    """Return the key of a payload of which `KEPT` was kept and `LATER` was not, and that nobody has."""
    payload_key = new_payload_key()
    writer = kept_writer(store, payload_key)
    writer.append([LATER])
    writer.park()
    return payload_key


def kept_keys(store: ChunkStore) -> list[str]:
    return [stored.key for stored in store.kept()]


class KeptPayloadContract:
    """What every chunk store promises. A subclass supplies the fixtures `store` and `raw`."""

    @pytest.mark.parametrize("length", [10, 4, 0])
    def test_a_parked_payload_goes_on_after_what_is_asked_for(
        self, store: ChunkStore, raw: RawFolder | RawMemory, length: int
    ) -> None:
        payload_key = parked(store)
        writer, reader = store.resume(payload_key, length)
        with reader:
            assert reader.read(0, length) == KEPT[:length]
        writer.append([b"and", b" on"])
        staged = writer.finish()
        assert (staged.payload_key, staged.length, staged.kept) == (payload_key, length + 6, True)
        (key,) = store.publish([staged])
        assert raw.published() == {key: KEPT[:length] + b"and on"}
        assert raw.kept() == {}

    def test_what_was_kept_is_there_and_what_came_later_may_go(
        self, store: ChunkStore, raw: RawFolder | RawMemory
    ) -> None:
        payload_key = parked(store)
        (stored,) = raw.kept().values()
        assert stored[: len(KEPT)] == KEPT
        assert kept_keys(store) == [payload_key]
        assert raw.published() == {}

    def test_appending_goes_on_while_a_payload_is_kept(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        for number in range(5):
            writer.append([b"%d" % number])
            done = writer.keep()
            writer.append([b"-"])
            done.result()
        (key,) = store.publish([writer.finish()])
        assert content(store, key, 10) == b"0-1-2-3-4-"

    def test_the_latest_of_several_keeps_counts(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key, b"first")
        writer.append([b" second"])
        writer.keep().result()
        writer.append([b" third"])
        writer.park()
        writer, reader = store.resume(payload_key, 12)
        with reader:
            assert reader.read(0, 12) == b"first second"
        writer.abort()

    def test_a_payload_can_be_resumed_again_and_again(self, store: ChunkStore) -> None:
        payload_key = parked(store)
        for length in range(10, 15):
            writer, reader = store.resume(payload_key, length)
            reader.close()
            writer.append([b"x"])
            writer.keep().result()
            writer.append([LATER])
            writer.park()
        writer, reader = store.resume(payload_key, 15)
        with reader:
            assert reader.read(0, 15) == KEPT + b"xxxxx"
        writer.abort()

    def test_a_resumed_payload_that_is_parked_at_once_is_as_it_was(self, store: ChunkStore) -> None:
        payload_key = parked(store)
        for _ in range(2):
            writer, reader = store.resume(payload_key, len(KEPT))
            with reader:
                assert reader.read(0, len(KEPT)) == KEPT
            writer.park()

    def test_a_payload_that_was_never_kept_is_dropped_where_it_is_parked(
        self, store: ChunkStore, raw: RawFolder | RawMemory
    ) -> None:
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        writer.append([KEPT])
        writer.park()
        assert (raw.kept(), raw.unfinished()) == ({}, 0)
        with pytest.raises(PayloadMissingError, match=payload_key):
            store.resume(payload_key, 0)

    def test_more_than_there_is_cannot_be_resumed(self, store: ChunkStore, raw: RawFolder | RawMemory) -> None:
        payload_key = parked(store)
        (stored,) = raw.kept().values()
        missing = f"payload {payload_key} has {len(stored)} bytes, {len(stored) + 1} are needed"
        with pytest.raises(PayloadMissingError, match=missing):
            store.resume(payload_key, len(stored) + 1)
        # Nor did the attempt take the payload away from anyone.
        writer, reader = store.resume(payload_key, len(KEPT))
        reader.close()
        writer.park()

    @pytest.mark.parametrize("length", [0, 1])
    def test_an_unknown_payload_cannot_be_resumed(self, store: ChunkStore, length: int) -> None:
        payload_key = new_payload_key()
        with pytest.raises(PayloadMissingError, match=payload_key):
            store.resume(payload_key, length)

    def test_a_payload_that_is_published_cannot_be_resumed(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        (key,) = store.publish([kept_writer(store, payload_key).finish()])
        with pytest.raises(PayloadMissingError, match=payload_key):
            store.resume(payload_key, len(KEPT))
        store.drop(payload_key)
        assert content(store, key, len(KEPT)) == KEPT

    @pytest.mark.parametrize("ended", ["writing", "resumed", "finished"])
    def test_a_payload_that_a_writer_has_is_busy(
        self, store: ChunkStore, raw: RawFolder | RawMemory, ended: str
    ) -> None:
        staged: StagedPayload | None = None
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        if ended == "resumed":
            writer.park()
            writer, reader = store.resume(payload_key, len(KEPT))
            reader.close()
        elif ended == "finished":
            staged = writer.finish()
        with pytest.raises(PayloadBusyError, match=payload_key):
            store.resume(payload_key, len(KEPT))
        with pytest.raises(PayloadBusyError, match=payload_key):
            store.drop(payload_key)
        assert kept_keys(store) == list(raw.kept()) == [payload_key]
        (key,) = store.publish([staged or writer.finish()])
        assert content(store, key, len(KEPT)) == KEPT

    def test_a_finished_payload_that_was_kept_is_resumed_after_it_is_parked(
        self, store: ChunkStore, raw: RawFolder | RawMemory
    ) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        writer.append([LATER])
        store.park(writer.finish())
        assert list(raw.kept()) == [payload_key]
        writer, reader = store.resume(payload_key, len(KEPT))
        with reader:
            assert reader.read(0, len(KEPT)) == KEPT
        (key,) = store.publish([writer.finish()])
        assert raw.published() == {key: KEPT}

    def test_a_finished_payload_that_was_never_kept_is_dropped_where_it_is_parked(
        self, store: ChunkStore, raw: RawFolder | RawMemory
    ) -> None:
        writer = store.begin(new_payload_key())
        writer.append([KEPT])
        staged = writer.finish()
        assert not staged.kept
        store.park(staged)
        assert (raw.kept(), raw.unfinished(), raw.published()) == ({}, 0, {})

    @pytest.mark.parametrize("resumed", [False, True])
    def test_an_aborted_payload_leaves_nothing_of_what_was_kept(
        self, store: ChunkStore, raw: RawFolder | RawMemory, *, resumed: bool
    ) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        if resumed:
            writer.park()
            writer, reader = store.resume(payload_key, len(KEPT))
            reader.close()
        writer.abort()
        writer.abort()
        writer.park()
        assert (raw.kept(), raw.unfinished(), kept_keys(store)) == ({}, 0, [])

    def test_a_discarded_payload_leaves_nothing_of_what_was_kept(
        self, store: ChunkStore, raw: RawFolder | RawMemory
    ) -> None:
        staged = kept_writer(store, new_payload_key()).finish()
        store.discard(staged)
        store.discard(staged)
        assert (raw.kept(), raw.unfinished(), raw.published()) == ({}, 0, {})

    def test_abort_after_park_has_no_effect(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        writer.park()
        writer.abort()
        writer.park()
        assert kept_keys(store) == [payload_key]

    def test_park_after_finish_has_no_effect(self, store: ChunkStore) -> None:
        writer = kept_writer(store, new_payload_key())
        staged = writer.finish()
        writer.park()
        (key,) = store.publish([staged])
        assert content(store, key, len(KEPT)) == KEPT

    def test_a_dropped_payload_is_gone(self, store: ChunkStore, raw: RawFolder | RawMemory) -> None:
        dropped, left = parked(store), parked(store)
        store.drop(dropped)
        store.drop(dropped)
        store.drop(new_payload_key())
        assert list(raw.kept()) == kept_keys(store) == [left]
        with pytest.raises(PayloadMissingError, match=dropped):
            store.resume(dropped, 0)

    def test_kept_lists_exactly_what_is_kept(self, store: ChunkStore) -> None:
        before_s = time.time()
        keys = {parked(store) for _ in range(3)}
        other = store.begin(new_payload_key())
        other.append([b"not kept"])
        store.publish([kept_writer(store, new_payload_key()).finish()])
        found = list(store.kept())
        assert {stored.key for stored in found} == keys
        assert all(before_s - 1 <= stored.modified_s <= time.time() + 1 for stored in found)
        other.abort()

    def test_kept_payloads_may_be_dropped_while_they_are_listed(self, store: ChunkStore) -> None:
        keys = {parked(store) for _ in range(5)}
        seen = set()
        for stored in store.kept():
            seen.add(stored.key)
            store.drop(stored.key)
        assert (seen, kept_keys(store)) == (keys, [])

    def test_a_sweep_of_what_is_unfinished_leaves_what_is_kept(self, store: ChunkStore) -> None:
        payload_key = parked(store)
        assert store.sweep_unfinished() == 0
        assert kept_keys(store) == [payload_key]

    def test_payloads_that_were_kept_and_others_are_published_together(
        self, store: ChunkStore, raw: RawFolder | RawMemory
    ) -> None:
        plain = store.begin(new_payload_key())
        plain.append([b"plain"])
        keys = store.publish([kept_writer(store, new_payload_key()).finish(), plain.finish()])
        assert [raw.published()[key] for key in keys] == [KEPT, b"plain"]
        assert (raw.kept(), raw.unfinished()) == ({}, 0)
