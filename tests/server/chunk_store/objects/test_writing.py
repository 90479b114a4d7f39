"""Segments: where they are cut, what happens to failed and late PUTs, and how other processes go on."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from contract.chunk_store_contract import content
from contract.chunk_store_raw_objects import RawObjects
from server.chunk_store.objects.conftest import MakeStore
from support.http_proxy import HttpProxy, Passed, Treatment
from support.seaweed import Seaweed
from support.write_log import MemoryWriteLog, SharedLog
from tensorus_server.chunk_store.abc import PayloadBusyError, PayloadMissingError, new_payload_key
from tensorus_server.chunk_store.objects.client import RequestLimits
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.errors import StoreUnavailableError

KIB = 1024
MIB = 1024 * KIB
QUICK = RequestLimits(attempts=4, backoff_s=0.01, total_s=20.0)


def written(store: ObjectChunkStore, payload: bytes, *, pieces: int = 10, payload_key: str | None = None) -> str:
    """Return the key of a published payload that was appended in pieces."""
    writer = store.begin(payload_key or new_payload_key())
    step = -(-len(payload) // pieces)
    for start in range(0, len(payload), step):
        writer.append([payload[start : start + step]])
    (key,) = store.publish([writer.finish()])
    return key


def names(raw: RawObjects) -> list[str]:
    """Return the last parts of all objects' names."""
    return sorted(name.rpartition("/")[2] for name in raw.objects())


def test_a_large_payload_is_segments_of_one_size_and_the_key_says_where_the_last_one_is(
    make_store: MakeStore, raw: RawObjects
) -> None:
    store = make_store(segment_bytes=100 * KIB, packed_bytes_max=64 * KIB)
    payload = os.urandom(250 * KIB)
    key = written(store, payload, pieces=7)
    first, second, last = names(raw)
    assert (first, second) == ("1-0000000000000000", f"1-{len(raw.objects()[_name(raw, first)]):016d}")
    assert last.endswith("-end")
    assert raw.published() == {key: payload}
    assert content(store, key, len(payload)) == payload


def _name(raw: RawObjects, end: str) -> str:
    return next(name for name in raw.objects() if name.endswith(end))


def test_a_payload_up_to_the_limit_is_packed_and_one_byte_more_is_not(make_store: MakeStore) -> None:
    store = make_store(packed_bytes_max=1000)
    assert written(store, bytes(1000)).startswith("p")
    assert written(store, bytes(1001)).startswith("s1-0-1001/")


def test_the_log_knows_a_payload_before_its_first_object_is_stored(
    seaweed: Seaweed, log: SharedLog, prefix: str
) -> None:
    seen: list[set[str]] = []

    def look(request: Passed) -> None:
        if request.method == "PUT":
            seen.append(set(log.begun))

    with HttpProxy(seaweed.port, look) as proxy:
        store = ObjectChunkStore(
            f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}", writes=MemoryWriteLog(log), packed_bytes_max=10
        )
        large = store.begin(payload_key := new_payload_key())
        large.append([bytes(100)])
        store.publish([large.finish()])
        small = store.begin(new_payload_key())
        small.append([b"small"])
        (packed,) = store.publish([small.finish()])
        assert payload_key in seen[0]
        assert f"pack/{packed[1:33]}" in seen[1]
        assert len(seen) == 2
        store.close()


def test_a_group_of_small_payloads_costs_one_put_and_names_of_packs_are_noted_many_at_once(
    make_store: MakeStore,
) -> None:
    store = make_store()
    for _ in range(10):
        group = []
        for number in range(50):
            writer = store.begin(new_payload_key())
            writer.append([b"%d" % number])
            group.append(writer.finish())
        keys = store.publish(group)
        assert len({key[:33] for key in keys}) == 1
    assert store.client.requests == {"put": 10}
    assert store.writes.begins == 1


