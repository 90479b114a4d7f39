"""Inserts leave some of the disk free; reads and deletes go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from contract.chunk_store_contract import content, published
from contract.chunk_store_raw import RawFolder
from tensorus_server.chunk_store import local
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore, Reserve
from tensorus_server.errors import StorageFullError


class Usage(NamedTuple):
    """What `shutil.disk_usage` says."""

    total: int
    used: int
    free: int


class Case(NamedTuple):
    """A reserve, what is free of a disk of 10,000 bytes, and the reserve that forbids it; None: nothing does."""

    reserve_bytes: int
    reserve_share: float
    free: int
    forbidden_by: int | None


CASES = [
    pytest.param(Case(100, 0.0, 100, None), id="exactly the bytes"),
    pytest.param(Case(100, 0.0, 99, 100), id="one byte less"),
    pytest.param(Case(0, 0.1, 1000, None), id="exactly the share"),
    pytest.param(Case(0, 0.1, 999, 1000), id="one byte less than the share"),
    pytest.param(Case(2000, 0.1, 1500, 2000), id="the larger of the two counts: bytes"),
    pytest.param(Case(500, 0.1, 700, 1000), id="the larger of the two counts: share"),
    pytest.param(Case(0, 0.0, 0, None), id="no reserve"),
]


@pytest.mark.parametrize("case", CASES)
def test_what_is_free_is_compared_with_the_reserve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: Case) -> None:
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: Usage(10_000, 10_000 - case.free, case.free))
    reserve = Reserve(tmp_path, reserve_bytes=case.reserve_bytes, reserve_share=case.reserve_share)
    if case.forbidden_by is None:
        reserve.require()
        return
    message = f"free space is {case.free} bytes, the reserve is {case.forbidden_by} bytes"
    with pytest.raises(StorageFullError, match=message) as caught:
        reserve.require()
    assert caught.value.facts == {"free_bytes": str(case.free), "limit": str(case.forbidden_by)}


def test_the_disk_is_not_asked_again_within_a_second_of_a_yes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [0.0]
    asked = []
    monkeypatch.setattr(local.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: asked.append(clock[0]) or Usage(10, 0, 10))
    reserve = Reserve(tmp_path, reserve_bytes=5, reserve_share=0)
    for clock[0] in (1000.0, 1000.9, 1001.0, 1001.5):
        reserve.require()
    assert asked == [1000.0, 1001.0]
    reserve.require(now=True)
    assert asked == [1000.0, 1001.0, 1001.5]


def test_inserts_go_on_by_themselves_once_there_is_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = 0
    monkeypatch.setattr(local.time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: Usage(10, 10 - free, free))
    reserve = Reserve(tmp_path, reserve_bytes=5, reserve_share=0)
    with pytest.raises(StorageFullError):
        reserve.require()
    # A no is not remembered: the clock has not moved.
    free = 10
    reserve.require()


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the disk's free bytes, which the test may change."""
    free = [1000]
    now_s = iter(range(0, 10**9, 2))
    monkeypatch.setattr(local.time, "monotonic", lambda: next(now_s))
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: Usage(1000, 1000 - free[0], free[0]))
    return free


@pytest.fixture
def store(tmp_path: Path, free: list[int]) -> Iterator[LocalChunkStore]:
    reserve = Reserve(tmp_path, reserve_bytes=500, reserve_share=0)
    opened = LocalChunkStore(tmp_path, reserve=reserve)
    yield opened
    opened.close()


def test_nothing_begins_when_only_the_reserve_is_left(store: LocalChunkStore, raw: RawFolder, free: list[int]) -> None:
    free[0] = 499
    with pytest.raises(StorageFullError):
        store.require_space()
    with pytest.raises(StorageFullError):
        store.begin(new_payload_key())
    assert raw.unfinished() == 0


def test_reads_and_deletes_go_on_when_only_the_reserve_is_left(
    store: LocalChunkStore, raw: RawFolder, free: list[int]
) -> None:
    key, other = published(store, b"bytes"), published(store, b"other")
    free[0] = 0
    assert content(store, key, 5) == b"bytes"
    store.delete(other)
    assert raw.published() == {key: b"bytes"}
    free[0] = 1000
    published(store, b"again")


def test_a_payload_that_grows_into_the_reserve_is_dropped(
    store: LocalChunkStore, raw: RawFolder, free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SPACE_CHECK_EVERY_BYTES", 100)
    writer = store.begin(new_payload_key())
    free[0] = 0
    writer.append([bytes(99)])
    with pytest.raises(StorageFullError, match="reserve"):
        writer.append([bytes(1)])
    assert raw.unfinished() == 0


def test_space_is_looked_at_again_after_as_many_bytes(
    store: LocalChunkStore, free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SPACE_CHECK_EVERY_BYTES", 100)
    asked = []
    usage = local.shutil.disk_usage
    monkeypatch.setattr(local.shutil, "disk_usage", lambda folder: asked.append(folder) or usage(folder))
    writer = store.begin(new_payload_key())
    for _ in range(30):
        writer.append([bytes(10)])
    # Once at the beginning, and after every 100 bytes.
    assert len(asked) == 4
