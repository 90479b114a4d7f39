"""`ask_first`: only the bytes that the store does not have are sent, and the outcome is that of an insert without asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import random_bits
from support.proxy import FaultProxy, cuts
from support.servers import running_server
from support.wire import call_error
from tensorus import NewTensor, _asking
from tensorus._grpc import known as known_module
from tensorus.errors import AlreadyExistsError, DatasetNotFoundError, InsertManyError
from tensorus.types import Progress
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.limits import KNOWN_PER_INSERT_MAX
from tensorus_server.processes.server import Server

KIB = 1024
BIG = [random_bits("uint8", (300 * KIB,), seed=seed) for seed in range(10)]
SMALL = random_bits("uint8", (500,), seed=99)

Insert = Callable[..., list[tensorus.TensorInfo]]
"""`insert_many` of a client, or the same of the asynchronous one."""


def inserting_async(address: str) -> Insert:
    """Return `insert_many` of a new asynchronous client."""

    def insert(*arguments: Any, **options: Any) -> list[tensorus.TensorInfo]:
        async def run() -> list[tensorus.TensorInfo]:
            async with asyncio.timeout(30), tensorus.aio.connect(address, retry_timeout_s=0) as client:
                return await client.insert_many(*arguments, **options)

        return asyncio.run(run())

    return insert


def test_what_is_there_is_stored_under_its_new_id_and_the_rest_is_sent(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="none")
    client.insert_many(dataset, [(f"a{number}", array) for number, array in enumerate(BIG[:6])])
    before = client.store_stats()
    mixed = [
        ("small", SMALL),
        *((f"b{number}", array) for number, array in enumerate(BIG)),
        ("a0", BIG[0]),
        NewTensor(BIG[1], "with metadata", {"layer": 1}),
        ("small too", SMALL),
    ]
    infos = client.insert_many(dataset, mixed, ask_first=True)
    assert [info.id for info in infos] == ["small", *(f"b{n}" for n in range(10)), "a0", "with metadata", "small too"]
    assert [info.id for info in infos if not info.inserted] == ["a0"]
    assert client.info(dataset, "with metadata").metadata == {"layer": 1}
    for number, array in enumerate(BIG):
        assert np.array_equal(client.get(dataset, f"b{number}", as_="numpy"), array)
    after = client.store_stats()
    assert after.tensors - before.tensors == 13
    # Again, everything is there.
    assert not any(info.inserted for info in client.insert_many(dataset, mixed, ask_first=True))
    one = client.insert(dataset, BIG[2], id="one", ask_first=True, metadata={"one": True})
    assert (one.inserted, one.metadata) == (True, {"one": True})
    assert not client.insert(dataset, BIG[2], id="one", ask_first=True).inserted
    assert client.insert(dataset, BIG[2][::-1], id="other", ask_first=True).inserted
    assert list(client.verify(dataset).damages) == []


def test_the_outcome_is_that_of_an_insert_that_asks_nothing(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="none")
    client.insert(dataset, BIG[0], id="taken")
    with pytest.raises(InsertManyError) as caught:
        client.insert_many(
            dataset,
            [
                ("new", BIG[0]),
                ("taken", BIG[1]),
                ("", BIG[0]),
                NewTensor(BIG[0], "metadata", {"k": object()}),
                NewTensor(BIG[0], "policy", policy=tensorus.Policy(preset="nothing")),
                ("sent", BIG[1]),
            ],
            ask_first=True,
        )
    assert [(place, error.reason) for place, error in caught.value.failed] == [
        (1, "ALREADY_EXISTS"),
        (2, "INVALID_NAME"),
        (3, "INVALID_METADATA"),
        (4, "INVALID_POLICY"),
    ]
    assert [info.id for info in caught.value.inserted] == ["new", "sent"]
    with pytest.raises(AlreadyExistsError):
        client.insert(dataset, BIG[1], id="taken", ask_first=True)
    with pytest.raises(DatasetNotFoundError):
        client.insert("nowhere", BIG[1], ask_first=True)
    # Several with one id: only the first one is asked about, so that it is never stored after the others.
    client.insert_many(dataset, [("x", BIG[0]), ("x", SMALL)], ask_first=True, on_conflict="replace")
    assert np.array_equal(client.get(dataset, "x", as_="numpy"), SMALL)
    for option in ({"validate_only": True}, {"all_or_nothing": True}):
        with pytest.raises(ValueError, match="ask_first cannot be combined with"):
            client.insert_many(dataset, [("y", SMALL)], ask_first=True, **option)
    assert client.insert_many(dataset, [], ask_first=True) == []


def test_progress_counts_all_tensors(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="none")
    client.insert_many(dataset, enumerate_ids(BIG[:5]))
    told: list[Progress] = []
    client.insert_many(dataset, enumerate_ids(BIG), ask_first=True, on_progress=told.append)
    assert told[0].done_bytes >= BIG[0].nbytes
    assert told[-1].done_bytes <= sum(array.nbytes for array in BIG)
    assert all(one.done_bytes <= two.done_bytes for one, two in pairwise(told))
    told.clear()
    client.insert(dataset, BIG[0], id="again", ask_first=True, on_progress=told.append)
    assert told[-1] == Progress("again", BIG[0].nbytes, BIG[0].nbytes)


def enumerate_ids(arrays: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [(f"t{number}", array) for number, array in enumerate(arrays)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_the_server_has_is_not_sent(
    fresh_server: Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A checkpoint that is there costs questions; of one of which a tenth has changed, the tenth is sent and stored."""
    monkeypatch.setattr(_asking, "_BATCH_BYTES", 1024 * KIB)
    total_bytes = sum(array.nbytes for array in BIG)
    with tensorus.connect(fresh_server.address) as direct, tensorus.connect(proxy.address) as client:
        insert = client.insert_many if kind == "sync" else inserting_async(proxy.address)
        client.create_dataset("first", preset="none")
        client.create_dataset("second", preset="none")
        insert("first", enumerate_ids(BIG), ask_first=True)
        before, sent = direct.store_stats(), proxy.upward_bytes
        assert sent > total_bytes
        insert("first", enumerate_ids(BIG), ask_first=True)
        assert proxy.upward_bytes - sent < total_bytes / 100
        sent = proxy.upward_bytes
        changed = [array if number else array[::-1] for number, array in enumerate(BIG)]
        assert all(info.inserted for info in insert("second", enumerate_ids(changed), ask_first=True))
        assert proxy.upward_bytes - sent <= 0.12 * total_bytes
        after = direct.store_stats()
        assert after.canonical_bytes - before.canonical_bytes == total_bytes
        assert after.unique_stored_bytes - before.unique_stored_bytes <= 0.12 * total_bytes
        assert after.garbage_payloads == 0
        for (name, array), record in zip(
            enumerate_ids(changed), direct.get_many("second", [f"t{n}" for n in range(10)], as_="numpy"), strict=True
        ):
            assert np.array_equal(record.tensor, array), name


