"""A chunk store that keeps payloads as objects, in S3, GCS, Azure, or what speaks one of their protocols.

`names.py` has the names of all objects. None is ever stored again with other bytes, apart from the identity; so nothing here
needs conditional requests, and caches never hold anything old. Small payloads share objects (`packer.py`), larger ones have
several (`writer.py`), and readers fetch ranges (`reader.py`).

Before an object is stored, its key is noted in the `WriteLog`. Whoever goes on with a payload gets a new generation, which is
part of the names of its segments. So a late PUT of an earlier writer does no harm: nobody looks for its name.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from tensorus_server.background import WorkerPool
from tensorus_server.chunk_index import IndexCache
from tensorus_server.chunk_store.abc import ChunkStore, PayloadBusyError, PayloadMissingError, PresignedRange
from tensorus_server.chunk_store.objects.address import StoreAddress
from tensorus_server.chunk_store.objects.ahead import PackedAhead
from tensorus_server.chunk_store.objects.byte_budget import ByteBudget
from tensorus_server.chunk_store.objects.client import ObjectClient
from tensorus_server.chunk_store.objects.discarded import PACK_KEY, Discarded, delete_payload
from tensorus_server.chunk_store.objects.identity import IdentityObject
from tensorus_server.chunk_store.objects.leases import LogLeases
from tensorus_server.chunk_store.objects.listing import ObjectListing, list_payloads
from tensorus_server.chunk_store.objects.names import payload_folder
from tensorus_server.chunk_store.objects.opener import open_payload, spans_of
from tensorus_server.chunk_store.objects.pack_store import ObjectPacks
from tensorus_server.chunk_store.objects.packer import Packer
from tensorus_server.chunk_store.objects.quarantine import ObjectQuarantine
from tensorus_server.chunk_store.objects.reader import ObjectReader, ReaderParts, Span
from tensorus_server.chunk_store.objects.segments import segments_before
from tensorus_server.chunk_store.objects.writer import Continued, SegmentWriter, WriterParts
from tensorus_server.limits import PACK_BYTES_MAX, PACKED_BYTES_MAX, SEGMENT_OBJECT_BYTES
from tensorus_server.meters import ChunkStoreMeters
from tensorus_server.payload_keys import PackedKey, SegmentedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_server.chunk_store.abc import (
        ChunkReader,
        ChunkWriter,
        Leases,
        PackStore,
        Quarantine,
        Space,
        StagedPayload,
        StoredKey,
        WriteLog,
    )
    from tensorus_server.chunk_store.objects.client import RequestLimits
    from tensorus_server.chunk_store.objects.listing import StoredSegments
    from tensorus_server.model import StoreIdentity

__all__ = ["ObjectChunkStore"]

_PUT_THREADS = 16
"""Objects that are stored at the same time. The threads wait for the network and use little CPU."""

_GET_THREADS = 32
"""Ranges that are fetched ahead at the same time."""

_UNCOMMITTED_MAX = 4096
"""Payloads in segments that this process published, whose keys the `WriteLog` still has if they were not committed."""

_log = logging.getLogger(__name__)


class ObjectChunkStore(ChunkStore):
    """See the module's description."""

    def __init__(
        self,
        url: str,
        *,
        writes: WriteLog,
        has_other_users: Callable[[], bool] = lambda: False,
        read_bytes_max: int = 256 * 1024 * 1024,
        write_bytes_max: int = 256 * 1024 * 1024,
        packed_bytes_max: int = PACKED_BYTES_MAX,
        segment_bytes: int = SEGMENT_OBJECT_BYTES,
        requests: RequestLimits | None = None,
    ) -> None:
        """Open the store at `url`. No request is made yet: see `probe.probe_store`.

        Args:
            url: see `address.py`.
            writes: notes what is written.
            has_other_users: returns whether another living process uses the store.
            read_bytes_max: memory of all readers together, for what they fetched ahead.
            write_bytes_max: memory of all writers together, for segments; each may have 1 MiB more. Small payloads take up to
                64 MiB besides, and reads that no prefetch announced what they return.
            packed_bytes_max: stored bytes up to which a payload is put into a pack; negative: none is.
            segment_bytes: at which a segment is complete.
            requests: limits of each request; None: the default.

        Raises:
            InvalidRequestError: the address is malformed, or holds credentials.
        """
        self.client = ObjectClient(StoreAddress.parse(url), requests)
        """Makes all requests, and counts them."""
        self.client.before_put = writes.require
        client = self.client
        self.meters = ChunkStoreMeters(requests=client.requests, retries=client.retries, failures=client.failures)
        self.writes = writes
        self._puts = WorkerPool(_PUT_THREADS, "put")
        self._gets = WorkerPool(_GET_THREADS, "get")
        self._leases = LogLeases(writes, has_other_users)
        self._discarded = Discarded(self.client, writes)
        self._packer = Packer(self.client, writes, self._discarded, self._puts, pack_bytes_max=PACK_BYTES_MAX)
        self._parts = WriterParts(
            self.client,
            writes,
            self._leases,
            self._discarded,
            self._packer,
            self._puts,
            ByteBudget(write_bytes_max),
            segment_bytes,
            packed_bytes_max,
        )
        self.read_budget = ByteBudget(read_bytes_max)
        """Of what readers fetched and did not return yet."""
        self._reader_parts = ReaderParts(self.client, self._gets, self.read_budget)
        # Where payloads were found to be. Direct reads ask again and again, also while the store is away.
        self._spans = IndexCache()
        self._ahead = PackedAhead(self._reader_parts)
        self._identity = IdentityObject(self.client)
        self._listing = ObjectListing(self.client, self._parts)
        self._quarantine = ObjectQuarantine(self.client, writes, self._leases)
        self._packs = ObjectPacks(self.client, writes, self._packer, self._discarded)
        self._uncommitted: OrderedDict[str, None] = OrderedDict()
        self._closed = False

    def require_space(self) -> None:
        """Do nothing: the service says when it is full."""

    def begin(self, payload_key: str) -> ChunkWriter:
        """See `Staging`."""
        return SegmentWriter(self._parts, payload_key)

    def resume(self, payload_key: str, length: int) -> tuple[ChunkWriter, ChunkReader]:
        """See `Staging`. Objects after the first `length` bytes stay until the payload is deleted; nobody names them."""
        try:
            generation = self._leases.take_over(payload_key)
        except PayloadMissingError as error:
            raise PayloadMissingError(f"no kept payload has the key {payload_key}: {error}") from error
        try:
            stored = [pair for listed in self._listed(payload_key) for pair in listed.segments]
            segments, end = segments_before(stored, length)
            if end < length:
                raise PayloadMissingError(f"payload {payload_key} has {end} bytes, {length} are needed")
        except BaseException:
            self._leases.park(payload_key)
            raise
        ends = [*(segment.offset for segment in segments[1:]), length]
        spans = [
            Span(segment.offset, end - segment.offset, segment.name)
            for segment, end in zip(segments, ends, strict=bool(segments))
        ]
        reader = ObjectReader(self._reader_parts, payload_key, spans)
        return SegmentWriter(self._parts, payload_key, Continued(generation, segments, length)), reader

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """See `Staging`."""
        packed = [staged.payload_key for staged in group if staged.payload_key not in self._parts.staged]
        keys = self._packer.publish(packed) if packed else {}
        for staged in group:
            segmented = self._parts.staged.pop(staged.payload_key, None)
            if segmented is not None:
                keys[staged.payload_key] = str(segmented)
                self._leases.unhold(staged.payload_key)
                self._uncommitted[staged.payload_key] = None
        while len(self._uncommitted) > _UNCOMMITTED_MAX:
            self._uncommitted.popitem(last=False)
        return [keys[staged.payload_key] for staged in group]

    def park(self, staged: StagedPayload) -> None:
        """See `Staging`."""
        if not staged.kept:
            self.drop(staged)
        elif self._parts.staged.pop(staged.payload_key, None) is not None:
            self._leases.park(staged.payload_key)

    def drop(self, staged: StagedPayload) -> None:
        """See `Staging`."""
        self._packer.drop(staged.payload_key)
        if self._parts.staged.pop(staged.payload_key, None) is not None:
            self._discarded.discard(staged.payload_key)
            self._leases.unhold(staged.payload_key)

    def drop_kept(self, payload_key: str) -> None:
        """See `Staging`."""
        try:
            self._leases.take_over(payload_key)
        except PayloadMissingError:
            return
        try:
            self._discarded.discard(payload_key)
        finally:
            self._leases.unhold(payload_key)

    def sweep_unfinished(self) -> int:
        """See `Staging`. Whoever reaps dead processes deletes what they left; this deletes what this process could not yet."""
        self._leases.retry()
        return self._discarded.retry()

    def open(self, key: str) -> ChunkReader:
        """See `PayloadStore`."""
        return open_payload(self._reader_parts, key, self._ahead)

    @property
    def fetches_ahead(self) -> bool:
        """See `PayloadStore`."""
        return True

    def fetch_ahead(self, keys: Sequence[str]) -> Callable[[], None]:
        """See `PayloadStore`. Payloads in packs are fetched."""
        return self._ahead.start(keys)

    def delete(self, key: str) -> None:
        """See `PayloadStore`. A payload in a pack stays until its pack is deleted, by the key "pack/<32 hex digits>"."""
        parsed = parse_key(key)
        if isinstance(parsed, PackedKey):
            self._packer.deleted(parsed.pack, parsed.payload_key)
        elif parsed is not None:
            if not self._is_of_others(parsed.payload_key):
                delete_payload(self.client, parsed.payload_key, generation=parsed.generation)
        elif key.startswith(PACK_KEY):
            self._packs.delete_pack(key.removeprefix(PACK_KEY))

    def _is_of_others(self, payload_key: str) -> bool:
        """Return whether others go on with a payload that this process published, and whose commit may have been refused.

        If it was refused for that very reason, its objects must stay.
        """
        if payload_key not in self._uncommitted:
            return False
        if not self.writes.abandon([payload_key]):
            try:
                self._leases.take_over(payload_key)
            except PayloadBusyError:
                return True
            except PayloadMissingError:
                _log.debug("payload %s was committed, by this process or by one that went on with it", payload_key)
            else:
                self._leases.park(payload_key)
                return True
        self._uncommitted.pop(payload_key, None)
        return False

    def presign(
        self, key: str, ranges: Sequence[tuple[int, int]], expires_s: float
    ) -> list[list[PresignedRange]] | None:
        """See `PayloadStore`. The first time, one request to the store if the payload has several segments; otherwise none."""
        spans = self._spans.get(key, _spans_bytes(key), lambda: spans_of(self._reader_parts, key))
        pieces = [_pieces(key, spans, offset, length) for offset, length in ranges]
        names = sorted({span.name for found in pieces for span in found})
        expires_at_s = time.time() + expires_s
        urls = self.client.sign(names, expires_s)
        if urls is None:
            return None
        url_of = dict(zip(names, urls, strict=True))
        return [
            [PresignedRange(url_of[span.name], span.offset, span.length, expires_at_s) for span in found]
            for found in pieces
        ]

    def published(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        return self._listing.published()

    def kept(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        return self._listing.kept()

    @property
    def quarantine(self) -> Quarantine:
        """See `ChunkStore`."""
        return self._quarantine

    @property
    def leases(self) -> Leases:
        """See `ChunkStore`."""
        return self._leases

    @property
    def packs(self) -> PackStore:
        """The packs of this store."""
        return self._packs

    def read_identity(self) -> StoreIdentity | None:
        """See `IdentityHolder`."""
        return self._identity.read_identity()

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `IdentityHolder`."""
        self._identity.write_identity(identity)

    def space(self) -> Space | None:
        """Return None, since the service has the disks."""
        return None

    def close(self, timeout_s: float = 60.0) -> bool:
        """See `ChunkStore`. Requests that run are waited for: the library must not be in use when the process exits."""
        if self._closed:
            return True
        self._closed = True
        self.client.drain()
        give_up_s = time.monotonic() + timeout_s
        ended = self._puts.close(timeout_s)
        ended = self._gets.close(max(give_up_s - time.monotonic(), 0.0)) and ended
        self._packer.close()
        self._leases.close()
        self.client.close()
        return ended

    def _listed(self, payload_key: str) -> list[StoredSegments]:
        return list(list_payloads(self.client, payload_folder(payload_key)))


def _spans_bytes(key: str) -> int:
    """Return about how much memory the spans of a payload take, from its key."""
    parsed = parse_key(key)
    segments = parsed.tail_offset // SEGMENT_OBJECT_BYTES if isinstance(parsed, SegmentedKey) else 0
    return 4096 + 512 * segments


def _pieces(key: str, spans: Sequence[Span], offset: int, length: int) -> list[Span]:
    """Return the parts of objects that a range of a payload is made of."""
    end = offset + length
    if end > spans[-1].end:
        raise PayloadMissingError(f"payload {key} has {spans[-1].end} bytes, {end} are needed")
    found = []
    for span in spans:
        start, stop = max(offset, span.start), min(end, span.end)
        if start < stop:
            found.append(Span(start, stop - start, span.name, span.offset + start - span.start))
    return found
