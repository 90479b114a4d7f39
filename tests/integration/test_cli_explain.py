"""tensorus explain: a table for each dtype of a file, JSON, a picture, here or on a server."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tensorus
from support.arrays import normal
from support.client import Ran, run_command, run_process
from tensorus_codecs.presets import PRESETS
from tensorus_server.processes.server import Server

FEW = ["--preset", "none", "--preset", "lossless", "--preset", "maximum"]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with two tensors of one dtype, of which the smaller one comes first, and one of another."""
    path = tmp_path / "model.safetensors"
    save_file(
        {"a": normal((10, 100)), "b": normal((300, 100)), "ids": np.arange(1000), "none": np.empty((0, 3), np.int8)},
        path,
    )
    return path


def explained(*arguments: object) -> Any:
    """Return what the command says as JSON."""
    ran = run_command("explain", *arguments, "--json")
    assert (ran.exit_code, ran.errors) == (0, ""), ran
    return json.loads(ran.output)


def blocks_of(ran: Ran) -> list[list[str]]:
    assert (ran.exit_code, ran.errors) == (0, ""), ran
    return [block.splitlines() for block in ran.output.split("\n\n")]


@pytest.fixture
def activations(tmp_path: Path) -> Path:
    """A file with more small tensors than a sample has, of different scales."""
    path = tmp_path / "activations.npz"
    scales = np.exp(normal((1200, 1), seed=1, scale=0.5))
    np.savez(path, **{f"t{number}": row for number, row in enumerate(normal((1200, 128), scale=1.0) * scales)})
    return path


@pytest.mark.parametrize("place", ["here", "server"])
def test_small_tensors_are_explained_as_they_are_stored(
    activations: Path, dataset: str, server: Server, remote: tensorus.Client, place: str
) -> None:
    # A server measures with the same code: one preset shows that it measures these samples.
    presets = ["lossless", "maximum"] if place == "here" else ["maximum"]
    options = [part for preset in presets for part in ("--preset", preset)]
    (floats,) = explained(activations, *options, *(["--server", server.address] if place == "server" else []))
    assert floats["sample_bytes"] == 1000 * 512
    with np.load(activations) as arrays:
        tensors = list(arrays.items())
    for preset, found in zip(presets, floats["explanations"], strict=True):
        remote.create_dataset(f"{dataset}-{preset}", preset=preset)
        remote.insert_many(f"{dataset}-{preset}", tensors)
        stored = remote.stats(f"{dataset}-{preset}")
        assert found["ratio"] == pytest.approx(stored.ratio, rel=0.03)
        assert found["worst_relative_error"] == pytest.approx(stored.worst_relative_error, rel=0.3)
        assert found["worst_relative_error"] >= found["relative_error"]


def test_the_largest_error_of_a_tensor_is_told_where_there_are_several(weights: Path) -> None:
    block, _ = blocks_of(run_command("explain", weights, *FEW))
    assert re.fullmatch(
        r"Errors are over all values\. The largest error of a single tensor: maximum \d\.\de-0\d\.", block[-2]
    )


# ---- The tables ---------------------------------------------------------------------------------------------------------


def test_every_dtype_has_a_table_the_largest_first(weights: Path) -> None:
    floats, integers = blocks_of(run_command("explain", weights, *FEW))
    assert floats[0] == "float32: all of 2 tensors, 121.1 KiB"
    assert integers[0] == "int64: all of 1 tensor, 7.8 KiB"
    for block in (floats, integers):
        assert block[1].split() == ["preset", "ratio", "error", "encode", "MB/s", "decode", "MB/s", "encodings"]
        assert [line.split()[0] for line in block[2:5]] == ["none", "lossless", "maximum"]


def test_a_line_has_ratio_error_speeds_and_encodings(weights: Path) -> None:
    floats, _ = blocks_of(run_command("explain", weights, *FEW))
    none, lossless, maximum = (re.split(" {2,}", line) for line in floats[2:5])
    assert (none[1], none[2], none[5]) == ("1.00", "exact", "as it is")
    assert lossless[2] == "exact"
    assert float(maximum[1]) > 3.5
    assert re.fullmatch(r"\d\.\de-03", maximum[2])
    assert maximum[5].startswith("int8_block > ")
    assert all(re.fullmatch(r"[\d,]{2,}|\d\.\d", speed) for line in (none, lossless, maximum) for speed in line[3:5])


def test_the_smallest_exact_one_and_the_smallest_within_an_error_are_recommended(weights: Path) -> None:
    floats, integers = blocks_of(run_command("explain", weights, *FEW))
    assert re.fullmatch(
        r"Smallest exact: lossless, ratio 1\.\d\d\. "
        r"Smallest with an error of at most 1 %: maximum, ratio \d\.\d\d, error \d\.\de-03\.",
        floats[-1],
    )
    assert re.fullmatch(r"Smallest: lossless, ratio \d+\.\d\d, and exact\.", integers[-1])


