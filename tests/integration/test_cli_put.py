"""`tensorus put`: what it refuses changes nothing, what it replaces, what it prints, and what it waits for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import tensorus
from support.client import run_command
from tensorus import client
from tensorus._grpc import patience
from tensorus.cli import _storing, put
from tensorus.errors import InsertManyError, StorageFullError

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def matrix(folder: Path) -> None:
    """`matrix.npy`, in the folder in which commands run."""
    np.save(folder / "matrix.npy", MATRIX)


# ---- What is refused ----------------------------------------------------------------------------------------------------


def test_a_put_that_is_refused_leaves_no_dataset(place: list[str], dataset: str) -> None:
    Path("notes.txt").write_text("notes")
    Path("broken.npz").write_bytes(b"garbage")
    np.savez("texts.npz", a=np.ones(3), b=np.array(["text"]))
    torch.save({"eye": torch.eye(3).to_sparse()}, "sparse.pt")
    refused = [
        ["matrix.npy", "--preset", "zip"],
        ["matrix.npy", "notes.txt"],
        ["matrix.npy", "broken.npz"],
        ["matrix.npy", "texts.npz"],
        ["matrix.npy", "sparse.pt"],
        ["matrix.npy", "./matrix.npy"],
    ]
    for arguments in refused:
        assert run_command("put", dataset, *arguments, *place).exit_code == 1, arguments
        assert run_command("stats", dataset, *place).exit_code == 3, arguments


def test_two_tensors_of_one_id_are_named_with_their_files(place: list[str], dataset: str) -> None:
    np.savez("more.npz", matrix=MATRIX)
    ran = run_command("put", dataset, "matrix.npy", "more.npz", *place)
    assert ran.errors == (
        "tensorus: matrix.npy and more.npz both have a tensor 'matrix'; put them separately, with --prefix\n"
    )


# ---- What is replaced ---------------------------------------------------------------------------------------------------


def test_put_replaces_other_tensors_only_where_it_is_asked_to(
    place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    run_command("put", dataset, "matrix.npy", *place)
    np.save("matrix.npy", MATRIX + 1)
    np.save("new.npy", MATRIX)
    assert "another tensor has this id" in run_command("put", dataset, "matrix.npy", *place).errors
    assert run_command("put", dataset, "matrix.npy", "new.npy", "--replace", *place).exit_code == 0
    assert remote.get(dataset, "matrix", as_="numpy").tolist() == (MATRIX + 1).tolist()
    assert remote.get(dataset, "new", as_="numpy").tolist() == MATRIX.tolist()


# ---- What is printed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "lines"), [([], 1), (["--all"], 52)])
def test_of_many_tensors_only_a_summary_is_printed(
    place: list[str], dataset: str, arguments: list[str], lines: int
) -> None:
    np.savez("many.npz", **{f"t{number}": MATRIX for number in range(50)})
    ran = run_command("put", dataset, "many.npz", *arguments, *place)
    assert len(ran.output.splitlines()) == lines
    last = ran.output.splitlines()[-1]
    assert last.startswith("50 tensors, 1.2 KiB stored in ")
    assert last.endswith("; --all lists them") == (not arguments)


def test_as_json_every_tensor_is_printed(place: list[str], dataset: str) -> None:
    np.savez("many.npz", **{f"t{number}": MATRIX for number in range(50)})
    assert len(json.loads(run_command("put", dataset, "many.npz", "--json", *place).output)) == 50


def test_put_says_what_was_there_before(
    place: list[str], dataset: str, remote: tensorus.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    class Present:
        """A `TensorInfo` that says that nothing was inserted."""

        inserted = False

        def __init__(self, info: Any) -> None:
            self._info = info

        def __getattr__(self, name: str) -> Any:
            return getattr(self._info, name)

    remote.create_dataset(dataset)
    info = remote.insert(dataset, MATRIX, id="a")
    assert (_storing.outcome(info), _storing.outcome(Present(info))) == ("stored", "present")  # type: ignore[arg-type]
    put._print([info, Present(info)], all_rows=False)  # type: ignore[list-item]
    _, first, second, last = capsys.readouterr().out.splitlines()
    assert (first.split()[-1], second.split()[-1]) == ("stored", "present")
    assert last.endswith("; 1 already present")


# ---- What is read -------------------------------------------------------------------------------------------------------


def shards() -> None:
    Path("model").mkdir()
    for number, name in enumerate("ab"):
        safetensors.numpy.save_file({name: MATRIX + number}, f"model/model-{number}.safetensors")
    torch.save({"a": torch.ones(1)}, "model/pytorch_model.bin")
    Path("model/config.json").write_text("{}")
    weight_map = {"a": "model-0.safetensors", "b": "model-1.safetensors"}
    Path("model/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("path", ["model", "model/model.safetensors.index.json"], ids=["a folder", "an index"])
def test_the_shards_of_a_model_are_put_together(
    place: list[str], dataset: str, remote: tensorus.Client, path: str
) -> None:
    shards()
    ran = run_command("put", dataset, path, *place)
    assert ran.exit_code == 0, ran.errors
    assert [info.id for info in remote.list(dataset)] == ["a", "b"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_torch_s_files_have_several_endings(
    place: list[str], dataset: str, remote: tensorus.Client, suffix: str
) -> None:
    torch.save({"a": torch.ones(1)}, f"pytorch_model{suffix}")
    assert run_command("put", dataset, f"pytorch_model{suffix}", *place).exit_code == 0
    assert [info.id for info in remote.list(dataset)] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not an index of shards: it has no weight_map"),
        ("{broken", "is not an index of shards"),
        (
            '{"weight_map": {"a": "../secret.safetensors"}}',
            "names '../secret.safetensors', which is not a file in the same folder",
        ),
        ('{"weight_map": {"a": "missing.safetensors"}}', "missing.safetensors cannot be read: No such file"),
    ],
)
def test_an_index_that_is_none_is_refused(place: list[str], dataset: str, text: str, message: str) -> None:
    Path("model.safetensors.index.json").write_text(text)
    ran = run_command("put", dataset, "model.safetensors.index.json", *place)
    assert ran.exit_code == 1
    assert message in ran.errors


def test_a_folder_without_tensors_is_refused(place: list[str], dataset: str) -> None:
    Path("empty").mkdir()
    ran = run_command("put", dataset, "empty", *place)
    assert (ran.exit_code, "empty has no tensor files" in ran.errors) == (1, True)


METADATA = {"format": "pt", "author": "me", "ü": '"quoted"'}


def test_the_metadata_of_a_safetensors_file_come_back(place: list[str], dataset: str, remote: tensorus.Client) -> None:
    safetensors.numpy.save_file({"a": MATRIX, "b": MATRIX[0]}, "in.safetensors", metadata=METADATA)
    run_command("put", dataset, "in.safetensors", "--metadata", "run=7", *place)
    assert run_command("get", dataset, "-o", "out.safetensors", *place).exit_code == 0
    with safetensors.safe_open("out.safetensors", "numpy") as file:
        assert file.metadata() == METADATA
    # They are no tensor: what a query finds can be loaded into a model.
    assert {info.id for info in remote.list(dataset)} == {"a", "b"}
    assert all(info.metadata["run"] == 7 for info in remote.list(dataset))


@pytest.mark.parametrize(("arguments", "exit_code"), [([], 1), (["--drop-other"], 0)])
def test_metadata_that_are_too_long_for_a_tensor_are_named(
    place: list[str], dataset: str, arguments: list[str], exit_code: int
) -> None:
    safetensors.numpy.save_file({"a": MATRIX}, "in.safetensors", metadata={"log": "x" * 40_000})
    ran = run_command("put", dataset, "in.safetensors", *arguments, *place)
    assert ran.exit_code == exit_code
    assert "the metadata of its header, which are too long" in ran.errors


# ---- A full disk --------------------------------------------------------------------------------------------------------


class FullDisk:
    """Refuses a tensor so many times, or for ever, as a server does whose disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusals: float) -> None:
        self.sent: list[list[str]] = []
        insert_many = client.Client.insert_many

        def refusing(client: tensorus.Client, dataset: str, tensors: Any, **options: Any) -> Any:
            every = list(tensors)
            self.sent.append([new.id for new in every])
            if len(self.sent) > refusals:
                return insert_many(client, dataset, every, **options)
            kept = [new for new in every if new.id != "large"]
            error = StorageFullError("no space is left", reason="STORAGE_FULL")
            inserted = insert_many(client, dataset, kept, **options)
            raise InsertManyError(inserted, [(len(kept), error)])

        monkeypatch.setattr(client.Client, "insert_many", refusing)
        monkeypatch.setattr(patience, "_LONGEST_WAIT_S", 0.01)


