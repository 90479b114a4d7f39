"""Samples: everything where that is little, and evenly spread pieces of whole chunks where it is much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.arrays import canonical, random_bits
from support.cases import each
from support.client import ARRAYS
from tensorus._arrays import sample
from tensorus._arrays.sample import SAMPLE_BYTES_MAX, sample_of
from tensorus_server.limits import EXPLAIN_BYTES_MAX

PIECE_BYTES = 64


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "PIECE_BYTES", PIECE_BYTES)


def numbered(piece_count: int, more_bytes: int = 0) -> np.ndarray[Any, Any]:
    """Return bytes that say the number of their piece, and some more."""
    return np.repeat(np.arange(piece_count + 1, dtype=np.uint8), PIECE_BYTES)[: piece_count * PIECE_BYTES + more_bytes]


def bytes_of(arrays: list[np.ndarray[Any, Any]], bytes_max: int = SAMPLE_BYTES_MAX) -> bytes:
    sample = sample_of(arrays, bytes_max)
    found = b"".join(sample.blocks(48))
    assert len(found) == sample.canonical_bytes <= bytes_max
    assert sample.shape == (len(found) // arrays[0].itemsize,)
    return found


def pieces_of(arrays: list[np.ndarray[Any, Any]], bytes_max: int) -> list[int]:
    """Return the numbers of the pieces in a sample of `numbered` arrays, each of which must be whole."""
    found = np.frombuffer(bytes_of(arrays, bytes_max), np.uint8)
    assert found.size % PIECE_BYTES == 0
    pieces = found.reshape(-1, PIECE_BYTES)
    assert (pieces == pieces[:, :1]).all()
    return pieces[:, 0].tolist()


def test_as_much_is_taken_as_a_server_takes() -> None:
    assert SAMPLE_BYTES_MAX == EXPLAIN_BYTES_MAX


@each("name", ARRAYS)
def test_of_little_everything_is_taken_in_order(name: str) -> None:
    array = ARRAYS[name]()
    assert bytes_of([array]) == canonical(array)
    assert sample_of([array]).dtype == array.dtype.newbyteorder("=").name


@each("name", ARRAYS)
def test_pieces_of_any_array_are_pieces_of_its_canonical_bytes(name: str) -> None:
    array = ARRAYS[name]()
    found, whole = bytes_of([array], 3 * PIECE_BYTES), canonical(array)
    for start in range(0, len(found) // PIECE_BYTES * PIECE_BYTES, PIECE_BYTES):
        assert whole.find(found[start : start + PIECE_BYTES]) >= 0


@each(
    ("piece_count", "bytes_max", "expected"),
    [
        (8, 8 * PIECE_BYTES, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 3 * PIECE_BYTES, [1, 4, 7]),
        (100, 4 * PIECE_BYTES, [12, 37, 62, 87]),
        (100, PIECE_BYTES, [50]),
        (3, 2 * PIECE_BYTES + 63, [0, 2]),
    ],
)
def test_pieces_are_whole_and_evenly_spread(piece_count: int, bytes_max: int, expected: list[int]) -> None:
    assert pieces_of([numbered(piece_count)], bytes_max) == expected


def test_pieces_are_spread_over_all_arrays() -> None:
    arrays = [numbered(100)[start * PIECE_BYTES :][: 25 * PIECE_BYTES] for start in (0, 25, 50, 75)]
    assert pieces_of(arrays, 4 * PIECE_BYTES) == [12, 37, 62, 87]


def test_of_few_tensors_all_are_taken_each_as_a_tensor() -> None:
    arrays = [np.full(3, 101, np.uint8), numbered(2, 5), np.empty(0, np.uint8), numbered(1)]
    assert bytes_of(arrays) == b"".join(map(canonical, arrays))
    assert list(sample_of(arrays).tensor_bytes) == [3, 2 * PIECE_BYTES + 5, PIECE_BYTES]


def test_one_tensor_is_one_tensor() -> None:
    assert sample_of([numbered(3, 5)]).tensor_bytes == ()


def test_of_many_tensors_pieces_of_the_large_ones_are_one_and_each_small_one_is_its_own() -> None:
    arrays = [numbered(8, 5), *[np.full(10, 200, np.uint8)] * 4]
    assert list(sample_of(arrays, 5 * PIECE_BYTES + 30).tensor_bytes) == [5 * PIECE_BYTES, 5, 10, 10]


def test_every_size_of_small_tensors_has_its_share() -> None:
    # Every fifth is large: whoever takes every fifth would take only these, and whoever takes what fits none of them.
    arrays = [np.full(size, 1, np.uint8) for _ in range(100) for size in (1, 1, 50, 1, 1)]
    sizes = list(sample_of(arrays, 1080).tensor_bytes)
    assert (sizes.count(1), sizes.count(50)) == (80, 20)


def test_of_very_many_small_tensors_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_SMALL_TENSORS_MAX", 10)
    arrays = [numbered(100), *[np.full(2, 200, np.uint8)] * 100]
    sizes = list(sample_of(arrays).tensor_bytes)
    # The large one is cut down likewise: it keeps its share.
    assert sizes == [10 * PIECE_BYTES, *[2] * 10]


def test_small_arrays_have_their_share() -> None:
    large, small = numbered(90), [np.full(10, 200, np.uint8) for _ in range(10 * PIECE_BYTES // 10)]
    found = np.frombuffer(bytes_of([large, *small], 10 * PIECE_BYTES), np.uint8)
    # A tenth of the bytes are in small arrays, and so is a tenth of the sample.
    assert np.count_nonzero(found == 200) == pytest.approx(PIECE_BYTES, abs=10)
    assert np.count_nonzero(found != 200) == 9 * PIECE_BYTES


def test_among_small_arrays_the_chosen_ones_are_spread() -> None:
    arrays = [np.full(10, number, np.uint8) for number in range(100)]
    found = np.frombuffer(bytes_of(arrays, 200), np.uint8)[::10].astype(int)
    assert len(found) == 20
    assert set(np.diff(found)) == {5}


def test_one_whole_piece_is_taken_however_small_its_share() -> None:
    assert pieces_of([numbered(2), *[np.full(1, 3, np.uint8)] * 4], PIECE_BYTES) == [1]


def test_whole_pieces_of_every_width_are_whole_elements() -> None:
    for dtype in ("uint8", "bfloat16", "float32", "complex128"):
        array = random_bits(dtype, (1000,))
        assert sample_of([array], 5 * PIECE_BYTES).canonical_bytes == 5 * PIECE_BYTES
