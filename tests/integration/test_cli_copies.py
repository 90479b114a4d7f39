"""`tensorus cp` and `tensorus mv` copy, move and rename tensors and datasets."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tensorus
from support.client import run_command

pytestmark = pytest.mark.usefixtures("folder")

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def stored(remote: tensorus.Client, dataset: str) -> str:
    """A dataset with two tensors, and an empty one beside it."""
    remote.create_dataset(dataset, preset="none")
    remote.insert_many(dataset, {"a": MATRIX, "b": MATRIX + 1}.items())
    remote.create_dataset(f"{dataset}/other")
    return dataset


def sums(client: tensorus.Client, dataset: str) -> dict[str, float]:
    """Return the sum of each tensor."""
    return {record.info.id: float(record.tensor.sum()) for record in client.query(dataset, as_="numpy")}


def test_cp_and_mv_put_tensors_where_they_are_told(place: list[str], stored: str, remote: tensorus.Client) -> None:
    ran = run_command("cp", stored, "a", "c", *place)
    assert (ran.exit_code, ran.errors) == (0, "")
    assert ran.output.startswith(f"a of {stored} copied to c of {stored}: shape 3 x 4, 48 B in ")
    assert ran.output.endswith(f", generation {remote.info(stored, 'c').generation}\n")
    other = f"{stored}/other"
    assert run_command("cp", stored, "a", "--to", other, *place).exit_code == 0
    assert run_command("cp", stored, "b", "x", "--to", other, *place).exit_code == 0
    ran = run_command("mv", stored, "b", "d", *place)
    assert ran.output.startswith(f"b of {stored} moved to d of {stored}: shape 3 x 4, ")
    assert run_command("mv", stored, "c", "--to", other, *place).exit_code == 0
    assert sums(remote, stored) == {"a": 66, "d": 78}
    assert sums(remote, other) == {"a": 66, "x": 78, "c": 66}
    taken = run_command("mv", stored, "d", "a", *place)
    assert taken.exit_code == 1
    assert "another tensor has this id already; pass replace=True (cp and mv: --replace)" in taken.errors
    moved = json.loads(run_command("mv", stored, "d", "a", "--replace", "--json", *place).output)
    assert (moved["id"], moved["shape"], moved["generation"]) == ("a", [3, 4], remote.info(stored, "a").generation)
    assert json.loads(run_command("cp", stored, "a", "e", "--json", *place).output)["id"] == "e"
    assert sums(remote, stored) == {"a": 78, "e": 78}


def test_cp_and_mv_take_whole_datasets(place: list[str], stored: str, remote: tensorus.Client) -> None:
    copied, renamed = f"{stored}/copied", f"{stored}/renamed"
    ran = run_command("cp", stored, copied, "--dataset", *place)
    assert (ran.exit_code, ran.output) == (0, f"dataset {stored} copied to {copied}\n")
    ran = run_command("mv", copied, renamed, "--dataset", *place)
    assert (ran.exit_code, ran.output) == (0, f"dataset {copied} renamed to {renamed}\n")
    assert sums(remote, renamed) == sums(remote, stored) == {"a": 66, "b": 78}
    made = json.loads(run_command("cp", stored, copied, "--dataset", "--json", *place).output)
    assert (made["name"], made["policy"]["preset"]) == (copied, "none")
    again = json.loads(run_command("mv", copied, f"{copied}/2", "--dataset", "--json", *place).output)
    assert again["name"] == f"{copied}/2"
    for arguments in (["cp", stored, renamed, "--dataset"], ["mv", stored, renamed, "--dataset"]):
        ran = run_command(*arguments, *place)
        assert ran.exit_code == 1
        assert f"a dataset of this name exists already [dataset={renamed}]" in ran.errors


def test_what_has_no_meaning_is_wrong_usage(place: list[str], stored: str) -> None:
    for command in ("cp", "mv"):
        assert run_command(command, stored, "a", *place).exit_code == 2
        for more in (["x"], ["--to", "x"], ["--replace"]):
            assert run_command(command, stored, "new", *more, "--dataset", *place).exit_code == 2
        assert run_command(command, stored, "nothing", "x", *place).exit_code == 3
        assert run_command(command, "nowhere", "new", "--dataset", *place).exit_code == 3
    assert run_command("mv", stored, "a", "b", "--at", "7", *place).exit_code == 2


def test_a_store_in_a_folder_is_changed_too() -> None:
    with tensorus.open("store") as client:
        client.create_dataset("d")
        client.insert("d", MATRIX, id="a")
    for arguments in (["cp", "d", "a", "b"], ["mv", "d", "a", "c"], ["mv", "d", "e", "--dataset"]):
        assert run_command(*arguments, "--store", "store").exit_code == 0
    with tensorus.open("store") as client:
        assert sums(client, "e") == {"b": 66, "c": 66}
