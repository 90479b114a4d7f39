"""What a backend hands to the assembly of tensors: their beginnings, and their bytes as they are or as chunk records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from support.arrays import canonical
from support.tensor_infos import tensor_info
from tensorus._arrays.assemble import Assembler
from tensorus._backend import Arrival, Began, Bytes
from tensorus.types import TensorInfo
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy

CHUNK_BYTES = 4096

FOUR = np.arange(4, dtype=np.uint8)


def info_of(array: np.ndarray[Any, Any], tensor_id: str = "t", dtype: str | None = None) -> TensorInfo:
    return tensor_info(
        id=tensor_id,
        dtype=dtype or array.dtype.name,
        shape=array.shape,
        canonical_bytes=array.nbytes,
        quantized_bytes=array.nbytes,
        stored_bytes=array.nbytes,
    )


def began(array: np.ndarray[Any, Any], item: int = 0, tensor_id: str = "t") -> Began:
    return Began(item, info_of(array, tensor_id), array.shape)


def at_once(array: np.ndarray[Any, Any], item: int = 0) -> Began:
    """Return the array with all of its bytes."""
    return replace(began(array, item), data=memoryview(canonical(array)))


def raw(data: bytes, offset: int = 0, item: int = 0) -> Bytes:
    return Bytes(item, offset, memoryview(data), encoded=False, decoded_length=len(data))


def pieces(array: np.ndarray[Any, Any], item: int = 0) -> list[Bytes]:
    """Return the array's bytes as they are, in chunks."""
    data = canonical(array)
    return [raw(data[start : start + CHUNK_BYTES], start, item) for start in range(0, len(data), CHUNK_BYTES)]


def record_of(data: bytes, dtype: str, preset: str) -> bytes:
    kind = dtype_by_name(dtype)
    return b"".join(bytes(piece) for piece in encode_chunk(data, kind, plan(StoragePolicy(preset), kind)).record)


def records(array: np.ndarray[Any, Any], preset: str, item: int = 0) -> list[Bytes]:
    """Return the array's bytes as chunk records."""
    return [
        Bytes(
            item,
            piece.offset,
            memoryview(record_of(bytes(piece.data), array.dtype.name, preset)),
            encoded=True,
            decoded_length=piece.decoded_length,
        )
        for piece in pieces(array, item)
    ]


def assembled(assembler: Assembler, *arrivals: Arrival) -> list[np.ndarray[Any, Any]]:
    return [array for _, array in assembler.assemble(iter(arrivals))]
