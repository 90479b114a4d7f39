"""Files into the command line and out of it: every format, every dtype, and everything that can be wrong with a file."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import tensorus
from support.arrays import DTYPE_NAMES, assert_same_bits, normal, random_bits
from support.client import run_command
from tensorus._arrays.canonical import as_numpy
from tensorus.cli._files import READABLE, read_tensors
from tensorus.cli._writing import Expected, require_writable, writing

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def stored(client: tensorus.Client, dataset: str) -> dict[str, np.ndarray[Any, Any]]:
    return {record.info.id: record.tensor for record in client.query(dataset, as_="numpy")}


def torch_tensor(dtype: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return random bits as a torch tensor of any dtype."""
    found = torch.empty(shape, dtype=getattr(torch, dtype))
    if found.numel():
        bits = bytearray(random_bits(dtype, shape, seed).tobytes())
        found = torch.frombuffer(bits, dtype=found.dtype).reshape(shape)
    return found


# ---- put ----------------------------------------------------------------------------------------------------------------

SAFETENSORS_DTYPES = [name for name in DTYPE_NAMES if name != "complex128"]
"""The format has no complex128."""


def test_a_safetensors_file_is_stored_with_every_dtype_and_shape(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    shapes = [(), (0, 3), (5,), (33, 9)]
    tensors = {f"{dtype}.{shape}": torch_tensor(dtype, shape) for dtype in SAFETENSORS_DTYPES for shape in shapes}
    safetensors.torch.save_file(tensors, "model.safetensors", metadata={"format": "pt"})
    ran = run_command("put", dataset, "model.safetensors", *place)
    assert ran.exit_code == 0, ran.errors
    found = stored(remote, dataset)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(found[name], as_numpy(tensor))


NUMPY_ARRAYS: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "matrix": lambda: MATRIX,
    "scalar": lambda: np.array(7, np.int16),
    "empty": lambda: np.empty((0, 3)),
    "fortran": lambda: np.asfortranarray(normal((5, 7))),
    "big_endian": lambda: np.arange(5, dtype=">f8"),
    "complex": lambda: np.array([1 + 2j, 3]),
    "bool": lambda: np.array([[True], [False]]),
}


@pytest.mark.parametrize("name", NUMPY_ARRAYS)
def test_a_npy_file_is_stored_under_its_name(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client, name: str
) -> None:
    array = NUMPY_ARRAYS[name]()
    np.save(f"{name}.npy", array)
    assert run_command("put", dataset, f"{name}.npy", *place).exit_code == 0
    assert_same_bits(stored(remote, dataset)[name], array.astype(array.dtype.newbyteorder("=")))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
def test_a_npz_file_is_stored_under_its_members_names(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client, save: Any
) -> None:
    arrays = {f"group/{name}": make() for name, make in NUMPY_ARRAYS.items()}
    save("arrays.npz", **arrays)
    assert run_command("put", dataset, "arrays.npz", *place).exit_code == 0
    found = stored(remote, dataset)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same_bits(found[name], array.astype(array.dtype.newbyteorder("=")))


