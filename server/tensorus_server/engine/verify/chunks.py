"""The chunks of a tensor, in order, each with its place: all that the checks need to know of how a store lays out its bytes.

`StoredChunks` is the interface, `open_chunks` opens the chunks of a tensor. The chunks of an edited tensor are in several
payloads (`engine/read/chunks.py`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tensorus_codecs.checksum import TensorDigest
from tensorus_protos.digest import DIGEST_BYTES
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.engine.footer import FooterError, read_footer
from tensorus_server.engine.read.chunks import TensorChunks
from tensorus_server.engine.read.payload import damage
from tensorus_server.engine.read.reader import decode_chunk
from tensorus_server.errors import DataCorruptError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.chunk_store.abc import ChunkReader, PayloadStore
    from tensorus_server.model import Tensor

__all__ = ["CATALOGUE_FILE", "StoredChunks", "file_of", "open_chunks"]

CATALOGUE_FILE = "catalogue.db"
"""The file of rows and inline payloads, within the store's folder."""


class StoredChunks(Protocol):
    """The open chunks of one tensor. Every error names dataset, tensor and file."""

    @property
    def count(self) -> int:
        """Number of chunks."""

    def file_of(self, chunk: int) -> str:
        """Return the file that holds a chunk's record, as a path within the store's folder."""

    def read(self, chunk: int) -> bytes:
        """Return a chunk's record, whose checksum was verified.

        Raises:
            DataCorruptError: the record is damaged.
        """

    def decode(self, chunk: int, record: bytes) -> memoryview:
        """Return the canonical bytes of a chunk's record.

        Raises:
            DataCorruptError: the record does not decode to the chunk.
            UnsupportedCodecError: it needs a codec that is not installed.
        """

    def check_digest(self, chunk: int, canonical: memoryview) -> None:
        """Compare a chunk with its digest in the chunk details, if its payload has any that are intact.

        Raises:
            DataCorruptError: they differ; or the chunk details are damaged, which is raised once.
        """

    def check_files(self) -> Iterator[DataCorruptError]:
        """Yield the damage of the files around the records: their lengths and their footers."""


def file_of(tensor: Tensor) -> str:
    """Return the file that holds a tensor's payload, as a path within the store's folder."""
    # The key of an inline payload is its random name alone, without a shard.
    return f"chunks/{tensor.locator.key}" if "/" in tensor.locator.key else CATALOGUE_FILE


@contextmanager
def open_chunks(tensor: Tensor, payloads: PayloadStore) -> Iterator[StoredChunks]:
    """Open the chunks of a tensor, which must have its inline payload, if it is stored inline.

    Raises:
        DataCorruptError: the payload is missing, or its chunk index is damaged.
        StoreUnavailableError: the payload cannot be opened now.
    """

    def open_payload(key: str) -> ChunkReader:
        if tensor.inline_payload is not None and key == tensor.locator.key:
            return BytesReader(tensor.inline_payload)
        return _opened(tensor, payloads, key)

    with open_payload(tensor.locator.key) as reader:
        # Without a cache: the index on the disk is what is to be verified.
        chunks = TensorChunks(tensor, reader, open_payload)
        try:
            yield _PayloadChunks(tensor, reader, chunks)
        finally:
            chunks.close()


def _opened(tensor: Tensor, payloads: PayloadStore, key: str) -> ChunkReader:
    try:
        return payloads.open(key)
    except PayloadMissingError as error:
        where = "the catalogue" if file_of(tensor) == CATALOGUE_FILE else "the chunk store"
        raise DataCorruptError(
            f"the payload is missing from {where}", dataset=tensor.dataset, tensor=tensor.id
        ) from error
    except StoreUnavailableError as error:
        raise StoreUnavailableError(
            f"the payload cannot be opened: {error}", dataset=tensor.dataset, tensor=tensor.id
        ) from error


class _PayloadChunks:
    """See `StoredChunks`."""

    def __init__(self, tensor: Tensor, reader: ChunkReader, chunks: TensorChunks) -> None:
        self._tensor = tensor
        self._reader = reader
        self._chunks = chunks
        # The digests of one payload; chunks of the same payload mostly follow each other.
        self._digests: tuple[int, bytes] | None = None
        # Payloads whose damaged chunk details were reported.
        self._without_details: set[int] = set()

    @property
    def count(self) -> int:
        return -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)

    def file_of(self, chunk: int) -> str:
        table = self._chunks.table
        payload = 0 if table is None else table.place(chunk)[0]
        return file_of(self._tensor) if table is None or payload == 0 else f"chunks/{table.payloads[payload - 1].key}"

    def read(self, chunk: int) -> bytes:
        record, _ = self._chunks.read_record(chunk)
        return record

    def decode(self, chunk: int, record: bytes) -> memoryview:
        return decode_chunk(self._tensor, chunk, record)

    def check_digest(self, chunk: int, canonical: memoryview) -> None:
        table = self._chunks.table
        payload, number = (0, chunk) if table is None else table.place(chunk)
        if payload in self._without_details:
            return
        if self._digests is None or self._digests[0] != payload:
            try:
                details = self._chunks.read_details(payload)
            except DataCorruptError:
                self._without_details.add(payload)
                raise
            self._digests = payload, b"" if details is None else details.digests
        digests = self._digests[1]
        expected = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        found = TensorDigest.of(canonical)
        if digests and found != expected:
            raise damage(
                self._tensor, f"digest of chunk {chunk} is {found.hex()}, expected {expected.hex()}", chunk=chunk
            )

    def check_files(self) -> Iterator[DataCorruptError]:
        locator = self._tensor.locator
        end = locator.offset + locator.length
        try:
            file_bytes = self._reader.length
            # Files of older versions end with the payload. A file that is shorter has been reported: its index is not readable.
            if file_bytes == end:
                return
            if self._tensor.inline_payload is not None:
                yield damage(self._tensor, f"the inline payload is {file_bytes} bytes, expected {end}")
                return
            footer = read_footer(self._reader.read, file_bytes)
            found = footer.payload_bytes, footer.payload_key, footer.fields["index_crc32c"]
            if found != (end, locator.payload_key, locator.index_crc32c):
                yield damage(self._tensor, f"the footer describes another payload, {footer.payload_key}")
        except (FooterError, ValueError, LookupError, TypeError, PayloadMissingError, PayloadUnreadableError) as error:
            yield damage(
                self._tensor,
                f"the footer is damaged, so that `tensorus recover` could not use it; the tensor is readable: {error}",
            )
