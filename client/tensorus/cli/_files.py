"""Files of tensors: .safetensors, .npy and .npz, and .pt where torch is installed.

Reading maps the file where the format allows it, so that a tensor need not fit into memory to be sent.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tensorus._arrays import AnyArray

__all__ = ["READABLE", "WRITABLE", "read_tensors", "write_tensors"]

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
        ValueError: a format that is not one of `READABLE`, or a file that is broken.
        ImportError: a .pt file without torch.
    """
    readers = {".safetensors": _read_safetensors, ".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is of no known format; {', '.join(READABLE)} can be read")
    yield from reader(path)


def write_tensors(path: Path, tensors: dict[str, AnyArray]) -> None:
    """Write tensors to a file of the format that its name says; replaces what is there.

    Raises:
        ValueError: a format that is not one of `WRITABLE`, or more than one tensor for .npy.
    """
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        from safetensors.numpy import save_file  # noqa: PLC0415 - only this command needs it

        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    elif suffix == ".npy":
        if len(tensors) != 1:
            raise ValueError(f"{path} can hold one tensor, not {len(tensors)}; .npz and .safetensors hold many")
        np.save(path, _savable(next(iter(tensors.values()))))
    elif suffix == ".npz":
        savable: dict[str, Any] = {name: _savable(tensor) for name, tensor in tensors.items()}
        np.savez(path, **savable)
    else:
        raise ValueError(f"{path} is of no known format; {', '.join(WRITABLE)} can be written")


def _savable(tensor: AnyArray) -> AnyArray:
    if tensor.dtype.kind == "V" or tensor.dtype.name.startswith(("bfloat", "float8")):
        raise ValueError(f"NumPy's formats cannot hold {tensor.dtype.name}; write a .safetensors file")
    return tensor


def _read_npy(path: Path) -> Iterator[tuple[str, AnyArray]]:
    yield path.stem, np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path) -> Iterator[tuple[str, AnyArray]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                yield name, archive[name]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .npz file: {error}") from error


def _read_pt(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import torch  # noqa: PLC0415 - takes a second to import, and only this format needs it
    except ImportError as error:
        raise ImportError("reading a .pt file needs torch: pip install 'tensorus[torch]'", name="torch") from error
    # weights_only: nothing in the file is run.
    yield from _flattened(torch.load(path, map_location="cpu", weights_only=True, mmap=True), [], path, torch)


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

    The format: length of the header (8 bytes, little-endian), the header (JSON: name -> dtype, shape, data_offsets), the bytes.
    Read here and not by its library, which copies every tensor and has no float8 for NumPy.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(_SAFETENSORS_HEADER_BYTES_MAX, file_bytes - 8):
            raise ValueError(f"{path} is no .safetensors file: its header would be {header_bytes} bytes long")
        try:
            header = json.loads(file.read(header_bytes))
            entries = [
                (name, str(entry["dtype"]), tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
                for name, entry in header.items()
                if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no .safetensors file: its header does not parse") from error
    if file_bytes == 8 + header_bytes:
        data: AnyArray = np.empty(0, np.uint8)
    else:
        data = np.memmap(path, np.uint8, "r", offset=8 + header_bytes)
    for name, dtype_name, shape, begin, end in sorted(entries, key=lambda entry: entry[3]):
        dtype = _SAFETENSORS_DTYPES.get(dtype_name)
        if dtype is None:
            raise ValueError(f"tensor {name!r} of {path} has dtype {dtype_name}, which cannot be stored")
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if not 0 <= begin <= end <= data.size or end - begin != size or min(shape, default=0) < 0:
            raise ValueError(
                f"tensor {name!r} of {path} has bytes {begin} to {end}, which do not fit its shape {list(shape)}"
            )
        yield name, data[begin:end].view(dtype).reshape(shape)
