"""Pieces that arrive, put together into arrays.

Canonical bytes are copied into their place in the final array as they come. So are chunk records decoded, by whoever takes
them, or, where there are processors for it, on a few threads, each of which writes into its own place, so that decoding keeps
up with the network; at most `_DECODES_MAX` wait at a time.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import crc32c
import numpy as np
import xxhash

from tensorus._arrays import canonical_array, empty_canonical
from tensorus._backend import Began, Failed
from tensorus._damage import tell
from tensorus._decode import decode_record_into
from tensorus._forks import watch
from tensorus.errors import DataCorruptError, UnavailableError
from tensorus.types import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from typing_extensions import Buffer

    from tensorus._arrays import AnyArray
    from tensorus._backend import Arrival, Bytes
    from tensorus._damage import OnDamaged
    from tensorus.types import TensorInfo

__all__ = ["Assembler", "Assembly", "headers"]

_DECODES_MAX = 4
"""Chunk records in memory beside the array, of up to 2 MiB each."""

_BUSY_PROCESSORS = 2
"""One receives, and one does what the caller's thread has to do: a thread that decodes would only take from these. On two
processors, decoding where a record was just checked takes a fifth less processor time, and gets are 6 to 10 % faster
(measured)."""

_XXH3_BYTES = 16
_CRC32C_BYTES = 4

_HERE_BYTES_MAX = 64 * 1024
"""Tensors of one chunk, up to this size, are decoded on the caller's thread: handing one over costs about as much."""


