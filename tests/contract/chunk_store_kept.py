"""What the role `Staging` promises of payloads that are kept on their way in."""

from __future__ import annotations

import pytest

from contract.chunk_store_contract import content
from contract.chunk_store_raw import RawAccess
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
    """What `Staging` promises of what is kept, and resumed later. A subclass supplies the fixtures `store` and `raw`."""

    @pytest.mark.parametrize("keeps", [1, 2, 3])
    def test_a_parked_payload_goes_on_after_any_of_its_keeps(
        self, store: ChunkStore, raw: RawAccess, keeps: int
    ) -> None:
        # The last one may be unknown to whoever resumes: a crash came before its mark was saved.
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        for number in range(3):
            writer.append([KEPT, b"%d" % number])
            writer.keep().result()
        writer.append([LATER])
        writer.park()
        expected = b"".join(KEPT + b"%d" % number for number in range(keeps))
        writer, reader = store.resume(payload_key, len(expected))
        with reader:
            assert reader.read(0, len(expected)) == expected
        writer.append([b"and", b" on"])
        staged = writer.finish()
        assert (staged.payload_key, staged.length, staged.kept) == (payload_key, len(expected) + 6, True)
        (key,) = store.publish([staged])
        assert raw.published() == {key: expected + b"and on"}
        assert raw.kept() == {}

    def test_what_was_kept_is_there_and_what_came_later_may_go(self, store: ChunkStore, raw: RawAccess) -> None:
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
        writer.drop()

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
        writer.drop()

    def test_a_resumed_payload_that_is_parked_at_once_is_as_it_was(self, store: ChunkStore) -> None:
        payload_key = parked(store)
        for _ in range(2):
            writer, reader = store.resume(payload_key, len(KEPT))
            with reader:
                assert reader.read(0, len(KEPT)) == KEPT
            writer.park()

    def test_more_than_there_is_cannot_be_resumed(self, store: ChunkStore, raw: RawAccess) -> None:
        payload_key = parked(store)
        (stored,) = raw.kept().values()
        missing = f"payload {payload_key} has {len(stored)} bytes, {len(stored) + 1} are needed"
        with pytest.raises(PayloadMissingError, match=missing):
            store.resume(payload_key, len(stored) + 1)
        # Nor did the attempt take the payload away from anyone.
        writer, reader = store.resume(payload_key, len(KEPT))
        reader.close()
        writer.park()

    def test_a_payload_that_is_published_cannot_be_resumed(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        (key,) = store.publish([kept_writer(store, payload_key).finish()])
        with pytest.raises(PayloadMissingError, match=payload_key):
            store.resume(payload_key, len(KEPT))
        store.drop_kept(payload_key)
        assert content(store, key, len(KEPT)) == KEPT

    @pytest.mark.parametrize("ended", ["writing", "resumed", "finished"])
    def test_a_payload_that_a_writer_has_is_busy(self, store: ChunkStore, raw: RawAccess, ended: str) -> None:
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
            store.drop_kept(payload_key)
        assert kept_keys(store) == list(raw.kept()) == [payload_key]
        (key,) = store.publish([staged or writer.finish()])
        assert content(store, key, len(KEPT)) == KEPT

    def test_a_finished_payload_that_was_kept_is_resumed_after_it_is_parked(
        self, store: ChunkStore, raw: RawAccess
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

    @pytest.mark.parametrize("resumed", [False, True])
    def test_a_payload_whose_write_is_dropped_leaves_nothing_of_what_was_kept(
        self, store: ChunkStore, raw: RawAccess, *, resumed: bool
    ) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        if resumed:
            writer.park()
            writer, reader = store.resume(payload_key, len(KEPT))
            reader.close()
        writer.drop()
        writer.drop()
        writer.park()
        assert (raw.kept(), raw.unfinished(), kept_keys(store)) == ({}, 0, [])

    def test_a_staged_payload_that_is_dropped_leaves_nothing_of_what_was_kept(
        self, store: ChunkStore, raw: RawAccess
    ) -> None:
        staged = kept_writer(store, new_payload_key()).finish()
        store.drop(staged)
        store.drop(staged)
        assert (raw.kept(), raw.unfinished(), raw.published()) == ({}, 0, {})

    def test_drop_after_park_has_no_effect(self, store: ChunkStore) -> None:
        payload_key = new_payload_key()
        writer = kept_writer(store, payload_key)
        writer.park()
        writer.drop()
        writer.park()
        assert kept_keys(store) == [payload_key]

    def test_park_after_finish_has_no_effect(self, store: ChunkStore) -> None:
        writer = kept_writer(store, new_payload_key())
        staged = writer.finish()
        writer.park()
        (key,) = store.publish([staged])
        assert content(store, key, len(KEPT)) == KEPT

    def test_a_kept_payload_that_is_dropped_is_gone(self, store: ChunkStore, raw: RawAccess) -> None:
        dropped, left = parked(store), parked(store)
        store.drop_kept(dropped)
        store.drop_kept(dropped)
        store.drop_kept(new_payload_key())
        assert list(raw.kept()) == kept_keys(store) == [left]
        with pytest.raises(PayloadMissingError, match=dropped):
            store.resume(dropped, 0)

    def test_a_sweep_of_what_is_unfinished_leaves_what_is_kept(self, store: ChunkStore) -> None:
        payload_key = parked(store)
        assert store.sweep_unfinished() == 0
        assert kept_keys(store) == [payload_key]

    def test_payloads_that_were_kept_and_others_are_published_together(self, store: ChunkStore, raw: RawAccess) -> None:
        plain = store.begin(new_payload_key())
        plain.append([b"plain"])
        keys = store.publish([kept_writer(store, new_payload_key()).finish(), plain.finish()])
        assert [raw.published()[key] for key in keys] == [KEPT, b"plain"]
        assert (raw.kept(), raw.unfinished()) == ({}, 0)
