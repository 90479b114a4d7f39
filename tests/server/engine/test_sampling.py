"""A sample is what sorting by rank gives, and a rank is what `splitmix64` says."""

from __future__ import annotations

import random

import pytest

from support.cases import each
from tensorus_server.engine import sampling
from tensorus_server.engine.sampling import ranks, sample

WORD = 2**64


def mixed(word: int) -> int:
    """Mix a word as `splitmix64` does, in Python's integers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


def slow_rank(generation: int, seed: int) -> int:
    """Return the rank of one generation, step by step."""
    step = 0x9E3779B97F4A7C15
    return mixed(mixed((generation + step) % WORD) ^ mixed((seed + step) % WORD))


def test_the_mixing_is_splitmix64() -> None:
    # The first three words of the reference implementation for the state 1234567.
    step = 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mixed((1234567 + times * step) % WORD) for times in (1, 2, 3)] == expected


@each("seed", [0, 1, 2**32, WORD - 1])
def test_ranks_equal_the_slow_ones(seed: int) -> None:
    generations = [1, 2, 3, 2**32, 2**53 + 1, 2**63 - 1]
    assert ranks(generations, seed).tolist() == [slow_rank(generation, seed) for generation in generations]


@pytest.mark.parametrize("count", [0, 1, 5, 99, 100, 101])
@pytest.mark.parametrize("page", [1, 7, 1000])
def test_a_sample_is_the_lowest_ranks_in_their_order(count: int, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that what is gathered is cut many times.
    monkeypatch.setattr(sampling, "_PENDING_MIN", 1)
    generations = random.Random(count).sample(range(1, 10**6), 100)
    pages = [generations[start : start + page] for start in range(0, 100, page)]
    ordered = sorted(generations, key=lambda generation: slow_rank(generation, 5))
    assert sample(pages, count, 5) == ordered[:count]
    for place in (0, 50, 99):
        assert sample(pages, count, 5, after=ordered[place]) == ordered[place + 1 :][:count]


def test_a_sample_of_nothing_is_empty() -> None:
    assert sample([], 5, 1) == sample([[]], 5, 1) == sample([[]], 5, 1, after=7) == []
