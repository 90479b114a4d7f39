"""`tensorus append` and `tensorus write` change stored tensors by what is in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import tensorus
from support.client import run_command

pytestmark = pytest.mark.usefixtures("folder")

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def stored(remote: tensorus.Client, dataset: str) -> str:
    """A dataset with one tensor, and files with values for it."""
    remote.create_dataset(dataset, preset="none")
    remote.insert(dataset, MATRIX, id="t")
    np.save("more.npy", MATRIX + 100)
    np.savez("several.npz", one=MATRIX + 200, two=MATRIX[:, :1])
    np.savez("single.npz", only=MATRIX + 300)
    safetensors.numpy.save_file({"x": np.ones((2, 2), np.float32)}, "x.safetensors")
    return dataset


def test_append_adds_the_values_of_a_file(place: list[str], stored: str, remote: tensorus.Client) -> None:
    ran = run_command("append", stored, "t", "more.npy", *place)
    assert (ran.exit_code, ran.errors) == (0, "")
    info = remote.info(stored, "t")
    assert ran.output.startswith("t has shape 6 x 4 now, 96 B in ")
    assert ran.output.endswith(f", generation {info.generation}\n")
    assert remote.get(stored, "t", as_="numpy").tolist() == np.concatenate([MATRIX, MATRIX + 100]).tolist()


@pytest.mark.parametrize(("arguments", "more"), [(["single.npz"], 300), (["several.npz", "--name", "one"], 200)])
def test_the_tensor_of_a_file_is_its_only_one_or_the_one_that_is_named(
    place: list[str], stored: str, remote: tensorus.Client, arguments: list[str], more: int
) -> None:
    assert run_command("append", stored, "t", *arguments, *place).exit_code == 0
    assert remote.get(stored, "t", as_="numpy")[3:].tolist() == (MATRIX + more).tolist()


def test_append_grows_the_axis_that_is_named(place: list[str], stored: str, remote: tensorus.Client) -> None:
    remote.insert(stored, MATRIX[:1], id="row")
    np.save("row.npy", MATRIX[1:2])
    assert run_command("append", stored, "row", "row.npy", "--axis", -1, *place).exit_code == 0
    assert remote.get(stored, "row", as_="numpy").tolist() == [list(range(8))]


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        (["x.safetensors", "--index", "1:, ::2"], np.s_[1:, ::2]),
        (["several.npz", "--name", "two", "--index", "..., 3:"], np.s_[..., 3:]),
    ],
)
def test_write_replaces_the_values_of_the_index(
    place: list[str], stored: str, remote: tensorus.Client, arguments: list[str], index: tuple[slice, ...]
) -> None:
    ran = run_command("write", stored, "t", *arguments, *place)
    assert (ran.exit_code, ran.errors) == (0, "")
    expected = MATRIX.copy()
    expected[index] = 1 if "safetensors" in arguments[0] else MATRIX[:, :1]
    assert remote.get(stored, "t", as_="numpy").tolist() == expected.tolist()


def test_as_json_the_new_generation_is_printed(place: list[str], stored: str, remote: tensorus.Client) -> None:
    appended = json.loads(run_command("append", stored, "t", "more.npy", "--json", *place).output)
    assert (appended["id"], appended["shape"]) == ("t", [6, 4])
    written = json.loads(run_command("write", stored, "t", "more.npy", "--index", ":3", "--json", *place).output)
    assert written["generation"] == remote.info(stored, "t").generation > appended["generation"]


def test_a_store_in_a_folder_is_edited_too() -> None:
    np.save("more.npy", MATRIX)
    with tensorus.open("store") as client:
        client.create_dataset("d")
        client.insert("d", MATRIX, id="t")
    for command in (["append", "d", "t", "more.npy"], ["write", "d", "t", "more.npy", "--index", "3:"]):
        ran = run_command(*command, "--store", "store")
        assert ran.exit_code == 0, ran.errors
    with tensorus.open("store") as client:
        assert client.get("d", "t", as_="numpy").tolist() == np.concatenate([MATRIX, MATRIX]).tolist()


def test_a_generation_that_is_gone_is_not_edited(place: list[str], stored: str, remote: tensorus.Client) -> None:
    before = remote.info(stored, "t")
    done = run_command("append", stored, "t", "more.npy", "--if-generation", before.generation, *place)
    assert done.exit_code == 0
    for command in (["append", stored, "t", "more.npy"], ["write", stored, "t", "more.npy", "--index", ":3"]):
        ran = run_command(*command, "--if-generation", before.generation, *place)
        assert ran.exit_code != 0
        assert f"{before.generation} was to be edited" in ran.errors
    assert remote.info(stored, "t").shape == (6, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["append", "several.npz"], "several.npz has 2 tensors, choose one with --name; the first are: one, two"),
        (["append", "several.npz", "--name", "three"], "several.npz has no tensor 'three'; the first are: one, two"),
        (["append", "several.npz", "--name", "two"], "shape of the values is [3, 1], the tensor has [3, 4]"),
        (["append", "more.npy", "--axis", "1"], "axis of the append is 1"),
        (["append", "missing.npy"], "missing.npy"),
        (["write", "more.npy"], "--index"),
        (["write", "more.npy", "--index", ":2"], "values of shape [3, 4] do not fit the index, which selects [2, 4]"),
        (["write", "more.npy", "--index", "1:4"], "the write goes to 4 on axis 0, the tensor has size 3 there"),
        (["write", "more.npy", "--index", "x"], "x"),
        (["write", "more.npy", "--index", "0", "--if-generation", "0"], "--if-generation"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(
    place: list[str], stored: str, remote: tensorus.Client, arguments: list[str], message: str
) -> None:
    command, file, *options = arguments
    ran = run_command(command, stored, "t", file, *options, *place)
    assert ran.exit_code != 0
    assert message in ran.errors
    assert remote.get(stored, "t", as_="numpy").tolist() == MATRIX.tolist()
    assert Path("more.npy").exists()
