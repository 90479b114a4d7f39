"""Announces the chunks of a read, and the payloads of the next tensors, to a store that is far away, before they are read."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Generic, TypeVar

from tensorus_server.limits import PACKED_BYTES_MAX, READ_AHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tensorus_server.chunk_store.abc import PayloadStore
    from tensorus_server.engine.read.chunks import TensorChunks
    from tensorus_server.model import Tensor

__all__ = ["TENSORS_AHEAD_MAX", "announced", "tensors_announced"]

T = TypeVar("T")

TENSORS_AHEAD_MAX = 64
"""Tensors of one read that are announced at the same time."""


def announced(
    chunks: TensorChunks, items: Iterable[T], chunk_of: Callable[[T], int], bytes_max: int = READ_AHEAD_BYTES
) -> Iterator[T]:
    """Yield the items of a read, after their chunks were announced, up to `bytes_max` of records ahead.

    They are announced when about half of that has been used up, many at once, so that the store can fetch records that follow
    each other together. For stores that do not fetch ahead, nothing happens.

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
        # A little more than half: records of 1 MiB have a header, and the objects of a payload end after 8 of them. So each
        # announcement is of one object, rather than of the end of one and the start of the next.
        if has_more and ahead_bytes <= bytes_max * 9 // 16:
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


def tensors_announced(
    payloads: PayloadStore, items: Iterable[T], tensor_of: Callable[[T], Tensor | None]
) -> Iterator[T]:
    """Yield the items of a read, after the payloads of their tensors were announced, up to `READ_AHEAD_BYTES` ahead.

    A tensor that is too large for a pack ends what is announced: its chunks are announced when it is read, and no item behind
    it is taken before. For stores that do not fetch ahead, nothing happens. An error of `items` is raised after all items that
    came before it.

    Args:
        payloads: of the tensors.
        items: in the order in which they are read. Some are taken ahead of the one that is yielded.
        tensor_of: returns the tensor that an item reads; None: it reads none.
    """
    if not payloads.fetches_ahead:
        yield from items
        return
    with closing(_Window(payloads, iter(items), tensor_of)) as window:
        while window.fill():
            yield window.pop()


class _Window(Generic[T]):
    """Items that were taken ahead."""

    def __init__(self, payloads: PayloadStore, items: Iterator[T], tensor_of: Callable[[T], Tensor | None]) -> None:
        self._payloads = payloads
        self._items: Iterator[T] | None = items
        self._tensor_of = tensor_of
        self._failure: Exception | None = None
        # Each with its size, and with what gives up an announcement, at the last item of each.
        self._waiting: deque[tuple[T, int, Callable[[], None]]] = deque()
        self._ahead_bytes = 0
        self._give_up: Callable[[], None] = _nothing

    def fill(self) -> bool:
        """Take items, if half of the window is free, and announce them; return whether one waits.

        Raises:
            Exception: what `items` raised, once no item waits.
        """
        self._give_up()
        self._give_up = _nothing
        if self._ahead_bytes <= READ_AHEAD_BYTES // 2 and len(self._waiting) <= TENSORS_AHEAD_MAX // 2:
            keys: list[str] = []
            while self._ahead_bytes < READ_AHEAD_BYTES and len(self._waiting) < TENSORS_AHEAD_MAX and self._take(keys):
                pass
            if keys:
                item, size, _ = self._waiting.pop()
                self._waiting.append((item, size, self._payloads.fetch_ahead(keys)))
        if not self._waiting and self._failure is not None:
            raise self._failure
        return bool(self._waiting)

    def pop(self) -> T:
        """Return the next item. If an announcement ends with it, the next `fill` gives up what is left of that."""
        item, size, self._give_up = self._waiting.popleft()
        self._ahead_bytes -= size
        return item

    def close(self) -> None:
        """Give up all that was announced."""
        self._give_up()
        for _, _, give_up in self._waiting:
            give_up()
        self._waiting.clear()

    def _take(self, keys: list[str]) -> bool:
        """Take an item, and add the key of its payload; return False if there is none."""
        if self._items is None:
            return False
        try:
            item = next(self._items)
        except StopIteration:
            self._items = None
            return False
        except Exception as error:  # noqa: BLE001 - `fill` raises it
            self._items, self._failure = None, error
            return False
        size, key = _payload(self._tensor_of(item))
        if key is not None:
            keys.append(key)
        self._waiting.append((item, size, _nothing))
        self._ahead_bytes += size
        return True


def _payload(tensor: Tensor | None) -> tuple[int, str | None]:
    """Return how many bytes ahead a tensor is, and the key of its payload, if that is in the chunk store."""
    if tensor is None:
        return 0, None
    if tensor.inline_payload is not None:
        return len(tensor.inline_payload), None
    length = tensor.locator.length
    return (length if length <= PACKED_BYTES_MAX else READ_AHEAD_BYTES), tensor.locator.key


def _nothing() -> None:
    """Give up nothing."""