def test_questions_are_repeated_until_every_tensor_is_answered(
    server: Server, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_module, "_REQUEST_BYTES", 1000)
    monkeypatch.setattr(_asking, "ASK_BYTES_MIN", 0)
    with tensorus.connect(server.address) as client:
        client.create_dataset(dataset)
        arrays = [(f"t{number}", np.full(10, number)) for number in range(50)]
        client.insert_many(dataset, arrays)
        infos = client.insert_many(dataset, [*arrays, ("new", SMALL)], ask_first=True)
        assert [info.inserted for info in infos] == [False] * 50 + [True]


def test_a_question_survives_a_connection_that_breaks(fresh_server: Server, proxy: FaultProxy) -> None:
    with tensorus.connect(fresh_server.address) as direct:
        direct.create_dataset("d", preset="none")
        direct.insert_many("d", enumerate_ids(BIG))
    with tensorus.connect(proxy.address) as client:
        client.dataset("d")
        proxy.faults = cuts(200, 400)
        proxy.cut()
        infos = client.insert_many("d", [(f"new {name}", array) for name, array in enumerate_ids(BIG)], ask_first=True)
        assert len(infos) == 10
        assert proxy.cuts >= 2


def test_an_older_server_gets_everything(server: Server, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for insert in (None, inserting_async(server.address)):
        monkeypatch.setattr(known_module, "_call", with_another_name(known_module._call))
        with tensorus.connect(server.address) as client:
            name = f"{dataset}/{insert is None}"
            client.create_dataset(name)
            infos = (insert or client.insert_many)(name, enumerate_ids(BIG), ask_first=True)
            assert all(info.inserted for info in infos)


def with_another_name(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a call which no server has."""
    return lambda *arguments: replace(call(*arguments), name="InsertKnownOtherwise")


def test_a_call_with_too_many_tensors_fails_and_invalid_ones_fail_alone(stub: TensorServiceStub, dataset: str) -> None:
    stub.CreateDataset(pb.CreateDatasetRequest(name=dataset))
    with pytest.raises(grpc.RpcError) as caught:
        stub.InsertKnown(pb.InsertKnownRequest(dataset=dataset, tensors=[pb.Tensor()] * (KNOWN_PER_INSERT_MAX + 1)))
    assert "known_per_insert_max" in str(call_error(caught.value))
    answer = stub.InsertKnown(pb.InsertKnownRequest(dataset=dataset, tensors=[pb.Tensor()] * 3))
    assert [result.item for result in answer.results] == [0, 1, 2]
    assert all(result.status.code for result in answer.results)


@pytest.mark.parametrize("shares", [True, False])
def test_without_sharing_the_bytes_are_sent(tmp_path: Path, *, shares: bool) -> None:
    with (
        running_server(tmp_path / "store", shares_payloads=shares) as server,
        FaultProxy(server.address) as proxy,
        tensorus.connect(proxy.address) as client,
    ):
        client.create_dataset("d", preset="none")
        client.insert("d", BIG[0], id="a")
        sent = proxy.upward_bytes
        client.insert("d", BIG[0], id="b", ask_first=True)
        assert (proxy.upward_bytes - sent > BIG[0].nbytes) is not shares
