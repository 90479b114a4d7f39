"""Inserts against a base through both clients and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import assert_same_bits, random_bits
from support.client import run_command
from support.deltas import FIRST, next_step
from tensorus import NewTensor, Policy, errors
from tensorus.types import TensorInfo
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.catalogue.sql.bases import UsableBases
from tensorus_server.errors import StoreBusyError
from tensorus_server.processes.server import Server

SECOND = next_step(FIRST, 2)


def differences(info: TensorInfo) -> int:
    """Return how many chunks are stored as differences."""
    return sum(share.chunks for share in info.encodings if "int_delta" in share.codecs)


@pytest.fixture
def first(client: tensorus.Client, dataset: str) -> TensorInfo:
    """The base, in the client's store."""
    client.create_dataset(dataset, policy=Policy(chunk_bytes=4096))
    return client.insert(dataset, FIRST, id="first")


def test_a_base_is_named_by_id_by_place_or_by_its_description(
    client: tensorus.Client, dataset: str, first: TensorInfo
) -> None:
    forms: dict[str, Any] = {"id": "first", "pair": (dataset, "first"), "info": first}
    forms["state"] = (dataset, "first", first.generation)
    for form, base in forms.items():
        info = client.insert(dataset, SECOND, id=form, base=base)
        assert differences(info) == 50, form
        assert_same_bits(client.get(dataset, form, as_="numpy"), SECOND)
    many = client.insert_many(
        dataset,
        (
            NewTensor(next_step(FIRST, number), f"many {number}", base=base)
            for number, base in enumerate(forms.values())
        ),
    )
    assert [differences(info) for info in many] == [50] * 4
    rows = client.get(dataset, "many 2", index=np.s_[3:20:4, ::7], as_="numpy")
    assert_same_bits(rows, next_step(FIRST, 2)[3:20:4, ::7])
    assert client.verify(dataset).is_intact


def test_a_base_that_does_not_fit_or_does_not_exist_is_an_error(
    client: tensorus.Client, dataset: str, first: TensorInfo
) -> None:
    with pytest.raises(
        errors.InvalidBaseError, match=r"the base is uint16 .* must be int16 of shape \[25, 4096\]"
    ) as caught:
        client.insert(dataset, FIRST.view(np.int16), id="t", base="first")
    assert caught.value.reason == "INVALID_BASE"
    with pytest.raises(errors.TensorNotFoundError):
        client.insert(dataset, SECOND, base="nothing")
    with pytest.raises(errors.DatasetNotFoundError):
        client.insert(dataset, SECOND, base=("nowhere", "first"))
    with pytest.raises(errors.TensorusError) as unknown:
        client.insert(dataset, SECOND, base=(dataset, "first", "no snapshot"))
    assert unknown.value.reason == "SNAPSHOT_NOT_FOUND"
    for wrong in (7, ("a",), ("a", "b", "c", "d"), [dataset, "first"]):
        with pytest.raises(TypeError, match="base is a"):
            client.insert(dataset, SECOND, base=wrong)  # type: ignore[arg-type]
    with pytest.raises(errors.InsertManyError) as many:
        client.insert_many(dataset, [NewTensor(FIRST[:3], "x", base="first"), NewTensor(SECOND, "y", base="first")])
    assert [(number, error.reason) for number, error in many.value.failed] == [(0, "INVALID_BASE")]
    assert differences(many.value.inserted[0]) == 50