class Assembler:
    """Turns arrivals into arrays. One for each client, safe in many threads; its own start with the first chunk record."""

    def __init__(self, threads: int | None = None) -> None:
        """Start without threads.

        Args:
            threads: that decode, at most; 0: whoever takes a record does. None: one for each processor that is not busy.
        """
        self._threads = max(0, (os.cpu_count() or 1) - _BUSY_PROCESSORS) if threads is None else threads
        self._pool = self._new_pool()
        watch(self)

    def after_fork(self) -> None:
        """See `ForkAware`."""
        self._pool = self._new_pool()

    def assemble(
        self,
        arrivals: Iterator[Arrival],
        on_progress: Callable[[Progress], None] | None = None,
        on_damaged: OnDamaged = None,
    ) -> Iterator[tuple[TensorInfo, AnyArray]]:
        """Yield each tensor when all of it is here.

        Args:
            on_progress: called as bytes arrive.
            on_damaged: see `OnDamaged`.

        Raises:
            DataCorruptError: bytes are missing, came twice, or have no place.
            TensorusError: at the place of a tensor that did not arrive.
        """
        assembly = self.begin(on_progress, on_damaged)
        for arrival in arrivals:
            complete = assembly.take(arrival)
            if complete is not None:
                yield complete
        assembly.end()

    def begin(self, on_progress: Callable[[Progress], None] | None = None, on_damaged: OnDamaged = None) -> Assembly:
        """Return an assembly that takes arrivals one by one. Arguments as of `assemble`."""
        return Assembly(self._pool, on_progress, on_damaged)

    def close(self) -> None:
        """End the threads. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()

    def _new_pool(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="tensorus-decode") if self._threads else None


class Assembly:
    """The tensors of one read, as they arrive one after the other. For one thread at a time."""

    def __init__(
        self, pool: ThreadPoolExecutor | None, on_progress: Callable[[Progress], None] | None, on_damaged: OnDamaged
    ) -> None:
        """Decode in `pool`; None: on the thread that takes."""
        self._pool = pool
        self._on_progress = on_progress
        self._on_damaged = on_damaged
        self._target: _Target | None = None
        # A damaged tensor, of which more may arrive.
        self._dropped: int | None = None

    def take(self, arrival: Arrival) -> tuple[TensorInfo, AnyArray] | None:
        """Put it into its place; return the tensor if that was the last of it. See `Assembler.assemble` for errors."""
        if isinstance(arrival, Began):
            self._dropped = None
            if not (self._target is not None and arrival.restarts and self._target.item == arrival.item):
                self.end()
        elif arrival.item == self._dropped:
            return None
        try:
            return self._take(arrival)
        except DataCorruptError as error:
            self._target, self._dropped = None, arrival.item
            tell(error, self._on_damaged)
            return None

    def _take(self, arrival: Arrival) -> tuple[TensorInfo, AnyArray] | None:
        target = self._target
        if isinstance(arrival, Failed):
            raise arrival.error
        if isinstance(arrival, Began):
            if arrival.data is not None and self._on_progress is None:
                whole = _whole(arrival, arrival.data)
                if whole is not None:
                    self._target = None
                    return arrival.info, whole
            target = self._target = _Target(arrival, self._on_progress)
            if arrival.data is not None:
                target.write(0, arrival.data)
        elif target is None or target.item != arrival.item:
            raise DataCorruptError("bytes arrived for a tensor that had not begun", reason="DATA_CORRUPT")
        elif arrival.encoded:
            target.write_decoded(self._pool, arrival)
        else:
            target.write(arrival.offset, arrival.data)
        if not target.is_complete:
            return None
        self._target = None
        return target.finish()

    def end(self) -> None:
        """Tell of a tensor that ended before all of it was here, as of any other damaged one."""
        if self._target is not None:
            missing, self._target = self._target.missing(), None
            tell(missing, self._on_damaged)


def headers(arrivals: Iterable[Arrival], on_damaged: OnDamaged = None) -> Iterator[TensorInfo]:
    """Yield what is said of tensors that arrive without their values.

    Raises:
        TensorusError: at the place of a tensor that did not arrive; where it is damaged, see `OnDamaged`.
    """
    for arrival in arrivals:
        if isinstance(arrival, Failed):
            if not isinstance(arrival.error, DataCorruptError):
                raise arrival.error
            tell(arrival.error, on_damaged)
        if isinstance(arrival, Began):
            yield arrival.info


def _whole(began: Began, data: memoryview) -> AnyArray | None:
    """Return the array of a tensor that came at once; None where its bytes are not what they must be."""
    if began.checksum and not _is_sum(began.checksum, data):
        return None
    try:
        return canonical_array(began.dtype or began.info.dtype, began.shape, data)
    except ValueError:
        return None


def _is_sum(checksum: bytes, data: Buffer) -> bool:
    """Whether a checksum is that of canonical bytes: XXH3-128 or CRC32C, by its length. Of another kind, it is not compared."""
    if len(checksum) == _XXH3_BYTES:
        return xxhash.xxh3_128_digest(data) == checksum
    if len(checksum) == _CRC32C_BYTES:
        return crc32c.crc32c(data).to_bytes(_CRC32C_BYTES, "big") == checksum
    return True


class _Target:
    """One array on its way."""

    def __init__(self, began: Began, on_progress: Callable[[Progress], None] | None) -> None:
        self.item = began.item
        self._info = began.info
        self._checksum = began.checksum
        self._digest: xxhash.xxh3_128 | None = None
        self._digested_bytes = 0
        self._array = empty_canonical(began.dtype or began.info.dtype, began.shape)
        self._bytes = memoryview(self._array.reshape(-1).view(np.uint8))
        self._arrived_bytes = 0
        self._arrived: list[tuple[int, int]] = []
        self._decodes: deque[Future[None]] = deque()
        self._on_progress = on_progress

    @property
    def is_complete(self) -> bool:
        return self._arrived_bytes >= self._bytes.nbytes

    def write(self, offset: int, data: memoryview) -> None:
        self._count(offset, data.nbytes)
        self._bytes[offset : offset + data.nbytes] = data
        self._digest_in_order(offset, data)

    def write_decoded(self, pool: ThreadPoolExecutor | None, arrival: Bytes) -> None:
        self._count(arrival.offset, arrival.decoded_length)
        if pool is None or arrival.decoded_length == self._bytes.nbytes <= _HERE_BYTES_MAX:
            self._decode(arrival)
            offset = arrival.offset
            self._digest_in_order(offset, self._bytes[offset : offset + arrival.decoded_length])
            return
        while len(self._decodes) >= _DECODES_MAX:
            self._decodes.popleft().result()
        try:
            self._decodes.append(pool.submit(self._decode, arrival))
        except RuntimeError as error:
            raise UnavailableError("the client was closed while a tensor arrived", reason="UNAVAILABLE") from error

    def finish(self) -> tuple[TensorInfo, AnyArray]:
        """Return what arrived, when it is as many bytes as there are.

        Raises:
            DataCorruptError: some came twice, and others not at all: the array would show what the memory held before.
        """
        while self._decodes:
            self._decodes.popleft().result()
        end = 0
        for offset, length in sorted(self._arrived):
            if offset != end:
                raise self.damage(f"bytes arrived at {offset}, expected at {end}")
            end = offset + length
        if not self._is_as_written():
            raise self.damage("the values are not those of the tensor's value checksum")
        return self._info, self._array

    def _digest_in_order(self, offset: int, data: memoryview) -> None:
        """Take bytes into the digest while they are in this processor's cache: later, all would have to be read once more."""
        if self._checksum is None or offset != self._digested_bytes or data.nbytes == self._bytes.nbytes:
            return
        if self._digest is None:
            if len(self._checksum) != _XXH3_BYTES:
                return
            self._digest = xxhash.xxh3_128()
        self._digest.update(data)
        self._digested_bytes += data.nbytes

    def _is_as_written(self) -> bool:
        """Whether the values have the tensor's value checksum, where it is known."""
        if self._checksum is None:
            return True
        if self._digest is not None and self._digested_bytes == self._bytes.nbytes:
            return self._digest.digest() == self._checksum
        return _is_sum(self._checksum, self._bytes)

    def damage(self, what: str) -> DataCorruptError:
        """Return the error that says so of this tensor."""
        identity = {"dataset": self._info.dataset, "tensor": self._info.id}
        named = ", ".join(f"{name}={value}" for name, value in identity.items())
        return DataCorruptError(f"{what} [{named}]", reason="DATA_CORRUPT", facts=identity)

    def missing(self) -> DataCorruptError:
        """Return the error of a tensor that breaks off."""
        return self.damage(f"{self._arrived_bytes} of {self._bytes.nbytes} bytes arrived")

    def _decode(self, arrival: Bytes) -> None:
        try:
            decode_record_into(arrival.data, self._bytes[arrival.offset : arrival.offset + arrival.decoded_length])
        except DataCorruptError as error:
            raise self.damage(f"chunk at byte {arrival.offset}: {error}") from error

    def _count(self, offset: int, length: int) -> None:
        if offset + length > self._bytes.nbytes:
            raise self.damage(f"bytes up to {offset + length} arrived, the tensor has {self._bytes.nbytes}")
        self._arrived_bytes += length
        self._arrived.append((offset, length))
        if self._on_progress is not None:
            self._on_progress(Progress(self._info.id, self._arrived_bytes, self._bytes.nbytes))
