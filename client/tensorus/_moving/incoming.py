"""Reads whole tensors from the source as canonical bytes, in bounded memory, and checks that they are those that are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import crc32c
import xxhash

from tensorus._arrays.decode import decode_record_into
from tensorus._backend import Began, Failed
from tensorus.errors import DataCorruptError, TensorusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus._backend import Backend, Bytes, State
    from tensorus.types import TensorInfo

__all__ = ["ChangedError", "Incoming", "SmallTensor", "StoppedError", "header", "plain_checksum", "small_tensors"]

_XXH3_BYTES = 16
_CRC32C_BYTES = 4

_BLOCK_BYTES = 1024 * 1024


class ChangedError(Exception):
    """The tensor was replaced or edited in the source after it was listed."""


class StoppedError(Exception):
    """The copy was stopped."""


@dataclass(frozen=True)
class SmallTensor:
    """A tensor with its values."""

    info: TensorInfo
    data: bytes
    """Canonical bytes."""
    checksum: str
    """XXH3-128 of them in hexadecimal."""


class _Check:
    """The checksums of a tensor that arrives in order: the one that the store has of its values, and the XXH3-128."""

    def __init__(self, began: Began) -> None:
        self._began = began
        self._plain = xxhash.xxh3_128()
        self._chunked = None if began.digest is None else began.digest()
        self._crc = 0

    def update(self, data: memoryview) -> None:
        self._plain.update(data)
        if self._chunked is not None:
            self._chunked.update(data)
        elif len(self._began.checksum or b"") == _CRC32C_BYTES:
            self._crc = crc32c.crc32c(data, self._crc)

    def finish(self) -> str:
        """Return the XXH3-128 in hexadecimal.

        Raises:
            DataCorruptError: the bytes are not those of the stored checksum.
        """
        expected = self._began.checksum
        found: bytes | None = None
        if self._chunked is not None:
            found = self._chunked.digest()
        elif expected is not None and len(expected) == _XXH3_BYTES:
            found = self._plain.digest()
        elif expected is not None and len(expected) == _CRC32C_BYTES:
            found = self._crc.to_bytes(_CRC32C_BYTES, "big")
        if found is not None and found != expected:
            raise _damage(self._began.info, "the values are not those of the tensor's value checksum")
        return self._plain.hexdigest()


class Incoming:
    """One tensor of the source, as often as its bytes are asked for."""

    def __init__(self, source: Backend, info: TensorInfo, at: State | None, is_stopped: Callable[[], bool]) -> None:
        """Read `info` of `source`.

        Args:
            at: the state of the dataset that has it.
            is_stopped: asked at every piece; True ends the reading.
        """
        self._source = source
        self._info = info
        self._at = at
        self._is_stopped = is_stopped
        self.checksum = ""
        """XXH3-128 of all bytes in hexadecimal, once they were read."""

    def blocks(self, block_bytes: int) -> Iterator[memoryview]:
        """Yield the canonical bytes in blocks of this size, the last one once all of them are known to be right.

        Raises:
            ChangedError: the tensor has another generation now.
            StoppedError: the copy was stopped.
            TensorusError: it cannot be read, or is damaged.
        """
        block, check = memoryview(bytearray(0)), None
        filled = 0
        for began, piece in self._pieces():
            check = check or _Check(began)
            check.update(piece)
            rest = piece
            while rest.nbytes:
                if filled == block.nbytes:
                    if filled:
                        # More bytes follow, so it is not the last block.
                        yield block
                    block, filled = memoryview(bytearray(block_bytes)), 0
                part = rest[: block.nbytes - filled]
                block[filled : filled + part.nbytes] = part
                filled += part.nbytes
                rest = rest[part.nbytes :]
        self.checksum = xxhash.xxh3_128().hexdigest() if check is None else check.finish()
        if filled:
            yield block[:filled]

    def _pieces(self) -> Iterator[tuple[Began, memoryview]]:
        """Yield the canonical bytes in order, as they arrive."""
        began: Began | None = None
        done = 0
        arrivals = self._source.get(self._info.dataset, [self._info.id], None, with_data=True, at=self._at)
        for arrival in arrivals:
            if self._is_stopped():
                raise StoppedError
            if isinstance(arrival, Failed):
                raise arrival.error
            if isinstance(arrival, Began):
                if arrival.info.generation != self._info.generation:
                    raise ChangedError
                began = began or arrival
                offset, data = 0, arrival.data or memoryview(b"")
            else:
                offset, data = arrival.offset, _canonical(arrival, self._info)
            if began is None or offset > done:
                raise _damage(self._info, f"bytes arrived at {offset}, expected at {done}")
            # A read that was interrupted may begin again, with bytes that have been passed on.
            rest = data[done - offset :]
            if rest.nbytes:
                yield began, rest
                done += rest.nbytes
        if done != self._info.canonical_bytes:
            raise _damage(self._info, f"{done} of {self._info.canonical_bytes} bytes arrived")


def small_tensors(
    source: Backend, dataset: str, ids: Sequence[str], at: State | None
) -> Iterator[tuple[int, SmallTensor | TensorusError]]:
    """Yield tensors, or why one cannot be read, each with its position in `ids`."""
    collected: _Collected | None = None
    failed: int | None = None
    for arrival in source.get(dataset, ids, None, with_data=True, at=at):
        if arrival.item == failed:
            continue
        try:
            if isinstance(arrival, Failed):
                raise arrival.error
            if isinstance(arrival, Began):
                collected = _Collected(arrival)
            elif collected is not None:
                collected.add(arrival)
            if collected is not None and collected.is_complete:
                yield arrival.item, collected.finish()
                collected = None
        except TensorusError as error:
            collected, failed = None, arrival.item
            yield arrival.item, error


class _Collected:
    """A small tensor that arrives."""

    def __init__(self, began: Began) -> None:
        self._began = began
        self._data = bytearray(began.info.canonical_bytes)
        self._arrived_bytes = 0
        if began.data is not None:
            self._data[:] = began.data
            self._arrived_bytes = began.data.nbytes

    @property
    def is_complete(self) -> bool:
        return self._arrived_bytes >= self._began.info.canonical_bytes

    def add(self, arrival: Bytes) -> None:
        piece = _canonical(arrival, self._began.info)
        if arrival.offset != self._arrived_bytes:
            raise _damage(self._began.info, f"bytes arrived at {arrival.offset}, expected at {self._arrived_bytes}")
        self._data[arrival.offset : arrival.offset + piece.nbytes] = piece
        self._arrived_bytes += piece.nbytes

    def finish(self) -> SmallTensor:
        if len(self._data) != self._began.info.canonical_bytes:
            raise _damage(self._began.info, f"{len(self._data)} bytes arrived")
        check = _Check(self._began)
        check.update(memoryview(self._data))
        return SmallTensor(self._began.info, bytes(self._data), check.finish())


def header(backend: Backend, dataset: str, tensor_id: str, at: State | None) -> Began:
    """Return what a store says of a tensor.

    Raises:
        TensorNotFoundError: it does not exist.
    """
    for arrival in backend.get(dataset, [tensor_id], None, with_data=False, at=at):
        if isinstance(arrival, Failed):
            raise arrival.error
        if isinstance(arrival, Began):
            return arrival
    raise TensorusError(f"the read ended without a result [dataset={dataset}, tensor={tensor_id}]")


def plain_checksum(backend: Backend, info: TensorInfo, at: State | None, is_stopped: Callable[[], bool]) -> str:
    """Return the XXH3-128 of a tensor's values in hexadecimal. An edited tensor is read for it.

    Raises: as `Incoming.blocks` and `header`.
    """
    began = header(backend, info.dataset, info.id, at)
    if began.info.generation != info.generation:
        raise ChangedError
    if began.digest is None and began.checksum is not None and len(began.checksum) == _XXH3_BYTES:
        return began.checksum.hex()
    incoming = Incoming(backend, info, at, is_stopped)
    for _ in incoming.blocks(_BLOCK_BYTES):
        pass
    return incoming.checksum


def _canonical(arrival: Bytes, info: TensorInfo) -> memoryview:
    """Return the canonical bytes that arrived. Raises `DataCorruptError` for a record that is damaged."""
    if not arrival.encoded:
        return arrival.data
    decoded = memoryview(bytearray(arrival.decoded_length))
    try:
        decode_record_into(arrival.data, decoded)
    except DataCorruptError as error:
        raise _damage(info, f"chunk at byte {arrival.offset}: {error}") from error
    return decoded


def _damage(info: TensorInfo, what: str) -> DataCorruptError:
    facts = {"dataset": info.dataset, "tensor": info.id}
    return DataCorruptError(f"{what} [dataset={info.dataset}, tensor={info.id}]", reason="DATA_CORRUPT", facts=facts)
