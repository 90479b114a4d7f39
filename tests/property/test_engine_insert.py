"""Segments of any size, in any order of items, make the same tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.arrays import canonical, random_bits
from support.engine import Reports, announce, engine_on, read
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.model import Segment


def segment(item: int, data: bytes, offset: int = 0, *, last: bool = False, tensor: Any = None) -> tuple[Any, ...]:
    """Return what `receive` takes for a piece of an item."""
    return Segment(item, offset, len(data), last, tensor), memoryview(data)


@settings(max_examples=settings.default.max_examples // 2)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 5_000, 70_000, 130_000]), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_segments_of_any_size_in_any_order_of_items_make_the_same_tensors(
    shared: Engine, sizes: list[int], cuts: list[int], order: Any
) -> None:
    number = next(_datasets)
    shared.create_dataset(f"{number}", StoragePolicy(preset="none", chunk_bytes=4096 * (1 + number % 5)))
    arrays = [random_bits("uint8", (size,), seed=seed) for seed, size in enumerate(sizes)]
    reports = Reports()
    stream = shared.open_insert(f"{number}", reports)
    waiting = []
    for item, array in enumerate(arrays):
        # Announced in order; the bytes then come as they come.
        stream.receive(*segment(item, b"", tensor=announce(f"{item}", array)))
        waiting.append(pieces(item, canonical(array), itertools.cycle(cuts)))
    while waiting:
        item_pieces = order.choice(waiting)
        piece = next(item_pieces, None)
        if piece is None:
            waiting.remove(item_pieces)
        else:
            stream.receive(*piece)
    assert stream.finish() == (len(arrays), 0)
    for item, array in enumerate(arrays):
        assert np.array_equal(read(shared, f"{number}", f"{item}"), array)
    shared.delete_dataset(f"{number}")


_datasets = itertools.count(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_on(tmp_path_factory.mktemp("shared") / "store", delete_grace_s=0.0) as opened:
        yield opened


def pieces(item: int, data: bytes, sizes: Iterator[int]) -> Iterator[tuple[Any, ...]]:
    """Yield an item's segments, the last one possibly empty."""
    position = 0
    while position < len(data):
        part = data[position : position + next(sizes)]
        yield segment(item, part, position)
        position += len(part)
    yield segment(item, b"", position, last=True)