def test_a_process_that_lost_its_lease_uses_none_of_the_names_it_had_noted(
    make_store: MakeStore, log: SharedLog
) -> None:
    store = make_store()
    written(store, b"before")
    store.writes.die()
    store.writes.join()
    key = written(store, b"after")
    assert store.writes.begins == 2
    assert content(store, key, 5) == b"after"


def test_small_payloads_that_are_not_published_do_not_pile_up_in_memory(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store()
    group = []
    for _ in range(12):
        writer = store.begin(new_payload_key())
        writer.append([os.urandom(3 * MIB)])
        group.append(writer.finish())
    give_up_s = time.monotonic() + 30
    while store._packer._held_bytes >= 16 * MIB and time.monotonic() < give_up_s:
        time.sleep(0.01)
    assert store._packer._held_bytes < 16 * MIB
    keys = store.publish(group)
    assert {len(data) > 16 * MIB + 10 * KIB for data in raw.objects().values()} == {False}
    assert [content(store, key, 3 * MIB)[:10] for key in keys] == [raw.published()[key][:10] for key in keys]


def test_writers_that_take_more_than_their_memory_store_smaller_segments(
    make_store: MakeStore, raw: RawObjects
) -> None:
    store = make_store(write_bytes_max=2 * MIB, packed_bytes_max=-1)
    writers = [store.begin(new_payload_key()) for _ in range(3)]
    payload = os.urandom(3 * MIB)
    for start in range(0, len(payload), 256 * KIB):
        for writer in writers:
            writer.append([payload[start : start + 256 * KIB]])
    keys = store.publish([writer.finish() for writer in writers])
    assert store._parts.budget.peak <= 2 * MIB + 3 * MIB
    assert [content(store, key, len(payload)) == payload for key in keys] == [True] * 3
    assert max(map(len, raw.objects().values())) < 8 * MIB


@pytest.mark.parametrize("kind", ["status", "cut_before", "cut_after"])
def test_a_put_that_fails_is_repeated_whole_with_the_same_bytes(
    make_store: MakeStore, seaweed: Seaweed, prefix: str, raw: RawObjects, kind: str
) -> None:
    lock, failed = threading.Lock(), set()

    def fail_first(request: Passed) -> Treatment | None:
        with lock:
            if request.method == "PUT" and request.path not in failed:
                failed.add(request.path)
                return Treatment(kind)  # type: ignore[arg-type]
        return None

    with HttpProxy(seaweed.port, fail_first) as proxy:
        store = make_store(
            url=f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}",
            segment_bytes=10 * KIB,
            packed_bytes_max=-1,
            requests=QUICK,
        )
        payload = os.urandom(45 * KIB)
        key = written(store, payload)
        assert raw.published() == {key: payload}
        bodies: dict[str, list[bytes]] = {}
        for request in proxy.passed:
            bodies.setdefault(request.path, []).append(request.body)
        assert len(bodies) == len(raw.objects())
        assert {(len(tries), len(set(tries))) for tries in bodies.values()} == {(2, 1)}


def test_a_put_that_always_fails_ends_the_write_and_what_was_kept_stays(
    make_store: MakeStore, seaweed: Seaweed, prefix: str
) -> None:
    away = threading.Event()
    with HttpProxy(seaweed.port, lambda _: Treatment("status", 500) if away.is_set() else None) as proxy:
        url = f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}"
        store = make_store(url=url, packed_bytes_max=-1, requests=RequestLimits(attempts=2, backoff_s=0.01))
        payload_key = new_payload_key()
        writer = store.begin(payload_key)
        writer.append([b"kept"])
        writer.keep().result(30)
        away.set()
        writer.append([b"lost"])
        message = f"the object store s3://tensorus/{prefix} answers with an error"
        with pytest.raises(StoreUnavailableError, match=message) as error:
            writer.finish()
        assert error.value.facts["retry_after_s"] == "5.0"
        away.clear()
        writer, reader = store.resume(payload_key, 4)
        with reader:
            assert reader.read(0, 4) == b"kept"
        writer.append([b" on"])
        (key,) = store.publish([writer.finish()])
        assert content(store, key, 7) == b"kept on"


