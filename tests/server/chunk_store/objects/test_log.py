"""What happens while the write log is away, and listings that fail in the middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from contract.chunk_store_contract import content, staged
from contract.chunk_store_raw_objects import RawObjects
from server.chunk_store.objects.conftest import CommittedStore, MakeStore
from support.http_proxy import HttpProxy, Passed, Treatment
from support.seaweed import Seaweed
from support.write_log import MemoryWriteLog, SharedLog
from tensorus_server.chunk_store.abc import PayloadBusyError, new_payload_key
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.errors import StoreUnavailableError


class AwayLog(MemoryWriteLog):
    """A log that is away now and then."""

    is_away = False

    def begin(self, keys: Sequence[str]) -> None:
        self._require()
        super().begin(keys)

    def park(self, payload_key: str) -> None:
        self._require()
        super().park(payload_key)

    def abandon(self, keys: Sequence[str]) -> list[str]:
        self._require()
        return super().abandon(keys)

    def forget(self, keys: Sequence[str]) -> None:
        self._require()
        super().forget(keys)

    def _require(self) -> None:
        if self.is_away:
            raise StoreUnavailableError("the catalogue is away")


@pytest.fixture
def away(log: SharedLog) -> AwayLog:
    return AwayLog(log)


@pytest.fixture
def store(seaweed: Seaweed, prefix: str, away: AwayLog) -> CommittedStore:
    return CommittedStore(seaweed.url(prefix), writes=away, packed_bytes_max=10)


def test_nothing_is_stored_while_the_log_is_away(store: CommittedStore, away: AwayLog, raw: RawObjects) -> None:
    away.is_away = True
    with pytest.raises(StoreUnavailableError, match="the catalogue is away"):
        store.publish([staged(store, b"small")])
    with pytest.raises(StoreUnavailableError, match="the catalogue is away"):
        staged(store, b"larger than ten bytes")
    assert raw.objects() == {}
    # It goes on as soon as the log is back.
    away.is_away = False
    (key,) = store.publish([staged(store, b"small")])
    assert content(store, key, 5) == b"small"


def test_a_pack_that_fails_before_its_submission_returns_hangs_nobody(store: CommittedStore, away: AwayLog) -> None:
    class Now:
        """A pool whose tasks have ended when they are submitted."""

        def submit(self, work: Callable[..., object], *arguments: object) -> Future[object]:
            done: Future[object] = Future()
            try:
                done.set_result(work(*arguments))
            except StoreUnavailableError as error:
                done.set_exception(error)
            return done

    store._packer._pool = Now()  # type: ignore[assignment]
    away.is_away = True
    with ThreadPoolExecutor(1) as thread, pytest.raises(StoreUnavailableError, match="the catalogue is away"):
        thread.submit(store.publish, [staged(store, b"small")]).result(30)
    away.is_away = False
    (key,) = store.publish([staged(store, b"small")])
    assert content(store, key, 5) == b"small"
    assert store._packer._held_bytes == 0


def test_what_could_not_be_parked_is_parked_later(store: CommittedStore, away: AwayLog, make_store: MakeStore) -> None:
    other = make_store()
    payload_key = new_payload_key()
    writer = store.begin(payload_key)
    writer.append([b"kept"])
    writer.keep().result(30)
    away.is_away = True
    writer.park()
    with pytest.raises(PayloadBusyError):
        other.resume(payload_key, 4)
    assert store.sweep_unfinished() == 0
    away.is_away = False
    assert store.sweep_unfinished() == 0
    writer, reader = other.resume(payload_key, 4)
    with reader:
        assert reader.read(0, 4) == b"kept"
    writer.drop()


def test_what_could_not_be_given_up_is_given_up_later(store: CommittedStore, away: AwayLog, raw: RawObjects) -> None:
    payload = staged(store, b"larger than ten bytes")
    away.is_away = True
    store.drop(payload)
    assert len(raw.objects()) == 1
    assert store.sweep_unfinished() == 0
    away.is_away = False
    assert store.sweep_unfinished() == 1
    assert store.sweep_unfinished() == 0
    assert raw.objects() == {}


def test_a_store_closes_while_the_log_is_away_and_the_names_it_did_not_use_are_forgotten_otherwise(
    store: CommittedStore, away: AwayLog, make_store: MakeStore
) -> None:
    other = make_store()
    for one in (store, other):
        one.publish([staged(one, b"small")])
    assert len(away.shared.begun) == 30
    away.is_away = True
    assert store.close(10)
    assert other.close(10)
    assert len(away.shared.begun) == 15


def test_a_listing_that_fails_in_the_middle_goes_on_where_it_was(
    seaweed: Seaweed, prefix: str, raw: RawObjects
) -> None:
    names = [f"t/{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: raw.put(name, b""), names))
    lists = 0

    def fail_second(request: Passed) -> Treatment | None:
        nonlocal lists
        lists += "list-type=2" in request.path
        return Treatment("status", 503) if lists == 2 else None

    with HttpProxy(seaweed.port, fail_second) as proxy:
        store = ObjectChunkStore(f"s3://tensorus/{prefix}?endpoint={proxy.endpoint}", writes=MemoryWriteLog())
        assert [stored.name for stored in store.client.objects("t")] == names
        assert lists >= 3
        store.close()
