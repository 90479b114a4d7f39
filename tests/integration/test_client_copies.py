"""Copies, moves and new names through a server: over connections that break, in answers that fit, and after a recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import assert_same_bits
from support.interrupted import wait_until
from support.proxy import FaultProxy
from support.servers import engine_config
from support.wire import call_error
from tensorus import errors
from tensorus.embedded import EmbeddedBackend
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.app.local import recover_folder
from tensorus_server.catalogue.sql.copies import SqlCopyTable
from tensorus_server.limits import METADATA_BYTES_MAX
from tensorus_server.processes.server import Server

A, B, C = (np.full((3, 4), value, np.float32) for value in (1, 2, 3))


def values(client: tensorus.Client, dataset: str) -> dict[str, float]:
    """Return the value that all elements of each tensor have."""
    return {record.info.id: record.tensor.flat[0] for record in client.query(dataset, as_="numpy")}


@pytest.fixture
def filled(remote: tensorus.Client, dataset: str) -> str:
    """A dataset with two tensors."""
    remote.create_dataset(dataset)
    remote.insert_many(dataset, {"a": A, "b": B}.items())
    return dataset


@pytest.fixture
def cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that ends its connections after the first commit of a copy, whose answer so is lost."""
    with FaultProxy(server.address) as proxy:
        for name in ("copy_tensors", "copy_dataset", "rename_dataset"):
            monkeypatch.setattr(SqlCopyTable, name, and_cut(getattr(SqlCopyTable, name), proxy))
        yield proxy


def and_cut(method: Callable[..., Any], proxy: FaultProxy) -> Callable[..., Any]:
    """Return a method that ends the proxy's connections when it is done for the first time."""

    def do_and_cut(*arguments: Any, **options: Any) -> Any:
        done = method(*arguments, **options)
        if not proxy.cuts:
            proxy.cut()
            wait_until(lambda: proxy.cuts > 0)
        return done

    return do_and_cut


