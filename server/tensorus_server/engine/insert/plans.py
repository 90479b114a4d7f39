"""Which plan the chunks of a tensor follow: its own policy's, or that of its dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_codecs.plan import plan

if TYPE_CHECKING:
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.model import Dataset, NewTensor, TensorSpec

__all__ = ["Plans"]


class Plans:
    """Plans of tensors of one dataset. The last one is cached, since most tensors are like the one before."""

    def __init__(self, dataset: Dataset) -> None:
        """Start with an empty cache."""
        self._policy = dataset.policy
        self._last: tuple[TensorSpec, ChunkPlan] | None = None

    def of(self, new: NewTensor) -> ChunkPlan:
        """Return the plan for the tensor's chunks.

        Raises:
            CodecError: the policy cannot be followed for its dtype.
        """
        if new.policy is not None:
            return plan(new.policy, new.spec.dtype)
        # Specs are cached where they are made, so that equal ones are mostly the same object.
        if self._last is None or self._last[0] is not new.spec:
            self._last = new.spec, plan(self._policy, new.spec.dtype)
        return self._last[1]
