"""A random sample that can be resumed.

Each generation has a rank, a 64-bit hash of the generation and the sample's seed. A sample of n tensors consists of the n
lowest ranks, in rank order, so every set of n is equally likely, and so is every order of it. An interrupted sample resumes
above the rank of its last tensor. So it never returns a tensor twice, even if others were deleted meanwhile.

Source of the hash: `splitmix64` (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, with the
constants of Stafford's variant 13). It is a bijection of 64-bit words, so no two generations share a rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ranks", "sample"]

_Words: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.uint64]]"

_STEP = np.uint64(0x9E3779B97F4A7C15)

_PENDING_MIN = 10_000
"""Smallest surplus of generations that is collected before those with high ranks are dropped."""


def ranks(generations: Sequence[int], seed: int) -> _Words:
    """Return the rank of each generation.

    Args:
        seed: 0 to 2**64 - 1.
    """
    key = _mixed(np.array([seed], np.uint64) + _STEP)
    return _mixed(_mixed(np.array(generations, np.uint64) + _STEP) ^ key)


def sample(pages: Iterable[Sequence[int]], count: int, seed: int, *, after: int | None = None) -> list[int]:
    """Return the `count` generations with the lowest ranks, in rank order.

    Args:
        pages: all generations, page by page, each exactly once.
        after: return only generations that rank above this one; None: no bound.
    """
    generations, order = np.empty(0, np.uint64), np.empty(0, np.uint64)
    lowest = None if after is None else ranks([after], seed)[0]
    for page in pages:
        found = ranks(page, seed)
        fits = np.ones(found.size, bool) if lowest is None else found > lowest
        generations = np.concatenate([generations, np.array(page, np.uint64)[fits]])
        order = np.concatenate([order, found[fits]])
        if generations.size > count + max(count, _PENDING_MIN):
            kept = np.argpartition(order, count)[:count]
            generations, order = generations[kept], order[kept]
    chosen: list[int] = generations[np.argsort(order)[:count]].tolist()
    return chosen


def _mixed(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
