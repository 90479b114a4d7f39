"""Checks one tensor: its payload, chunk index, records, checksums, and the files around them.

The tensor's row was verified when it was read.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_protos.digest import TENSOR_DIGEST, tensor_digest
from tensorus_server.engine.read.payload import damage as damage_of
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
            yield Step(0, damage=named(error, tensor, file_of(tensor.locator.key)))
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
    for chunk in chunks.in_order():
        record: bytes | None = None
        canonical: memoryview | None = None
        damage: EngineError | None = None
        undecoded = False
        try:
            record = chunks.read(chunk)
            canonical = None if record is None else chunks.decode(chunk, record)
            if canonical is not None:
                _check_values(tensor, chunks, chunk, canonical, checksums)
        except (DataCorruptError, StoreUnavailableError) as error:
            base = error.facts.get("base")
            damage = named(error, tensor, chunks.file_of(chunk) if base is None else file_of(base))
        except UnsupportedCodecError:
            undecoded = True
        all_decoded &= canonical is not None and damage is None and not undecoded
        stored_bytes = chunk_stored_bytes if record is None else len(record)
        yield Step(chunk + 1, stored_bytes, damage, undecoded)
    position = chunks.count + 1
    if all_decoded:
        for damage in checksums.damages():
            yield Step(position, damage=named(damage, tensor, file_of(tensor.locator.key)))
            position += 1
    for damage in chunks.check_files():
        yield Step(position, damage=named(damage, tensor, file_of(tensor.locator.key)))


def _check_values(
    tensor: Tensor, chunks: StoredChunks, chunk: int, canonical: memoryview, checksums: _Checksums
) -> None:
    """Compare a chunk with its digest in the chunk details, and add it to the tensor's checksums.

    Raises:
        DataCorruptError: they differ; or the chunk details are damaged, which is raised once for each payload.
    """
    expected = chunks.digest(chunk)
    found = TensorDigest.of(canonical) if expected is not None or checksums.take_digests else b""
    checksums.update(canonical, found)
    if expected is not None and found != expected:
        raise damage_of(tensor, f"digest of chunk {chunk} is {found.hex()}, expected {expected.hex()}", chunk=chunk)


class _Crc32c:
    """A CRC32C that is computed piece by piece."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = crc32c(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_DIGESTS: dict[str, Callable[[], _Digest]] = {TensorDigest.ALGORITHM: TensorDigest, "crc32c": _Crc32c}
"""Of a tensor's bytes. The tensor digest is computed from those of its chunks."""


class _Checksums:
    """The checksums of a tensor that its canonical bytes must have."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._expected: dict[str, Checksum] = {"value checksum": tensor.value_checksum}
        if not tensor.storage.lossy:
            # Readers get the bytes that the writer sent.
            self._expected["source checksum"] = tensor.source_checksum
        algorithms = {checksum.algorithm for checksum in self._expected.values()}
        self._digests = {algorithm: _DIGESTS[algorithm]() for algorithm in algorithms & _DIGESTS.keys()}
        self.take_digests = TENSOR_DIGEST in algorithms
        """Whether `update` needs the chunks' digests."""
        self._chunk_digests = bytearray()

    def update(self, canonical: memoryview, digest: bytes) -> None:
        """Add the next chunk, with its digest if `take_digests`."""
        for stream in self._digests.values():
            stream.update(canonical)
        if self.take_digests:
            self._chunk_digests += digest

    def damages(self) -> Iterator[DataCorruptError]:
        """Yield the damage of each checksum that the chunks do not have."""
        found = {algorithm: digest.digest() for algorithm, digest in self._digests.items()}
        if self.take_digests:
            spec, chunk_bytes = self._tensor.spec, self._tensor.chunk_bytes
            found[TENSOR_DIGEST] = tensor_digest(
                spec.dtype.number, 8 * spec.dtype.element_bytes, spec.shape, chunk_bytes, self._chunk_digests
            )
        for name, expected in self._expected.items():
            if expected.algorithm not in found:
                yield damage_of(self._tensor, f"{name} has the algorithm {expected.algorithm!r}, which is not known")
            elif found[expected.algorithm] != expected.value:
                yield damage_of(
                    self._tensor, f"{name} is {found[expected.algorithm].hex()}, expected {expected.value.hex()}"
                )
