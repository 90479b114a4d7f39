"""The `TensorStorage` API of Tensorus 0.1: datasets of tensors with metadata, in a folder, on a server, or in memory.

For example:

    import torch
    from tensorus.tensor_storage import TensorStorage

    storage = TensorStorage("./data", compression_preset="balanced")  # or "grpc://host:port", or None
    storage.create_dataset("images")
    record_id = storage.insert("images", torch.rand(3, 256, 256), {"label": "cat"})
    image = storage.get_tensor_by_id("images", record_id)["tensor"]
    cats = storage.query_by_metadata("images", "label", "cat")

Errors, in addition to those of `tensorus.errors`:

    DatasetNotFoundError, TensorNotFoundError, SchemaValidationError, NameTakenError    also ValueError
    DamagedRecordError                                                                  also RuntimeError, CompressionError
    TransactionError                                                                    a transaction or batch failed
    OperationError                                                                      also ValueError, RuntimeError

New programs should use `tensorus.open` and `tensorus.connect`, which offer more; both APIs see the same data.
"""

from __future__ import annotations

from tensorus.tensor_storage._computing import OperationResult
from tensorus.tensor_storage._errors import (
    DamagedRecordError,
    DatasetNotFoundError,
    NameTakenError,
    OperationError,
    SchemaValidationError,
    TensorNotFoundError,
    TransactionError,
)
from tensorus.tensor_storage._operations import TensorOperations
from tensorus.tensor_storage._storage import TensorStorage

__all__ = [
    "DamagedRecordError",
    "DatasetNotFoundError",
    "NameTakenError",
    "OperationError",
    "OperationResult",
    "SchemaValidationError",
    "TensorNotFoundError",
    "TensorOperations",
    "TensorStorage",
    "TransactionError",
]
