"""A random sample that can be resumed.

Every generation has a rank: 64 bits that mix it with the sample's seed. A sample of n tensors is the n of the lowest ranks, in
the order of their ranks: each set of n is equally likely, and so is each order of it. A sample that was interrupted goes on
above the rank of the last tensor, whatever has been deleted meanwhile; so it never shows a tensor twice.

Source of the mixing: `splitmix64` (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, with the
constants of Stafford's variant 13). It maps 64 bits one to one, so that no two generations have the same rank.
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
"""Generations that are gathered before those of high ranks are dropped."""


def ranks(generations: Sequence[int], seed: int) -> _Words:
    """Return the rank of each generation.

    Args:
        seed: 0 to 2**64 - 1.
    """
    key = _mixed(np.array([seed], np.uint64) + _STEP)
    return _mixed(_mixed(np.array(generations, np.uint64) + _STEP) ^ key)


def sample(pages: Iterable[Sequence[int]], count: int, seed: int, *, after: int | None = None) -> list[int]:
    """Return the `count` generations of the lowest ranks, in the order of their ranks.

    Args:
        pages: all generations there are, some at a time; each comes once.
        after: only those above the rank of this generation; None: all.
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
