"""Storage policies: a preset or an explicit encoding, and optionally an error contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus_codecs.abc import BaseFilter
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import InvalidPolicyError
from tensorus_codecs.presets import preset_by_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHUNK_BYTES_DEFAULT", "CHUNK_BYTES_MIN", "StoragePolicy"]

CHUNK_BYTES_DEFAULT = 1024 * 1024
"""Large enough for compressors and the transport, small enough for slices. Measured: grpcio is fastest with 1 MiB messages."""

CHUNK_BYTES_MIN = 4096
"""One page. The headers of smaller chunks cost more than encoding saves."""

_CHUNK_ALIGNMENT = 16
"""The widest element, so that a chunk of any dtype holds whole elements."""


@dataclass(frozen=True)
class StoragePolicy:
    """How to store tensors. Set at most one of `preset` and `encoding`; with neither, the default preset applies."""

    preset: str | None = None
    """A name in `PRESETS`."""
    encoding: Encoding | None = None
    """An explicit chain of codecs."""
    max_relative_error: float | None = None
    """Upper bound of the L2 norm of the error divided by the L2 norm of the chunk; finite, >= 0."""
    max_absolute_error: float | None = None
    """Upper bound of the error of any element (of its real and imaginary part, if complex); finite, >= 0."""
    chunk_bytes: int | None = None
    """Canonical bytes per chunk: a multiple of 16 from 4096 to 2 MiB; None: 1 MiB."""

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            InvalidPolicyError: names the key, its value and the allowed values.
        """
        if self.preset is not None and self.encoding is not None:
            raise InvalidPolicyError(f"policy has both preset {self.preset!r} and an encoding, must have at most one")
        if self.preset is not None:
            # Raises if no preset has this name.
            preset_by_name(self.preset)
        if self.encoding is not None and isinstance(self.encoding.filter, BaseFilter):
            raise InvalidPolicyError(
                f"encoding of a policy has the filter {self.encoding.filter.id!r}, which needs a base; a policy has none"
            )
        for name in ("max_relative_error", "max_absolute_error"):
            bound = getattr(self, name)
            if bound is not None and not (math.isfinite(bound) and bound >= 0):
                raise InvalidPolicyError(f"{name} of a policy is {bound}, must be finite and not negative")
        if self.chunk_bytes is not None and not (
            CHUNK_BYTES_MIN <= self.chunk_bytes <= CANONICAL_BYTES_MAX and self.chunk_bytes % _CHUNK_ALIGNMENT == 0
        ):
            raise InvalidPolicyError(
                f"chunk_bytes of a policy is {self.chunk_bytes}, must be a multiple of {_CHUNK_ALIGNMENT} "
                f"from {CHUNK_BYTES_MIN} to {CANONICAL_BYTES_MAX} bytes"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        fields = {
            "preset": self.preset,
            "encoding": None if self.encoding is None else self.encoding.to_json(),
            "max_relative_error": self.max_relative_error,
            "max_absolute_error": self.max_absolute_error,
            "chunk_bytes": self.chunk_bytes,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StoragePolicy:
        """Return the policy that `to_json` describes. Raises as the constructor and `Encoding.from_json` do."""
        known = dict(fields)
        encoding = known.pop("encoding", None)
        return cls(encoding=None if encoding is None else Encoding.from_json(encoding), **known)
