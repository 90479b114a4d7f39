"""How a copied tensor is stored, so that its values do not change again.

A store does not tell the policy of a tensor, and does not store chunk records as it gets them. So a copy is encoded again, from
the values that readers of the source get. Quantizing these a second time could alter them. So a copy is stored

    lossless source    losslessly
    lossy source       under the preset of its main encoding, with an allowed error of 0: a chunk whose values the quantizer
                       reproduces exactly is stored as small as before, any other one losslessly

The quantizers of `_PRESETS` reproduce their own values. 8-bit blocks do not, because their scales are rounded. An error of 0
still allows a NaN to lose its payload. So the caller compares checksums, and stores a tensor losslessly if they differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorus.types import Policy

if TYPE_CHECKING:
    from tensorus.types import Metadata, TensorInfo

__all__ = [
    "HAS_ERROR_BEFORE",
    "STORED_BEFORE",
    "copied_metadata",
    "error_before",
    "exact_policy",
    "is_same_metadata",
    "lossless_policy",
]

STORED_BEFORE = "stored_before"
"""Key of the metadata that a copy of a lossy tensor has in addition: the errors and encodings of the original. The store of the
copy measures errors against the values that it received."""

HAS_ERROR_BEFORE = f"{STORED_BEFORE}.relative_error EXISTS"
"""The filter of tensors that were lossy before they were copied."""

_LOSSLESS = frozenset({"none", "fast", "lossless", "archive"})

_PRESETS = {"fp16": "balanced", "bf16": "bf16", "int4_block": "extreme"}
"""Presets by the first codec of an encoding."""


def exact_policy(info: TensorInfo, dataset_policy: Policy) -> Policy:
    """Return the policy under which a copy of a tensor is stored.

    Args:
        info: the tensor in the source.
        dataset_policy: the policy of its dataset there.
    """
    if not info.lossy:
        return lossless_policy(info, dataset_policy)
    main = max(info.encodings, key=lambda share: share.canonical_bytes).codecs
    preset = "fp16_only" if main == ("fp16",) else _PRESETS.get(main[0] if main else "")
    if preset is None:
        return lossless_policy(info, dataset_policy)
    return Policy(preset=preset, max_absolute_error=0.0, chunk_bytes=_chunk_bytes(info, dataset_policy))


def lossless_policy(info: TensorInfo, dataset_policy: Policy) -> Policy:
    """Return the dataset's policy if that is a lossless preset, else the preset "lossless", with the tensor's chunks."""
    preset = dataset_policy.preset if dataset_policy.preset in _LOSSLESS else "lossless"
    return Policy(preset=preset, chunk_bytes=_chunk_bytes(info, dataset_policy))


def _chunk_bytes(info: TensorInfo, dataset_policy: Policy) -> int | None:
    # An older server does not tell the size of a tensor's chunks.
    return info.chunk_bytes or dataset_policy.chunk_bytes


def copied_metadata(info: TensorInfo) -> Metadata:
    """Return the metadata of a copy: those of the tensor, and what is lost with its encoding."""
    if not info.lossy or STORED_BEFORE in info.metadata:
        return info.metadata
    before: dict[str, Any] = {
        "relative_error": info.relative_error,
        "max_absolute_error": info.max_absolute_error,
        "encodings": [" > ".join(share.codecs) for share in info.encodings],
    }
    return info.metadata | {STORED_BEFORE: before}


def error_before(metadata: Metadata) -> float:
    """Return the relative error that a tensor had before it was copied; 0 if none is recorded."""
    before = metadata.get(STORED_BEFORE)
    error = before.get("relative_error") if isinstance(before, dict) else None
    return error if isinstance(error, float) else 0.0


def is_same_metadata(one: Metadata, other: Metadata) -> bool:
    """Return whether two tensors have the same metadata, apart from what copies have in addition."""
    return _own(one) == _own(other)


def _own(metadata: Metadata) -> Metadata:
    # As text, because 1, 1.0 and True are equal in Python, and -0.0 and 0.0. NaN is not equal to itself.
    return {key: repr(_sorted(value)) for key, value in metadata.items() if key != STORED_BEFORE}


def _sorted(value: Any) -> Any:  # `Any`: as in `Metadata`
    """Return the value with the keys of its dicts in order."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
