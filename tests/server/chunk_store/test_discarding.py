"""The chunk store of inserts that only validate: it measures, and has nothing."""

from __future__ import annotations

import numpy as np

from tensorus_server.chunk_store.abc import ChunkWriter, StagedPayload, new_payload_key
from tensorus_server.chunk_store.discarding import DiscardingChunkStore


def begun(store: DiscardingChunkStore, payload_key: str) -> ChunkWriter:
    writer = store.begin(payload_key)
    writer.append([b"one", b"", np.arange(3, dtype="<u4")])
    writer.append([bytes(1000)])
    return writer


def test_a_finished_payload_has_the_length_of_what_was_appended() -> None:
    payload_key = new_payload_key()
    assert begun(DiscardingChunkStore(), payload_key).finish() == StagedPayload(payload_key, 3 + 12 + 1000)


def test_nothing_of_a_payload_is_held_or_kept() -> None:
    store = DiscardingChunkStore()
    for end in (ChunkWriter.finish, ChunkWriter.park, ChunkWriter.abort):
        writer = begun(store, new_payload_key())
        assert writer.keep().done()
        end(writer)
    assert (list(store.kept()), list(store.published()), store._staged) == ([], [], {})


def test_what_was_staged_can_be_discarded_and_parked() -> None:
    store = DiscardingChunkStore()
    store.discard(begun(store, new_payload_key()).finish())
    store.park(begun(store, new_payload_key()).finish())
    assert list(store.kept()) == []