def test_a_pt_file_is_stored_under_the_paths_to_its_tensors(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    checkpoint = {
        "model": {"weight": torch_tensor("bfloat16", (3, 4)).T, "layers": [torch.arange(3), (torch.ones(2),)]},
        "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}, "lr": 0.1, "name": "adam", "none": None},
        "float8": torch_tensor("float8_e4m3fn", (7,)),
    }
    torch.save(checkpoint, "checkpoint.pt")
    assert run_command("put", dataset, "checkpoint.pt", *place).exit_code == 0
    found = stored(remote, dataset)
    assert set(found) == {
        "model.weight",
        "model.layers.0",
        "model.layers.1.0",
        "optimizer.state.0.step",
        "float8",
        "@manifest",
    }
    assert_same_bits(found["model.weight"], np.ascontiguousarray(as_numpy(checkpoint["model"]["weight"])))
    assert found["optimizer.state.0.step"].shape == ()


def test_a_pt_file_of_one_tensor_is_stored_under_the_file_s_name(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    torch.save(torch.arange(3), "alone.pt")
    assert run_command("put", dataset, "alone.pt", *place).exit_code == 0
    assert stored(remote, dataset)["alone"].tolist() == [0, 1, 2]


def test_a_state_dict_is_stored_under_its_names(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(model.state_dict(), "model.pt")
    assert run_command("put", dataset, "model.pt", *place).exit_code == 0
    assert stored(remote, dataset).keys() == model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_pt_file_of_before_torch_1_6_is_stored(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    torch.save({"a": torch.arange(5)}, "old.pt", _use_new_zipfile_serialization=False)
    assert run_command("put", dataset, "old.pt", *place).exit_code == 0
    assert stored(remote, dataset)["a"].tolist() == [0, 1, 2, 3, 4]


def test_a_tensor_that_cannot_be_stored_is_named(folder: Path, place: list[str], dataset: str) -> None:
    torch.save({"model": {"eye": torch.eye(3).to_sparse()}}, "sparse.pt")
    ran = run_command("put", dataset, "sparse.pt", *place)
    assert ran.exit_code == 1
    assert ran.errors.startswith("tensorus: sparse.pt cannot be read: tensor 'model.eye' cannot be stored: ")


def test_files_of_all_formats_can_be_put_together(
    folder: Path, place: list[str], dataset: str, remote: tensorus.Client
) -> None:
    np.save("one.npy", MATRIX)
    np.savez("more.NPZ.npz", two=MATRIX)
    torch.save({"three": torch.ones(3)}, "more.pt")
    safetensors.torch.save_file({"four": torch.ones(4)}, "more.SAFETENSORS")
    files = ["one.npy", "more.NPZ.npz", "more.pt", "more.SAFETENSORS"]
    ran = run_command("put", dataset, *files, "--prefix", "all/", *place)
    assert ran.exit_code == 0, ran.errors
    assert [info.id for info in remote.list(dataset)] == ["all/one", "all/two", "all/three", "all/four"]
    assert {".npy", ".npz", ".pt", ".safetensors"} <= set(READABLE)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_file_that_can_be_mapped_is_not_read_into_memory(folder: Path, suffix: str) -> None:
    path = folder / f"a{suffix}"
    with writing(path, [Expected("a", "float64", (1000,))], {}) as write:
        write("a", np.arange(1000.0))
    ((name, array),) = read_tensors(path)
    assert name == "a"
    base = array
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert base is not None
    assert not array.flags.writeable


# ---- get ----------------------------------------------------------------------------------------------------------------


def test_a_safetensors_file_comes_back_as_it_was(folder: Path, place: list[str], dataset: str) -> None:
    shapes = [(0, 3), (5,), (33, 9)]
    tensors = {f"{dtype}.{shape}": torch_tensor(dtype, shape) for dtype in SAFETENSORS_DTYPES for shape in shapes}
    safetensors.torch.save_file(tensors, "model.safetensors")
    run_command("put", dataset, "model.safetensors", *place)
    ran = run_command("get", dataset, "-o", "back.safetensors", *place)
    assert ran.exit_code == 0, ran.errors
    found = safetensors.torch.load_file("back.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype is tensor.dtype
        assert_same_bits(as_numpy(found[name]), as_numpy(tensor))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy"])
@pytest.mark.parametrize("arguments", [[], ["--index", "..."]], ids=["whole", "all of it"])
def test_a_scalar_stays_a_scalar(
    folder: Path, place: list[str], dataset: str, suffix: str, arguments: list[str]
) -> None:
    np.save("scalar.npy", np.array(7, np.int16))
    run_command("put", dataset, "scalar.npy", *place)
    ran = run_command("get", dataset, "scalar", "-o", f"out{suffix}", *arguments, *place)
    assert ran.exit_code == 0, ran.errors
    ((_, found),) = read_tensors(folder / f"out{suffix}")
    assert (found.shape, found.dtype, int(found)) == ((), np.int16, 7)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", [name for name in DTYPE_NAMES if "bfloat" not in name and "float8" not in name])
def test_numpy_s_formats_hold_numpy_s_dtypes(
    folder: Path, place: list[str], dataset: str, suffix: str, dtype: str
) -> None:
    array = random_bits(dtype, (7, 3))
    np.save("a.npy", array)
    run_command("put", dataset, "a.npy", *place)
    assert run_command("get", dataset, "-o", f"out{suffix}", *place).exit_code == 0
    ((name, found),) = read_tensors(folder / f"out{suffix}")
    assert name == ("out" if suffix == ".npy" else "a")
    assert_same_bits(found, array)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_numpy_s_formats_refuse_what_they_lack(
    folder: Path, place: list[str], dataset: str, suffix: str, dtype: str
) -> None:
    safetensors.torch.save_file({"a": torch_tensor(dtype, (3,))}, "a.safetensors")
    run_command("put", dataset, "a.safetensors", *place)
    ran = run_command("get", dataset, "-o", f"out{suffix}", *place)
    assert ran.exit_code == 1
    refusal = f"out{suffix} cannot hold {dtype}, the dtype of tensor 'a'; a .safetensors file can"
    assert ran.errors == f"tensorus: {refusal}\n"
    assert not (folder / f"out{suffix}").exists()


def test_safetensors_refuses_what_it_cannot_hold(folder: Path, place: list[str], dataset: str) -> None:
    np.save("a.npy", np.ones(3, np.complex128))
    run_command("put", dataset, "a.npy", *place)
    ran = run_command("get", dataset, "-o", "out.safetensors", *place)
    assert ran.exit_code == 1
    assert ran.errors == (
        "tensorus: out.safetensors cannot hold complex128, the dtype of tensor 'a'; an .npz file can\n"
    )
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["file", "args", "kwds", "allow_pickle", "a/b/c", "größe", "a.npy"])
def test_a_npz_file_holds_a_tensor_of_any_name(folder: Path, place: list[str], dataset: str, name: str) -> None:
    safetensors.torch.save_file({name: torch.ones(2)}, "a.safetensors")
    run_command("put", dataset, "a.safetensors", *place)
    ran = run_command("get", dataset, "-o", "out.npz", *place)
    assert ran.exit_code == 0, ran.errors
    with np.load("out.npz") as found:
        assert found.files == [name]
        assert found[name].tolist() == [1, 1]


@pytest.mark.parametrize("suffix", [".NPY", ".Npz", ".SafeTensors"])
def test_a_file_is_written_under_the_very_name_given(folder: Path, place: list[str], dataset: str, suffix: str) -> None:
    np.save("a.npy", MATRIX)
    run_command("put", dataset, "a.npy", *place)
    ran = run_command("get", dataset, "-o", f"out{suffix}", *place)
    assert ran.exit_code == 0, ran.errors
    assert sorted(path.name for path in folder.iterdir()) == ["a.npy", f"out{suffix}"]


def test_a_part_of_every_tensor_is_written(folder: Path, place: list[str], dataset: str) -> None:
    safetensors.torch.save_file({"a": torch.arange(10), "b": torch.arange(20).reshape(10, 2)}, "a.safetensors")
    run_command("put", dataset, "a.safetensors", *place)
    assert run_command("get", dataset, "-o", "out.safetensors", "--index", "::-3", *place).exit_code == 0
    found = safetensors.torch.load_file("out.safetensors")
    assert found["a"].tolist() == [9, 6, 3, 0]
    assert found["b"].tolist() == [[18, 19], [12, 13], [6, 7], [0, 1]]


# ---- Broken files -------------------------------------------------------------------------------------------------------


class Runs:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def safetensors_file(header: Any, data: bytes = b"abcd", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def bytes_of(save: Callable[[Any], Any]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def changed(raw: bytes, start: int, replacement: bytes) -> bytes:
    return raw[:start] + replacement + raw[start + len(replacement) :]


NPY = bytes_of(lambda file: np.save(file, np.arange(100.0)))
NPZ = bytes_of(lambda file: np.savez(file, a=np.arange(100.0)))
COMPRESSED_NPZ = bytes_of(lambda file: np.savez_compressed(file, a=normal((1000,))))
PT = bytes_of(lambda file: torch.save({"a": torch.arange(100.0)}, file))
GARBAGE = b"garbage " * 50

BROKEN: dict[str, tuple[str, bytes]] = {
    "safetensors: empty": (".safetensors", b""),
    "safetensors: shorter than its length": (".safetensors", b"\x01\x02\x03"),
    "safetensors: garbage": (".safetensors", GARBAGE),
    "safetensors: a header that is cut": (".safetensors", safetensors_file({"a": entry()}, b"")[:30]),
    "safetensors: a header longer than the file": (".safetensors", safetensors_file({"a": entry()}, length=2**40)),
    "safetensors: a header of 2**63 bytes": (".safetensors", safetensors_file({"a": entry()}, length=2**63)),
    "safetensors: a header that is no JSON": (".safetensors", safetensors_file(b"{broken")),
    "safetensors: a header that is no UTF-8": (".safetensors", safetensors_file(b'{"\xff": 1}')),
    "safetensors: a header that is no object": (".safetensors", safetensors_file([1])),
    "safetensors: a header nested too deep": (".safetensors", safetensors_file(b"[" * 100_000)),
    "safetensors: an entry that is no object": (".safetensors", safetensors_file({"a": 5})),
    "safetensors: an entry without a shape": (".safetensors", safetensors_file({"a": {"dtype": "F32"}})),
    "safetensors: an unknown dtype": (".safetensors", safetensors_file({"a": entry(dtype="F99")})),
    "safetensors: a dtype that is no text": (".safetensors", safetensors_file({"a": entry(dtype=[1])})),
    "safetensors: a negative size": (".safetensors", safetensors_file({"a": entry((-1,))})),
    "safetensors: two negative sizes": (".safetensors", safetensors_file({"a": entry((-1, -1))})),
    "safetensors: a size that is no integer": (".safetensors", safetensors_file({"a": entry((1.5,))})),
    "safetensors: a size of infinity": (
        ".safetensors",
        safetensors_file(b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}'),
    ),
    "safetensors: a size of 5000 digits": (
        ".safetensors",
        safetensors_file(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}'),
    ),
    "safetensors: sizes that overflow": (".safetensors", safetensors_file({"a": entry((2**32, 2**32), (0, 0))})),
    "safetensors: sizes that overflow beside a zero": (
        ".safetensors",
        safetensors_file({"a": entry((0, 2**70), (0, 0))}),
    ),
    "safetensors: sizes that overflow in bytes beside a zero": (
        ".safetensors",
        safetensors_file({"a": entry((0, 2**62), (0, 0))}),
    ),
    "safetensors: more axes than NumPy has": (".safetensors", safetensors_file({"a": entry((1,) * 70)})),
    "safetensors: bytes beyond the end": (".safetensors", safetensors_file({"a": entry((4,), (0, 16))})),
    "safetensors: bytes before the beginning": (".safetensors", safetensors_file({"a": entry((1,), (-4, 0))})),
    "safetensors: bytes that end before they begin": (".safetensors", safetensors_file({"a": entry((1,), (4, 0))})),
    "safetensors: fewer bytes than the shape needs": (".safetensors", safetensors_file({"a": entry((1,), (0, 2))})),
    "safetensors: one offset": (".safetensors", safetensors_file({"a": entry(offsets=(0,))})),
    "safetensors: no offset": (".safetensors", safetensors_file({"a": entry(offsets=())})),
    "safetensors: three offsets": (".safetensors", safetensors_file({"a": entry(offsets=(0, 4, 8))})),
    "safetensors: tensors that overlap": (
        ".safetensors",
        safetensors_file({"a": entry(), "b": entry(offsets=(2, 6))}, b"abcdef"),
    ),
    "safetensors: bytes that belong to no tensor": (".safetensors", safetensors_file({"a": entry()}, b"abcdefgh")),
    "safetensors: a name that is no Unicode": (".safetensors", safetensors_file({"\ud800": entry()})),
    "npy: empty": (".npy", b""),
    "npy: garbage": (".npy", GARBAGE),
    "npy: a header that is cut": (".npy", NPY[:40]),
    "npy: values that are cut": (".npy", NPY[:-4]),
    "npy: a header that does not parse": (".npy", NPY.replace(b"(100,)", b"(10**9,)"[:6])),
    "npy: an immense shape": (".npy", NPY.replace(b"(100,), }     ", b"(9999999999,)}")),
    "npy: objects": (".npy", bytes_of(lambda file: np.save(file, np.array([Runs()]), allow_pickle=True))),
    "npy: a pickle": (".npy", pickle.dumps(Runs())),
    "npy: text": (".npy", bytes_of(lambda file: np.save(file, np.array(["text"])))),
    "npy: really a .npz": (".npy", NPZ),
    "npz: empty": (".npz", b""),
    "npz: garbage": (".npz", GARBAGE),
    "npz: cut": (".npz", NPZ[:-30]),
    "npz: a damaged member": (".npz", changed(NPZ, 300, b"\xff")),
    "npz: a damaged compressed member": (".npz", changed(COMPRESSED_NPZ, 60, b"\xff" * 200)),
    "npz: objects": (".npz", bytes_of(lambda file: np.savez(file, a=np.array([Runs()])))),
    "npz: really a .npy": (".npz", NPY),
    "pt: empty": (".pt", b""),
    "pt: garbage": (".pt", GARBAGE),
    "pt: cut": (".pt", PT[:-100]),
    "pt: a pickle that runs": (".pt", pickle.dumps(Runs())),
    "pt: a checkpoint that runs": (".pt", bytes_of(lambda file: torch.save({"a": Runs()}, file))),
    "pt: an old file that runs": (
        ".pt",
        bytes_of(lambda file: torch.save({"a": Runs()}, file, _use_new_zipfile_serialization=False)),
    ),
}

each_broken = pytest.mark.parametrize(("suffix", "raw"), BROKEN.values(), ids=BROKEN)


@each_broken
def test_a_broken_file_ends_in_one_line_that_names_it(
    folder: Path, place: list[str], dataset: str, suffix: str, raw: bytes
) -> None:
    (folder / f"broken{suffix}").write_bytes(raw)
    ran = run_command("put", dataset, f"broken{suffix}", *place)
    assert (ran.exit_code, ran.output) == (1, ""), ran
    line = ran.errors.strip("\n")
    assert line.startswith("tensorus: ")
    assert "\n" not in line
    # Among a hundred files that a pattern matched, the user must learn which one it was.
    assert f"broken{suffix}" in line
    assert not (folder / "ran").exists()


def test_a_broken_archive_is_closed(folder: Path, place: list[str], dataset: str) -> None:
    for number, (suffix, raw) in enumerate(BROKEN.values()):
        if suffix == ".npz":
            (folder / f"{number}.npz").write_bytes(raw)
            assert run_command("put", dataset, f"{number}.npz", *place).exit_code == 1
    # An archive that was left open shows when it is collected: here, and not in another test.
    gc.collect()


def test_a_file_that_would_run_is_not_recommended_to_be_run(folder: Path, place: list[str], dataset: str) -> None:
    # Torch's own message proposes weights_only=False: the very thing that runs what is in the file.
    Path("evil.pt").write_bytes(BROKEN["pt: a checkpoint that runs"][1])
    assert "weights_only" not in run_command("put", dataset, "evil.pt", *place).errors


def test_reading_needs_a_known_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"notes\.txt has an unknown format; \.safetensors, \.npy, \.npz, \.pt, "):
        next(read_tensors(tmp_path / "notes.txt"))


def test_writing_needs_a_known_format(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model\.txt has an unknown format; \.safetensors, \.npz, \.npy, \.pt can be written"
    ):
        require_writable(tmp_path / "model.txt", {"a": "float32"})


def test_a_pt_file_without_torch_says_what_brings_it(
    folder: Path, place: list[str], dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.pt").write_bytes(PT)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    ran = run_command("put", dataset, "a.pt", *place)
    assert ran.exit_code == 1
    assert ran.errors.strip() == "tensorus: reading a .pt file needs torch: pip install 'tensorus[torch]'"
