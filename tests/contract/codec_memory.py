"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def allocating_at_most(limit_bytes: int) -> Iterator[None]:
    """Fail if what runs inside holds more than `limit_bytes` of new memory at any time.

    Counts Python's objects and NumPy's arrays, so every buffer that is returned. It does not see the working memory of a
    C library: zstd's window, for which a test of its own crafts frames. Where `tracemalloc` is on already, it stays on:
    starting it over and over costs memory that it never gives back.
    """
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    assert peak - before <= limit_bytes, f"allocated {peak - before} bytes at the peak, the limit is {limit_bytes}"