def test_an_insert_whose_base_was_deleted_meanwhile_is_repeated(
    client: tensorus.Client, dataset: str, first: TensorInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    check = UsableBases.require

    def busy_once(bases: UsableBases, stored: StoredTensor) -> None:
        calls.append(stored.new.id)
        if len(calls) == 1:
            raise StoreBusyError("the base was deleted or replaced during the insert")
        check(bases, stored)

    monkeypatch.setattr(UsableBases, "require", busy_once)
    info = client.insert(dataset, SECOND, id="second", base="first")
    assert (differences(info), calls) == (50, ["second", "second"])
    assert_same_bits(client.get(dataset, "second", as_="numpy"), SECOND)


def test_the_asynchronous_client_inserts_against_a_base(server: Server, remote: tensorus.Client, dataset: str) -> None:
    remote.create_dataset(dataset, policy=Policy(chunk_bytes=4096))
    remote.insert(dataset, FIRST, id="first")

    async def insert() -> list[TensorInfo]:
        async with tensorus.aio.connect(server.address) as client:
            one = await client.insert(dataset, SECOND, id="second", base="first")
            return [one, *await client.insert_many(dataset, [NewTensor(SECOND, "third", base=one)])]

    assert [differences(info) for info in asyncio.run(insert())] == [50, 50]
    assert_same_bits(remote.get(dataset, "third", as_="numpy"), SECOND)


class TestPut:
    """`tensorus put --base`."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> Callable[..., str]:
        """Writes a checkpoint; returns its path."""

        def write(name: str, **tensors: np.ndarray[Any, Any]) -> str:
            np.savez(tmp_path / f"{name}.npz", **tensors)
            return str(tmp_path / f"{name}.npz")

        return write

    def test_each_tensor_is_compared_with_the_one_of_its_name(self, tmp_path: Path, files: Callable[..., str]) -> None:
        place = ["--store", str(tmp_path / "store")]
        large = random_bits("uint16", (300, 1024), seed=7)
        first = files("first", a=FIRST, b=large, bias=np.arange(4.0), gone=FIRST)
        # "new" has values of its own: of two equal tensors the one that is stored first says how.
        second = files("second", a=SECOND, b=large[:200], bias=np.arange(4.0) + 1, new=next_step(SECOND, 4))
        assert run_command("put", "step1", first, *place).exit_code == 0
        ran = run_command("put", "step2", second, "--base", "step1", *place)
        assert ran.exit_code == 0, ran.errors
        assert "2 of 4 tensors have a base in step1; 200.0 KiB are stored as" in ran.output
        assert "times smaller)" in ran.output
        with tensorus.open(tmp_path / "store") as client:
            infos = {info.id: info for info in client.list("step2")}
            assert {name for name, info in infos.items() if differences(info)} == {"a"}
            assert_same_bits(client.get("step2", "a", as_="numpy"), SECOND)
            assert_same_bits(client.get("step2", "b", as_="numpy"), large[:200])
        # Against itself, once more, and as JSON.
        third = files("third", a=next_step(SECOND, 3))
        ran = run_command("put", "step2", third, "--base", "step2", "--replace", "--json", *place)
        (info,) = json.loads(ran.output)
        assert [share["codecs"][0] for share in info["encodings"]] == ["int_delta"]

    def test_the_bases_may_be_those_of_a_snapshot(self, tmp_path: Path, files: Callable[..., str]) -> None:
        place = ["--store", str(tmp_path / "store")]
        assert run_command("put", "run", files("first", a=FIRST), *place).exit_code == 0
        assert run_command("snapshot", "run", "s1", *place).exit_code == 0
        far = random_bits("uint16", FIRST.shape, seed=8)
        assert run_command("put", "run", files("far", a=far), "--replace", *place).exit_code == 0
        for seed, (base, expected) in enumerate([("run", 0), ("run@s1", 50)], 2):
            # Of their own: equal ones share what is stored, in whichever way.
            values = next_step(FIRST, seed)
            second = files("second", a=values)
            ran = run_command("put", f"against {base}", second, "--base", base, "--no-ask", *place)
            assert ran.exit_code == 0, ran.errors
            with tensorus.open(tmp_path / "store") as client:
                info = client.info(f"against {base}", "a")
                assert bool(differences(info)) == bool(expected), base
                assert_same_bits(client.get(f"against {base}", "a", as_="numpy"), values)
        assert run_command("put", "other", second, "--base", "run@s2", *place).exit_code == 3

    def test_a_dataset_of_bases_that_does_not_exist_is_refused_before_anything_is_stored(
        self, tmp_path: Path, files: Callable[..., str]
    ) -> None:
        place = ["--store", str(tmp_path / "store")]
        first = files("first", a=FIRST)
        assert run_command("put", "step1", first, "--base", "nowhere", *place).exit_code == 3
        assert run_command("put", "step1", first, "--base", "@s1", *place).exit_code == 2
        with tensorus.open(tmp_path / "store") as client:
            assert not list(client.datasets())
        # A dataset whose checkpoints replace each other has no bases at its first one.
        assert run_command("put", "step1", first, "--base", "step1", *place).exit_code == 0


class TestExplain:
    """`explain` with a base."""

    def test_the_command_finds_the_bases_on_the_server_that_the_variable_names(
        self, server: Server, tmp_path: Path, dataset: str
    ) -> None:
        path = str(tmp_path / "first.npz")
        np.savez(path, a=FIRST)
        environment = {"TENSORUS_ADDRESS": server.address}
        assert run_command("put", dataset, path, env=environment).exit_code == 0
        ran = run_command("explain", path, "--preset", "lossless", "--base", dataset, env=environment)
        assert ran.exit_code == 0, ran.errors
        assert f"With base: 1 of 1 tensor have one in {dataset}" in ran.output

    def test_one_more_explanation_is_that_of_the_base(
        self, client: tensorus.Client, dataset: str, first: TensorInfo
    ) -> None:
        for base in ((dataset, "first"), first):
            found = client.explain(SECOND, policies=["lossless", "fast"], base=base)
            assert [explanation.policy.preset for explanation in found] == ["lossless", "fast", "lossless"]
            assert [explanation.has_base for explanation in found] == [False, False, True]
            assert found[-1].stored_bytes < found[0].stored_bytes / 3
            assert found[-1].encode_bytes_per_second > 0 < found[-1].decode_bytes_per_second
        stored = client.insert(dataset, SECOND, id="second", base="first")
        assert stored.stored_bytes == found[-1].stored_bytes
        other = client.explain(random_bits("uint16", FIRST.shape, seed=9), policies=["none"], base=first)[-1]
        assert "50 of 50 chunks are stored without the base" in other.fallback_reason

    def test_a_base_that_does_not_fit_is_refused(
        self, client: tensorus.Client, dataset: str, first: TensorInfo
    ) -> None:
        for values in (FIRST.view(np.int16), FIRST.reshape(-1, 2), np.concatenate([FIRST.ravel(), FIRST[0]])):
            with pytest.raises(errors.InvalidBaseError):
                client.explain(values, policies=["none"], base=first)
        with pytest.raises(errors.TensorNotFoundError):
            client.explain(FIRST, policies=["none"], base=(dataset, "nothing"))
        with pytest.raises(ValueError, match="must be a tuple of dataset and id"):
            client.explain(FIRST, base="first")

    def test_the_command_shows_one_more_row(self, tmp_path: Path) -> None:
        place = ["--store", str(tmp_path / "store")]
        np.savez(tmp_path / "first.npz", a=FIRST, other=FIRST[:3])
        np.savez(tmp_path / "second.npz", a=SECOND, new=SECOND)
        assert run_command("put", "step1", str(tmp_path / "first.npz"), *place).exit_code == 0
        arguments = [str(tmp_path / "second.npz"), "--preset", "lossless", "--base", "step1", *place]
        ran = run_command("explain", *arguments)
        assert ran.exit_code == 0, ran.errors
        assert "lossless, with base" in ran.output
        assert "With base: 1 of 2 tensors have one in step1, 200.0 KiB of 200.0 KiB were examined." in ran.output
        (explained,) = json.loads(run_command("explain", *arguments, "--json").output)
        assert explained["base"]["explanation"]["ratio"] > 3 * explained["explanations"][0]["ratio"]
