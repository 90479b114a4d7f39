"""What `tensorus explain --base` adds: the tensors of a file as differences to those of the same ids in a dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus._grpc.convert_dataset import merged_shares
from tensorus.cli._bases import Bases
from tensorus.cli._explained import BaseExplanation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus.cli._bases import Place
    from tensorus.client import Client
    from tensorus.types import Base, PolicyExplanation

__all__ = ["explain_base"]

_TENSORS_MAX = 200
"""Tensors that are examined: each is a call of its own."""

_OTHER_PRESET = "none"
"""A call measures at least one policy, and this one takes the least time."""


def explain_base(
    client: Client, place: Place, arrays: Mapping[str, AnyArray], bytes_max: int
) -> BaseExplanation | None:
    """Return what differences to the tensors of a dataset would take; None if no tensor has a base there.

    Args:
        arrays: tensors of one dtype, by id. If they have more bytes than `bytes_max`, every k-th of them is examined.

    Raises:
        DatasetNotFoundError, SnapshotNotFoundError, StateNotKeptError: dataset or state do not exist.
    """
    bases = Bases(client, place)
    found: list[tuple[AnyArray, Base]] = []
    for tensor_id, array in arrays.items():
        base = bases.of(tensor_id, array)
        if base is not None:
            found.append((array, base))
    if not found:
        return None
    step = max(-(-sum(array.nbytes for array, _ in found) // bytes_max), -(-len(found) // _TENSORS_MAX))
    measured = [client.explain(array, policies=[_OTHER_PRESET], base=base)[-1] for array, base in found[::step]]
    return BaseExplanation(
        dataset=place[0],
        tensors=len(found),
        canonical_bytes=sum(array.nbytes for array, _ in found),
        explanation=_sum_of(measured),
    )


def _sum_of(explanations: Sequence[PolicyExplanation]) -> PolicyExplanation:
    """Return the explanation of all samples together. All are exact."""
    canonical_bytes = sum(found.canonical_bytes for found in explanations)

    def speed(field: str) -> float:
        spent_s: float = sum(found.canonical_bytes / getattr(found, field) for found in explanations)
        return canonical_bytes / spent_s

    return replace(
        explanations[0],
        canonical_bytes=canonical_bytes,
        quantized_bytes=sum(found.quantized_bytes for found in explanations),
        stored_bytes=sum(found.stored_bytes for found in explanations),
        encodings=merged_shares(share for found in explanations for share in found.encodings),
        fallback_reason="; ".join(
            dict.fromkeys(found.fallback_reason for found in explanations if found.fallback_reason)
        ),
        encode_bytes_per_second=speed("encode_bytes_per_second"),
        decode_bytes_per_second=speed("decode_bytes_per_second"),
    )
