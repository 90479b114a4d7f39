"""Snapshots, earlier states and restores, as users see them, of a server and of a folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.client import comparable, outcome_of
from support.interrupted import MIB, through
from support.proxy import FaultProxy
from support.wire import call_error
from tensorus import errors
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub

LARGE = random_bits("float32", (700, 1000), seed=1)
"""In a file of three chunks."""

READS: dict[str, Callable[..., Any]] = {
    "get": lambda client, d, **at: client.get(d, "large", as_="numpy", **at),
    "get of a small tensor": lambda client, d, **at: client.get(d, "small", as_="numpy", **at),
    "get of a part": lambda client, d, **at: client.get(d, "large", index=np.s_[::-99, 5], as_="numpy", **at),
    "get of another dtype": lambda client, d, **at: client.get(d, "large", dtype="bfloat16", as_="numpy", **at),
    "get_many": lambda client, d, **at: list(client.get_many(d, ["edited", "large", "described"], as_="numpy", **at)),
    "query": lambda client, d, **at: list(client.query(d, "layer <= 2", as_="numpy", **at)),
    "query by size": lambda client, d, **at: list(client.query(d, order_by="nbytes desc", with_data=False, **at)),
    "query of a few": lambda client, d, **at: list(client.query(d, limit=3, with_data=False, **at)),
    "query of a sample": lambda client, d, **at: list(client.query(d, sample=3, seed=7, with_data=False, **at)),
    "list": lambda client, d, **at: list(client.list(d, **at)),
    "list by a property": lambda client, d, **at: list(client.list(d, "@min < 1", order_by="id", **at)),
    "info": lambda client, d, **at: client.info(d, "described", **at),
    "stats": lambda client, d, **at: client.stats(d, **at),
}


def fill(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, exist_ok=True)
    for number, (name, values) in enumerate(
        {
            "large": LARGE,
            "small": np.arange(7),
            "edited": LARGE[:300],
            "gone": np.ones(5),
            "described": np.eye(2),
        }.items()
    ):
        client.insert(dataset, values, id=name, metadata={"layer": number})


def change(client: tensorus.Client, dataset: str) -> None:
    """Change every tensor, each in its own way, and add one."""
    client.insert(dataset, LARGE[::-1], id="large", on_conflict="replace", metadata={"layer": 9})
    client.insert(dataset, np.arange(8), id="small", on_conflict="replace")
    client.write(dataset, "edited", np.s_[0, :], 0)
    client.append(dataset, "edited", LARGE[:10])
    client.delete(dataset, "gone")
    client.update_metadata(dataset, "described", {"layer": 0})
    client.insert(dataset, np.zeros(1000), id="new", metadata={"layer": 1})


def exactly(found: Any) -> Any:
    """Return what a read found, as it compares: with generations and times, unlike `comparable`."""
    if isinstance(found, list):
        return [exactly(one) for one in found]
    if isinstance(found, tensorus.Record):
        return found.info, None if found.tensor is None else (found.tensor.dtype, found.tensor.tobytes())
    return (found.dtype, found.tobytes()) if isinstance(found, np.ndarray) else found


def all_reads(client: tensorus.Client, dataset: str, **at: Any) -> dict[str, Any]:
    return {name: exactly(read(client, dataset, **at)) for name, read in READS.items()}


def test_every_read_sees_the_state_that_it_asks_for(client: tensorus.Client, dataset: str) -> None:
    fill(client, dataset)
    before = all_reads(client, dataset)
    first = client.snapshot(dataset, "first")
    assert all_reads(client, dataset, at="first") == before
    change(client, dataset)
    after = all_reads(client, dataset)
    second = client.snapshot(dataset, "second")
    client.delete(dataset, ["large", "edited"])
    assert [name for name in READS if before[name] == after[name]] == []
    for expected, snapshot in ((before, first), (after, second)):
        for at in (snapshot.name, snapshot.generation, snapshot.created):
            found = all_reads(client, dataset, at=at)
            assert [name for name in READS if found[name] != expected[name]] == [], at
    local = first.created.astimezone().replace(tzinfo=None)
    assert exactly(client.info(dataset, "described", at=local)) == before["info"]
    assert client.snapshots(dataset) == [first, second]


def test_between_two_snapshots_each_change_is_a_state(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, retention=timedelta(days=1))
    infos = [
        client.insert(dataset, np.full(3, step), id="t", metadata={"step": step}, on_conflict="replace")
        for step in range(4)
    ]
    client.delete(dataset, "t")
    for step, info in enumerate(infos):
        assert client.get(dataset, "t", at=info.generation, as_="numpy").tolist() == [step] * 3
        assert [found.id for found in client.list(dataset, f"step = {step}", at=info.generation)] == ["t"]
        assert client.info(dataset, "t", at=info.generation) == info
    assert list(client.list(dataset)) == []
    assert client.stats(dataset, at=datetime.now(UTC) + timedelta(days=1)).tensors == 0


def test_a_restore_brings_all_of_a_state_back(client: tensorus.Client, dataset: str) -> None:
    fill(client, dataset)
    client.insert(dataset, np.ones(3), id="unchanged")
    before = list(client.query(dataset, order_by="id", as_="numpy"))
    snapshot = client.snapshot(dataset, "before")
    change(client, dataset)
    with pytest.raises(errors.NewerTensorsError) as refused:
        client.restore(dataset, "before")
    assert (refused.value.reason, refused.value.facts["dataset"]) == ("NEWER_TENSORS", dataset)
    client.snapshot(dataset, "after")
    after = all_reads(client, dataset)
    report = client.restore(dataset, snapshot.created)
    assert report == tensorus.types.RestoreReport(restored=5, deleted=1, unchanged=1, generation=snapshot.generation)
    found = list(client.query(dataset, order_by="id", as_="numpy"))
    same = [(one.info.id, one.info.metadata, one.info.value_checksum) for one in before]
    assert [(one.info.id, one.info.metadata, one.info.value_checksum) for one in found] == same
    for one, other in zip(found, before, strict=True):
        assert_same_bits(one.tensor, other.tensor)
        assert (one.info.generation == other.info.generation) == (one.info.id == "unchanged")
    assert all_reads(client, dataset, at="after") == after
    assert client.restore(dataset, "before") == tensorus.types.RestoreReport(0, 0, 6, snapshot.generation)
    # And back again, although nothing but a snapshot keeps it.
    assert client.restore(dataset, "after").deleted == 1
    assert client.get(dataset, "small", as_="numpy").tolist() == list(range(8))
    # What came back is like any other tensor.
    client.append(dataset, "edited", LARGE[:1])
    assert client.verify(dataset).damage_count == 0


def test_what_is_no_longer_kept_is_an_error_and_never_a_part(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)
    first = client.insert(dataset, np.ones(3), id="a")
    kept = client.insert(dataset, np.ones(3), id="b")
    client.delete(dataset, "a")
    with pytest.raises(errors.StateNotKeptError, match=r"the state at 2000-01-01T12:00:00\+00:00 is not kept"):
        client.stats(dataset, at=datetime(2000, 1, 1, 12, tzinfo=UTC))
    for read in (
        lambda: client.get(dataset, "b", at=first.generation),
        lambda: list(client.query(dataset, at=kept.generation)),
        lambda: list(client.list(dataset, at=first.created)),
        lambda: client.stats(dataset, at=kept.generation),
        lambda: client.restore(dataset, kept.generation),
    ):
        with pytest.raises(errors.StateNotKeptError) as refused:
            read()
        assert isinstance(refused.value, errors.NotFoundError)
        assert refused.value.facts["complete_from"] == str(kept.generation + 1)
        assert refused.value.facts["dataset"] == dataset


def test_an_unknown_snapshot_is_answered_with_those_that_there_are(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)
    client.snapshot(dataset, "monday")
    client.snapshot(dataset, "tuesday")
    with pytest.raises(errors.SnapshotNotFoundError, match=r"'sunday'.*'monday', 'tuesday'"):
        client.get(dataset, "t", at="sunday")
    with pytest.raises(errors.AlreadyExistsError, match="'monday'"):
        client.snapshot(dataset, "monday")
    client.drop_snapshot(dataset, "monday")
    assert [one.name for one in client.snapshots(dataset)] == ["tuesday"]
    with pytest.raises(errors.HasSnapshotsError, match="drop_snapshots"):
        client.delete_dataset(dataset)
    assert client.delete_dataset(dataset, drop_snapshots=True) == 0
    client.create_dataset(dataset)
    assert client.snapshots(dataset) == []


def test_a_retention_is_changed_and_shown_alone(client: tensorus.Client, dataset: str) -> None:
    made = client.create_dataset(dataset, preset="fast", retention=timedelta(hours=36))
    assert made.retention == client.dataset(dataset).retention == timedelta(hours=36)
    assert comparable(client.update_dataset(dataset, preset="none")).retention == timedelta(hours=36)
    changed = client.update_dataset(dataset, retention=timedelta(0))
    assert (changed.retention, changed.policy.preset) == (timedelta(0), "none")


# ---- Only on a server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["get_many", "query"])
def test_a_read_that_is_cut_goes_on_in_the_same_state(proxy: FaultProxy, direct: tensorus.Client, kind: str) -> None:
    ids = [f"t{number:02}" for number in range(12)]
    direct.create_dataset("d", preset="none")
    direct.insert_many("d", [(name, np.full(2 * MIB, 1, np.uint8)) for name in ids])
    for name in ("s", "keeps the same"):
        direct.snapshot("d", name)
    with through(proxy) as client:
        if kind == "query":
            found = client.query("d", order_by="id", at="s", as_="numpy")
        else:
            found = client.get_many("d", ids, at="s", as_="numpy")
        records = [next(found)]
        direct.insert_many("d", [(name, np.full(2 * MIB, 2, np.uint8)) for name in ids], on_conflict="replace")
        direct.drop_snapshot("d", "s")
        direct.snapshot("d", "s")
        proxy.cut()
        records += found
    assert proxy.cuts >= 1
    assert [record.info.id for record in records] == ids
    assert {int(record.tensor.max()) for record in records} == {1}
    assert direct.get("d", ids[0], at="s", as_="numpy").max() == 2


def test_pages_of_snapshots_and_of_an_earlier_state_are_complete(stub: TensorServiceStub, dataset: str) -> None:
    stub.CreateDataset(pb.CreateDatasetRequest(name=dataset))
    for number in range(5):
        stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=dataset, name=f"s{number}"))
    names, token = [], ""
    while True:
        page = stub.ListSnapshots(pb.ListSnapshotsRequest(dataset=dataset, page_size=2, page_token=token))
        assert len(page.snapshots) <= 2
        names += [snapshot.name for snapshot in page.snapshots]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"s{number}" for number in range(5)]


def test_the_first_answer_says_which_state_is_read(
    stub: TensorServiceStub, remote: tensorus.Client, dataset: str
) -> None:
    fill(remote, dataset)
    snapshot = remote.snapshot(dataset, "s")
    state, reads = pb.At(snapshot="s"), [pb.TensorRead(id=name) for name in ("large", "small", "nothing")]
    small = pb.ReadOptions(max_payload_bytes=64 * 1024)
    for at, generation in ((state, snapshot.generation), (None, 0)):
        for answers in (
            list(stub.Get(pb.GetRequest(dataset=dataset, reads=reads, options=small, at=at))),
            list(stub.Query(pb.QueryRequest(dataset=dataset, options=small, at=at))),
        ):
            assert [answer.at_generation for answer in answers] == [generation] + [0] * (len(answers) - 1)
            assert len(answers) > 2
    (answer,) = stub.Get(pb.GetRequest(dataset=dataset, at=state))
    assert answer.at_generation == snapshot.generation


def test_a_page_token_is_of_its_state(stub: TensorServiceStub, remote: tensorus.Client, dataset: str) -> None:
    fill(remote, dataset)
    remote.snapshot(dataset, "s")
    request = pb.ListTensorsRequest(dataset=dataset, page_size=2, at=pb.At(snapshot="s"))
    first = stub.ListTensors(request)
    change(remote, dataset)
    request.page_token = first.next_page_token
    second = stub.ListTensors(request)
    assert [tensor.id for tensor in (*first.tensors, *second.tensors)] == ["large", "small", "edited", "gone"]
    request.ClearField("at")
    with pytest.raises(grpc.RpcError) as raised:
        stub.ListTensors(request)
    assert call_error(raised.value).reason == "INVALID_PAGE_TOKEN"


def test_both_clients_say_the_same_of_a_state_that_is_over(remote: tensorus.Client, embedded: tensorus.Client) -> None:
    def found(client: tensorus.Client) -> list[Any]:
        client.create_dataset("history/over", exist_ok=True)
        at = datetime(2000, 1, 1, tzinfo=UTC)
        client.insert("history/over", np.ones(3), id="t")
        client.delete("history/over", "t")
        return [
            outcome_of(lambda: client.get("history/over", "t", at=at)),
            outcome_of(lambda: client.restore("history/over", at)),
        ]

    assert found(remote) == found(embedded)
