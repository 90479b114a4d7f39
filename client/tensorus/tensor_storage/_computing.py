"""What the operations of `_operations.py` compute, and how results are kept for the next time.

A result is kept under the operation, its arguments, and the generations of its operands. A record that was replaced has another
generation, so that nothing out of date is found.
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
"""Every operation by name; of torch, the operands, and the options by name."""

OPERATIONS = tuple(_FUNCTIONS)
"""Their names."""

_PARTS = {"svd": ("svd_u", "svd_s", "svd_vt")}
"""Of operations with several results: what each is called."""

_TAKES_A_NUMBER = frozenset({"add", "subtract", "multiply"})
"""Operations whose second operand may be one."""


@dataclass(frozen=True)
class OperationResult:
    """What an operation gave, where it was not stored."""

    tensor: Any
    operation: str
    """Such as "add"; of the parts of an SVD "svd_u", "svd_s", "svd_vt"."""
    inputs: list[str]
    """Ids of the operands; a number as text."""
    computation_time: float
    """Seconds, with reading the operands."""
    cached: bool = False
    """Whether it had been kept from an earlier call."""
    timestamp: float = field(default_factory=time.time)
    """Seconds since 1970."""


Results: TypeAlias = tuple[OperationResult, ...]
"""Of one operation: one, or three of an SVD."""


@dataclass(frozen=True)
class Operation:
    """An operation with all that it is applied to."""

    name: str
    dataset: str
    operands: tuple[Any, ...]
    """Ids, whatever they are, and numbers as torch takes them."""
    options: dict[str, Any]
    """Further arguments of the function, hashable."""

    def computed(self, torch: Any, read: Callable[[str, Any], Any]) -> Results:
        """Compute it.

        Args:
            read: returns the tensor of a dataset and id.

        Raises:
            OperationError: torch cannot.
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
        """Return what only an operation with the same result has; None where that is not known.

        Args:
            generation: of a record, by dataset and id; None where that is not known.
        """
        parts: list[Hashable] = [self.name, self.dataset, *self.options.items()]
        for position, operand in enumerate(self.operands):
            # As text: 1, 1.0 and True are equal, and so are 0.0 and -0.0.
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
    """Results that are kept, at most so many: those that were used last. Safe in many threads."""

    def __init__(self, size_max: int) -> None:
        """Keep none yet."""
        self.size_max = size_max
        self._results: OrderedDict[tuple[Hashable, ...], Results] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Hashable, ...]) -> Results | None:
        """Return copies of results; None where there are none."""
        with self._lock:
            results = self._results.get(key)
            if results is None:
                return None
            self._results.move_to_end(key)
        return _copies(results, cached=True)

    def put(self, key: tuple[Hashable, ...], results: Results) -> None:
        """Keep copies of results."""
        copies = _copies(results, cached=False)
        with self._lock:
            self._results[key] = copies
            self._results.move_to_end(key)
            while len(self._results) > self.size_max:
                self._results.popitem(last=False)

    def names(self) -> list[str]:
        """Return each as text, such as "add(id1, id2)"; the one that was used last comes last."""
        with self._lock:
            return [f"{key[0]}({', '.join(results[0].inputs)})" for key, results in self._results.items()]


def operation_of(name: str, dataset: str, operands: Sequence[Any], options: Mapping[str, Any]) -> Operation:
    """Return an operation of what a user gives.

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
