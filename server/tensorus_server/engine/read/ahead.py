"""Announces the chunks of a read to a store that is far away, before they are read."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

from tensorus_server.limits import READ_AHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tensorus_server.engine.read.chunks import TensorChunks

__all__ = ["announced"]

T = TypeVar("T")


def announced(
    chunks: TensorChunks, items: Iterable[T], chunk_of: Callable[[T], int], bytes_max: int = READ_AHEAD_BYTES
) -> Iterator[T]:
    """Yield the items of a read, after their chunks were announced, up to `bytes_max` of records ahead.

    They are announced when half of that has been used up, many at once, so that the store can fetch records that follow each
    other together. For stores that do not fetch ahead, nothing happens.

    Args:
        chunks: of the tensor.
        items: in the order in which they are read.
        chunk_of: returns the chunk that an item reads.
        bytes_max: of records that are announced and not yielded; one record may exceed it.
    """
    if not chunks.fetches_ahead:
        yield from items
        return
    waiting: deque[tuple[T, int]] = deque()
    ahead_bytes = 0
    remaining = iter(items)
    has_more = True
    while True:
        if has_more and ahead_bytes <= bytes_max // 2:
            new: list[int] = []
            while ahead_bytes < bytes_max:
                item = next(remaining, None)
                if item is None:
                    has_more = False
                    break
                chunk = chunk_of(item)
                size = chunks.record_bytes_of(chunk)
                new.append(chunk)
                waiting.append((item, size))
                ahead_bytes += size
            chunks.announce(new)
        if not waiting:
            return
        item, size = waiting.popleft()
        ahead_bytes -= size
        yield item
