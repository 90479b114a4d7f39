"""`tensorus get`: tensors are written as they arrive, in one call, and a file is there whole or not at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import safetensors.numpy

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.client import Method, answering, run_command, scripted_server
from tensorus import client
from tensorus.cli._files import read_tensors
from tensorus_protos.v1 import tensorus_pb2 as pb

MIB = 1024 * 1024


pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_dataset_larger_than_memory_is_written_a_tensor_at_a_time(
    place: list[str], dataset: str, remote: tensorus.Client, suffix: str
) -> None:
    remote.create_dataset(dataset, preset="none")
    remote.insert_many(dataset, ((str(number), np.full(4 * MIB, number, np.uint8)) for number in range(24)))
    tracemalloc.start()
    try:
        ran = run_command("get", dataset, "-o", f"out{suffix}", *place)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ran.exit_code == 0, ran.errors
    # Of 96 MiB: the tensor at hand, the one that arrives, and what the server, in this process too, has under way.
    assert peak_bytes < 32 * MIB
    for name, array in read_tensors(Path(f"out{suffix}")):
        assert (array.shape, int(array[0]), int(array[-1])) == ((4 * MIB,), int(name), int(name))


def test_all_tensors_come_in_one_call(
    place: list[str], dataset: str, remote: tensorus.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.create_dataset(dataset)
    remote.insert_many(dataset, ((str(number), np.arange(number)) for number in range(100)))
    calls: list[Sequence[str]] = []
    get_many = client.Client.get_many

    def counted(client: tensorus.Client, dataset: str, ids: Any, **options: Any) -> Any:
        calls.append(list(ids))
        return get_many(client, dataset, ids, **options)

    monkeypatch.setattr(client.Client, "get_many", counted)
    monkeypatch.setattr(client.Client, "get", None)
    assert run_command("get", dataset, "-o", "out.npz", *place).exit_code == 0
    assert [len(ids) for ids in calls] == [100]


def test_every_tensor_is_aligned_in_a_safetensors_file(place: list[str], dataset: str, remote: tensorus.Client) -> None:
    arrays = {
        "a": random_bits("uint8", (3,)),
        "b": random_bits("float64", (5,)),
        "c": random_bits("float16", (3,)),
        "d": random_bits("complex64", (2, 2)),
        "e": random_bits("int32", ()),
        "f": np.empty((0, 3), np.float32),
    }
    remote.create_dataset(dataset)
    remote.insert_many(dataset, arrays.items())
    assert run_command("get", dataset, "-o", "out.safetensors", *place).exit_code == 0
    found = safetensors.numpy.load_file("out.safetensors")
    for name, array in read_tensors(Path("out.safetensors")):
        assert array.ctypes.data % array.itemsize == 0, name
        assert_same_bits(array, arrays[name])
        assert_same_bits(found[name], arrays[name])


def test_a_name_that_the_format_has_for_itself_is_refused(
    place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    remote.create_dataset(dataset)
    remote.insert(dataset, np.ones(1), id="__metadata__")
    ran = run_command("get", dataset, "-o", "out.safetensors", *place)
    assert ran.errors == ("tensorus: out.safetensors cannot hold a tensor named '__metadata__'; an .npz file can\n")


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_what_changes_while_it_is_read_leaves_no_file_and_the_old_one_as_it_was(
    place: list[str],
    dataset: str,
    remote: tensorus.Client,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    remote.create_dataset(dataset)
    info = remote.insert_many(dataset, [("a", np.ones(3)), ("b", np.ones(3))])[1]
    get_many = client.Client.get_many

    def changing(client: tensorus.Client, dataset: str, ids: Any, **options: Any) -> Any:
        if change == "replaced":
            remote.insert(dataset, np.ones(4), id="b", if_generation_match=info.generation)
        else:
            remote.delete(dataset, "b")
        return get_many(client, dataset, ids, **options)

    monkeypatch.setattr(client.Client, "get_many", changing)
    Path("out.npz").write_text("old")
    ran = run_command("get", dataset, "-o", "out.npz", "--force", *place)
    assert ran.exit_code == (1 if change == "replaced" else 3)
    assert ("was replaced by one of another" if change == "replaced" else "there is no such tensor") in ran.errors
    assert Path("out.npz").read_text() == "old"
    assert [path.name for path in Path.cwd().iterdir()] == ["out.npz"]


def test_a_file_is_replaced_where_a_link_leads_and_keeps_its_mode(
    place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    remote.create_dataset(dataset)
    remote.insert(dataset, np.ones(3), id="a")
    Path("real.npy").write_text("old")
    Path("real.npy").chmod(0o640)
    Path("link.npy").symlink_to("real.npy")
    assert run_command("get", dataset, "-o", "link.npy", "--force", *place).exit_code == 0
    assert Path("link.npy").is_symlink()
    assert Path("real.npy").stat().st_mode & 0o777 == 0o640
    assert np.load("real.npy").tolist() == [1, 1, 1]


# ---- Interruptions ------------------------------------------------------------------------------------------------------


def failing_at_first(failures: int, code: grpc.StatusCode) -> Method:
    left = [failures]

    def method(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        left[0] -= 1
        if left[0] >= 0:
            context.abort(code, "it broke")
        yield pb.GetDatasetStatsResponse().SerializeToString()

    return method


@pytest.mark.parametrize(("failures", "lines"), [(0, 0), (1, 1), (2, 2), (4, 2)])
def test_a_lost_connection_is_told_at_once_and_explained_when_it_happens_again(failures: int, lines: int) -> None:
    listed = answering(pb.ListDatasetsResponse(datasets=[pb.Dataset(name="d")]))
    stats = failing_at_first(failures, grpc.StatusCode.INTERNAL)
    none = answering(pb.ListTensorsResponse())
    with scripted_server(ListDatasets=listed, GetDatasetStats=stats, ListTensors=none) as address:
        ran = run_command("ls", "--server", address)
    assert ran.exit_code == 0
    told = ran.errors.splitlines()
    assert len(told) == lines
    assert told[:1] == ["tensorus: connection lost, retrying (INTERNAL: it broke)"][:lines]
    assert all("proxy" in line for line in told[1:])
