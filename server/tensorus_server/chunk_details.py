"""Chunk details: what is known of each chunk of a payload apart from its record's place, packed as it is stored.

Readers do not need them. They serve those who change a tensor: the digest, the measured errors and the summary of a tensor are
computed from the details of its chunks, so that nothing of an unchanged chunk has to be read again. Verification compares the
digests.

Layout, little-endian, 100 bytes for each chunk in order, followed by a JSON text:

     at  size  field
      0    16  digest           XXH3-128 of the chunk's canonical bytes as readers get them, big-endian
     16     4  quantized_bytes
     20     2  encoding         index in the JSON's "encodings"
     22     1  fallback         1 + index in the JSON's "fallbacks"; 0: the policy was followed
     23     1  flags            bit 0: lossy, has an error; bit 1: has a summary of its values
     24     4  error: number of finite values
     28    24  error: root mean square of the error, of the values, and the largest error (float64)
     52     4  summary: number of finite values
     56    32  summary: minimum, maximum, sum, sum of squares (float64)
     88    12  summary: number of zeros, NaNs, infinities
"""

from __future__ import annotations

import json
import struct
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_codecs.measure import MeasuredError
from tensorus_codecs.summary import PartialSummary
from tensorus_protos.rules import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_codecs.pipeline import EncodedChunk

__all__ = ["DETAIL_BYTES", "ChunkDetails"]

_ERROR = np.dtype([("count", "<u4"), ("rms_error", "<f8"), ("rms_value", "<f8"), ("max_absolute_error", "<f8")])

_SUMMARY = np.dtype(
    [
        ("finite_count", "<u4"),
        ("minimum", "<f8"),
        ("maximum", "<f8"),
        ("total", "<f8"),
        ("total_of_squares", "<f8"),
        ("zero_count", "<u4"),
        ("nan_count", "<u4"),
        ("infinity_count", "<u4"),
    ]
)

_ENTRY = np.dtype(
    [
        ("digest", "V16"),
        ("quantized_bytes", "<u4"),
        ("encoding", "<u2"),
        ("fallback", "u1"),
        ("flags", "u1"),
        ("error", _ERROR),
        ("summary", _SUMMARY),
    ]
)

_PACKED = struct.Struct("<16sIHBBIdddIddddIII")
"""The same layout: packing one entry with NumPy takes ten times as long."""

DETAIL_BYTES = _ENTRY.itemsize
"""Size per chunk."""

_LOSSY, _SUMMARIZED = 1, 2

_FALLBACKS_MAX = 254
"""Distinct reasons that are stored. Further ones are replaced by the last, because reasons may contain measured values."""


