"""Limits on what is marked, small enough that a tensor of a few kilobytes goes through all that a large one does."""

from __future__ import annotations

import pytest

from tensorus_server.engine.insert import tensor_writer

__all__ = ["mark_tensors"]


def mark_tensors(patch: pytest.MonkeyPatch, *, above_bytes: int, every_bytes: int) -> None:
    """Until `patch` is undone, mark tensors larger than `above_bytes` whenever `every_bytes` more of them are stored."""
    patch.setattr(tensor_writer, "RESUMABLE_BYTES_MIN", above_bytes)
    patch.setattr(tensor_writer, "MARK_EVERY_BYTES", every_bytes)
