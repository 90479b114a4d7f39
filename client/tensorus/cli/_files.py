"""Files of tensors: .safetensors, .npy and .npz, and .pt where torch is installed.

Reading maps the file where the format allows it, so that a tensor need not fit into memory to be sent.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from tensorus._arrays import as_numpy
from tensorus.errors import TensorusError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tensorus._arrays import AnyArray

__all__ = ["READABLE", "WRITABLE", "read_tensors", "require_writable", "write_tensors"]

READABLE = (".safetensors", ".npy", ".npz", ".pt")
WRITABLE = (".safetensors", ".npy", ".npz")

_SAFETENSORS_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
"""Names of the format. Source: the `Dtype` of https://github.com/huggingface/safetensors."""

_SAFETENSORS_HEADER_BYTES_MAX = 100_000_000
"""As the reference implementation."""


def read_tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names and tensors of a file, one at a time.

    Raises:
        ValueError: a format that is not one of `READABLE`, or a file that is broken; names the file.
        ImportError: a .pt file without torch.
    """
    readers = {".safetensors": _read_safetensors, ".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is of no known format; {', '.join(READABLE)} can be read")
    try:
        for name, tensor in reader(path):
            try:
                # Here, where the file is known, and not when it is sent.
                as_numpy(tensor)
            except (TensorusError, TypeError, ValueError) as error:
                raise ValueError(f"tensor {name!r} cannot be stored: {error}") from error
            yield name, tensor
    except ImportError:
        raise
    except Exception as error:
        # All of them: what the parsers of NumPy and torch raise for broken bytes is not documented, and manifold.
        raise ValueError(f"{path} cannot be read: {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    """Return the beginning of a message: libraries go on with paragraphs about their own options."""
    if isinstance(error, pickle.UnpicklingError):
        # Torch's message recommends weights_only=False, which would run what is in the file.
        return "it is broken, or holds objects other than tensors; they are not loaded, since that could run code"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0].partition(". ")[0].rstrip(".")


def require_writable(path: Path, dtypes: Mapping[str, str]) -> None:
    """Refuse tensors that the format of the file cannot hold.

    Args:
        path: the file that will be written.
        dtypes: the names of the tensors' dtypes, by id.

    Raises:
        ValueError: a format that is not one of `WRITABLE`, a dtype that it lacks, or not just one tensor for .npy.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"{path} is of no known format; {', '.join(WRITABLE)} can be written")
    if suffix == ".npy" and len(dtypes) != 1:
        raise ValueError(f"{path} can hold one tensor, not {len(dtypes)}; .npz and .safetensors hold many")
    for name, dtype in dtypes.items():
        if suffix == ".safetensors" and dtype == "complex128":
            raise ValueError(f"{path} cannot hold {dtype}, the dtype of tensor {name!r}; an .npz file can")
        if suffix != ".safetensors" and dtype.startswith(("bfloat", "float8")):
            raise ValueError(f"{path} cannot hold {dtype}, the dtype of tensor {name!r}; a .safetensors file can")


def write_tensors(path: Path, tensors: dict[str, AnyArray]) -> None:
    """Write tensors to a file of the format that its name says, under that very name; replaces what is there.

    Raises:
        ValueError: as `require_writable`.
    """
    require_writable(path, {name: tensor.dtype.name for name, tensor in tensors.items()})
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        from safetensors.numpy import save_file  # noqa: PLC0415 - only this command needs it

        # Not `np.ascontiguousarray`, which makes a vector of a scalar.
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path)
    elif suffix == ".npy":
        # An open file: given a path, `np.save` appends ".npy" to "a.NPY".
        with path.open("wb") as file:
            np.save(file, next(iter(tensors.values())), allow_pickle=False)
    else:
        # Not `np.savez`, whose own arguments are names that a tensor cannot have.
        with zipfile.ZipFile(path, "w") as archive:
            for name, tensor in tensors.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, tensor, allow_pickle=False)


def _read_npy(path: Path) -> Iterator[tuple[str, AnyArray]]:
    # Not `np.load`, which takes any other file for a pickle, and says how to run it.
    yield path.stem, np.lib.format.open_memmap(path, mode="r")


def _read_npz(path: Path) -> Iterator[tuple[str, AnyArray]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            yield name.removesuffix(".npy"), array


def _read_pt(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import torch  # noqa: PLC0415 - takes a second to import, and only this format needs it
    except ImportError as error:
        raise ImportError("reading a .pt file needs torch: pip install 'tensorus[torch]'", name="torch") from error
    # Before torch 1.6 the format was no archive; such a file cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    # weights_only: nothing in the file is run.
    yield from _flattened(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), [], path, torch)


def _flattened(value: Any, names: list[str], path: Path, torch: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of nested dicts and lists, names joined by "."; what is no tensor is passed over."""
    if isinstance(value, torch.Tensor):
        yield ".".join(names) or path.stem, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _flattened(item, [*names, str(name)], path, torch)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _flattened(item, [*names, str(number)], path, torch)


def _read_safetensors(path: Path) -> Iterator[tuple[str, AnyArray]]:
    """Yield views into the mapped file.

    The format: length of the header (8 bytes, little-endian), the header (JSON: name -> dtype, shape, data_offsets), the bytes,
    each of them of exactly one tensor. All of the header is verified before the first tensor is yielded.
    Read here and not by its library, which copies every tensor and has no float8 for NumPy.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(_SAFETENSORS_HEADER_BYTES_MAX, file_bytes - 8):
            raise ValueError(f"its header would be {header_bytes} bytes long, the file is {file_bytes} bytes")
        header = file.read(header_bytes)
    data_bytes = file_bytes - 8 - header_bytes
    entries = []
    position = 0
    for name, dtype_name, shape, begin, end in _parsed_header(header):
        dtype = _SAFETENSORS_DTYPES.get(dtype_name)
        if dtype is None:
            raise ValueError(f"tensor {name!r} has dtype {dtype_name}, which cannot be stored")
        if begin != position:
            raise ValueError(f"tensor {name!r} begins at byte {begin}, the one before ends at {position}")
        if end - begin != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"tensor {name!r} has bytes {begin} to {end}, which do not fit its shape {list(shape)}")
        position = end
        entries.append((name, dtype, shape, begin, end))
    if position != data_bytes:
        raise ValueError(f"its tensors have {position} bytes, the file has {data_bytes}")
    # A file cannot be mapped where it has ended.
    data: AnyArray = np.memmap(path, np.uint8, "r", offset=8 + header_bytes) if data_bytes else np.empty(0, np.uint8)
    for name, dtype, shape, begin, end in entries:
        yield name, data[begin:end].view(dtype).reshape(shape)


def _parsed_header(header: bytes) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    """Return name, dtype, shape, begin and end of every tensor, in the order of their bytes."""
    found = []
    try:
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            name.encode()  # Refuses what is no Unicode: JSON can spell it.
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
                raise ValueError(f"tensor {name!r} has a size that is none")
            found.append((name, str(entry["dtype"]), shape, begin, end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header does not parse") from error
    return sorted(found, key=lambda entry: entry[3:])
