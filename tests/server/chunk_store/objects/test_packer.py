"""Payloads that are published together are found in their pack, however fast its thread is."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from support.write_log import MemoryWriteLog, SharedLog
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.objects.store import ObjectChunkStore


def test_a_pack_whose_thread_is_faster_than_its_publication_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectChunkStore("memory://test", writes=MemoryWriteLog(SharedLog()))
    submit = store._puts.submit

    def submit_and_wait(work: Callable[..., Any], group: list[Any]) -> Future[Any]:
        future = submit(work, group)
        give_up_s = time.monotonic() + 30
        # The thread drops its group when the pack's bytes are made.
        while group and time.monotonic() < give_up_s:
            time.sleep(0.001)
        assert not group
        return future

    monkeypatch.setattr(store._puts, "submit", submit_and_wait)
    staged = []
    for _ in range(3):
        writer = store.begin(new_payload_key())
        writer.append([b"bytes"])
        staged.append(writer.finish())
    keys = store.publish(staged)
    assert [bytes(store.open(key).read(0, 5)) for key in keys] == [b"bytes"] * 3
    assert store.close()


def test_a_pack_is_stored_before_the_payload_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectChunkStore("memory://test", writes=MemoryWriteLog(SharedLog()))
    monkeypatch.setattr(store._packer, "_pack_bytes_max", 1000)
    staged = []
    for number in range(10):
        writer = store.begin(new_payload_key())
        writer.append([bytes([number]) * 300])
        staged.append(writer.finish())
    keys = store.publish(staged)
    assert [bytes(store.open(key).read(0, 300)) for key in keys] == [bytes([number]) * 300 for number in range(10)]
    # Three in each.
    assert store.client.requests["put"] == 4
    assert store.close()
