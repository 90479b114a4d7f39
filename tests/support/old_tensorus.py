"""Writes dataset files as Tensorus 0.1 wrote them, with torch; and containers that torch would never write, without.

Written from the description of the format, for tests. The formulas are those in `old_files/quantizers.py`; `given_back` is
what the original made of its own codes.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lz4.frame
import torch

# ---- As the original ----------------------------------------------------------------------------------------------------


def int8_codes(tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return codes and parameters. Raises where the original did: without values, and for NaN and infinite constants."""
    if tensor.dtype == torch.int8:
        return tensor, {"scale": 1.0, "zero_point": 0, "original_dtype": "torch.int8"}
    low, high = tensor.min().item(), tensor.max().item()
    if low == high:
        scale, zero_point = 1.0, max(-128, min(127, int(low)))
        codes = torch.full(tensor.shape, zero_point, dtype=torch.int8)
    else:
        scale = (high - low) / 255.0
        zero_point = max(-128, min(127, int(-128 - low / scale)))
        codes = (torch.round(tensor / scale) + zero_point).clamp(-128, 127).to(torch.int8)
    described = {"original_dtype": str(tensor.dtype), "original_shape": list(tensor.shape)}
    return codes, {"scale": scale, "zero_point": zero_point, **described}


def fp16_codes(tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return codes and parameters."""
    if tensor.dtype == torch.float16:
        return tensor, {"original_dtype": "torch.float16"}
    with warnings.catch_warnings():
        # It drops imaginary parts.
        warnings.simplefilter("ignore")
        codes = tensor.to(torch.float16)
    return codes, {"original_dtype": str(tensor.dtype), "original_shape": list(tensor.shape)}


def plain_codes(tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the tensor itself."""
    return tensor, {"original_dtype": str(tensor.dtype)}


QUANTIZERS = {"int8": int8_codes, "fp16": fp16_codes, "none": plain_codes}

COMPRESSORS: dict[str, Any] = {
    "gzip-9": lambda data: gzip.compress(data, 9),
    "gzip-6": lambda data: gzip.compress(data, 6),
    "gzip-1": lambda data: gzip.compress(data, 1),
    "lz4-1": lambda data: lz4.frame.compress(data, compression_level=1),
    "lz4-9": lambda data: lz4.frame.compress(data, compression_level=9),
    "none": lambda data: data,
}


def compressed(tensor: torch.Tensor, compression: str, quantization: str) -> tuple[bytes, dict[str, Any]]:
    """Return a compressed record's bytes, and its `compression_metadata`."""
    codes, parameters = QUANTIZERS[quantization](tensor)
    file = io.BytesIO()
    torch.save(codes, file)
    plain = file.getvalue()
    packed = COMPRESSORS[compression](plain)
    return packed, {
        "compression": compression,
        "quantization": quantization,
        "quantization_params": parameters,
        "original_size": len(plain),
        "compressed_size": len(packed),
        "compression_ratio": len(plain) / len(packed),
    }


def given_back(codes: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """Return what the original made of int8 codes when they were read."""
    if parameters["scale"] == 1.0:
        values = torch.full(codes.shape, float(parameters["zero_point"]))
    else:
        values = (codes.to(torch.float32) - parameters["zero_point"]) * parameters["scale"]
    if parameters["original_dtype"] == "torch.int8":
        return values
    return values.to(getattr(torch, parameters["original_dtype"].removeprefix("torch.")))


class Written:
    """A dataset in memory, which `save` writes."""

    def __init__(self, *, generation: int = 3, schema: Any = None, compression_config: Any = None) -> None:
        self.tensors: list[Any] = []
        self.metadata: list[Any] = []
        self.content: dict[str, Any] = {"tensors": self.tensors, "metadata": self.metadata}
        if generation >= 2:
            self.content["schema"] = schema
        if generation >= 3:
            self.content["compression_config"] = compression_config
        self._generation = generation

    def insert(
        self,
        tensor: torch.Tensor,
        record_id: Any,
        compression: str = "none",
        quantization: str = "none",
        **metadata: Any,
    ) -> None:
        """Add a record as `insert` did: compressed unless both are "none", or it cannot be."""
        described: dict[str, Any] = {
            **metadata,
            "record_id": record_id,
            "timestamp_utc": 1756684800.25,
            "shape": tuple(tensor.shape),
            "dtype": str(tensor.dtype),
            "version": len(self.tensors) + 1,
        }
        item: Any = tensor.clone()
        if self._generation >= 3:
            described["compressed"] = False
        if compression != "none" or quantization != "none":
            try:
                item, codec = compressed(tensor, compression, quantization)
                described |= {"compressed": True, "compression_metadata": codec}
            except (RuntimeError, ValueError, OverflowError):
                # A line in the log, and the tensor as it is.
                item = tensor.clone()
        self.tensors.append(item)
        self.metadata.append(described)

    def save(self, path: Path) -> Path:
        """Write the file, and return its path."""
        torch.save(self.content, path)
        return path


# ---- As nobody ----------------------------------------------------------------------------------------------------------


def archive(
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    folder: str = "old",
    extra: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return a container with this pickle and these storages; `extra` adds members, or replaces others."""
    members = {
        "data.pkl": pickle,
        "byteorder": b"little",
        **{f"data/{key}": data for key, data in (storages or {}).items()},
        "version": b"3\n",
        **(extra or {}),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, data in members.items():
            written.writestr(f"{folder}/{name}", data)
    return file.getvalue()


def text(value: str) -> bytes:
    """Return the opcode of a text."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def integer(value: int) -> bytes:
    """Return the opcode of an integer of any size."""
    encoded = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def integers(*values: int) -> bytes:
    """Return the opcodes of a tuple of integers."""
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(
    *,
    count: int,
    shape: Sequence[int],
    strides: Sequence[int],
    offset: int = 0,
    storage: str = "FloatStorage",
    key: str = "0",
) -> bytes:
    """Return the opcodes of a tensor."""
    named = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + integer(count) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + named
        + integer(offset)
        + integers(*shape)
        + integers(*strides)
        + b"\x89"
        + hooks
        + b"tR"
    )


def dataset_pickle(tensors: Sequence[bytes], metadata: Sequence[bytes], rest: bytes = b"") -> bytes:
    """Return the pickle of a dataset whose items are these opcodes; `rest` are more keys and values."""
    return (
        b"\x80\x02}("
        + text("tensors")
        + b"](" + b"".join(tensors) + b"e"
        + text("metadata")
        + b"](" + b"".join(metadata) + b"e"
        + rest
        + b"u."
    )  # fmt: skip


def metadata_of(record_id: str, rest: bytes = b"") -> bytes:
    """Return the opcodes of a record's metadata; `rest` are more keys and values."""
    return b"}(" + text("record_id") + text(record_id) + rest + b"u"
