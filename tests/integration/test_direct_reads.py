"""Direct reads bring what the server would, or what fails comes from the server."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import assert_same_bits, normal, random_bits
from support.presigned import PresigningStore, presigning
from support.servers import running_server
from tensorus._grpc import direct, ranges
from tensorus._grpc.remote import RemoteBackend
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1 import tensorus_pb2_grpc as pb_grpc
from tensorus_server.engine.read import plans
from tensorus_server.processes.server import Server

PRESETS = ["none", "fast", "lossless", "balanced", "maximum"]
CHUNK = 65536
DTYPES = ["uint8", "float16", "float32", "int64", "complex64"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("direct") / "store") as running:
        with tensorus.connect(running.address) as client:
            fill(client)
        yield running


@pytest.fixture
def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[PresigningStore]:
    folder = server._config.engine.data_dir
    monkeypatch.setattr(direct, "_UNIT_BYTES", 150_000)
    with presigning(server, folder, monkeypatch) as presigned:
        yield presigned


@pytest.fixture
def client(server: Server) -> Iterator[tensorus.Client]:
    with tensorus.connect(server.address) as connected:
        yield connected


def fill(client: tensorus.Client) -> None:
    """Insert tensors of every kind."""
    for preset in PRESETS:
        client.create_dataset(preset, policy=tensorus.Policy(preset=preset, chunk_bytes=CHUNK))
        for dtype in DTYPES:
            values = random_bits(dtype, (500_009,)) if dtype == "uint8" else normal((100_003,), dtype, scale=100.0)
            client.insert(preset, values, id=dtype)
        client.insert(preset, normal((1000,), "float32"), id="inline")
        base = random_bits("uint16", (150_000,), seed=7)
        client.insert(preset, base, id="base")
        client.insert(preset, base + (np.arange(base.size) % 50 == 0).astype(np.uint16), id="differences", base="base")
        edited = normal((200_000,), "float32")
        client.insert(preset, edited, id="edited")
        client.write(preset, "edited", slice(100_000, 100_009), normal((9,), "float32"))
        client.append(preset, "edited", normal((70_000,), "float32"))


def settings_of(client: tensorus.Client) -> direct.DirectReads:
    backend = client._backend
    assert isinstance(backend, RemoteBackend)
    return backend.direct


def expected(server: Server, dataset: str, ids: list[str]) -> list[np.ndarray[Any, Any]]:
    """Return what the server reads."""
    with tensorus.connect(server.address, direct_reads=False) as plain:
        return [record.tensor for record in plain.get_many(dataset, ids, as_="numpy")]


IDS = [*DTYPES, "inline", "base", "differences", "edited", "float32", "inline"]
DIRECT = len(DTYPES) + 3
"""Of `IDS`: those that are neither inline nor stored as differences."""


@pytest.mark.parametrize("preset", PRESETS)
def test_tensors_of_every_kind_are_those_that_the_server_reads(
    server: Server, store: PresigningStore, client: tensorus.Client, preset: str
) -> None:
    wanted = expected(server, preset, IDS)
    assert store.requests == [], "a client that does not want direct reads had some"
    found = [record.tensor for record in client.get_many(preset, IDS, as_="numpy")]
    for one, other in zip(found, wanted, strict=True):
        assert_same_bits(one, other)
    settings = settings_of(client)
    has_differences = any("int_delta" in repr(share) for share in client.info(preset, "differences").encodings)
    assert (settings.delivered, settings.failed) == (DIRECT + (not has_differences), 0)


def test_whole_tensors_at_a_snapshot_are_read_directly_and_parts_are_not(
    store: PresigningStore, client: tensorus.Client
) -> None:
    before = client.get("none", "base", as_="numpy")
    client.snapshot("none", "state")
    client.insert("none", np.roll(before, 1), id="base", on_conflict="replace")
    try:
        assert_same_bits(client.get("none", "base", at="state", as_="numpy"), before)
        assert_same_bits(client.get("none", "base", as_="numpy"), np.roll(before, 1))
        served = store.served_bytes
        assert_same_bits(client.get("none", "base", index=slice(0, 100_000), as_="numpy"), np.roll(before, 1)[:100_000])
        client.get("none", "float32", dtype="float16", as_="numpy")
        assert client.info("none", "base").shape == before.shape
        assert store.served_bytes == served
    finally:
        client.insert("none", before, id="base", on_conflict="replace")
        client.drop_snapshot("none", "state")


def test_a_missing_tensor_among_others_is_missing(store: PresigningStore, client: tensorus.Client) -> None:
    found = client.get_many("none", ["base", "nobody", "float32"], as_="numpy")
    assert next(found).info.id == "base"
    with pytest.raises(tensorus.errors.TensorNotFoundError):
        next(found)
    with pytest.raises(tensorus.errors.DatasetNotFoundError):
        client.get("nowhere", "base")
    assert settings_of(client).failed == 0
    assert store.requests


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


FAULTS = {
    "expired": lambda store: setattr(store, "lifetime_s", -1.0),
    "forged": lambda store: setattr(store, "change_url", lambda url: url[:-1] + "x"),
    "another object": lambda store: setattr(store, "change_url", lambda url: url.replace("/0?", "/1?")),
    "another scheme": lambda store: setattr(store, "change_url", lambda url: url.replace("http:", "file:")),
    "malformed": lambda store: setattr(store, "change_url", lambda url: url.replace("&signature", " &signature")),
    "overloaded": lambda store: setattr(store, "overloaded", 10**6),
    "flipped": lambda store: setattr(store, "spoil", flip),
    "cut": lambda store: setattr(store, "spoil", cut),
    "away": lambda store: store.close(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_comes_from_the_server(
    server: Server,
    store: PresigningStore,
    client: tensorus.Client,
    *,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    monkeypatch.setattr(ranges, "_SILENCE_TIMEOUT_S", 0.5)
    FAULTS[fault](store)
    ids = ["float32", "base", "edited"]
    wanted = expected(server, "lossless", ids)
    with caplog.at_level(logging.DEBUG, logger="tensorus"):
        found = [record.tensor for record in client.get_many("lossless", ids, as_="numpy")]
    for one, other in zip(found, wanted, strict=True):
        assert_same_bits(one, other)
    settings = settings_of(client)
    assert (settings.delivered, settings.failed, settings.is_due) == (0, 1, False)
    assert "signature" not in caplog.text
    if fault == "away":
        monkeypatch.setattr(store, "close", lambda: None)


def test_one_damaged_answer_is_fetched_again(store: PresigningStore, client: tensorus.Client) -> None:
    once = threading.Lock()

    def flip_once(data: bytearray) -> None:
        if once.acquire(blocking=False):
            flip(data)

    store.spoil = flip_once
    client.get("lossless", "float32", as_="numpy")
    assert once.locked()
    assert (settings_of(client).delivered, settings_of(client).failed) == (1, 0)


def test_a_store_that_is_overloaded_for_a_moment_is_asked_again(
    store: PresigningStore, client: tensorus.Client
) -> None:
    store.overloaded = 1
    client.get("lossless", "float32", as_="numpy")
    assert store.overloaded == 0
    assert (settings_of(client).delivered, settings_of(client).failed) == (1, 0)


def test_damage_is_what_the_server_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        running_server(tmp_path / "store") as own,
        presigning(own, tmp_path / "store", monkeypatch),
        tensorus.connect(own.address) as client,
    ):
        client.create_dataset("d", policy=tensorus.Policy(preset="none", chunk_bytes=CHUNK))
        client.insert("d", random_bits("uint8", (300_000,)), id="t")
        (path,) = (
            path for path in (tmp_path / "store" / "chunks").rglob("*") if len(path.name) == 32 and path.is_file()
        )
        data = bytearray(path.read_bytes())
        data[150_000] ^= 1
        path.write_bytes(data)
        with pytest.raises(tensorus.errors.DataCorruptError, match="CRC32C of chunk 2"):
            client.get("d", "t")


def test_ranges_that_expire_on_the_way_are_planned_again(
    server: Server, store: PresigningStore, client: tensorus.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = direct._Chunks.units
    planned: list[int] = []

    def only_first(chunks: direct._Chunks) -> Iterator[ranges.Unit]:
        planned.append(chunks.first_chunk)
        return islice(units(chunks), 1)

    monkeypatch.setattr(direct._Chunks, "units", only_first)
    (wanted,) = expected(server, "none", ["float32"])
    assert_same_bits(client.get("none", "float32", as_="numpy"), wanted)
    assert len(planned) > 2
    assert (settings_of(client).delivered, settings_of(client).failed) == (1, 0)
    # Those that expire before anything could be fetched, twice.
    monkeypatch.setattr(direct, "_deadline_s", lambda _: -1.0)
    monkeypatch.setattr(direct._Chunks, "units", units)
    assert_same_bits(client.get("none", "float32", as_="numpy"), wanted)
    assert (settings_of(client).delivered, settings_of(client).failed) == (1, 1)


def test_long_plans_have_pages(
    server: Server, store: PresigningStore, client: tensorus.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, value in (("PLAN_CHUNKS_MAX", 3), ("PLAN_BYTES_MAX", 2 * CHUNK), ("PLAN_SPANS_MAX", 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, limit, value)
            for tensor_id in ("float32", "edited"):
                (wanted,) = expected(server, "balanced", [tensor_id])
                assert_same_bits(client.get("balanced", tensor_id, as_="numpy"), wanted)
    assert (settings_of(client).delivered, settings_of(client).failed) == (6, 0)


def test_a_store_that_cannot_presign_is_asked_once(
    server: Server, store: PresigningStore, client: tensorus.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(store, "presign", lambda key, *_: asked.append(key))
    for _ in range(3):
        client.get("none", "float32", as_="numpy")
    assert len(asked) == 1
    assert store.requests == []


def test_the_asynchronous_client_reads_directly_too(server: Server, store: PresigningStore) -> None:
    async def read() -> None:
        async with tensorus.aio.connect(server.address) as client:
            found = [record.tensor async for record in client.get_many("maximum", IDS, as_="numpy")]
            for one, other in zip(found, expected(server, "maximum", IDS), strict=True):
                assert_same_bits(one, other)
            assert client._backend.direct.delivered >= DIRECT
            store.spoil = flip
            assert_same_bits(await client.get("maximum", "float32", as_="numpy"), found[2])
            assert client._backend.direct.failed == 1

    asyncio.run(read())
    assert store.requests


def test_a_task_that_is_cancelled_ends_while_the_store_is_silent(
    server: Server, store: PresigningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def wait(_: bytearray) -> None:
        asked.set()
        answered.wait(30)

    async def cancel() -> None:
        async with tensorus.aio.connect(server.address) as client:
            task = asyncio.create_task(client.get("none", "float32", as_="numpy"))
            await asyncio.to_thread(asked.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    store.spoil = wait
    try:
        asyncio.run(asyncio.wait_for(cancel(), 20))
    finally:
        answered.set()


def test_an_iteration_that_is_left_leaves_no_thread(store: PresigningStore, client: tensorus.Client) -> None:
    before = set(threading.enumerate())
    found = client.get_many("none", ["float32", "base", "edited"], as_="numpy")
    next(found)
    assert any(thread.name.startswith("tensorus-fetch") for thread in set(threading.enumerate()) - before)
    found.close()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("tensorus-fetch"):
            thread.join(10)
            assert not thread.is_alive()


def test_whether_direct_reads_are_offered_is_announced(server: Server, store: PresigningStore) -> None:
    with grpc.insecure_channel(server.address) as channel:
        capabilities = pb_grpc.TensorServiceStub(channel).GetCapabilities
        assert "get.plan" in capabilities(pb.GetCapabilitiesRequest()).features
        server._engine.plans.enabled = False
        assert "get.plan" not in capabilities(pb.GetCapabilitiesRequest()).features


def test_only_whole_tensors_have_plans(server: Server, store: PresigningStore) -> None:
    with grpc.insecure_channel(server.address) as channel:
        get_plan = pb_grpc.TensorServiceStub(channel).GetPlan
        part = pb.TensorRead(id="float32", bytes=pb.ByteRange(offset=1))
        with pytest.raises(grpc.RpcError) as caught:
            get_plan(pb.GetPlanRequest(dataset="none", reads=[part]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # Without the codecs, or with another generation, nothing is planned, and nothing fails.
        assert not get_plan(pb.GetPlanRequest(dataset="maximum", reads=[pb.TensorRead(id="float32")])).plans
        assert not get_plan(
            pb.GetPlanRequest(dataset="none", reads=[pb.TensorRead(id="float32", generation=10**9)])
        ).plans
        (plan,) = get_plan(pb.GetPlanRequest(dataset="none", reads=[pb.TensorRead(id="float32")])).plans
        assert sum(len(span.record_bytes) for span in plan.spans) == -(-plan.tensor.storage.canonical_bytes // CHUNK)
