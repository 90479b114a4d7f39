"""The command line against a server and against a folder: what put, get, ls, info, stats and rm do when all is well."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import normal
from support.client import run_command, run_process
from tensorus_server.processes.server import Server

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)

VALUES = normal((100, 200))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two .npy files: `matrix` and `values`."""
    folder = tmp_path / "files"
    folder.mkdir()
    np.save(folder / "matrix.npy", MATRIX)
    np.save(folder / "values.npy", VALUES)
    return folder


@pytest.fixture
def filled(place: list[str], files: Path, dataset: str) -> str:
    """A dataset with the tensors `matrix` and `values`, put there by the command line, in this order."""
    # Without asking: other tests have put the same values, and what the server has is stored before the rest.
    options = ["--metadata", "run=7", "--no-ask", *place]
    put = run_command("put", dataset, files / "matrix.npy", files / "values.npy", *options)
    assert put.exit_code == 0, put.errors
    return dataset


def strictly_parsed(text: str) -> Any:
    """Return what JSON says; NaN and Infinity are no JSON, though Python reads them."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ---- put ----------------------------------------------------------------------------------------------------------------


def test_put_stores_and_says_what(place: list[str], files: Path, dataset: str) -> None:
    ran = run_command("put", dataset, files / "matrix.npy", files / "values.npy", *place)
    assert ran.exit_code == 0
    head, first, second, last = ran.output.splitlines()
    assert head.split() == ["id", "dtype", "shape", "size", "stored", "ratio", "error", "outcome"]
    assert first.split()[:6] == ["matrix", "float32", "2", "x", "3", "24"]
    assert second.split()[:6] == ["values", "float32", "100", "x", "200", "78.1"]
    assert last.startswith("2 tensors, 78.1 KiB stored in ")


def test_put_says_nothing_more_where_nobody_looks(place: list[str], files: Path, dataset: str) -> None:
    # A bar belongs on a terminal: piped, the error stream is for errors.
    assert run_command("put", dataset, files / "matrix.npy", *place).errors == ""


def test_put_makes_the_dataset(place: list[str], files: Path, dataset: str) -> None:
    run_command("put", dataset, files / "matrix.npy", *place)
    assert run_command("stats", dataset, *place).exit_code == 0


def test_put_as_json_says_all_about_every_tensor(place: list[str], files: Path, dataset: str) -> None:
    ran = run_command(
        *("put", dataset, files / "matrix.npy", files / "values.npy", "--json", *place),
        *("--prefix", "layer.", "--preset", "int8_only"),
        *("--metadata", "run=7", "--metadata", "split=test", "--metadata", 'note="7"', "--metadata", "x=[1, {}]"),
    )
    assert ran.exit_code == 0
    assert ran.errors == ""
    matrix, values = strictly_parsed(ran.output)
    assert (matrix["id"], values["id"]) == ("layer.matrix", "layer.values")
    assert matrix["metadata"] == values["metadata"] == {"run": 7, "split": "test", "note": "7", "x": [1, {}]}
    assert (values["dtype"], values["shape"], values["canonical_bytes"]) == ("float32", [100, 200], 80_000)
    assert values["lossy"] is True
    assert 0 < values["relative_error"] < 0.02
    assert values["ratio"] == values["canonical_bytes"] / values["stored_bytes"]
    assert values["quantizer_ratio"] == values["canonical_bytes"] / values["quantized_bytes"]
    assert values["compressor_ratio"] == values["quantized_bytes"] / values["stored_bytes"]
    assert values["encodings"][0]["codecs"] == ["int8_block"]
    assert values["values"]["nan_count"] == 0


def test_put_of_what_is_there_is_no_failure(place: list[str], files: Path, filled: str) -> None:
    assert run_command("put", filled, files / "matrix.npy", "--metadata", "run=7", *place).exit_code == 0


def test_put_into_a_dataset_stores_as_the_dataset_says(server: Server, files: Path, dataset: str) -> None:
    with tensorus.connect(server.address) as client:
        client.create_dataset(dataset, preset="fp16_only")
    ran = run_command("put", dataset, files / "values.npy", "--json", "--server", server.address)
    assert strictly_parsed(ran.output)[0]["encodings"][0]["codecs"] == ["fp16"]


def test_metadata_is_json_where_it_can_be_and_text_elsewhere(place: list[str], files: Path, dataset: str) -> None:
    values = {
        "1": 1,
        "1.0": 1.0,
        "true": True,
        "null": None,
        "text": "text",
        "": "",
        "a=b": "a=b",
        '{"a": [1]}': {"a": [1]},
        "{broken": "{broken",
    }
    pairs = [part for number, text in enumerate(values) for part in ("--metadata", f"k{number}={text}")]
    ran = run_command("put", dataset, files / "matrix.npy", *pairs, "--json", *place)
    found = strictly_parsed(ran.output)[0]["metadata"]
    assert found == {f"k{number}": value for number, value in enumerate(values.values())}
    assert [type(found["k0"]), type(found["k1"]), type(found["k2"])] == [int, float, bool]


# ---- get ----------------------------------------------------------------------------------------------------------------


def test_get_writes_what_was_put(place: list[str], filled: str, tmp_path: Path) -> None:
    ran = run_command("get", filled, "-o", tmp_path / "out.npz", *place)
    assert (ran.exit_code, ran.errors) == (0, "")
    assert ran.output.startswith("2 tensors, ")
    assert ran.output.rstrip().endswith(str(tmp_path / "out.npz"))
    with np.load(tmp_path / "out.npz") as found:
        assert sorted(found.files) == ["matrix", "values"]
        assert np.array_equal(found["matrix"], MATRIX)
        assert np.array_equal(found["values"], VALUES)


def test_get_of_some_ids_writes_those(place: list[str], filled: str, tmp_path: Path) -> None:
    assert run_command("get", filled, "matrix", "-o", tmp_path / "out.npy", *place).exit_code == 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), MATRIX)


def test_get_of_what_matches_writes_that(place: list[str], filled: str, tmp_path: Path) -> None:
    ran = run_command("get", filled, "--where", "@nbytes > 1000 AND run = 7", "-o", tmp_path / "out.npz", *place)
    assert ran.exit_code == 0
    with np.load(tmp_path / "out.npz") as found:
        assert found.files == ["values"]


INDICES: list[Any] = [
    pytest.param("0", np.s_[0], id="an integer"),
    pytest.param("-1", np.s_[-1], id="from the end"),
    pytest.param("0, 1:", np.s_[0, 1:], id="an integer and a slice"),
    pytest.param("..., ::2", np.s_[..., ::2], id="Ellipsis and a step"),
    pytest.param("::-1,...", np.s_[::-1, ...], id="backwards"),
    pytest.param(" [ : , 0 : 2 ] ", np.s_[:, 0:2], id="brackets and blanks"),
    pytest.param("1, 2", np.s_[1, 2], id="an element"),
    pytest.param("5:", np.s_[5:], id="nothing"),
]


@pytest.mark.parametrize(("text", "index"), INDICES)
def test_get_of_a_part_writes_the_part(place: list[str], filled: str, tmp_path: Path, text: str, index: Any) -> None:
    ran = run_command("get", filled, "matrix", "--index", text, "-o", tmp_path / "out.npy", *place)
    assert ran.exit_code == 0, ran.errors
    found = np.load(tmp_path / "out.npy")
    assert found.shape == np.shape(MATRIX[index])
    assert np.array_equal(found, MATRIX[index])


def test_get_replaces_a_file_only_when_told_to(filled: str, place: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    output.write_text("precious")
    ran = run_command("get", filled, "matrix", "-o", output, *place)
    assert ran.exit_code == 2
    assert f"{output} exists already; --force overwrites it" in ran.errors
    assert output.read_text() == "precious"
    assert run_command("get", filled, "matrix", "-o", output, "--force", *place).exit_code == 0
    assert np.array_equal(np.load(output), MATRIX)


# ---- ls, info, stats ----------------------------------------------------------------------------------------------------


def test_ls_lists_datasets(filled: str, place: list[str]) -> None:
    ran = run_command("ls", *place)
    (line,) = (line for line in ran.output.splitlines() if line.startswith(f"{filled} "))
    assert line.split()[:5] == [filled, "default", "2", "78.1", "KiB"]
    assert line.split()[-1] == "exact"
    assert (ran.exit_code, ran.errors) == (0, "")


def test_ls_lists_datasets_as_json(filled: str, place: list[str]) -> None:
    (entry,) = (
        entry
        for entry in strictly_parsed(run_command("ls", "--json", *place).output)
        if entry["dataset"]["name"] == filled
    )
    assert entry["dataset"]["policy"]["preset"] is None
    assert (entry["stats"]["tensors"], entry["stats"]["canonical_bytes"]) == (2, 80_024)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["matrix", "values"]),
        (["--where", "@nbytes < 1000"], ["matrix"]),
        (["--order-by", "nbytes desc"], ["values", "matrix"]),
        (["--limit", "1"], ["matrix"]),
        (["--limit", "0"], []),
        (["--where", "run = 8"], []),
    ],
    ids=lambda value: " ".join(value) or "all",
)
def test_ls_lists_tensors(filled: str, place: list[str], options: list[str], expected: list[str]) -> None:
    ran = run_command("ls", filled, *options, *place)
    head, *lines = ran.output.splitlines()
    assert head.split() == ["id", "dtype", "shape", "size", "stored", "ratio", "error"]
    assert [line.split()[0] for line in lines] == expected
    listed = strictly_parsed(run_command("ls", filled, *options, "--json", *place).output)
    assert [info["id"] for info in listed] == expected


def test_info_shows_everything(filled: str, place: list[str]) -> None:
    ran = run_command("info", filled, "values", *place)
    assert ran.exit_code == 0
    found = dict(re.split(" {2,}", line, maxsplit=1) for line in ran.output.splitlines())
    assert found["id"] == "values"
    assert found["dtype"] == "float32"
    assert found["shape"] == "100 x 200"
    assert found["size"] == "78.1 KiB (80,000 bytes)"
    assert found["metadata"] == '{"run": 7}'
    assert found["error"] == "exact"
    assert found["encoding"].startswith("bf16_planes > zstd: 1 chunk, ")
    as_json = strictly_parsed(run_command("info", filled, "values", "--json", *place).output)
    assert found["stored"].endswith(
        f"({as_json['stored_bytes']:,} bytes), ratio {as_json['ratio']:.3f} "
        f"(quantizer 1.000 x compressor {as_json['compressor_ratio']:.3f})"
    )
    assert found["generation"] == str(as_json["generation"])
    assert found["ordinal"] == str(as_json["ordinal"])
    assert as_json["value_checksum"] in ran.output
    assert as_json["metadata"] == {"run": 7}


def test_info_shows_what_a_lossy_tensor_lost(files: Path, place: list[str], dataset: str) -> None:
    run_command("put", dataset, files / "values.npy", "--preset", "int8_only", *place)
    output = run_command("info", dataset, "values", *place).output
    assert "relative error" in output
    assert "largest error" in output
    assert "exact" not in output


def test_stats_sum_up_by_dtype_and_by_encoding(filled: str, place: list[str], files: Path) -> None:
    np.save(files / "numbers.npy", np.arange(10))
    run_command("put", filled, files / "numbers.npy", "--preset", "none", *place)
    output = run_command("stats", filled, *place).output
    dtypes, encodings, (last,) = (table.splitlines() for table in output.split("\n\n"))
    assert dtypes[0].split() == ["dtype", "tensors", "size", "stored", "ratio"]
    assert {row.split()[0]: row.split()[1] for row in dtypes[1:]} == {"float32": "2", "int64": "1"}
    assert encodings[0].split() == ["encoding", "chunks", "size", "stored", "ratio"]
    names_and_chunks = [re.split(" {2,}", row)[:2] for row in encodings[1:]]
    assert names_and_chunks == [["bf16_planes > zstd", "1"], ["as it is", "2"]]
    assert last.startswith("3 tensors, 78.2 KiB stored in ")
    assert last.endswith("worst relative error exact")
    found = strictly_parsed(run_command("stats", filled, "--json", *place).output)
    assert (found["tensors"], found["canonical_bytes"]) == (3, 80_104)
    assert {share["dtype"]: share["tensors"] for share in found["dtypes"]} == {"float32": 2, "int64": 1}
    assert found["ratio"] == pytest.approx(80_104 / found["stored_bytes"])
    assert f"ratio {found['ratio']:.3f} (quantizer 1.000 x compressor {found['compressor_ratio']:.3f})" in last
    assert {tuple(share["codecs"]): share["chunks"] for share in found["encodings"]} == {
        ("bf16_planes", "zstd"): 1,
        (): 2,
    }


# ---- rm -----------------------------------------------------------------------------------------------------------------


def test_rm_deletes_tensors(filled: str, place: list[str]) -> None:
    ran = run_command("rm", filled, "matrix", *place)
    assert (ran.exit_code, ran.output, ran.errors) == (0, "1 of 1 tensors deleted\n", "")
    assert run_command("info", filled, "matrix", *place).exit_code == 3


def test_rm_of_what_is_not_there_deletes_the_rest_and_says_so(filled: str, place: list[str]) -> None:
    ran = run_command("rm", filled, "matrix", "nothing", "values", *place)
    assert (ran.exit_code, ran.output) == (3, "2 of 3 tensors deleted\n")
    assert ran.errors == f"tensorus: no such tensor: 'nothing' [dataset={filled}]\n"


@pytest.mark.parametrize(("answer", "left"), [("n\n", True), ("\n", True), ("", True), ("y\n", False)])
def test_rm_of_a_dataset_asks_first(filled: str, place: list[str], answer: str, left: bool) -> None:  # noqa: FBT001 - a table
    ran = run_command("rm", filled, "--dataset", *place, input=answer)
    assert f"Delete the dataset '{filled}' with 2 tensors? [y/N]" in ran.output
    assert ran.exit_code == (1 if left else 0)
    assert run_command("stats", filled, *place).exit_code == (0 if left else 3)


@pytest.mark.parametrize("option", ["--yes", "-y"])
def test_rm_of_a_dataset_asks_nothing_when_told_so(filled: str, place: list[str], option: str) -> None:
    ran = run_command("rm", filled, "--dataset", option, *place)
    assert (ran.exit_code, ran.output) == (0, "2 tensors deleted, and their dataset\n")
    assert run_command("stats", filled, *place).exit_code == 3


@pytest.mark.parametrize("arguments", [[], ["matrix", "--dataset"]], ids=["neither", "both"])
def test_rm_wants_tensors_or_the_dataset(filled: str, place: list[str], arguments: list[str]) -> None:
    ran = run_command("rm", filled, *arguments, "--yes", *place)
    assert ran.exit_code == 2
    assert "name the tensors to delete, or pass --dataset to delete the whole dataset" in ran.errors
    assert run_command("info", filled, "matrix", *place).exit_code == 0


# ---- Text that looks like something else --------------------------------------------------------------------------------

ODD_ID = "model:key:[bold]w[/bold]/:heart:"


@pytest.fixture
def odd(tmp_path: Path) -> list[str]:
    """A folder's dataset `d` with a tensor whose id and metadata look like markup and like names of pictures."""
    place = ["--store", str(tmp_path / "store")]
    np.savez(tmp_path / "odd.npz", **{ODD_ID: MATRIX})
    ran = run_command("put", "d", tmp_path / "odd.npz", "--metadata", f"note={ODD_ID}\ttab", *place)
    assert ran.exit_code == 0
    return place


