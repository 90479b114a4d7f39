"""The tensor operations of Tensorus 0.1: torch computes, and the result is stored or returned.

`TensorOperations` adds them to any storage with `insert` and `get_tensor_by_id`. Whole tensors are read, and the calling
process computes.
"""

# ruff: noqa: FBT001, FBT002, PLR0917 - the signatures of Tensorus 0.1
from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorus.tensor_storage._computing import OPERATIONS, ResultCache, operation_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from tensorus.tensor_storage._computing import Results

__all__ = ["TensorOperations"]

Outcome: TypeAlias = Any
"""The id of the stored result (a str), or an `OperationResult` if it was not stored. An SVD returns three of them."""

_INTERFACE = {name: f"tensor_{name}" for name in OPERATIONS} | {
    "batch_operation": "batch_tensor_operation",
    "benchmark_operation": "benchmark_tensor_operation",
    "enable_caching": "enable_operation_caching",
    "disable_caching": "disable_operation_caching",
    "get_cache_stats": "get_operation_cache_stats",
}


class TensorOperations:
    """Operations on the tensors of a storage: a mixin for classes with `insert` and `get_tensor_by_id` as in `TensorStorage`.

    Arguments of all operations:
        store_result: True stores the result in the same dataset and returns its id; False returns an `OperationResult`.
        result_metadata: metadata for the stored result. Added to it are `operation`, `input_tensors` (ids; a number as text),
            `computation_time` (seconds), `cached`, and `operation_timestamp` (seconds since 1970).

    If the class also has `batch_insert`, several results are stored together or not at all.

    Errors of all operations:
        ImportError: torch is not installed.
        OperationError: the operation does not support these shapes or dtypes. Also a ValueError and a RuntimeError.
        IndexError: a dimension is out of range.
        DatasetNotFoundError, TensorNotFoundError: the dataset or a tensor does not exist.

    Errors of the storage are raised too.
    """

    _kept_results: ResultCache | None = None

    if TYPE_CHECKING:

        def insert(self, name: str, tensor: Any, metadata: Mapping[str, Any] | None = None) -> str:
            """Implemented by the storage."""

        def get_tensor_by_id(self, name: str, record_id: str) -> dict[str, Any]:
            """Implemented by the storage."""

    def tensor_add(
        self,
        dataset_name: str,
        tensor_id1: str,
        tensor_id2: str | complex,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Add two tensors, or a number to a tensor."""
        return self._operate("add", dataset_name, [tensor_id1, tensor_id2], {}, store_result, result_metadata)

    def tensor_subtract(
        self,
        dataset_name: str,
        tensor_id1: str,
        tensor_id2: str | complex,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Subtract the second tensor, or a number, from the first tensor."""
        return self._operate("subtract", dataset_name, [tensor_id1, tensor_id2], {}, store_result, result_metadata)

    def tensor_multiply(
        self,
        dataset_name: str,
        tensor_id1: str,
        tensor_id2: str | complex,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Multiply two tensors element by element, or a tensor by a number."""
        return self._operate("multiply", dataset_name, [tensor_id1, tensor_id2], {}, store_result, result_metadata)

    def tensor_matmul(
        self,
        dataset_name: str,
        tensor_id1: str,
        tensor_id2: str,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Multiply two matrices, as `torch.matmul` does."""
        return self._operate("matmul", dataset_name, [tensor_id1, tensor_id2], {}, store_result, result_metadata)

    def tensor_sum(
        self,
        dataset_name: str,
        tensor_id: str,
        dim: int | Sequence[int] | None = None,
        keepdim: bool = False,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Sum a tensor over all or some dimensions."""
        options = {"dim": dim, "keepdim": keepdim}
        return self._operate("sum", dataset_name, [tensor_id], options, store_result, result_metadata)

    def tensor_mean(
        self,
        dataset_name: str,
        tensor_id: str,
        dim: int | Sequence[int] | None = None,
        keepdim: bool = False,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Compute the mean of a tensor over all or some dimensions; float32 for integers and narrower floats."""
        options = {"dim": dim, "keepdim": keepdim}
        return self._operate("mean", dataset_name, [tensor_id], options, store_result, result_metadata)

    def tensor_reshape(
        self,
        dataset_name: str,
        tensor_id: str,
        shape: Sequence[int],
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Reshape a tensor; one size may be -1."""
        return self._operate("reshape", dataset_name, [tensor_id], {"shape": shape}, store_result, result_metadata)

    def tensor_transpose(
        self,
        dataset_name: str,
        tensor_id: str,
        dim0: int,
        dim1: int,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Swap two dimensions of a tensor."""
        options = {"dim0": dim0, "dim1": dim1}
        return self._operate("transpose", dataset_name, [tensor_id], options, store_result, result_metadata)

    def tensor_svd(
        self,
        dataset_name: str,
        tensor_id: str,
        store_result: bool = True,
        result_metadata: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Compute the reduced SVD of a matrix: three ids or results, for U, the singular values, and V transposed."""
        return self._operate("svd", dataset_name, [tensor_id], {}, store_result, result_metadata)

    def batch_tensor_operation(
        self, dataset_name: str, operation: str, tensor_ids: Sequence[str], **operation_kwargs: Any
    ) -> list[Outcome]:
        """Apply an operation to each of these tensors, one after the other, and return the results.

        Args:
            dataset_name: name of the dataset.
            operation: "add", "subtract", "multiply", "matmul", "sum", "mean", "reshape", "transpose" or "svd"; any other raises
                `ValueError`.
            tensor_ids: ids of the tensors.
            operation_kwargs: further arguments of the operation's method, such as `tensor_id2=2.0`.
        """
        method = getattr(self, _method(operation))
        return [method(dataset_name, tensor_id, **operation_kwargs) for tensor_id in tensor_ids]

    def benchmark_tensor_operation(
        self, dataset_name: str, operation: str, tensor_id: str, iterations: int = 10, **kwargs: Any
    ) -> dict[str, float]:
        """Measure an operation, including the time to read its operands, without the cache. Nothing is stored.

        Args:
            dataset_name: name of the dataset.
            tensor_id: id of the tensor.
            iterations: number of runs; below 1 raises `ValueError`.
            operation: as for `batch_tensor_operation`.
            **kwargs: further arguments, as its `operation_kwargs`.

        Returns:
            `mean_time`, `min_time`, `max_time` and `total_time` in seconds, and `iterations`.
        """
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}, must be at least 1")
        method = getattr(_Reading(self), _method(operation))
        times_s = []
        for _ in range(iterations):
            start_s = time.perf_counter()
            method(dataset_name, tensor_id, store_result=False, **kwargs)
            times_s.append(time.perf_counter() - start_s)
        return {
            "mean_time": sum(times_s) / iterations,
            "min_time": min(times_s),
            "max_time": max(times_s),
            "total_time": sum(times_s),
            "iterations": iterations,
        }

    def enable_operation_caching(self, max_size: int = 100) -> None:
        """Cache up to `max_size` results in memory, and evict the least recently used; below 1 raises `ValueError`.

        Results are counted, as in Tensorus 0.1, whatever their size: choose a small number if they are large. The three results
        of an SVD count as one.
        """
        if max_size < 1:
            raise ValueError(f"max_size is {max_size}, must be at least 1")
        self._kept_results = ResultCache(max_size)

    def disable_operation_caching(self) -> None:
        """Disable the cache, and drop cached results. This is the initial state."""
        self._kept_results = None

    def get_operation_cache_stats(self) -> dict[str, Any]:
        """Return `enabled`, `size` (number of cached results), `max_size`, and `operations_cached` (their names)."""
        kept = self._kept_results
        if kept is None:
            return {"enabled": False, "size": 0, "max_size": 0, "operations_cached": []}
        names = kept.names()
        return {"enabled": True, "size": len(names), "max_size": kept.size_max, "operations_cached": names}

    def create_ops_interface(self) -> Any:
        """Return an object with the same operations under shorter names: `add` for `tensor_add`, and so on.

        Also `batch_operation`, `benchmark_operation`, `enable_caching`, `disable_caching` and `get_cache_stats`.
        """
        return _Interface(self)

    def _generation(self, dataset_name: str, record_id: str) -> Hashable | None:  # noqa: ARG002 - of those who know
        """Return a unique version of a record, which changes when the record is replaced; None: do not cache its results."""
        return None

    def _operate(
        self,
        name: str,
        dataset: str,
        operands: Sequence[Any],
        options: Mapping[str, Any],
        store_result: bool,
        metadata: Mapping[str, Any] | None,
    ) -> Outcome:
        torch = _torch()
        operation = operation_of(name, dataset, operands, options)
        kept = self._kept_results
        key = None if kept is None else operation.key(self._generation)
        results = None if kept is None or key is None else kept.get(key)
        if results is None:
            results = operation.computed(
                torch, lambda name, record_id: self.get_tensor_by_id(name, record_id)["tensor"]
            )
            if kept is not None and key is not None:
                kept.put(key, results)
        found = self._stored_results(dataset, results, metadata) if store_result else results
        return found if len(found) > 1 else found[0]

    def _stored_results(self, dataset: str, results: Results, metadata: Mapping[str, Any] | None) -> tuple[str, ...]:
        records = [
            (
                result.tensor,
                {
                    **(metadata or {}),
                    "operation": result.operation,
                    "input_tensors": result.inputs,
                    "computation_time": result.computation_time,
                    "cached": result.cached,
                    "operation_timestamp": result.timestamp,
                },
            )
            for result in results
        ]
        batch_insert = getattr(self, "batch_insert", None)
        if len(records) > 1 and batch_insert is not None:
            return tuple(batch_insert(dataset, records))
        return tuple(self.insert(dataset, tensor, described) for tensor, described in records)


class _Reading(TensorOperations):
    """The operations on another storage's tensors, without its cache."""

    def __init__(self, storage: TensorOperations) -> None:
        self._storage = storage

    def get_tensor_by_id(self, name: str, record_id: str) -> dict[str, Any]:
        return self._storage.get_tensor_by_id(name, record_id)


class _Interface:
    """The operations of a storage under the short names of Tensorus 0.1."""

    def __init__(self, storage: TensorOperations) -> None:
        self.storage = storage

    def __getattr__(self, name: str) -> Any:
        if name not in _INTERFACE:
            raise AttributeError(f"operation {name!r} is not one of {', '.join(_INTERFACE)}")
        return getattr(self.storage, _INTERFACE[name])


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415 - it takes a second to import, and only operations need it
    except ImportError as error:
        raise ImportError("operations on tensors need torch: pip install 'tensorus[torch]'", name="torch") from error
    return torch


def _method(operation: str) -> str:
    """Return the name of an operation's method."""
    if operation not in OPERATIONS:
        raise ValueError(f"operation {operation!r} is not one of {', '.join(OPERATIONS)}")
    return f"tensor_{operation}"