def test_dropping_many_payloads_does_not_wait_for_a_store_that_is_away(
    make_store: MakeStore, seaweed: Seaweed, prefix: str
) -> None:
    away = threading.Event()
    with HttpProxy(seaweed.port, lambda _: Treatment("status", 503) if away.is_set() else None) as proxy:
        store = make_store(url=f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}", packed_bytes_max=-1)
        staged = []
        for _ in range(20):
            writer = store.begin(new_payload_key())
            writer.append([b"payload"])
            staged.append(writer.finish())
        away.set()
        arrived = len(proxy.passed)
        for payload in staged:
            store.drop(payload)
        # The first tells, and the sweep deletes the others.
        assert len(proxy.passed) == arrived + 1
        assert sorted(store.writes.shared.garbage) == sorted(payload.payload_key for payload in staged)


def test_a_store_closes_soon_although_the_service_is_away(seaweed: Seaweed, prefix: str) -> None:
    with HttpProxy(seaweed.port, lambda _: Treatment("status", 503)) as proxy:
        store = ObjectChunkStore(
            f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}", writes=MemoryWriteLog(), packed_bytes_max=-1
        )
        writer = store.begin(new_payload_key())
        writer.append([b"payload"])
        done = writer.keep()
        # Its attempts would go on for half a minute.
        assert store.close(10)
        with pytest.raises(StoreUnavailableError):
            done.result(0)


def test_another_process_goes_on_after_the_first_has_died_and_the_old_writer_cannot_commit(
    make_store: MakeStore, log: SharedLog, raw: RawObjects
) -> None:
    options = {"packed_bytes_max": -1, "segment_bytes": 100}
    first, second = make_store(**options), make_store(**options)
    payload_key = new_payload_key()
    old = first.begin(payload_key)
    old.append([bytes(250)])
    old.keep().result(30)
    with pytest.raises(PayloadBusyError, match=payload_key):
        second.resume(payload_key, 250)
    first.writes.die()
    new, reader = second.resume(payload_key, 250)
    with reader:
        assert reader.read(0, 250) == bytes(250)
    # The old one knows nothing, and stores more of the same payload: late, and complete.
    old.append([b"old" * 40])
    staged = old.finish()
    new.append([b"new" * 40])
    (key,) = second.publish([new.finish()])
    (old_key,) = ObjectChunkStore.publish(first, [staged])
    assert log.commit([old_key], first.writes.number) == [old_key]
    first.delete(old_key)
    assert raw.published() == {key: bytes(250) + b"new" * 40}
    assert content(second, key, 370) == bytes(250) + b"new" * 40


def test_what_the_old_writer_stores_late_is_not_read_by_the_next_one_that_goes_on(make_store: MakeStore) -> None:
    options = {"packed_bytes_max": -1, "segment_bytes": 1000}
    first, second, third = make_store(**options), make_store(**options), make_store(**options)
    payload_key = new_payload_key()
    old = first.begin(payload_key)
    old.append([b"A" * 10])
    old.keep().result(30)
    first.writes.die()
    new, reader = second.resume(payload_key, 10)
    reader.close()
    new.append([b"B" * 10])
    new.keep().result(30)
    # Of the same length, at the same place, and after the new one.
    old.append([b"X" * 10])
    old.keep().result(30)
    old.append([b"Y" * 10])
    old.keep().result(30)
    new.park()
    newest, reader = third.resume(payload_key, 20)
    with reader:
        assert reader.read(0, 20) == b"A" * 10 + b"B" * 10
    newest.append([b"C"])
    (key,) = third.publish([newest.finish()])
    assert content(third, key, 21) == b"A" * 10 + b"B" * 10 + b"C"
    old.park()


