"""Combines the policies of algorithms, and converts a client's policy to a plan of the codecs, in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy

if TYPE_CHECKING:
    from tensorus.types import Policy
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.plan import ChunkPlan

__all__ = ["chain", "plan_of"]


def chain(quantization: Policy, compression: Policy, preset: str | None = None) -> Policy:
    """Return the policy of a quantizer followed by a compressor, with the error bounds of the quantizer.

    Args:
        quantization: policy of the quantizer.
        compression: policy of the compressor.
        preset: replaces the codecs.
    """
    steps = [*(quantization.encoding or ()), *(compression.encoding or ())]
    if preset is not None or not steps:
        return dataclasses.replace(quantization, preset=preset or "none", encoding=None)
    return dataclasses.replace(quantization, encoding=steps)


def plan_of(policy: Policy, dtype: DType) -> ChunkPlan:
    """Return the plan of `policy` for tensors of `dtype`.

    Raises:
        ImportError: the library of a codec that the policy names is not installed. A preset avoids such codecs instead.
    """
    encoding = None
    if policy.encoding is not None:
        steps = [dict(step) if isinstance(step, Mapping) else {"id": step} for step in policy.encoding]
        try:
            encoding = Encoding.from_json(steps)
        except UnsupportedCodecError as error:
            raise ImportError(str(error)) from error
    return plan(
        StoragePolicy(
            policy.preset, encoding, policy.max_relative_error, policy.max_absolute_error, policy.chunk_bytes
        ),
        dtype,
    )
