"""What a resumed tensor needs beside its measurements: the encoding that its next chunks share with stored ones, and checks.

A writer chooses an encoding once for `CHOOSE_EVERY_CHUNKS` chunks. An insert may be interrupted between two of them, and the
rest must be encoded like the first, so that the tensor is stored as without the interruption. So a mark has the choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tensorus_codecs.abc import BaseFilter
from tensorus_codecs.checksum import chunk_seed, crc32c
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.plan import Choice
from tensorus_codecs.select import CHOOSE_EVERY_CHUNKS, narrowed
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.catalogue.abc import Upload
    from tensorus_server.chunk_details import ChunkDetails
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.chunk_store.abc import ChunkReader

__all__ = ["Choices", "needs_base", "require_chunks", "require_last_record"]


class Choices:
    """The plan of each chunk of a tensor, with the choice that it shares with its neighbours. Not thread-safe."""

    def __init__(self, plan: ChunkPlan) -> None:
        """Start with no choice.

        Args:
            plan: of the tensor.
        """
        self._plan = plan
        self._narrowed = plan
        # By the first chunk that they are for. Chunks are chosen for some time before they are marked.
        self._choices: dict[int, Choice | None] = {}

    def plan(self, number: int, chunk: memoryview, dtype: DType) -> ChunkPlan:
        """Return the plan for a chunk; the first one of a group decides for the group.

        Args:
            number: of the chunk; one more than in the call before.
            chunk: its canonical bytes.
        """
        if number % CHOOSE_EVERY_CHUNKS == 0:
            self._narrowed = narrowed(self._plan, chunk, dtype)
            self._choices[number] = self._narrowed.choice
        return self._narrowed

    def to_json(self, chunk: int) -> list[Any] | None:
        """Return what the chunk with this number shares with those before it; None: nothing. Forgets what is older."""
        first = chunk - chunk % CHOOSE_EVERY_CHUNKS
        self._choices = {begin: choice for begin, choice in self._choices.items() if begin >= first}
        choice = self._choices.get(first) if chunk > first else None
        return None if choice is None else [choice.encoding.to_json(), choice.share]

    def resume(self, chunk: int, fields: list[Any] | None) -> None:
        """Go on with the chunk with this number.

        Args:
            fields: what `to_json` returned; None also if an older version saved no choice. Each chunk up to the next group
                then gets a choice of its own.
        """
        if fields is not None:
            encoding, share = fields
            choice = Choice(Encoding.from_json(encoding), share)
            self._narrowed = replace(self._plan, choice=choice)
            self._choices[chunk - chunk % CHOOSE_EVERY_CHUNKS] = choice


def needs_base(encoding: list[Any]) -> bool:
    """Return whether records with this encoding, as JSON, are differences to a base."""
    return isinstance(Encoding.from_json(encoding).filter, BaseFilter)


def require_chunks(upload: Upload, index: ChunkIndex, details: ChunkDetails) -> None:
    """Check that these are the chunks of the mark.

    An upload of a version that saved no chunk details expires here.

    Raises:
        DataCorruptError: they are not.
    """
    if not len(index) == len(details) == upload.chunk_count or index.stored_bytes != upload.stored_bytes:
        raise DataCorruptError(
            f"the catalogue is damaged: it has {len(index)} chunks of item {upload.item}, the mark {upload.chunk_count}",
            tensor=upload.id,
        )


def require_last_record(upload: Upload, index: ChunkIndex, reader: ChunkReader) -> None:
    """Check that the last stored record is the one that was written: that the payload is the upload's, and not cut.

    Raises:
        CorruptChunkError: it is another one.
        PayloadMissingError, PayloadUnreadableError: it cannot be read.
    """
    number = len(index) - 1
    stored_bytes, seeded_crc32c = index[number]
    record = reader.read(upload.stored_bytes - stored_bytes, stored_bytes)
    if crc32c(record) ^ chunk_seed(upload.payload_key, number) != seeded_crc32c:
        raise CorruptChunkError(f"chunk {number} is not what was written")
