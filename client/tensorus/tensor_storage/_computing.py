"""Computes the operations of `_operations.py`, and caches their results.

The cache key consists of the operation, its arguments, and the generations of its operands. Replacing a record changes its
generation, so stale results are never found.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tensorus.tensor_storage._errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

__all__ = ["OPERATIONS", "Operation", "OperationResult", "ResultCache", "Results", "operation_of"]

# `Any` in this module: torch need not be installed.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda torch, one, other: torch.add(one, other),
    "subtract": lambda torch, one, other: torch.sub(one, other),
    "multiply": lambda torch, one, other: torch.mul(one, other),
    "matmul": lambda torch, one, other: torch.matmul(one, other),
    "sum": lambda torch, one, dim, keepdim: torch.sum(one, dim=dim, keepdim=keepdim),
    "mean": lambda torch, one, dim, keepdim: torch.mean(_for_mean(torch, one), dim=dim, keepdim=keepdim),
    "reshape": lambda torch, one, shape: torch.reshape(one, shape),
    "transpose": lambda torch, one, dim0, dim1: torch.transpose(one, dim0, dim1),
    "svd": lambda torch, one: torch.linalg.svd(one, full_matrices=False),
}
"""Every operation by name: a function of torch, the operands, and the options by name."""

OPERATIONS = tuple(_FUNCTIONS)
"""Names of all operations."""

_PARTS = {"svd": ("svd_u", "svd_s", "svd_vt")}
"""Names of the results of operations that have several."""

_TAKES_A_NUMBER = frozenset({"add", "subtract", "multiply"})
"""Operations whose second operand may be a number."""


@dataclass(frozen=True)
class OperationResult:
    """The result of an operation that was not stored."""

    tensor: Any
    operation: str
    """Name of the operation, such as "add"; for the parts of an SVD "svd_u", "svd_s", "svd_vt"."""
    inputs: list[str]
    """Ids of the operands; a number as text."""
    computation_time: float
    """Seconds, including the time to read the operands."""
    cached: bool = False
    """Whether the result came from the cache."""
    timestamp: float = field(default_factory=time.time)
    """Seconds since 1970."""


Results: TypeAlias = tuple[OperationResult, ...]
"""The results of one operation: one, or three for an SVD."""


@dataclass(frozen=True)
class Operation:
    """An operation with its operands and options."""

    name: str
    dataset: str
    operands: tuple[Any, ...]
    """Ids (not validated), and numbers as torch takes them."""
    options: dict[str, Any]
    """Further arguments of the function, hashable."""

    def computed(self, torch: Any, read: Callable[[str, Any], Any]) -> Results:
        """Compute the operation.

        Args:
            torch: the module.
            read: returns the tensor with a given dataset and id.

        Raises:
            OperationError: torch cannot compute it.
        """
        start_s = time.perf_counter()
        values = [
            torch.as_tensor(read(self.dataset, operand)) if self._is_id(position) else operand
            for position, operand in enumerate(self.operands)
        ]
        try:
            found = _FUNCTIONS[self.name](torch, *values, **self.options)
        except RuntimeError as error:
            shown = " and ".join(map(_shown, self.operands, values))
            given = "".join(f", {name}={value}" for name, value in self.options.items() if value is not None)
            raise OperationError(f"{self.name} of {shown}{given} failed: {error} [dataset={self.dataset}]") from error
        elapsed_s = time.perf_counter() - start_s
        inputs = [str(operand) for operand in self.operands]
        if self.name not in _PARTS:
            return (OperationResult(found, self.name, inputs, elapsed_s),)
        return tuple(
            OperationResult(tensor, part, inputs, elapsed_s)
            for part, tensor in zip(_PARTS[self.name], found, strict=True)
        )

    def key(self, generation: Callable[[str, Any], Hashable | None]) -> tuple[Hashable, ...] | None:
        """Return the cache key; None if the generation of an operand is unknown.

        Args:
            generation: returns the generation of a record by dataset and id, or None if unknown.
        """
        parts: list[Hashable] = [self.name, self.dataset, *self.options.items()]
        for position, operand in enumerate(self.operands):
            # Use text, because 1, 1.0 and True are equal, and so are 0.0 and -0.0.
            parts.append(repr(operand))
            if self._is_id(position):
                found = generation(self.dataset, operand)
                if found is None:
                    return None
                parts.append(found)
        return tuple(parts)

    def _is_id(self, position: int) -> bool:
        return position == 0 or self.name not in _TAKES_A_NUMBER or isinstance(self.operands[position], str)


class ResultCache:
    """A thread-safe LRU cache of results."""

    def __init__(self, size_max: int) -> None:
        """Create an empty cache for at most `size_max` results."""
        self.size_max = size_max
        self._results: OrderedDict[tuple[Hashable, ...], Results] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Hashable, ...]) -> Results | None:
        """Return copies of cached results, or None."""
        with self._lock:
            results = self._results.get(key)
            if results is None:
                return None
            self._results.move_to_end(key)
        return _copies(results, cached=True)

    def put(self, key: tuple[Hashable, ...], results: Results) -> None:
        """Cache copies of results."""
        copies = _copies(results, cached=False)
        with self._lock:
            self._results[key] = copies
            self._results.move_to_end(key)
            while len(self._results) > self.size_max:
                self._results.popitem(last=False)

    def names(self) -> list[str]:
        """Return the cached operations as text, such as "add(id1, id2)", the most recently used last."""
        with self._lock:
            return [f"{key[0]}({', '.join(results[0].inputs)})" for key, results in self._results.items()]


def operation_of(name: str, dataset: str, operands: Sequence[Any], options: Mapping[str, Any]) -> Operation:
    """Return an operation from a user's arguments.

    Raises:
        TypeError: the second operand is neither an id nor a number.
    """
    plain = tuple(operand.item() if isinstance(operand, np.number) else operand for operand in operands)
    if name in _TAKES_A_NUMBER and not isinstance(plain[1], (str, Number)):
        raise TypeError(f"tensor_id2 is a {type(plain[1]).__name__}, must be the id of a record, or a number")
    frozen = {key: tuple(value) if isinstance(value, Sequence) else value for key, value in options.items()}
    return Operation(name, dataset, plain, frozen)


def _for_mean(torch: Any, tensor: Any) -> Any:
    return tensor if tensor.is_complex() or tensor.dtype is torch.float64 else tensor.float()


def _shown(operand: object, value: Any) -> str:
    shape = getattr(value, "shape", None)
    return str(operand) if shape is None else f"{operand} {list(shape)}"


def _copies(results: Results, *, cached: bool) -> Results:
    return tuple(replace(result, tensor=result.tensor.clone(), cached=cached) for result in results)