def test_where_nothing_is_exact_or_good_enough_that_is_said(weights: Path) -> None:
    floats, _ = blocks_of(run_command("explain", weights, "--preset", "extreme"))
    assert floats[-1] == "None is exact. None has an error of at most 1 %."


def test_an_error_contract_is_every_presets_and_the_limit_of_what_is_recommended(weights: Path) -> None:
    ran = run_command("explain", weights, *FEW, "--max-relative-error", "1e-9")
    floats, _ = blocks_of(ran)
    assert re.search(r"^maximum: .*lossless", ran.output, re.MULTILINE)
    assert floats[-1].startswith("Smallest: ")
    (first, *_) = explained(weights, *FEW, "--max-relative-error", "0.004")
    assert {found["policy"]["max_relative_error"] for found in first["explanations"]} == {0.004}
    assert all(found["relative_error"] <= 0.004 for found in first["explanations"])


def test_without_presets_every_one_is_explained(weights: Path) -> None:
    for found in explained(weights):
        assert [explanation["policy"]["preset"] for explanation in found["explanations"]] == list(PRESETS)


def test_json_says_everything(weights: Path) -> None:
    floats, integers = explained(weights, *FEW)
    assert (floats["dtype"], floats["tensors"], floats["canonical_bytes"]) == ("float32", 2, 124_000)
    assert (floats["sample_bytes"], integers["sample_bytes"]) == (124_000, 8000)
    assert (floats["smallest_exact"], floats["smallest_within_error"]) == ("lossless", "maximum")
    assert (integers["smallest_exact"], integers["smallest_within_error"]) == ("lossless", "lossless")
    none, _, maximum = floats["explanations"]
    assert none["stored_bytes"] == 124_000 + 2 * (21 + 8) + (28 + 100 + 33)
    assert maximum["ratio"] == maximum["canonical_bytes"] / maximum["stored_bytes"]
    assert maximum["encodings"][0]["codecs"][0] == "int8_block"
    assert min(none["encode_bytes_per_second"], none["decode_bytes_per_second"]) > 0


def test_nothing_says_more_where_nobody_looks(weights: Path) -> None:
    assert run_command("explain", weights, "--preset", "none").errors == ""


# ---- The sample ---------------------------------------------------------------------------------------------------------


def test_a_large_file_is_sampled_in_whole_pieces(tmp_path: Path) -> None:
    np.savez(tmp_path / "large.npz", a=np.zeros((3, 2**20), np.uint8), b=np.zeros((5, 2**20), np.uint8))
    (found,) = explained(tmp_path / "large.npz", "--preset", "none", "--sample", "2MiB")
    assert (found["tensors"], found["canonical_bytes"], found["sample_bytes"]) == (2, 8 * 2**20, 2 * 2**20)
    ((head, *_),) = blocks_of(run_command("explain", tmp_path / "large.npz", "--preset", "none", "--sample", "2MiB"))
    assert head == "uint8: 2.0 MiB of 2 tensors, 8.0 MiB"


def test_small_dtypes_leave_their_share_to_large_ones(tmp_path: Path) -> None:
    mib = 2**20
    arrays = {"a": np.zeros(9 * mib, np.uint8), "b": np.zeros(9 * mib, np.int8), "c": np.zeros(1000, np.bool_)}
    save_file(arrays, tmp_path / "three.safetensors")
    found = explained(tmp_path / "three.safetensors", "--preset", "none", "--sample", "8MiB")
    sizes = {entry["dtype"]: entry["sample_bytes"] for entry in found}
    assert sizes["bool"] == 1000
    # Half of the rest each, in whole pieces.
    assert sizes["uint8"] == sizes["int8"] == 3 * mib


def test_of_every_dtype_a_piece_is_looked_at(tmp_path: Path) -> None:
    mib = 2**20
    arrays = {dtype: np.zeros(2 * mib, dtype) for dtype in ("uint8", "int8", "bool")}
    save_file(arrays, tmp_path / "three.safetensors")
    found = explained(tmp_path / "three.safetensors", "--preset", "none", "--sample", "1MiB")
    assert [entry["sample_bytes"] for entry in found] == [mib] * 3


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_every_kind_of_file_that_can_be_put_can_be_explained(tmp_path: Path, suffix: str) -> None:
    path, array = tmp_path / f"x{suffix}", normal((100, 100))
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez(path, x=array)
    else:
        torch = pytest.importorskip("torch")
        torch.save({"x": torch.from_numpy(array)}, path)
    (found,) = explained(path, "--preset", "none")
    assert (found["dtype"], found["tensors"], found["canonical_bytes"]) == ("float32", 1, 40_000)