class ChunkDetails:
    """The details of some chunks, in order. Not thread-safe."""

    def __init__(self) -> None:
        """Start without chunks."""
        self._packed = bytearray()
        self._encodings: dict[str, int] = {}
        self._fallbacks: dict[str, int] = {}

    @classmethod
    def parse(cls, stored: bytes, count: int) -> ChunkDetails:
        """Return the details of `count` chunks from their stored form, whose checksum the caller has verified.

        Raises:
            ValueError: it is not a stored form of so many chunks.
        """
        details = cls()
        end = count * DETAIL_BYTES
        texts = json.loads(stored[end:])
        details._packed = bytearray(stored[:end])
        try:
            details._encodings = {to_json(encoding): number for number, encoding in enumerate(texts["encodings"])}
            details._fallbacks = {reason: number for number, reason in enumerate(texts["fallbacks"])}
        except (KeyError, TypeError) as error:
            raise ValueError(f"the texts of chunk details lack a list: {error}") from error
        return details

    def packed(self) -> bytes:
        """Return the stored form."""
        texts = {"encodings": [json.loads(text) for text in self._encodings], "fallbacks": list(self._fallbacks)}
        return bytes(self._packed) + to_json(texts).encode()

    def append(self, encoded: EncodedChunk, digest: bytes) -> None:
        """Add the next chunk.

        Args:
            encoded: the encoded chunk.
            digest: XXH3-128 of its canonical bytes as readers get them.
        """
        flags = 0
        error: tuple[float, ...] = (0, 0.0, 0.0, 0.0)
        summary: tuple[float, ...] = (0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0)
        if encoded.error is not None:
            flags |= _LOSSY
            error = astuple(encoded.error)
        if encoded.summary is not None:
            flags |= _SUMMARIZED
            summary = astuple(encoded.summary)
        self._packed += _PACKED.pack(
            digest,
            encoded.quantized_bytes,
            self._encoding(to_json(encoded.encoding.to_json())),
            1 + self._fallback(encoded.fallback_reason) if encoded.fallback_reason else 0,
            flags,
            *error,
            *summary,
        )

    def extend(self, other: ChunkDetails, first: int, count: int) -> None:
        """Add `count` chunks of other details, starting with number `first`."""
        entries = other._entries[first : first + count].copy()
        if entries.size:
            encodings = [self._encoding(text) for text in other._encodings]
            fallbacks = [0, *(1 + self._fallback(reason) for reason in other._fallbacks)]
            entries["encoding"] = np.array(encodings, np.uint16)[entries["encoding"]]
            entries["fallback"] = np.array(fallbacks, np.uint8)[entries["fallback"]]
        self._packed += entries.tobytes()

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._packed) // DETAIL_BYTES

    @property
    def digests(self) -> bytes:
        """The chunks' digests in order, joined."""
        return self._entries["digest"].tobytes()

    def chunks_with(self, is_wanted: Callable[[list[Any]], bool]) -> list[int]:
        """Return the numbers of the chunks whose encoding, as JSON, is wanted, in order."""
        wanted = np.array([is_wanted(json.loads(text)) for text in self._encodings], np.bool_)
        if not wanted.any():
            return []
        numbers: list[int] = np.flatnonzero(wanted[self._entries["encoding"]]).tolist()
        return numbers

    @property
    def quantized_bytes(self) -> int:
        """The sum over all chunks."""
        return int(self._entries["quantized_bytes"].sum(dtype=np.int64))

    @property
    def is_lossy(self) -> bool:
        """Whether any chunk is lossy."""
        return bool((self._entries["flags"] & _LOSSY).any())

    @property
    def error(self) -> MeasuredError:
        """The error of all lossy chunks together."""
        entries = self._entries
        found = entries["error"][(entries["flags"] & _LOSSY) != 0]
        counts = found["count"].astype(np.float64)
        count = counts.sum()
        if not count:
            return MeasuredError(0, 0.0, 0.0, float(found["max_absolute_error"].max(initial=0.0)))

        def rms(field: str) -> float:
            largest = found[field].max(initial=0.0)
            # Scaled, so that squares neither overflow nor underflow.
            return (
                float(largest * np.sqrt(((found[field] / largest) ** 2 * (counts / count)).sum())) if largest else 0.0
            )

        return MeasuredError(
            int(count), rms("rms_error"), rms("rms_value"), float(found["max_absolute_error"].max(initial=0.0))
        )

    @property
    def summary(self) -> PartialSummary | None:
        """The summary of all values; None for dtypes without one, and without chunks."""
        entries = self._entries
        found = entries["summary"][(entries["flags"] & _SUMMARIZED) != 0]
        if not found.size:
            return None
        finite = found[found["finite_count"] > 0]

        def count(field: str) -> int:
            return int(found[field].sum(dtype=np.int64))

        return PartialSummary(
            finite_count=count("finite_count"),
            minimum=float(finite["minimum"].min(initial=np.inf)),
            maximum=float(finite["maximum"].max(initial=-np.inf)),
            total=float(finite["total"].sum()),
            total_of_squares=float(finite["total_of_squares"].sum()),
            zero_count=count("zero_count"),
            nan_count=count("nan_count"),
            infinity_count=count("infinity_count"),
        )

    def shares(
        self, canonical_bytes: Sequence[int], stored_bytes: Sequence[int]
    ) -> list[tuple[list[Any], int, int, int]]:
        """Return each encoding, as JSON, with its number of chunks, canonical bytes and stored bytes.

        Args:
            canonical_bytes: of each chunk.
            stored_bytes: of each chunk's record.
        """
        numbers = self._entries["encoding"]
        size = len(self._encodings)
        chunks = np.bincount(numbers, minlength=size)
        canonical = _sums(numbers, canonical_bytes, size)
        stored = _sums(numbers, stored_bytes, size)
        return [
            (json.loads(text), int(chunks[number]), int(canonical[number]), int(stored[number]))
            for text, number in self._encodings.items()
            if chunks[number]
        ]

    def fallbacks(self) -> dict[str, int]:
        """Return the reasons why chunks do not follow the policy, with the number of chunks of each."""
        counts = np.bincount(self._entries["fallback"], minlength=len(self._fallbacks) + 1)
        return {reason: int(counts[number + 1]) for reason, number in self._fallbacks.items() if counts[number + 1]}

    @property
    def _entries(self) -> np.ndarray[Any, Any]:
        # A view: copying a record of many would copy all of them each time. It must not outlive the call.
        return np.frombuffer(self._packed, _ENTRY)

    def _encoding(self, text: str) -> int:
        return self._encodings.setdefault(text, len(self._encodings))

    def _fallback(self, reason: str) -> int:
        if reason not in self._fallbacks and len(self._fallbacks) >= _FALLBACKS_MAX:
            return _FALLBACKS_MAX - 1
        return self._fallbacks.setdefault(reason, len(self._fallbacks))


def _sums(numbers: np.ndarray[Any, Any], amounts: Sequence[int], size: int) -> np.ndarray[Any, Any]:
    """Return the sum of the amounts for each number, in integers: float64 would round sums above 2**53."""
    sums = np.zeros(size, np.int64)
    np.add.at(sums, numbers, np.asarray(amounts, np.int64))
    return sums
