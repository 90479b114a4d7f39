"""Lists payloads and packs by the names of their objects."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadListing, StoredKey, StoredPack
from tensorus_server.chunk_store.objects.names import PACKS, SEGMENTS, Segment, parse_pack
from tensorus_server.chunk_store.objects.quarantine import PACK_HOME, read_marks
from tensorus_server.payload_keys import SegmentedKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus_server.chunk_store.objects.client import ObjectClient, StoredObject
    from tensorus_server.chunk_store.objects.writer import WriterParts

__all__ = ["ObjectListing", "StoredSegments", "list_packs", "list_payloads"]


@dataclass(frozen=True)
class StoredSegments:
    """The segments of one payload, as a listing shows them."""

    payload_key: str
    segments: Sequence[tuple[Segment, int]]
    """With the sizes of their objects."""
    stored_bytes: int
    """Of all of them, those that do not count included."""
    modified_s: float
    """When the latest was stored, in seconds since 1970."""

    @property
    def published_key(self) -> str | None:
        """The key of the payload if it is complete; None: it is not."""
        segment, size = max(
            self.segments, key=lambda stored: (stored[0].generation, stored[0].offset, stored[0].is_end)
        )
        if not segment.is_end:
            return None
        return str(SegmentedKey(segment.generation, segment.offset, size, segment.payload_key))


def list_payloads(client: ObjectClient, folder: str = SEGMENTS) -> Iterator[StoredSegments]:
    """Yield the payloads in segments whose objects are in `folder`."""

    def parsed(stored: StoredObject) -> Segment | None:
        return Segment.parse(stored.name)

    found = ((segment, stored) for stored in client.objects(folder) if (segment := parsed(stored)) is not None)
    # Listings are sorted by name, so the segments of a payload follow each other.
    for payload_key, group in groupby(found, key=lambda pair: pair[0].payload_key):
        pairs = list(group)
        yield StoredSegments(
            payload_key,
            [(segment, stored.size) for segment, stored in pairs],
            sum(stored.size for _, stored in pairs),
            max(stored.modified_s for _, stored in pairs),
        )


def list_packs(client: ObjectClient) -> Iterator[StoredPack]:
    """Yield all packs that are not in quarantine."""
    marks = read_marks(client)
    for stored in client.objects(PACKS):
        pack = parse_pack(stored.name)
        key = f"{PACK_HOME}/{pack}"
        if pack is not None and key not in marks.entries:
            yield StoredPack(pack, stored.size, max(stored.modified_s, marks.restored_s.get(key, 0.0)))


class ObjectListing(PayloadListing):
    """The payloads in segments. Those that this process is still writing are told apart by what its writers say."""

    def __init__(self, client: ObjectClient, parts: WriterParts) -> None:
        """List the store of `client`.

        Args:
            client: makes the requests.
            parts: what the writers of this process share.
        """
        self._client = client
        self._parts = parts

    def published(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        marks = read_marks(self._client)
        for stored in list_payloads(self._client):
            key = stored.published_key
            if key is not None and key not in marks.entries and stored.payload_key not in self._parts.staged:
                yield StoredKey(key, max(stored.modified_s, marks.restored_s.get(key, 0.0)))

    def kept(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        marks = read_marks(self._client)
        for stored in list_payloads(self._client):
            payload_key = stored.payload_key
            is_staged, key = payload_key in self._parts.staged, f"uploads/{payload_key}"
            if (
                (stored.published_key is None or is_staged)
                and payload_key not in self._parts.unkept
                and key not in marks.entries
            ):
                yield StoredKey(payload_key, max(stored.modified_s, marks.restored_s.get(key, 0.0)))