def test_put_waits_for_space_and_then_stores_what_was_left(
    place: list[str], dataset: str, remote: tensorus.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch, 3)
    shown: list[int] = []
    monkeypatch.setattr(put.TransferBar, "show", lambda _, done_bytes, total_bytes: shown.append(done_bytes))
    np.savez("all.npz", small=MATRIX, large=MATRIX)
    ran = run_command("put", dataset, "all.npz", *place)
    assert ran.exit_code == 0
    assert disk.sent == [["small", "large"], ["large"], ["large"], ["large"]]
    assert {info.id for info in remote.list(dataset)} == {"small", "large"}
    (line,) = ran.errors.splitlines()
    assert line.startswith("tensorus: the server's disk is full, waiting (1 of 2 tensors were not stored;")
    # What was stored before the wait counts after it.
    assert shown[-1] == 2 * MATRIX.nbytes
    assert shown == sorted(shown)


def test_a_disk_that_stays_full_ends_put_with_the_reason(
    place: list[str], dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, float("inf"))
    monkeypatch.setattr(put, "RETRY_TIMEOUT_S", 0.2)
    np.savez("all.npz", small=MATRIX, large=MATRIX)
    ran = run_command("put", dataset, "all.npz", *place)
    assert ran.exit_code == 1
    assert ran.errors.splitlines()[-1].startswith(
        "tensorus: 1 of 1 tensors were not stored; number 0: no space is left"
    )
