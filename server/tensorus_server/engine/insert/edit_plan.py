"""Which chunks an edit changes, and where the values that were sent belong in them. No I/O.

An edit appends values along an axis, or writes values to a slice. Its values arrive in row-major order, as those of an insert
do. In that order they touch the chunks of the tensor one after the other, because the steps of a slice must be positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorus_server.engine.read.slices import SlicePlan, resolve_slices
from tensorus_server.errors import InvalidShapeError, InvalidSliceError
from tensorus_server.limits import TENSOR_BYTES_MAX
from tensorus_server.model import Append, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.model import Edit, NewTensor, Tensor

__all__ = ["EditPlan", "Touched"]


@dataclass(frozen=True)
class Touched:
    """A chunk that an edit changes."""

    chunk: int
    """Its number in the tensor."""
    sent_bytes: int
    """How many of the bytes that were sent belong in it."""
    canonical_bytes: int
    """Its size after the edit."""

    @property
    def is_whole(self) -> bool:
        """Whether the edit replaces all of it, so that nothing of the old chunk is needed."""
        return self.sent_bytes == self.canonical_bytes


class EditPlan:
    """One edit of one generation of a tensor."""

    def __init__(self, base: Tensor, new: NewTensor) -> None:
        """Check the edit and plan it.

        Args:
            base: the generation to change.
            new: the announcement; `new.spec` describes the values, and `new.edit` says where they belong.

        Raises:
            InvalidShapeError: the values do not fit the tensor, or an axis does not exist.
            InvalidSliceError: the slice does not fit the tensor.
        """
        assert new.edit is not None
        self._base = base
        self._sent = new.spec
        self._element_bytes = base.spec.dtype.element_bytes
        self._chunk_bytes = base.chunk_bytes
        if new.spec.dtype != base.spec.dtype:
            raise self._misfit(f"dtype of the values is {new.spec.dtype.name}, the tensor has {base.spec.dtype.name}")
        self._slices: SlicePlan | None = None
        if isinstance(new.edit, Append):
            self.spec = TensorSpec(base.spec.dtype, self._appended_shape(new.edit.axis))
            self._first, self._end = base.spec.canonical_bytes, self.spec.canonical_bytes
            if self._end > TENSOR_BYTES_MAX:
                raise self._misfit(
                    f"the tensor would have {self._end} bytes, limit is {TENSOR_BYTES_MAX} (tensor_bytes_max)"
                )
        else:
            self.spec = base.spec
            self._first, self._end = self._plan_write(new.edit)

    def touched(self) -> Iterator[Touched]:
        """Yield the chunks that the edit changes, in order."""
        if self._slices is None:
            chunk = self._first // self._chunk_bytes
            while chunk * self._chunk_bytes < self._end:
                start, stop = self._part(chunk)
                if stop > start:
                    yield Touched(chunk, stop - start, self._canonical_bytes(chunk))
                chunk += 1
            return
        for chunk in self._slices.chunks():
            elements = np.empty(self._canonical_bytes(chunk) // self._element_bytes, np.uint8)
            selected = sum(run.values.size for run in self._slices.pieces(chunk, elements))
            yield Touched(chunk, selected * self._element_bytes, self._canonical_bytes(chunk))

    def merge(self, touched: Touched, old: memoryview, sent: memoryview) -> bytearray:
        """Return a changed chunk.

        Args:
            old: the chunk before the edit; may be shorter, or empty, if the tensor grows.
            sent: the bytes that were sent for it.
        """
        merged = bytearray(touched.canonical_bytes)
        merged[: old.nbytes] = old[: touched.canonical_bytes]
        self._scatter(touched, merged, sent)
        return merged

    def sent_part(self, touched: Touched, canonical: memoryview) -> bytes:
        """Return the bytes that an edit put into a chunk: the reverse of `merge`."""
        if self._slices is None:
            start, stop = self._part(touched.chunk)
            return bytes(canonical[start:stop])
        elements = np.frombuffer(canonical, np.dtype((np.void, self._element_bytes)))
        return b"".join(run.values.tobytes() for run in self._slices.pieces(touched.chunk, elements))

    def keeps(self, touched: Touched, old: memoryview, new: memoryview) -> bool:
        """Whether all bytes that the edit does not write are the same in both chunks, which have `merge`'s layout."""
        sent = self.sent_part(touched, new)
        return self.merge(touched, old, memoryview(sent)) == new

    def same_layout(self, other: EditPlan) -> bool:
        """Whether the values belong in the same places of the same chunks if the tensor has changed since."""
        return (self.spec, self._chunk_bytes, self._first, self._end) == (
            other.spec,
            other._chunk_bytes,
            other._first,
            other._end,
        )

    def _scatter(self, touched: Touched, merged: bytearray, sent: memoryview) -> None:
        if self._slices is None:
            start, stop = self._part(touched.chunk)
            merged[start:stop] = sent
            return
        element = np.dtype((np.void, self._element_bytes))
        target, values = np.frombuffer(merged, element), np.frombuffer(sent, element)
        at = 0
        for run in self._slices.pieces(touched.chunk, target):
            # A view into `merged`.
            run.values[...] = values[at : at + run.values.size].reshape(run.values.shape)
            at += run.values.size

    def _part(self, chunk: int) -> tuple[int, int]:
        """Return the bytes of a chunk that a contiguous edit writes, counted from its start."""
        begin = chunk * self._chunk_bytes
        return max(self._first - begin, 0), min(self._end - begin, self._chunk_bytes)

    def _canonical_bytes(self, chunk: int) -> int:
        return min(self._chunk_bytes, self.spec.canonical_bytes - chunk * self._chunk_bytes)

    def _appended_shape(self, axis: int) -> tuple[int, ...]:
        base, sent = self._base.spec.shape, self._sent.shape
        if not -len(base) <= axis < len(base):
            raise self._misfit(f"axis of the append is {axis}, the tensor has {len(base)} axes")
        axis %= len(base)
        if math.prod(base[:axis]) != 1:
            raise self._misfit(
                f"axis of the append is {axis}, but the axes before it have sizes {list(base[:axis])}: values can be appended "
                "along the first axis whose size is not 1"
            )
        if len(sent) != len(base) or sent[:axis] + sent[axis + 1 :] != base[:axis] + base[axis + 1 :]:
            raise self._misfit(
                f"shape of the values is {list(sent)}, the tensor has {list(base)}: all axes but axis {axis} must be equal"
            )
        return (*base[:axis], base[axis] + sent[axis], *base[axis + 1 :])

    def _plan_write(self, edit: Edit) -> tuple[int, int]:
        """Plan a write; return its bytes if they are one run, else plan slices."""
        assert not isinstance(edit, Append)
        base = self._base
        selected = resolve_slices(edit.slices, base.spec.shape, dataset=base.dataset, tensor=base.id)
        for axis, (part, size) in enumerate(zip(edit.slices.axes, base.spec.shape, strict=False)):
            if (part.stop is not None and part.stop > size) or (part.start is not None and part.start > size):
                raise InvalidSliceError(
                    f"the write goes to {part.stop} on axis {axis}, the tensor has size {size} there",
                    dataset=base.dataset,
                    tensor=base.id,
                    limit=size,
                )
        if any(indices.step < 0 for indices in selected):
            raise InvalidSliceError(
                "a step of the write is negative, must be positive", dataset=base.dataset, tensor=base.id
            )
        slices = SlicePlan(base.spec.shape, selected, self._chunk_bytes // self._element_bytes)
        if slices.result_shape != self._sent.shape:
            raise self._misfit(
                f"shape of the values is {list(self._sent.shape)}, the slice has {list(slices.result_shape)}"
            )
        run = slices.contiguous()
        if run is None:
            self._slices = slices
            return 0, 0
        first, count = (amount * self._element_bytes for amount in run)
        return first, first + count

    def _misfit(self, message: str) -> InvalidShapeError:
        return InvalidShapeError(message, dataset=self._base.dataset, tensor=self._base.id)
