"""Transfers that are interrupted: what arrives is exact and stored once, and little is sent twice.

A real server and a real client, with a proxy between them that cuts connections. Most tests make the limits small, so that
tensors of a few megabytes go through everything that large ones do; a few keep them as they are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, normal, random_bits
from support.interrupted import KIB, MIB, PRESETS, RETRY_S, WAIT_S, assert_settled, mixed, sent_bytes_max, through
from support.proxy import Fault, FaultProxy, cuts, random_faults
from support.servers import running_server
from tensorus import errors
from tensorus.types import Progress
from tensorus_server.chunk_store import local
from tensorus_server.processes.server import Server

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

KINDS: list[Literal["reset", "finish", "half_close"]] = ["reset", "finish", "half_close"]


# ---- One large tensor ---------------------------------------------------------------------------------------------------

LARGE = random_bits("uint8", (80 * MIB,), seed=80)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_goes_on_where_it_was_cut_however_that_was(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client, kind: Literal["reset", "finish", "half_close"]
) -> None:
    proxy.faults = cuts(1, MIB, 3 * MIB, 5 * MIB, kind=kind)
    with through(proxy) as client:
        info = client.insert("none", LARGE[: 10 * MIB], id="t")
    assert proxy.cuts >= 3
    assert [found.generation for found in direct.list("none")] == [info.generation]
    assert_same_bits(direct.get("none", "t", as_="numpy"), LARGE[: 10 * MIB])
    assert_settled(fresh_server)


def test_a_large_tensor_goes_on_where_it_was_cut(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client
) -> None:
    direct.create_dataset("d", preset="none")
    proxy.faults = cuts(1, 3 * MIB, 20 * MIB, 30 * MIB, 33 * MIB)
    heard: list[int] = []
    with through(proxy) as client:
        before = proxy.upward_bytes
        info = client.insert("d", LARGE, id="t", on_progress=lambda progress: heard.append(progress.interruptions))
    sent = proxy.upward_bytes - before
    interruptions = max(heard)
    _log.info("%.1f MiB for %d MiB, %d interruptions", sent / MIB, LARGE.nbytes // MIB, interruptions)
    assert interruptions >= 4
    assert sent <= sent_bytes_max(LARGE.nbytes, interruptions)
    assert [found.generation for found in direct.list("d")] == [info.generation]
    assert_same_bits(direct.get("d", "t", as_="numpy"), LARGE)
    assert_settled(fresh_server)


def test_a_sender_is_never_more_than_32_mib_ahead_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncing = threading.Event()
    keep = local._LocalWriter._keep

    def slow_keep(writer: local._LocalWriter, descriptor: int) -> None:
        assert syncing.wait(WAIT_S)
        keep(writer, descriptor)

    monkeypatch.setattr(local._LocalWriter, "_keep", slow_keep)
    with (
        # Many codec threads, and so many chunks under way.
        running_server(tmp_path / "store", codec_threads=16) as server,
        FaultProxy(server.address) as proxy,
        tensorus.connect(proxy.address, retry_timeout_s=RETRY_S) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.create_dataset("d", preset="fast")
        inserted = pool.submit(client.insert, "d", LARGE, id="t")
        # Until it stands still; a machine that is slow enough to look like it proves less, and fails nothing.
        seen = [-1] * 20
        while len(set(seen)) > 1 or seen[0] < MIB:
            seen = [*seen[1:], proxy.upward_bytes]
            time.sleep(0.05)
        ahead = proxy.upward_bytes
        syncing.set()
        inserted.result(WAIT_S)
        assert_same_bits(client.get("d", "t", as_="numpy"), LARGE)
    _log.info("%.1f MiB were sent before any was durable", ahead / MIB)
    assert ahead <= sent_bytes_max(0, 1)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_resumed_is_what_an_insert_without_cuts_stores(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client, preset: str
) -> None:
    array = normal((1_000_003,), "float32", seed=3)
    whole = direct.insert(preset, array, id="whole")
    proxy.faults = cuts(700 * KIB, 2 * MIB, 900 * KIB)
    with through(proxy) as client:
        resumed = client.insert(preset, array, id="resumed")
    assert proxy.cuts >= 3
    for name in ("stored_bytes", "relative_error", "max_absolute_error", "encodings", "values"):
        assert getattr(resumed, name) == getattr(whole, name), name
    assert_same_bits(direct.get(preset, "resumed", as_="numpy"), direct.get(preset, "whole", as_="numpy"))
    assert_settled(fresh_server)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("size", [5, 100 * KIB, MIB], ids=["inline", "a file", "marked"])
def test_a_result_that_was_lost_is_heard_of_all_the_same(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client, size: int
) -> None:
    # Answers are a few hundred bytes: wherever they break off, the tensor is there once.
    places = range(0, 1200, 60)
    proxy.faults = lambda number: [Fault("reset", places[number // 2], upward=False)] if number % 2 == 0 else []
    array = random_bits("uint8", (size,), seed=size)
    with through(proxy) as client:
        for place in places:
            tensor_id = f"{place}"
            info = client.insert("none", array, id=tensor_id)
            assert info == direct.info("none", tensor_id)
            proxy.cut()
    assert direct.stats("none").tensors == len(places)
    for record in direct.get_many("none", map(str, places), as_="numpy"):
        assert_same_bits(record.tensor, array)
    assert_settled(fresh_server)


def test_a_client_that_is_alone_for_too_long_gives_up(proxy: FaultProxy, direct: tensorus.Client) -> None:
    def vanish(_: Progress) -> None:
        proxy.faults = lambda _: [Fault("reset", 0)]
        proxy.cut()

    heard: list[int] = []

    def on_progress(progress: Progress) -> None:
        vanish(progress)
        heard.append(progress.interruptions)

    with through(proxy, retry_timeout_s=0.5) as client, pytest.raises(errors.UnavailableError):
        client.insert("none", LARGE, id="t", on_progress=on_progress)
    assert max(heard) >= 2
    assert list(direct.list("none")) == []
    # Another insert has nothing to do with what that one left.
    direct.insert("none", LARGE, id="t")
    proxy.faults = lambda _: ()
    with through(proxy, retry_timeout_s=0.5) as client, pytest.raises(errors.UnavailableError):
        client.get("none", "t", on_progress=vanish)
    assert_same_bits(direct.get("none", "t", as_="numpy"), LARGE)


def test_a_connection_that_always_breaks_at_the_same_place_is_given_up(
    proxy: FaultProxy, direct: tensorus.Client
) -> None:
    proxy.faults = lambda _: [Fault("reset", 2 * MIB)]
    with through(proxy, retry_timeout_s=1.0) as client, pytest.raises(errors.UnavailableError):
        client.insert("none", LARGE[: 30 * MIB])
    assert list(direct.list("none")) == []


# ---- Many tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_limits")
def test_many_tensors_of_mixed_sizes_are_each_stored_once(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client
) -> None:
    tensors = mixed(80, seed=0)
    proxy.faults = random_faults(0, mean_bytes=2 * MIB)
    with through(proxy) as client:
        inserted = client.insert_many("fast", tensors.items())
    assert proxy.cuts >= 3
    assert [info.id for info in inserted] == list(tensors)
    assert sorted(info.id for info in direct.list("fast")) == sorted(tensors)
    assert {info.id: info for info in direct.list("fast")} == {info.id: info for info in inserted}
    for record in direct.get_many("fast", tensors, as_="numpy"):
        assert_same_bits(record.tensor, tensors[record.info.id])
    assert_settled(fresh_server)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", KINDS)
def test_all_or_nothing_shows_nothing_before_its_end(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client, kind: Literal["reset", "finish", "half_close"]
) -> None:
    tensors = mixed(60, seed=9)
    seen: list[int] = []

    def watched() -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        for number, pair in enumerate(tensors.items()):
            seen.append(direct.stats("none").tensors)
            if number in {20, 40, 59}:
                proxy.cut()
            yield pair

    proxy.faults = cuts(300 * KIB, 2 * MIB, 3 * MIB, kind=kind)
    with through(proxy) as client:
        inserted = client.insert_many("none", watched(), all_or_nothing=True)
    assert proxy.cuts >= 4
    assert seen == [0] * len(tensors)
    assert [info.id for info in inserted] == list(tensors)
    assert sorted(info.id for info in direct.list("none")) == sorted(tensors)
    for record in direct.get_many("none", tensors, as_="numpy"):
        assert_same_bits(record.tensor, tensors[record.info.id])
    assert_settled(fresh_server)


@pytest.mark.usefixtures("small_limits")
def test_an_insert_that_its_caller_ends_leaves_nothing(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client
) -> None:
    class MineError(Exception):
        pass

    def end(progress: Progress) -> None:
        if progress.interruptions:
            raise MineError

    proxy.faults = cuts(2 * MIB)
    with through(proxy) as client, pytest.raises(MineError):
        client.insert("none", LARGE, on_progress=end)
    assert list(direct.list("none")) == []
    assert_settled(fresh_server)


# ---- Reads --------------------------------------------------------------------------------------------------------------

MATRIX = normal((1500, 1001), "float32", seed=15)

INDEXES: dict[str, Any] = {
    "whole": None,
    "rows": slice(100, 1400),
    "columns": (slice(None), slice(3, 900)),
    "every third, backwards": (slice(None, None, -3), slice(None, None, 2)),
}


@pytest.mark.parametrize(
    ("preset", "index"),
    # Every part of values as they are, and what travels as it is stored.
    [
        *(("none", index) for index in INDEXES.values()),
        ("lossless", INDEXES["whole"]),
        ("balanced", INDEXES["columns"]),
    ],
    ids=str,
)
def test_a_get_that_is_cut_brings_the_exact_bytes(
    proxy: FaultProxy, direct: tensorus.Client, preset: str, index: Any
) -> None:
    direct.insert(preset, MATRIX, id="t")
    expected = direct.get(preset, "t", index=index, as_="numpy")
    # The second stream breaks before it has brought anything.
    proxy.faults = cuts(700 * KIB, 100, 0, 900 * KIB, upward=False)
    with through(proxy) as client:
        assert_same_bits(client.get(preset, "t", index=index, as_="numpy"), expected)
    assert proxy.cuts >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_get_sends_nothing_of_a_whole_tensor_twice(
    proxy: FaultProxy, direct: tensorus.Client, kind: Literal["reset", "finish", "half_close"]
) -> None:
    direct.insert("none", LARGE[: 24 * MIB], id="t")
    proxy.faults = cuts(10 * MIB, 12 * MIB, kind=kind, upward=False)
    with through(proxy) as client:
        before = proxy.downward_bytes
        assert_same_bits(client.get("none", "t", as_="numpy"), LARGE[: 24 * MIB])
    received = proxy.downward_bytes - before
    _log.info("%s: %.1f MiB for 24 MiB, 2 interruptions", kind, received / MIB)
    # What was under way is lost: up to a message, and what the proxy and the windows held.
    assert received <= (24 + 2 * 8) * MIB


def test_many_tensors_are_each_read_once_and_in_order(proxy: FaultProxy, direct: tensorus.Client) -> None:
    tensors = mixed(80, seed=0)
    direct.insert_many("lossless", tensors.items())
    proxy.faults = random_faults(0, mean_bytes=2 * MIB)
    with through(proxy) as client:
        ids = []
        for record in client.get_many("lossless", tensors, as_="numpy"):
            ids.append(record.info.id)
            assert_same_bits(record.tensor, tensors[record.info.id])
    assert ids == list(tensors)
    assert proxy.cuts >= 3


def test_a_tensor_that_is_replaced_while_it_is_read_is_not_mixed(proxy: FaultProxy, direct: tensorus.Client) -> None:
    first = direct.insert("none", LARGE[: 20 * MIB], id="t")

    def replace(_: Progress) -> None:
        if direct.info("none", "t").generation == first.generation:
            direct.insert("none", LARGE[20 * MIB : 40 * MIB], id="t", if_generation_match=first.generation)
            proxy.cut()

    with through(proxy) as client, pytest.raises(errors.GenerationMismatchError):
        client.get("none", "t", on_progress=replace)
