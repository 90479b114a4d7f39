"""Snapshots, earlier states, restores and retentions on the command line: what is printed, and how commands end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.client import run_command
from tensorus_server.processes.server import Server


@pytest.fixture
def client(server: Server) -> Any:
    with tensorus.connect(server.address) as connected:
        yield connected


@pytest.fixture
def filled(client: tensorus.Client, dataset: str) -> str:
    """A dataset with `a`, which is 1 in the snapshot "before" and 2 now, and `b`, which is new."""
    client.create_dataset(dataset)
    client.insert(dataset, np.full(3, 1.0), id="a", metadata={"step": 1})
    client.snapshot(dataset, "before")
    client.insert(dataset, np.full(3, 2.0), id="a", on_conflict="replace", metadata={"step": 2})
    client.insert(dataset, np.full((2, 3), 2.0), id="b")
    return dataset


def test_a_snapshot_is_made_listed_and_dropped(place: list[str], client: tensorus.Client, filled: str) -> None:
    ran = run_command("snapshot", filled, "after", *place)
    after = client.snapshots(filled)[1]
    assert (ran.exit_code, ran.output) == (0, f"snapshot after of {filled}, generation {after.generation}\n")
    head, first, second = run_command("snapshots", filled, *place).output.splitlines()
    assert head.split() == ["snapshot", "generation", "created"]
    assert second.split() == ["after", str(after.generation), *after.created.isoformat(" ", "seconds").split()]
    assert first.split()[0] == "before"
    (one, other) = json.loads(run_command("snapshots", filled, "--json", *place).output)
    assert one["name"] == "before"
    assert other == {
        "name": "after",
        "dataset": filled,
        "generation": after.generation,
        "created": after.created.isoformat(),
    }
    ran = run_command("drop-snapshot", filled, "before", *place)
    assert (ran.exit_code, ran.output) == (0, f"snapshot before of {filled} dropped\n")
    assert [found.name for found in client.snapshots(filled)] == ["after"]


def test_reading_commands_read_the_state_that_is_named(
    place: list[str], client: tensorus.Client, filled: str, tmp_path: Path
) -> None:
    (before,) = client.snapshots(filled)
    local = before.created.astimezone().replace(tzinfo=None)
    for number, at in enumerate(
        ["before", before.generation, before.created.isoformat(), local.isoformat(), local.isoformat(" ")]
    ):
        listed = json.loads(run_command("ls", filled, "--json", "--at", at, *place).output)
        assert [(info["id"], info["metadata"]) for info in listed] == [("a", {"step": 1})], at
        assert json.loads(run_command("info", filled, "a", "--json", "--at", at, *place).output) == listed[0]
        assert json.loads(run_command("stats", filled, "--json", "--at", at, *place).output)["tensors"] == 1
        assert "1 tensor, 24 B stored in" in run_command("stats", filled, "--at", at, *place).output
        for options in ([], ["--index", "0:2"], ["a"]):
            file = tmp_path / f"{number}-{len(options)}.npz"
            ran = run_command("get", filled, *options, "-o", file, "--at", at, *place)
            assert ran.exit_code == 0, ran.errors
            with np.load(file) as found:
                assert found.files == ["a"]
                assert set(found["a"].tolist()) == {1.0}
    assert len(json.loads(run_command("ls", filled, "--json", *place).output)) == 2


def test_a_restore_says_what_it_did_and_how_to_lose_nothing(
    place: list[str], client: tensorus.Client, filled: str
) -> None:
    ran = run_command("restore", filled, "before", *place)
    assert (ran.exit_code, ran.output) == (1, "")
    assert f"`tensorus snapshot {filled} NAME`, or --discard-newer\n" in ran.errors
    (before,) = client.snapshots(filled)
    ran = run_command("restore", filled, "before", "--discard-newer", *place)
    assert (ran.exit_code, ran.output) == (
        0,
        f"1 tensor brought back, 1 deleted, 0 unchanged: the state of generation {before.generation}\n",
    )
    assert [info.metadata for info in client.list(filled)] == [{"step": 1}]
    ran = run_command("restore", filled, before.created.isoformat(), "--json", *place)
    assert json.loads(ran.output) == {"restored": 0, "deleted": 0, "unchanged": 1, "generation": before.generation}


def test_a_dataset_with_snapshots_is_deleted_only_on_request(
    place: list[str], client: tensorus.Client, filled: str
) -> None:
    ran = run_command("rm", filled, "--dataset", "--yes", *place)
    assert ran.exit_code == 1
    assert f"`tensorus drop-snapshot {filled} NAME`, or --drop-snapshots\n" in ran.errors
    ran = run_command("rm", filled, "--dataset", "--drop-snapshots", *place, input="n\n")
    assert f"Delete the dataset {filled!r} with 2 tensors and 1 snapshot?" in ran.output
    assert filled in [info.name for info in client.datasets()]
    ran = run_command("rm", filled, "--dataset", "--drop-snapshots", "--yes", *place)
    assert (ran.exit_code, ran.output) == (0, "2 tensors deleted, and their dataset\n")


def test_a_retention_is_shown_and_set(place: list[str], dataset: str, tmp_path: Path) -> None:
    file = tmp_path / "t.npy"
    np.save(file, np.ones(3))
    assert run_command("put", dataset, file, "--retention", "36h", *place).exit_code == 0
    assert run_command("retention", dataset, *place).output == f"{dataset}: 36h\n"
    for text, shown in (("90s", "90s"), ("60m", "1h"), ("2w", "14d"), ("0", "0"), ("0d", "0")):
        assert run_command("retention", dataset, text, *place).output == f"{dataset}: {shown}\n"
    assert run_command("put", dataset, file, *place).exit_code == 0
    ran = run_command("put", dataset, file, "--retention", "7d", *place)
    assert ran.exit_code == 1
    assert f"exists with a retention of 0; change it with `tensorus retention {dataset} 7d`" in ran.errors
    assert json.loads(run_command("ls", "--json", *place).output)[-1]["dataset"]["retention"] == 0


NOT_THERE = [
    ("drop-snapshot", ["never"], "there is no snapshot of the name 'never'; the dataset has 'before'"),
    ("ls", ["--at", "never"], "there is no snapshot of the name 'never'"),
    ("info", ["a", "--at", "never"], "there is no snapshot of the name 'never'"),
    ("stats", ["--at", "9" * 18], "there is no state at generation 9{18} yet"),
    ("stats", ["--at", "2000-01-01"], "is not kept"),
    ("restore", ["2000-01-01T12:00Z"], "is not kept"),
    ("info", ["b", "--at", "before"], "there is no such tensor at generation"),
]

FAILS = [
    ("snapshot", ["before"], "a snapshot of the name 'before' exists already"),
    ("snapshot", ["2026"], "must not be all digits"),
    ("snapshot", ["2026-01-31"], "must not look like a time"),
    ("snapshot", ["a/b"], "must have no '@' and no '/'"),
]

WRONG = [
    ("ls", ["--at", "2026-13-01"], "'2026-13-01' is no time"),
    ("info", ["a", "--at", "9" * 20], "is no generation"),
    ("retention", ["7"], "'7' is not a duration; examples are 90s, 30m, 12h, 7d, 4w and 0"),
    ("retention", ["-7d"], "No such option"),
    ("restore", [], "Missing argument 'STATE'"),
    ("rm", ["a", "--drop-snapshots"], "--drop-snapshots needs --dataset"),
]


def test_what_is_wrong_ends_with_its_exit_code(place: list[str], client: tensorus.Client, filled: str) -> None:
    client.delete(filled, "b")
    for exit_code, cases in ((3, NOT_THERE), (1, FAILS), (2, WRONG)):
        for command, arguments, message in cases:
            ran = run_command(command, filled, *arguments, *place)
            assert (ran.exit_code, ran.output) == (exit_code, ""), (command, arguments, ran)
            assert re.search(message, ran.errors), (command, arguments, ran.errors)
    ran = run_command("ls", "--at", "before", *place)
    assert (ran.exit_code, "--at needs a DATASET" in ran.errors) == (2, True)