@pytest.mark.parametrize("arguments", [["ls", "d"], ["info", "d", ODD_ID]], ids=["ls", "info"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["a table", "json"])
def test_text_is_printed_as_it_is(odd: list[str], arguments: list[str], options: list[str]) -> None:
    assert ODD_ID in run_command(*arguments, *options, *odd).output


def test_json_has_text_as_it_is(odd: list[str]) -> None:
    (found,) = strictly_parsed(run_command("ls", "d", "--json", *odd).output)
    assert (found["id"], found["metadata"]) == (ODD_ID, {"note": f"{ODD_ID}\ttab"})


def test_put_prints_text_as_it_is(odd: list[str], tmp_path: Path) -> None:
    assert ODD_ID in run_command("put", "other", tmp_path / "odd.npz", *odd).output


def test_long_text_is_never_cut_where_it_is_piped(tmp_path: Path) -> None:
    place = ["--store", str(tmp_path / "store")]
    long_id = "layer." * 70
    np.savez(tmp_path / "long.npz", **{long_id: MATRIX})
    run_command("put", "d", tmp_path / "long.npz", "--metadata", f"note={'x' * 3000}", *place)
    assert long_id in run_command("ls", "d", *place).output
    assert "x" * 3000 in run_command("info", "d", long_id, *place).output


def test_json_is_json_whatever_numbers_there_are(server: Server, dataset: str) -> None:
    with tensorus.connect(server.address) as client:
        client.create_dataset(dataset)
        client.insert(dataset, MATRIX, id="t", metadata={"nan": float("nan"), "infinity": float("inf")})
    ran = run_command("info", dataset, "t", "--json", "--server", server.address)
    assert set(strictly_parsed(ran.output)["metadata"]) == {"nan", "infinity"}


def test_the_server_can_be_named_by_the_environment(server: Server, dataset: str) -> None:
    environment = {"TENSORUS_ADDRESS": server.address}
    assert run_command("ls", env=environment).exit_code == 0
    assert run_command("ls", env={"TENSORUS_ADDRESS": "127.0.0.1:1"}).exit_code == 4
    # An option is nearer than the environment.
    assert run_command("ls", "--server", server.address, env={"TENSORUS_ADDRESS": "127.0.0.1:1"}).exit_code == 0


# ---- On a folder --------------------------------------------------------------------------------------------------------


def test_every_command_works_on_a_folder_without_a_server(files: Path, tmp_path: Path) -> None:
    place = ["--store", str(tmp_path / "new" / "store")]
    assert run_command("put", "d", files / "matrix.npy", files / "values.npy", *place).exit_code == 0
    assert strictly_parsed(run_command("ls", "--json", *place).output)[0]["stats"]["tensors"] == 2
    assert [info["id"] for info in strictly_parsed(run_command("ls", "d", "--json", *place).output)] == [
        "matrix",
        "values",
    ]
    assert strictly_parsed(run_command("info", "d", "matrix", "--json", *place).output)["shape"] == [2, 3]
    assert strictly_parsed(run_command("stats", "d", "--json", *place).output)["canonical_bytes"] == 80_024
    assert run_command("get", "d", "matrix", "-o", tmp_path / "out.npy", "--index", "0", *place).exit_code == 0
    assert np.load(tmp_path / "out.npy").tolist() == [0, 1, 2]
    assert run_command("rm", "d", "matrix", *place).exit_code == 0
    assert run_command("info", "d", "matrix", *place).exit_code == 3
    assert run_command("rm", "d", "--dataset", "--yes", *place).exit_code == 0
    assert run_command("stats", "d", *place).exit_code == 3


def test_a_folder_wins_over_a_server(files: Path, tmp_path: Path) -> None:
    place = ["--store", str(tmp_path / "store"), "--server", "127.0.0.1:1"]
    assert run_command("put", "d", files / "matrix.npy", *place).exit_code == 0


# ---- As a process -------------------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-c", "import tensorus.cli; tensorus.cli.main()"]


def test_the_real_command_does_what_the_tests_here_do(place: list[str], files: Path, dataset: str) -> None:
    put = run_process([*COMMAND, "put", dataset, str(files / "matrix.npy"), "--json", *place])
    assert (put.returncode, put.stderr) == (0, "")
    assert strictly_parsed(put.stdout)[0]["id"] == "matrix"


def test_text_that_the_terminal_cannot_show_is_spelt_out(server: Server, dataset: str) -> None:
    with tensorus.connect(server.address) as client:
        client.create_dataset(dataset)
        client.insert(dataset, MATRIX, id="otter-🦦")
    ran = run_process(
        [*COMMAND, "ls", dataset, "--server", server.address],
        environment={"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert r"otter-\U0001f9a6  float32" in ran.stdout


def test_a_reader_that_goes_away_is_no_traceback(server: Server, dataset: str) -> None:
    with tensorus.connect(server.address) as client:
        client.create_dataset(dataset)
        # More than a pipe holds, so that the command is still printing when nobody reads any more.
        client.insert_many(dataset, ((f"{number} {'x' * 400}", MATRIX) for number in range(300)))
    command = " ".join(f"'{part}'" for part in [*COMMAND, "ls", dataset, "--server", server.address])
    ran = run_process(["sh", "-c", f"{command} | head -n 1"])
    assert ran.stdout.split() == ["id", "dtype", "shape", "size", "stored", "ratio", "error"]
    assert ran.stderr == ""
