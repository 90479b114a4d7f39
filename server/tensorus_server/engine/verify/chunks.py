"""The chunks of a tensor, in order, each with its place: all that the checks need to know of how a store lays out its bytes.

`StoredChunks` is the interface, `open_chunks` opens the chunks of a tensor. Here they lie in one payload, with the chunk index
at its end (`payload.py`). A layout in which they lie in several payloads is another class.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.engine.footer import FooterError, read_footer
from tensorus_server.engine.read.payload import Payload, damage
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
    if tensor.inline_payload is not None:
        yield _PayloadChunks(tensor, BytesReader(tensor.inline_payload))
        return
    try:
        reader = payloads.open(tensor.locator.key)
    except PayloadMissingError as error:
        where = "the catalogue" if file_of(tensor) == CATALOGUE_FILE else "the chunk store"
        raise DataCorruptError(
            f"the payload is missing from {where}", dataset=tensor.dataset, tensor=tensor.id
        ) from error
    except StoreUnavailableError as error:
        raise StoreUnavailableError(
            f"the payload cannot be opened: {error}", dataset=tensor.dataset, tensor=tensor.id
        ) from error
    with reader:
        yield _PayloadChunks(tensor, reader)


class _PayloadChunks:
    """The chunks of a tensor that has one payload."""

    def __init__(self, tensor: Tensor, reader: ChunkReader) -> None:
        self._tensor = tensor
        self._reader = reader
        # Without a cache: the index on the disk is what is to be verified.
        self._payload = Payload(tensor, reader)

    @property
    def count(self) -> int:
        return -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)

    def file_of(self, chunk: int) -> str:  # noqa: ARG002 - all chunks are in one payload
        return file_of(self._tensor)

    def read(self, chunk: int) -> bytes:
        record, _ = self._payload.read_record(chunk)
        return record

    def decode(self, chunk: int, record: bytes) -> memoryview:
        return decode_chunk(self._tensor, chunk, record)

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
