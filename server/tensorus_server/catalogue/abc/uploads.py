"""The table of uploads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.model import NewTensor, Outcome, TensorSpec

__all__ = ["Mark", "Upload", "UploadTable"]


@dataclass(frozen=True)
class Upload:
    """A tensor on its way in, as far as it is durable; or the one that it became."""

    request_id: str
    """Of the insert; the client's."""
    item: int
    """Its number within the insert."""
    dataset_number: int
    id: str
    spec: TensorSpec
    policy: StoragePolicy
    """Which it is encoded by, whatever becomes of the dataset's."""
    payload_key: str
    committed_bytes: int
    """Canonical bytes that are durable, from the start; whole chunks."""
    stored_bytes: int
    """Bytes of the payload that they are."""
    chunk_count: int
    state: dict[str, Any]
    """What was measured so far, as JSON."""
    announced: NewTensor | None = None
    """What its first announcement said, which holds for every later stream; None: an older version of Tensorus began it."""
    generation: int | None = None
    """Of the tensor that it became; None: it is still on its way."""
    outcome: Outcome | None = None
    """What its insert did; None: it is still on its way, or an older version of Tensorus ended it."""


@dataclass(frozen=True)
class Mark:
    """A new state of an upload: its payload is durable so far."""

    upload: Upload
    new_chunks: ChunkIndex
    """Of the chunks since the mark before."""


class UploadTable(ABC):
    """Uploads by request and item. One whose row is damaged is not there: its tensor is sent again from its start.

    Nothing here decides who may go on with an upload: the payload's lease does, and the insert's session.
    """

    @abstractmethod
    def save(self, marks: Sequence[Mark]) -> None:
        """Save new states, in one transaction. Each puts off the expiry of its upload.

        Whoever is told of a mark may free the memory of what came before it, so it must be durable when this returns (1). Its
        payload was durable before: a mark never says more than the chunk store has.
        """

    @abstractmethod
    def find(self, request_id: str) -> list[Upload]:
        """Return the uploads of a request, in order of their items, of one state of the catalogue (4)."""

    @abstractmethod
    def chunks(self, upload: Upload) -> ChunkIndex:
        """Return the chunk index of an upload that is still on its way, as far as it is.

        Raises:
            DataCorruptError: it cannot be read. One that can is still to be compared with the upload and its payload.
        """

    @abstractmethod
    def drop(self, request_id: str, item: int | None = None) -> list[str]:
        """Drop the rows of a request's uploads, or of one of them; return the payload keys of those that were on their way.

        One transaction, and idempotent: what was dropped before is not returned again (9). An upload that a commit completes is
        not on its way any more. Succeeds on a full disk.
        """

    @abstractmethod
    def expired(self, limit: int) -> list[Upload]:
        """Return uploads whose time is over, by the catalogue's clock (11), at most `limit`."""
