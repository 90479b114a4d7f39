"""Chunk details tell of a tensor what was measured of its chunks, in whole and in parts."""

from __future__ import annotations

import dataclasses
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from support.arrays import normal
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.measure import MeasuredError
from tensorus_codecs.pipeline import EncodedChunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import PartialSummary
from tensorus_server.chunk_details import DETAIL_BYTES, ChunkDetails

CHUNK = 1024
"""Elements."""

POLICIES = {
    "lossless": StoragePolicy("lossless"),
    "int8": StoragePolicy("int8_only"),
    "int8, within an error that it exceeds": StoragePolicy("int8_only", max_relative_error=1e-9),
}


def encoded(array: np.ndarray[Any, Any], policy: str = "int8") -> list[EncodedChunk]:
    """Return the chunks of an array."""
    dtype = dtype_by_name(array.dtype.name)
    chunk_plan = plan(POLICIES[policy], dtype)
    return [encode_chunk(array[at : at + CHUNK].tobytes(), dtype, chunk_plan) for at in range(0, array.size, CHUNK)]


def details_of(chunks: list[EncodedChunk], first: int = 0) -> ChunkDetails:
    details = ChunkDetails()
    for number, chunk in enumerate(chunks, first):
        details.append(chunk, number.to_bytes(16, "big"))
    return details


def facts(details: ChunkDetails) -> dict[str, Any]:
    """Return everything that the details tell."""
    sizes = [1] * len(details)
    return {
        "count": len(details),
        "digests": details.digests,
        "quantized_bytes": details.quantized_bytes,
        "is_lossy": details.is_lossy,
        "error": details.error,
        "summary": details.summary,
        "shares": sorted(details.shares(sizes, sizes), key=str),
        "fallbacks": details.fallbacks(),
    }


ARRAY = normal((5000,), seed=1)
ARRAY[::100] = 0
ARRAY[1], ARRAY[2] = np.nan, np.inf


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_stored_is_parsed(policy: str) -> None:
    details = details_of(encoded(ARRAY, policy))
    stored = details.packed()
    parsed = ChunkDetails.parse(stored, 5)
    assert facts(parsed) == facts(details)
    assert parsed.packed() == stored
    assert stored[:16] == bytes(16)
    assert stored[DETAIL_BYTES : DETAIL_BYTES + 16] == (1).to_bytes(16, "big")


def test_they_tell_the_errors_and_the_summary_of_the_whole_tensor() -> None:
    array = normal((5000,), seed=2)
    chunks = encoded(array)
    details = details_of(chunks)
    error, summary = MeasuredError(), PartialSummary()
    for chunk in chunks:
        assert chunk.error is not None
        assert chunk.summary is not None
        error, summary = error + chunk.error, summary + chunk.summary
    assert details.is_lossy
    assert astuple(details.error) == pytest.approx(astuple(error))
    assert details.summary is not None
    assert astuple(details.summary) == pytest.approx(astuple(summary))
    assert details.quantized_bytes == sum(chunk.quantized_bytes for chunk in chunks)
    read = np.concatenate([np.frombuffer(chunk.decoded, np.float32) for chunk in chunks if chunk.decoded is not None])
    difference = np.abs(read.astype(np.float64) - array)
    assert details.error.max_absolute_error == difference.max()
    assert (details.error.count, details.summary.minimum, details.summary.maximum) == (5000, array.min(), array.max())


def test_numbers_that_are_not_finite_and_zeros_are_counted() -> None:
    found = details_of(encoded(ARRAY, "lossless")).summary
    assert found is not None
    assert (found.nan_count, found.infinity_count, found.zero_count) == (1, 1, 50)


def test_without_chunks_they_tell_nothing() -> None:
    details = ChunkDetails.parse(ChunkDetails().packed(), 0)
    assert facts(details) == facts(ChunkDetails())
    assert (details.summary, details.is_lossy, details.error.count) == (None, False, 0)


def test_errors_of_extreme_values_neither_overflow_nor_vanish() -> None:
    for scale in (1e-30, 1e30):
        array = normal((3000,))
        error = details_of(encoded((array / array.std() * scale).astype(np.float32))).error
        assert 0 < error.rms_error < np.inf
        assert error.rms_value == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize("first", [0, 2, 5])
def test_parts_of_others_are_added_whatever_their_encodings_are(first: int) -> None:
    mine, theirs = encoded(ARRAY[:2000], "int8, within an error that it exceeds"), encoded(ARRAY)
    others = details_of(theirs, 100)
    details = details_of(mine)
    details.extend(others, first, 5 - first)
    expected = details_of(mine)
    for number, chunk in enumerate(theirs[first:], 100 + first):
        expected.append(chunk, number.to_bytes(16, "big"))
    assert facts(details) == facts(expected)


def test_more_reasons_than_are_stored_are_replaced_by_the_last() -> None:
    (chunk,) = encoded(ARRAY[:CHUNK])
    details = ChunkDetails()
    for number in range(300):
        details.append(dataclasses.replace(chunk, fallback_reason=f"{number}"), bytes(16))
    found = ChunkDetails.parse(details.packed(), 300).fallbacks()
    assert len(found) == 254
    assert found["0"] == 1
    assert found["253"] == 300 - 253


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"{}", b'{"encodings": 1, "fallbacks": []}'])
def test_what_are_no_details_are_refused(damaged: bytes) -> None:
    stored = details_of(encoded(ARRAY)).packed()
    with pytest.raises(ValueError):
        ChunkDetails.parse(stored[: 5 * DETAIL_BYTES] + damaged, 5)
    with pytest.raises(ValueError):
        ChunkDetails.parse(stored, 6)
