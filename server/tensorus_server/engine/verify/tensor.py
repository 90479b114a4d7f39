"""Checks one tensor: its payload, chunk index, records, checksums, and the files around them.

The tensor's row was verified when it was read.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_protos.digest import TENSOR_DIGEST, ChunkedDigest
from tensorus_server.engine.verify.chunks import file_of, open_chunks
from tensorus_server.errors import DataCorruptError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from tensorus_server.chunk_store.abc import PayloadStore
    from tensorus_server.engine.verify.chunks import StoredChunks
    from tensorus_server.errors import EngineError
    from tensorus_server.model import Checksum, Tensor

    class _Digest(Protocol):
        def update(self, data: memoryview) -> None: ...
        def digest(self) -> bytes: ...


__all__ = ["Step", "check_tensor", "named"]


@dataclass(frozen=True)
class Step:
    """The result of one check of a tensor."""

    position: int
    """Its number among the tensor's checks, in which it is the same every time."""
    stored_bytes: int = 0
    """Bytes that were read for it."""
    damage: EngineError | None = None
    """What is damaged, or cannot be opened; None: nothing."""
    undecoded: bool = False
    """Whether a chunk could not be decoded because its codec is not installed."""


def check_tensor(tensor: Tensor, payloads: PayloadStore) -> Iterator[Step]:
    """Yield the result of each check, in order: the chunk index, each chunk, the checksums, the files.

    Damage of one chunk does not end the checks. Damage of the chunk index does, since nothing can be found without it.

    Args:
        tensor: must have its inline payload, if it is stored inline.
    """
    with ExitStack() as stack:
        try:
            chunks = stack.enter_context(open_chunks(tensor, payloads))
        except (DataCorruptError, StoreUnavailableError) as error:
            yield Step(0, damage=named(error, tensor, file_of(tensor)))
            return
        yield from _check_chunks(tensor, chunks)


def named(error: EngineError, tensor: Tensor, file: str) -> EngineError:
    """Return the error after adding to its facts which tensor and which file are damaged."""
    error.facts |= {"dataset": tensor.dataset, "tensor": tensor.id, "generation": str(tensor.generation), "file": file}
    return error


def _check_chunks(tensor: Tensor, chunks: StoredChunks) -> Iterator[Step]:
    checksums = _Checksums(tensor)
    all_decoded = True
    # What a damaged chunk counts for: its own length is not known.
    chunk_stored_bytes = tensor.storage.stored_bytes // max(chunks.count, 1)
    for chunk in range(chunks.count):
        try:
            record = chunks.read(chunk)
            canonical = chunks.decode(chunk, record)
            checksums.update(canonical)
            chunks.check_digest(chunk, canonical)
        except DataCorruptError as error:
            all_decoded = False
            yield Step(chunk + 1, chunk_stored_bytes, named(error, tensor, chunks.file_of(chunk)))
        except UnsupportedCodecError:
            all_decoded = False
            yield Step(chunk + 1, len(record), undecoded=True)
        else:
            yield Step(chunk + 1, len(record))
    position = chunks.count + 1
    if all_decoded:
        for damage in checksums.damages():
            yield Step(position, damage=named(damage, tensor, file_of(tensor)))
            position += 1
    for damage in chunks.check_files():
        yield Step(position, damage=named(damage, tensor, file_of(tensor)))


class _Crc32c:
    """A CRC32C that is computed piece by piece."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_DIGESTS: dict[str, Callable[[Tensor], _Digest]] = {
    TensorDigest.ALGORITHM: lambda _: TensorDigest(),
    TENSOR_DIGEST: lambda tensor: ChunkedDigest(
        tensor.spec.dtype.number, 8 * tensor.spec.dtype.element_bytes, tensor.spec.shape, tensor.chunk_bytes
    ),
    "crc32c": lambda _: _Crc32c(),
}


class _Checksums:
    """The checksums of a tensor that its canonical bytes must have."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._expected: dict[str, Checksum] = {"value checksum": tensor.value_checksum}
        if not tensor.storage.lossy:
            # Readers get the bytes that the writer sent.
            self._expected["source checksum"] = tensor.source_checksum
        algorithms = {checksum.algorithm for checksum in self._expected.values()}
        self._digests = {algorithm: _DIGESTS[algorithm](tensor) for algorithm in algorithms & _DIGESTS.keys()}

    def update(self, canonical: memoryview) -> None:
        for digest in self._digests.values():
            digest.update(canonical)

    def damages(self) -> Iterator[DataCorruptError]:
        found = {algorithm: digest.digest() for algorithm, digest in self._digests.items()}
        for name, expected in self._expected.items():
            if expected.algorithm not in found:
                yield self._damage(f"{name} has the algorithm {expected.algorithm!r}, which is not known")
            elif found[expected.algorithm] != expected.value:
                yield self._damage(f"{name} is {found[expected.algorithm].hex()}, expected {expected.value.hex()}")

    def _damage(self, message: str) -> DataCorruptError:
        return DataCorruptError(message, dataset=self._tensor.dataset, tensor=self._tensor.id)