LOST: dict[str, tuple[Callable[[Any, str], Any], dict[str, float]]] = {
    "copy": (lambda client, d: client.copy(d, "a", "c"), {"a": 1, "b": 2, "c": 1}),
    "copy, replace": (lambda client, d: client.copy(d, "a", "b", replace=True), {"a": 1, "b": 1}),
    "move": (lambda client, d: client.move(d, "a", "c"), {"b": 2, "c": 1}),
    "swap": (lambda client, d: client.move_many(d, {"a": "b", "b": "a"}), {"b": 1, "a": 2}),
    "rename": (lambda client, d: client.rename(d, "a", "c"), {"b": 2, "c": 1}),
    "copy_dataset": (lambda client, d: client.copy_dataset(d, f"{d}/new"), {"a": 1, "b": 2}),
    "rename_dataset": (lambda client, d: client.rename_dataset(d, f"{d}/new"), {"a": 1, "b": 2}),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", LOST)
def test_a_call_whose_answer_is_lost_is_done_once(
    remote: tensorus.Client, filled: str, cut: FaultProxy, *, name: str, asynchronous: bool
) -> None:
    operation, expected = LOST[name]

    async def run() -> Any:
        async with tensorus.aio.connect(cut.address) as client:
            await client.datasets()
            return await operation(client, filled)

    if asynchronous:
        found = asyncio.run(run())
    else:
        with tensorus.connect(cut.address) as client:
            client.datasets()
            found = operation(client, filled)
    assert cut.cuts == 1
    infos = found if isinstance(found, list) else [found]
    for info in infos:
        if isinstance(info, tensorus.TensorInfo):
            assert remote.info(filled, info.id) == info
        else:
            assert info == remote.dataset(f"{filled}/new")
    place = f"{filled}/new" if name.endswith("dataset") else filled
    assert values(remote, place) == expected
    if name == "rename_dataset":
        with pytest.raises(errors.DatasetNotFoundError):
            remote.dataset(filled)


def test_a_client_without_request_ids_may_copy_and_move(stub: TensorServiceStub, filled: str) -> None:
    swap = [pb.CopiedTensor(id="a", new_id="b"), pb.CopiedTensor(id="b", new_id="a")]
    moved = stub.CopyTensors(pb.CopyTensorsRequest(source_dataset=filled, tensors=swap, move=True)).tensors
    assert [(tensor.dataset, tensor.id, tensor.ordinal) for tensor in moved] == [(filled, "b", 3), (filled, "a", 4)]
    copied = stub.CopyDataset(pb.CopyDatasetRequest(name=filled, new_name=f"{filled}/new"))
    assert (copied.dataset.name, copied.tensors) == (f"{filled}/new", 2)
    renamed = stub.RenameDataset(pb.RenameDatasetRequest(name=f"{filled}/new", new_name=f"{filled}/again"))
    assert renamed.dataset.create_time == copied.dataset.create_time
    # Without new ids, they keep theirs.
    to = pb.CopyTensorsRequest(source_dataset=filled, dataset=f"{filled}/again", tensors=[pb.CopiedTensor(id="c")])
    stub.CopyTensors(pb.CopyTensorsRequest(source_dataset=filled, tensors=[pb.CopiedTensor(id="a", new_id="c")]))
    assert [tensor.id for tensor in stub.CopyTensors(to).tensors] == ["c"]
    to.tensors[0].MergeFrom(pb.CopiedTensor(new_id="b"))
    past = pb.CopyTensorsRequest(source_dataset=filled, tensors=swap, move=True, at=pb.At(generation=1))
    for request, reason in ((to, "ALREADY_EXISTS"), (past, "INVALID_REQUEST")):
        with pytest.raises(grpc.RpcError) as raised:
            stub.CopyTensors(request)
        assert call_error(raised.value).reason == reason
    to.replace = True
    assert [tensor.id for tensor in stub.CopyTensors(to).tensors] == ["b"]


def test_copies_that_one_answer_cannot_have_are_refused(
    remote: tensorus.Client, embedded: tensorus.Client, stub: TensorServiceStub, dataset: str
) -> None:
    metadata = {"text": "x" * (METADATA_BYTES_MAX - 100)}
    for client in (remote, embedded):
        client.create_dataset(dataset)
        client.insert_many(dataset, [tensorus.NewTensor(A, f"{number}", metadata) for number in range(40)])
        ids = [f"{number}" for number in range(40)]
        for method in (client.copy_many, client.move_many):
            with pytest.raises(errors.LimitExceededError, match=r"metadata of 40 tensors .*answer_bytes_max"):
                method(dataset, {one: f"{one}/new" for one in ids})
        assert [info.id for info in client.list(dataset)] == ids
        assert len(client.move_many(dataset, {one: f"{one}/new" for one in ids[:30]})) == 30
    # Its client refuses messages above 4 MiB.
    request = pb.CopyTensorsRequest(
        source_dataset=dataset, tensors=[pb.CopiedTensor(id=f"{one}/new", new_id=one) for one in ids[:30]]
    )
    assert len(stub.CopyTensors(request).tensors) == 30
    # A dataset is copied all the same.
    remote.copy_dataset(dataset, f"{dataset}/copied")
    assert remote.stats(f"{dataset}/copied").tensors == 70


def test_a_recovery_finds_tensors_where_they_were_stored_first(tmp_path: Path) -> None:
    large = np.random.default_rng(0).standard_normal((100_000,)).astype(np.float32)
    with tensorus.Client(EmbeddedBackend(tmp_path / "store", engine_config)) as client:
        client.create_dataset("first")
        client.insert("first", large, id="a", metadata={"k": 1})
        client.insert("first", large + 1, id="b")
        client.copy_dataset("first", "copied")
        client.move("first", "a", "moved")
        client.rename_dataset("first", "second")
        # The payload of an edit has the place of that time, and needs the payload of the original.
        client.append("copied", "b", large)
    for path in (tmp_path / "store").glob("catalogue.db*"):
        path.unlink()
    recovery = recover_folder(tmp_path / "store")
    assert recovery.is_complete
    with tensorus.Client(EmbeddedBackend(tmp_path / "store", engine_config)) as client:
        assert sorted(info.name for info in client.datasets()) == ["copied", "first"]
        assert [(info.id, info.metadata) for info in client.list("first", order_by="id")] == [
            ("a", {"k": 1}),
            ("b", {}),
        ]
        assert_same_bits(client.get("first", "a", as_="numpy"), large)
        assert_same_bits(client.get("first", "b", as_="numpy"), large + 1)
        assert_same_bits(client.get("copied", "b", as_="numpy"), np.concatenate([large + 1, large]))
