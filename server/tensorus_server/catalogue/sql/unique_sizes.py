"""Sums over tensors in which those that share a payload count once."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["UniqueSizes"]

_KEY, _INLINE, _CANONICAL, _STORED = (
    TENSOR_COLUMNS.index(name) for name in ("key", "inline", "nbytes", "stored_bytes")
)


class UniqueSizes:
    """Adds up what tensors take beyond the first with the same payload, in 24 bytes of memory for each tensor.

    Payloads are told apart by a hash of 64 bits of their keys: enough for sums that nothing depends on.
    """

    def __init__(self) -> None:
        """Start with no tensors."""
        self._keys, self._canonical_bytes, self._stored_bytes = array("q"), array("q"), array("q")

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a verified row of `TENSOR_COLUMNS`. Inline payloads are never shared."""
        if not row[_INLINE]:
            self._keys.append(hash(row[_KEY]))
            self._canonical_bytes.append(row[_CANONICAL])
            self._stored_bytes.append(row[_STORED])

    def repeated(self) -> tuple[int, int]:
        """Return the canonical and the stored bytes of tensors whose payload an earlier one has."""
        keys, canonical_bytes, stored_bytes = map(_as_numpy, (self._keys, self._canonical_bytes, self._stored_bytes))
        _, first = np.unique(keys, return_index=True)

        def beyond_first(sizes: npt.NDArray[np.int64]) -> int:
            return int(sizes.sum() - sizes[first].sum())

        return beyond_first(canonical_bytes), beyond_first(stored_bytes)


def _as_numpy(numbers: array[int]) -> npt.NDArray[np.int64]:
    return np.frombuffer(numbers, np.int64) if numbers else np.empty(0, np.int64)