def test_a_process_that_was_declared_dead_deletes_nothing_that_another_goes_on_with(make_store: MakeStore) -> None:
    first, second = make_store(packed_bytes_max=-1), make_store(packed_bytes_max=-1)
    payload_key = new_payload_key()
    old = first.begin(payload_key)
    old.append([b"kept"])
    old.keep().result(30)
    first.writes.die()
    new, reader = second.resume(payload_key, 4)
    reader.close()
    old.drop()
    first.drop_kept(new_payload_key())
    with pytest.raises(PayloadBusyError, match=payload_key):
        first.drop_kept(payload_key)
    new.append([b" on"])
    (key,) = second.publish([new.finish()])
    assert content(second, key, 7) == b"kept on"


def test_a_payload_of_which_a_segment_is_missing_cannot_be_resumed(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store(packed_bytes_max=-1, segment_bytes=10)
    payload_key = new_payload_key()
    writer = store.begin(payload_key)
    writer.append([bytes(35)])
    writer.keep().result(30)
    writer.park()
    store.client.delete([_name(raw, f"1-{10:016d}")])
    with pytest.raises(PayloadMissingError, match=f"payload {payload_key} has 10 bytes, 35 are needed"):
        store.resume(payload_key, 35)


def test_a_store_that_is_killed_and_comes_back_has_what_was_kept_and_the_write_goes_on(
    tmp_path: Path, log: SharedLog
) -> None:
    node = Seaweed(tmp_path / "weed")
    try:
        store = ObjectChunkStore(node.url("p"), writes=MemoryWriteLog(log), packed_bytes_max=-1, segment_bytes=64 * KIB)
        payload = os.urandom(400 * KIB)
        writer = store.begin(new_payload_key())
        writer.append([payload[: 200 * KIB]])
        writer.keep().result(30)
        node.kill()
        with ThreadPoolExecutor(1) as thread:

            def go_on() -> str:
                writer.append([payload[200 * KIB :]])
                return store.publish([writer.finish()])[0]

            # The PUTs begin while it is away, and are repeated until it is back.
            going_on = thread.submit(go_on)
            give_up_s = time.monotonic() + 30
            while store.client.requests["put"] < 7 and time.monotonic() < give_up_s:
                time.sleep(0.01)
            node.start()
            key = going_on.result(60)
        assert content(store, key, len(payload)) == payload
        assert store.client.requests["put"] > 7
        store.close()
    finally:
        node.close()


def test_a_segment_of_a_dropped_payload_is_not_tried_again(
    make_store: MakeStore, seaweed: Seaweed, prefix: str, raw: RawObjects
) -> None:
    # It could arrive after the sweep has deleted what was dropped, and would stay.
    arrived, dropped = threading.Event(), threading.Event()
    puts: list[str] = []

    def fail_once_dropped(request: Passed) -> Treatment | None:
        if request.method != "PUT":
            return None
        puts.append(request.path)
        arrived.set()
        assert dropped.wait(30)
        return Treatment("status", 503) if len(puts) == 1 else None

    with HttpProxy(seaweed.port, fail_once_dropped) as proxy:
        url = f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}"
        requests = RequestLimits(attempts=5, backoff_s=0.01)
        store = make_store(url=url, packed_bytes_max=-1, segment_bytes=1000, requests=requests)
        writer = store.begin(new_payload_key())
        writer.append([bytes(2000)])
        assert arrived.wait(30)
        writer.drop()
        dropped.set()
        wait(writer._on_their_way, 30)
    assert len(puts) == 1
    assert names(raw) == []


def test_what_is_appended_together_is_in_one_object(make_store: MakeStore, raw: RawObjects) -> None:
    store = make_store(segment_bytes=1000, packed_bytes_max=-1)
    payload_key = new_payload_key()
    writer = store.begin(payload_key)
    records = [os.urandom(301) for _ in range(20)]
    for record in records:
        writer.append([record[:21], record[21:]])
    with store.open(store.publish([writer.finish()])[0]) as reader:
        assert reader.read(0, reader.length) == b"".join(records)
    sizes = [len(data) for name, data in sorted(raw.objects().items()) if payload_key in name and "-end" not in name]
    assert sizes == [3 * 301] * len(sizes)
    assert len(sizes) == 6
