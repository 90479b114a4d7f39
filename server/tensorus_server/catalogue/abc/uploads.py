"""The table of uploads: unfinished tensors of inserts that can be resumed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.chunk_details import ChunkDetails
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.model import NewTensor, Outcome, TensorSpec

__all__ = ["Mark", "Upload", "UploadTable"]


@dataclass(frozen=True)
class Upload:
    """The durable part of a tensor that is being inserted; once complete, a record of the tensor that it became."""

    request_id: str
    """The insert's request id, chosen by the client."""
    item: int
    """Its number within the insert."""
    dataset_number: int
    id: str
    spec: TensorSpec
    policy: StoragePolicy
    """The policy that encodes it, even if the dataset's policy changes."""
    payload_key: str
    committed_bytes: int
    """Canonical bytes that are durable, counted from the start; always whole chunks."""
    stored_bytes: int
    """Size of these bytes in the payload."""
    chunk_count: int
    """Number of chunks that are durable."""
    state: dict[str, Any]
    """The measurements so far, as JSON."""
    announced: NewTensor | None = None
    """The first announcement, which also applies to later streams; None: an older version of Tensorus began the upload."""
    generation: int | None = None
    """The generation of the tensor that it became; None: it is not complete."""
    outcome: Outcome | None = None
    """The outcome of the insert; None: it is not complete, or an older version of Tensorus completed it."""


@dataclass(frozen=True)
class Mark:
    """A new state of an upload, after more of its payload became durable."""

    upload: Upload
    new_chunks: ChunkIndex
    """The index entries of the chunks since the previous mark."""
    new_details: ChunkDetails
    """Their details."""


class UploadTable(ABC):
    """Uploads by request id and item. An upload with a damaged row is ignored, so its tensor is sent again from the start.

    The payload's lease and the insert's session decide who may continue an upload, and this table only checks what they say.
    """

    @abstractmethod
    def save(self, marks: Sequence[Mark]) -> Sequence[Exception | None]:
        """Save new states in one transaction. Each extends the expiry of its upload.

        A client that is told of a mark may free the memory before it, so the mark must be durable when this returns (1). The
        payload was made durable first, so a mark never claims more than the chunk store has.

        Returns:
            For each mark, None, or why it was not saved: `SessionTakenOverError`, if another process goes on with its insert or
            with its payload; `WriterLostError`, if this one was declared dead. Only members (`MemberTable`) can lose these.
        """

    @abstractmethod
    def find(self, request_id: str) -> list[Upload]:
        """Return the uploads of a request in the order of their items, from one state of the catalogue (4)."""

    @abstractmethod
    def chunks(self, upload: Upload) -> tuple[ChunkIndex, ChunkDetails]:
        """Return the chunk index and the chunk details of the durable part of an incomplete upload.

        The caller must compare the index with the upload and its payload, since it has no checksum of its own. There are fewer
        details than chunks if an older version of Tensorus saved the marks.

        Raises:
            DataCorruptError: it cannot be read.
        """

    @abstractmethod
    def drop(self, request_id: str, item: int | None = None) -> list[str]:
        """Remove the rows of a request's uploads, or of one item's; return the payload keys of those that were not complete.

        This is one transaction. It is idempotent: uploads that were removed before are not returned again (9). Succeeds on a
        full disk.
        """

    @abstractmethod
    def expired(self, limit: int) -> list[Upload]:
        """Return at most `limit` uploads that have expired, by the catalogue's clock (11)."""
