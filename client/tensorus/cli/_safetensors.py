"""The safetensors format: the length of the header (8 bytes, little-endian), the header (JSON), the bytes of the tensors.

The header gives dtype, shape and position (`data_offsets`) of each tensor by name, and under `__metadata__` strings of the
user. Every byte after it belongs to exactly one tensor. This module does not use the format's library, which copies every
tensor, needs all of them in memory to write, and has no float8 for NumPy.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tensorus._arrays.canonical import AnyArray

__all__ = ["DTYPE_NAMES", "METADATA_KEY", "header_of", "read_safetensors", "writing_order"]

METADATA_KEY = "__metadata__"
"""Key of the metadata in the header; no tensor can have this name."""

_DTYPES: dict[str, Any] = {
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
"""Dtypes by their name in the format. Source: the `Dtype` of https://github.com/huggingface/safetensors."""

DTYPE_NAMES = {np.dtype(dtype).name: name for name, dtype in _DTYPES.items()}
"""Names in the format, by names in NumPy or ml_dtypes."""

_HEADER_BYTES_MAX = 100_000_000
"""Limit of the reference implementation."""


class _Entry(NamedTuple):
    """A tensor in the header; begin and end are byte offsets from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> tuple[list[tuple[str, AnyArray]], dict[str, str]]:
    """Return names and tensors (views of the mapped file), and the header's metadata. The whole header is verified.

    Raises:
        ValueError: it is not a valid safetensors file, or has a dtype that cannot be stored.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(_HEADER_BYTES_MAX, file_bytes - 8):
            raise ValueError(f"its header would be {header_bytes} bytes long, the file is {file_bytes} bytes")
        entries, metadata = _parsed(file.read(header_bytes))
    data_bytes = file_bytes - 8 - header_bytes
    position = 0
    for entry in entries:
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise ValueError(f"tensor {entry.name!r} has dtype {entry.dtype}, which cannot be stored")
        if entry.begin != position:
            raise ValueError(f"tensor {entry.name!r} begins at byte {entry.begin}, the one before ends at {position}")
        if entry.end - entry.begin != math.prod(entry.shape) * np.dtype(dtype).itemsize:
            raise ValueError(
                f"tensor {entry.name!r} has bytes {entry.begin} to {entry.end}, which do not fit its shape {list(entry.shape)}"
            )
        position = entry.end
    if position != data_bytes:
        raise ValueError(f"its tensors have {position} bytes, the file has {data_bytes}")
    # An empty file cannot be mapped.
    data: AnyArray = np.memmap(path, np.uint8, "r", offset=8 + header_bytes) if data_bytes else np.empty(0, np.uint8)
    tensors = [
        (entry.name, data[entry.begin : entry.end].view(_DTYPES[entry.dtype]).reshape(entry.shape)) for entry in entries
    ]
    return tensors, metadata


def _parsed(header: bytes) -> tuple[list[_Entry], dict[str, str]]:
    """Return the tensors in the order of their bytes, and the metadata."""
    entries: list[_Entry] = []
    metadata: dict[str, str] = {}
    try:
        for name, fields in json.loads(header).items():
            if name == METADATA_KEY:
                metadata = {key: str(text) for key, text in (fields or {}).items()}
                continue
            name.encode()  # Refuses lone surrogates, which JSON can contain.
            shape, (begin, end) = tuple(fields["shape"]), fields["data_offsets"]
            if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
                raise ValueError(f"tensor {name!r} has an invalid size")
            entries.append(_Entry(name, str(fields["dtype"]), shape, begin, end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header does not parse") from error
    return sorted(entries, key=lambda entry: entry[3:]), metadata


def writing_order(dtypes: Mapping[str, str]) -> list[str]:
    """Return the names in the order in which their bytes must be written: widest dtypes first.

    This aligns every tensor in the file, as readers that map it require. Source: the reference implementation.

    Args:
        dtypes: NumPy's or ml_dtypes' names, by tensor name.
    """
    return sorted(dtypes, key=lambda name: -_itemsize(dtypes[name]))


def header_of(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a file with these tensors, including its length field.

    Args:
        tensors: name, dtype and shape, in the order of their bytes.
        metadata: strings for `__metadata__`; if empty, the key is left out.
    """
    header: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * _itemsize(dtype)
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Pad with blanks, so that the tensors are aligned to 8 bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _itemsize(dtype: str) -> int:
    return int(np.dtype(_DTYPES[DTYPE_NAMES[dtype]]).itemsize)