# ---- Where --------------------------------------------------------------------------------------------------------------


def without_speeds(found: Any) -> Any:
    """Return an explanation without what may differ from one time to the next."""
    if isinstance(found, dict):
        return {key: without_speeds(value) for key, value in found.items() if not key.endswith("_per_second")}
    return [without_speeds(value) for value in found] if isinstance(found, list) else found


@pytest.mark.parametrize("options", [FEW, [], ["--max-relative-error", "1e-3"]], ids=["some", "all", "a contract"])
def test_a_server_says_the_same(weights: Path, server: Server, options: list[str]) -> None:
    here, there = explained(weights, *options), explained(weights, *options, "--server", server.address)
    assert without_speeds(there) == without_speeds(here)


def test_neither_a_server_nor_a_store_is_needed(weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tensorus", "explain", str(weights), "--preset", "fast"]
    before = set(tmp_path.iterdir())
    ran = run_process(command, cwd=tmp_path, environment={"TENSORUS_ADDRESS": "127.0.0.1:1"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(tmp_path.iterdir()) == before


def test_a_server_that_is_not_there_is_exit_code_4(weights: Path) -> None:
    ran = run_command("explain", weights, "--server", "127.0.0.1:1")
    assert (ran.exit_code, ran.output) == (4, "")
    assert "no server can be reached at '127.0.0.1:1'; omit --server to measure in this process" in ran.errors


# ---- The picture --------------------------------------------------------------------------------------------------------


def test_a_picture_is_drawn_beside_the_tables(weights: Path, tmp_path: Path) -> None:
    ran = run_command("explain", weights, *FEW, "--plot", tmp_path / "out.png")
    assert len(blocks_of(ran)) == 2
    picture = (tmp_path / "out.png").read_bytes()
    assert picture.startswith(PNG)
    width, height = (int.from_bytes(picture[start : start + 4], "big") for start in (16, 20))
    assert 1200 <= width <= 2400
    assert 800 <= height <= 1600
    assert 10_000 < len(picture) < 500_000


def test_a_picture_that_is_there_is_replaced(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_text("old")
    assert explained(weights, *FEW, "--plot", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)


def test_without_the_library_a_picture_is_refused_before_anything_is_measured(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("tensorus.cli._plot", "tensorus.cli._labels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = run_command("explain", weights, "--plot", tmp_path / "out.png")
    assert (ran.exit_code, ran.output) == (1, "")
    assert ran.errors == "tensorus: matplotlib is not installed: pip install 'tensorus[plot]'\n"


# ---- What is refused ----------------------------------------------------------------------------------------------------

WRONG_USAGE = [
    pytest.param(["--sample", "1KiB"], "must be from 1MiB to 64MiB", id="a sample that is too small"),
    pytest.param(["--sample", "65MiB"], "must be from 1MiB to 64MiB", id="a sample that is too large"),
    pytest.param(["--sample", "much"], "'much' is not a size", id="a sample that is no size"),
    pytest.param(["--max-relative-error", "-1"], "-1.0 is not in the range", id="a negative error"),
    pytest.param(["--plot", "out.txt"], "out.txt must end in .png, .svg, .pdf", id="a kind of picture"),
    pytest.param(["--plot", "no/out.png"], "folder no does not exist", id="a folder that is not there"),
]


@pytest.mark.parametrize(("options", "part"), WRONG_USAGE)
def test_wrong_usage_is_exit_code_2(weights: Path, options: list[str], part: str) -> None:
    ran = run_command("explain", weights, *options)
    assert (ran.exit_code, ran.output) == (2, "")
    assert part in ran.errors


def test_an_unknown_preset_is_exit_code_1(weights: Path) -> None:
    ran = run_command("explain", weights, "--preset", "zip")
    assert (ran.exit_code, ran.output) == (1, "")
    assert ran.errors.startswith("tensorus: preset 'zip' is not one of none, ")


def test_a_file_without_values_is_exit_code_1(tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", np.empty((0, 3)))
    ran = run_command("explain", tmp_path / "empty.npy")
    assert (ran.exit_code, ran.errors) == (1, f"tensorus: {tmp_path / 'empty.npy'} has no values\n")


def test_a_file_of_no_known_format_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    ran = run_command("explain", tmp_path / "notes.txt")
    assert ran.exit_code == 1
    assert "notes.txt has an unknown format" in ran.errors


def test_bfloat16_and_float8_are_explained(tmp_path: Path) -> None:
    values = normal((100, 100))
    save_file({"a": values.astype(ml_dtypes.bfloat16)}, tmp_path / "b.safetensors")
    (found,) = explained(tmp_path / "b.safetensors", *FEW)
    assert found["dtype"] == "bfloat16"
    assert found["smallest_within_error"] is not None
