"""The chunks of a tensor, in order, each with its place: all that the checks need to know of how a store lays out its bytes.

The chunks of an edited tensor are in several payloads (`engine/read/chunks.py`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_protos.digest import DIGEST_BYTES
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.engine.footer import FooterError, read_footer
from tensorus_server.engine.read.ahead import announced
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


def file_of(key: str) -> str:
    """Return the file that holds a payload, as a path within the store's folder."""
    # The key of an inline payload is its random name alone, without a shard.
    return f"chunks/{key}" if "/" in key else CATALOGUE_FILE


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
            # Also if no record needs it.
            chunks.own.read_bases()
            yield StoredChunks(tensor, reader, chunks)
        finally:
            chunks.close()


def _opened(tensor: Tensor, payloads: PayloadStore, key: str) -> ChunkReader:
    try:
        return payloads.open(key)
    except PayloadMissingError as error:
        where = "the catalogue" if file_of(key) == CATALOGUE_FILE else "the chunk store"
        raise damage(tensor, f"the payload is missing from {where}") from error
    except StoreUnavailableError as error:
        raise StoreUnavailableError(
            f"the payload cannot be opened: {error}", dataset=tensor.dataset, tensor=tensor.id
        ) from error


class StoredChunks:
    """The open chunks of one tensor. Every error names dataset and tensor."""

    def __init__(self, tensor: Tensor, reader: ChunkReader, chunks: TensorChunks) -> None:
        """Read from `chunks`, and from `reader`, which reads the tensor's own payload."""
        self._tensor = tensor
        self._reader = reader
        self._chunks = chunks
        # Of each payload whose chunk details were read; None: it has none, or they are damaged. 16 bytes per record.
        self._digests: dict[int, bytes | None] = {}
        # Other payloads that cannot be read at all.
        self._unreadable: set[int] = set()
        # Keys of payloads with bases that cannot be read at all.
        self._unreadable_bases: set[str] = set()

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)

    def in_order(self) -> Iterator[int]:
        """Yield the numbers of all chunks, which are announced to the store before they are read."""
        return announced(self._chunks, range(self.count), lambda chunk: chunk)

    def file_of(self, chunk: int) -> str:
        """Return the file that holds a chunk's record, as a path within the store's folder."""
        payload, _ = self._chunks.place(chunk)
        return file_of(self._chunks.key(payload))

    def decode(self, chunk: int, record: bytes) -> memoryview | None:
        """Return the canonical bytes of a chunk; None: the payload of its base cannot be read, which was raised before.

        Args:
            record: the chunk's record.

        Raises:
            DataCorruptError: the record does not decode; or a base that it needs is damaged, and then the fact `base` is the
                key of its payload. If that payload is missing or its chunk index is damaged, this is raised once.
            StoreUnavailableError: the payload of a base cannot be opened now; raised once.
            UnsupportedCodecError: a codec is not installed.
        """
        try:
            return decode_chunk(self._tensor, self._chunks, chunk, record)
        except (DataCorruptError, StoreUnavailableError) as error:
            key = error.facts.get("base")
            if key is not None and "chunk" not in error.facts:
                if key in self._unreadable_bases:
                    return None
                self._unreadable_bases.add(key)
                error.facts["chunk"] = str(chunk)
            raise

    def read(self, chunk: int) -> bytes | None:
        """Return a chunk's record, whose checksum was verified; None: its payload cannot be read, which was raised before.

        Raises:
            DataCorruptError: the record is damaged; or its payload is missing or its chunk index is damaged, which is raised
                once.
            StoreUnavailableError: its payload cannot be opened now; raised once.
        """
        payload, _ = self._chunks.place(chunk)
        if payload in self._unreadable:
            return None
        try:
            record, _ = self._chunks.read_record(chunk)
        except (DataCorruptError, StoreUnavailableError) as error:
            if "chunk" not in error.facts:
                self._unreadable.add(payload)
            raise
        return record

    def digest(self, chunk: int) -> bytes | None:
        """Return the digest of a chunk from the chunk details; None if its payload has none that are intact.

        Raises:
            DataCorruptError: the chunk details of its payload are damaged; raised once.
        """
        payload, number = self._chunks.place(chunk)
        if payload not in self._digests:
            self._digests[payload] = None
            details = self._chunks.read_details(payload)
            self._digests[payload] = None if details is None else details.digests
        digests = self._digests[payload]
        return None if digests is None else digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]

    def check_files(self) -> Iterator[DataCorruptError]:
        """Yield the damage around the records of the tensor's own payload: of its file's length, and of its footer."""
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
