"""The command line when something is wrong: one line that says what, and an exit code that says of which kind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.client import Ran, run_command, run_process
from tensorus_server.processes.server import Server

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)

COMMAND = [sys.executable, "-c", "import tensorus.cli; tensorus.cli.main()"]


@pytest.fixture
def filled(remote: tensorus.Client, dataset: str) -> str:
    """A dataset with the tensors `matrix` and `values`."""
    remote.create_dataset(dataset)
    remote.insert_many(dataset, [("matrix", MATRIX), ("values", np.ones(100))])
    return dataset


@pytest.fixture
def here(folder: Path) -> Path:
    """The folder in which commands run, with `matrix.npy` and `notes.txt` in it."""
    np.save("matrix.npy", MATRIX)
    Path("notes.txt").write_text("notes")
    return folder


def require_failure(ran: Ran, exit_code: int, *parts: str) -> None:
    """Fail unless the command failed with this code, one line on the error stream, and nothing on the other."""
    assert ran.exit_code == exit_code, ran
    assert ran.output == ""
    line = ran.errors.strip("\n")
    assert line.startswith("tensorus: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


# ---- Exit codes ---------------------------------------------------------------------------------------------------------

NOT_FOUND = [
    pytest.param(["ls", "nowhere"], "there is no such dataset [dataset=nowhere]", id="ls"),
    pytest.param(["stats", "nowhere"], "there is no such dataset", id="stats"),
    pytest.param(["info", "nowhere", "t"], "there is no such dataset", id="info"),
    pytest.param(["rm", "nowhere", "t"], "there is no such dataset", id="rm"),
    pytest.param(["rm", "nowhere", "--dataset", "--yes"], "there is no such dataset", id="rm of a dataset"),
    pytest.param(["get", "nowhere", "-o", "out.npz"], "there is no such dataset", id="get"),
    pytest.param(["get", "nowhere", "t", "-o", "out.npz"], "there is no such dataset", id="get by id"),
]


@pytest.mark.parametrize(("arguments", "part"), NOT_FOUND)
def test_what_is_not_there_is_exit_code_3(place: list[str], here: Path, arguments: list[str], part: str) -> None:
    require_failure(run_command(*arguments, *place), 3, part)
    assert not Path("out.npz").exists()


@pytest.mark.parametrize("arguments", [["info", "nothing"], ["get", "nothing", "-o", "out.npy"]], ids=["info", "get"])
def test_a_tensor_that_is_not_there_is_exit_code_3(
    place: list[str], filled: str, here: Path, arguments: list[str]
) -> None:
    command, *rest = arguments
    require_failure(run_command(command, filled, *rest, *place), 3, "there is no such tensor", "tensor=nothing")


FAILED = [
    pytest.param(["ls", "{}", "--where", "run =="], "filter does not parse at character 5", id="a filter"),
    pytest.param(["ls", "{}", "--order-by", "size"], "order_by is 'size', must be one of", id="an order"),
    pytest.param(["get", "{}", "--where", "run ==", "-o", "out.npz"], "filter does not parse", id="a filter of get"),
    pytest.param(["get", "{}", "-o", "out.npy"], "can hold one tensor, not 2", id="two tensors in a .npy file"),
    pytest.param(["put", "{}", "matrix.npy", "--preset", "zip"], "preset 'zip' is not one of none", id="a preset"),
    pytest.param(["put", "a//b", "matrix.npy"], "name of a dataset is 'a//b'", id="a dataset's name"),
    pytest.param(["put", "{}", "notes.txt"], "notes.txt has an unknown format; .safetensors", id="a kind of file"),
]


@pytest.mark.parametrize(("arguments", "part"), FAILED)
def test_what_fails_is_exit_code_1(place: list[str], filled: str, here: Path, arguments: list[str], part: str) -> None:
    require_failure(run_command(*(argument.format(filled) for argument in arguments), *place), 1, part)


WRONG_USAGE = [
    pytest.param([], "", id="no command"),
    pytest.param(["frobnicate"], "No such command 'frobnicate'", id="an unknown command"),
    pytest.param(["ls", "--frobnicate"], "No such option", id="an unknown option"),
    pytest.param(["ls", "d", "--limit", "-1"], "-1 is not in the range", id="a negative limit"),
    pytest.param(["ls", "d", "--limit", "many"], "'many' is not a valid integer", id="a limit that is no number"),
    pytest.param(["put", "d"], "Missing argument 'FILES...'", id="put without files"),
    pytest.param(["put", "d", "missing.npy"], "Path 'missing.npy' does not exist", id="put of a missing file"),
    pytest.param(["put", "d", "matrix.npy", "--metadata", "k"], "'k' is not KEY=VALUE", id="metadata without a value"),
    pytest.param(["put", "d", "matrix.npy", "--metadata", "=1"], "'=1' is not KEY=VALUE", id="metadata without a key"),
    pytest.param(["get", "d"], "Missing option '-o' / '--output'", id="get without a file"),
    pytest.param(
        ["get", "d", "-o", "out.txt"], "must end in .safetensors, .npz, .npy, .pt", id="get into a kind of file"
    ),
    pytest.param(
        ["get", "d", "-o", "no/out.npy"], "folder no does not exist", id="get into a folder that is not there"
    ),
    pytest.param(["get", "d", "-o", "."], "File '.' is a directory", id="get into a folder"),
    pytest.param(
        ["get", "d", "t", "--where", "a = 1", "-o", "out.npz"],
        "IDS and --where cannot be combined",
        id="ids and a filter",
    ),
    pytest.param(["info", "d"], "Missing argument 'ID'", id="info without an id"),
    pytest.param(["serve", "--listen", "nonsense"], "must be HOST:PORT", id="serve at no address"),
    pytest.param(["serve", "--data-dir", "matrix.npy"], "Directory 'matrix.npy' is a file", id="serve of a file"),
    pytest.param(["serve", "--streams", "0"], "0 is not in the range", id="serve without streams"),
    pytest.param(["ls", "--store", "nowhere"], "'nowhere' does not exist", id="a store that is not there"),
    pytest.param(["ls", "--store", "matrix.npy"], "Directory 'matrix.npy' is a file", id="a store that is a file"),
]


@pytest.mark.parametrize(("arguments", "part"), WRONG_USAGE)
def test_wrong_usage_is_exit_code_2_and_says_how_it_is_used(here: Path, arguments: list[str], part: str) -> None:
    ran = run_command(*arguments)
    assert ran.exit_code == 2
    assert "Usage: tensorus" in ran.errors
    assert part in ran.errors
    assert sorted(path.name for path in here.iterdir()) == ["matrix.npy", "notes.txt"]


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["info", "d", "t"], ["rm", "d", "t"], ["get", "d", "t", "-o", "out.npy"], ["put", "d", "matrix.npy"]],
    ids=" ".join,
)
def test_a_server_that_is_not_there_is_exit_code_4(here: Path, arguments: list[str]) -> None:
    ran = run_command(*arguments, "--server", "127.0.0.1:1")
    require_failure(ran, 4, "no server can be reached at '127.0.0.1:1'; start one with `tensorus serve`", "refused")
    assert not Path("out.npy").exists()


def test_a_store_that_cannot_be_is_exit_code_4(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", MATRIX)
    ran = run_command("put", "d", tmp_path / "matrix.npy", "--store", tmp_path / "matrix.npy" / "store")
    require_failure(ran, 4, "cannot open a store in")


def test_an_error_has_text_as_it_is(filled: str, place: list[str]) -> None:
    # It looks like markup and like the names of pictures.
    odd = "no model:key:[bold]w[/bold]/:heart:"
    require_failure(run_command("info", filled, odd, *place), 3, f"tensor={odd}]")


def test_put_that_fails_in_part_says_so(place: list[str], filled: str, here: Path) -> None:
    np.save("matrix.npy", MATRIX + 1)
    np.save("new.npy", MATRIX)
    ran = run_command("put", filled, "matrix.npy", "new.npy", *place)
    require_failure(ran, 1, "1 of 2 tensors were not stored", "another tensor has this id", "tensor=matrix")
    assert run_command("info", filled, "new", *place).exit_code == 0


@pytest.mark.parametrize("text", ["", "x", "1.5", "1:2:3:4", "1:x", "1,,2", "(0)", "0; 1"])
def test_an_index_that_is_none_is_wrong_usage(filled: str, place: list[str], tmp_path: Path, text: str) -> None:
    ran = run_command("get", filled, "matrix", "--index", text, "-o", tmp_path / "out.npy", *place)
    assert ran.exit_code == 2
    assert "Invalid value for --index:" in ran.errors
    assert f"in {text!r} is not an integer, a slice or" in ran.errors
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("2", "index 2 is out of bounds for axis 0 with size 2"),
        ("0, 0, 0", "number of slices is 3, the tensor has 2 axes"),
        ("::0", "step of axis 0 is 0"),
        ("..., ...", "an index can only have a single ellipsis"),
    ],
    ids=["out of bounds", "too many axes", "a step of 0", "two ellipses"],
)
def test_an_index_that_the_tensor_does_not_have_is_a_failure(
    filled: str, place: list[str], tmp_path: Path, text: str, part: str
) -> None:
    ran = run_command("get", filled, "matrix", "--index", text, "-o", tmp_path / "out.npy", *place)
    require_failure(ran, 1, part)
    assert not (tmp_path / "out.npy").exists()


# ---- As a process -------------------------------------------------------------------------------------------------------


def test_the_real_command_ends_with_its_exit_code(server: Server) -> None:
    ran = run_process([*COMMAND, "info", "nowhere", "t"], environment={"TENSORUS_ADDRESS": server.address})
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == "tensorus: there is no such dataset [dataset=nowhere]\n"


@pytest.mark.parametrize("command", [["gc"], ["recover"]], ids=" ".join)
def test_what_needs_the_engine_says_so_where_it_cannot_be_imported(
    command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "catalogue.db").touch()
    monkeypatch.setitem(sys.modules, "tensorus_server.app", None)
    require_failure(run_command(*command, str(folder)), 1, "which the engine needs: pip install 'tensorus[server]'")
