"""What all staging promises, also that which stores nothing: no test here reads a payload back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawAccess
from tensorus_server.chunk_store.abc import PayloadMissingError, StagedPayload, Staging, new_payload_key


def staged(store: Staging, *buffers: Any) -> StagedPayload:
    """Return a staged payload."""
    writer = store.begin(new_payload_key())
    writer.append(buffers)
    return writer.finish()


BUFFERS = [
    pytest.param([], id="no buffers"),
    pytest.param([b""], id="an empty buffer"),
    pytest.param([b"one"], id="one buffer"),
    pytest.param([b"one", b"", b"two"], id="several buffers, one empty"),
    pytest.param([bytearray(b"ab"), memoryview(b"cd"), np.arange(3, dtype="<u4")], id="buffers of every kind"),
    pytest.param([np.arange(6, dtype="<u2").reshape(2, 3)], id="a buffer of two dimensions"),
    pytest.param([bytes([number % 251]) for number in range(3000)], id="more buffers than one system call takes"),
]


class WritingContract:
    """The part of `Staging` that asks nothing of a store's memory. A subclass supplies the fixtures `store` and `raw`."""

    def test_a_staged_payload_says_its_name_and_length(self, store: Staging) -> None:
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        writer.append([b"12345"])
        assert writer.finish() == StagedPayload(payload_key, 5)

    def test_a_dropped_payload_leaves_nothing(self, store: Staging, raw: RawAccess) -> None:
        writer = store.begin(new_payload_key())
        writer.append([b"bytes"])
        writer.drop()
        writer.drop()
        assert (raw.published(), raw.unfinished()) == ({}, 0)

    def test_a_payload_that_was_begun_and_dropped_leaves_nothing(self, store: Staging, raw: RawAccess) -> None:
        store.begin(new_payload_key()).drop()
        assert (raw.published(), raw.unfinished()) == ({}, 0)

    def test_space_can_be_had_on_a_store_without_a_reserve(self, store: Staging) -> None:
        store.require_space()

    def test_publishing_nothing_returns_nothing(self, store: Staging) -> None:
        assert store.publish([]) == []

    def test_a_key_ends_with_the_name_under_which_the_payload_was_begun(self, store: Staging) -> None:
        # The name seeds the chunks' CRCs; readers find it in the key.
        group = [staged(store, b"x") for _ in range(3)]
        assert [key.rpartition("/")[2] for key in store.publish(group)] == [payload.payload_key for payload in group]

    @pytest.mark.parametrize("buffers", BUFFERS)
    def test_the_length_is_that_of_all_buffers(self, store: Staging, buffers: list[Any]) -> None:
        assert staged(store, *buffers).length == sum(memoryview(buffer).nbytes for buffer in buffers)

    def test_a_staged_payload_that_is_dropped_leaves_nothing(self, store: Staging, raw: RawAccess) -> None:
        payload = staged(store, b"bytes")
        store.drop(payload)
        store.drop(payload)
        assert (raw.published(), raw.kept(), raw.unfinished()) == ({}, {}, 0)

    def test_a_staged_payload_that_was_never_kept_is_dropped_where_it_is_parked(
        self, store: Staging, raw: RawAccess
    ) -> None:
        payload = staged(store, b"bytes")
        assert not payload.kept
        store.park(payload)
        assert (raw.published(), raw.kept(), raw.unfinished()) == ({}, {}, 0)

    def test_a_payload_that_was_never_kept_is_dropped_where_it_is_parked(self, store: Staging, raw: RawAccess) -> None:
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        writer.append([b"bytes"])
        writer.park()
        writer.park()
        assert (raw.kept(), raw.unfinished()) == ({}, 0)
        with pytest.raises(PayloadMissingError, match=payload_key):
            store.resume(payload_key, 0)

    @pytest.mark.parametrize("length", [0, 1])
    def test_an_unknown_payload_cannot_be_resumed(self, store: Staging, length: int) -> None:
        payload_key = new_payload_key()
        with pytest.raises(PayloadMissingError, match=payload_key):
            store.resume(payload_key, length)

    def test_a_kept_payload_that_is_not_there_may_be_dropped(self, store: Staging, raw: RawAccess) -> None:
        store.drop_kept(new_payload_key())
        assert raw.kept() == {}

    def test_keeping_ends_and_the_write_goes_on(self, store: Staging, raw: RawAccess) -> None:
        writer = store.begin(new_payload_key())
        for number in range(3):
            writer.append([b"%d" % number])
            done = writer.keep()
            writer.append([b"-"])
            assert done.result(timeout=30) is None
        assert writer.finish().length == 6

    def test_a_sweep_finds_nothing_of_a_living_process(self, store: Staging) -> None:
        writer = store.begin(new_payload_key())
        writer.append([b"bytes"])
        payload = staged(store, b"staged")
        assert store.sweep_unfinished() == 0
        writer.drop()
        store.drop(payload)
