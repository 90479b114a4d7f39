"""What staging promises whose payloads can be read once they are published; `chunk_store_kept.py` has what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from contract.chunk_store_contract import content, published, staged
from contract.chunk_store_raw import RawAccess
from contract.chunk_store_writing import BUFFERS, WritingContract
from tensorus_server.chunk_store.abc import ChunkStore, new_payload_key


class StagingContract(WritingContract):
    """What the role `Staging` promises of payloads that are published. A subclass supplies the fixtures `store` and `raw`."""

    @pytest.mark.parametrize("buffers", BUFFERS)
    def test_a_published_payload_has_exactly_the_appended_bytes(
        self, store: ChunkStore, raw: RawAccess, buffers: list[Any]
    ) -> None:
        expected = b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers)
        payload = staged(store, *buffers)
        (key,) = store.publish([payload])
        assert raw.published() == {key: expected}
        assert payload.length == len(expected)

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

    def test_drop_after_finish_has_no_effect(self, store: ChunkStore) -> None:
        writer = store.begin(new_payload_key())
        writer.append([b"bytes"])
        payload = writer.finish()
        writer.drop()
        (key,) = store.publish([payload])
        assert content(store, key, 5) == b"bytes"

    def test_dropping_a_staged_payload_leaves_the_others(self, store: ChunkStore, raw: RawAccess) -> None:
        kept, dropped = staged(store, b"kept"), staged(store, b"dropped")
        store.drop(dropped)
        store.drop(dropped)
        (key,) = store.publish([kept])
        assert raw.published() == {key: b"kept"}

    def test_a_group_is_published_in_its_own_order(self, store: ChunkStore, raw: RawAccess) -> None:
        group = [staged(store, b"payload %d" % number) for number in range(20)]
        keys = store.publish(group)
        assert [raw.published()[key] for key in keys] == [b"payload %d" % number for number in range(20)]
        assert raw.unfinished() == 0

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
