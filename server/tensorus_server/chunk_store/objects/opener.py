"""Opens payloads by their keys: says in which objects their bytes are, with at most one GET, or two for the largest.

a part of a pack                    fetched whole, unless it was fetched ahead
a single segment of up to 4 MiB     fetched whole
a larger one                        its last 128 KiB are fetched, where the chunk index is
several segments                    the last 128 KiB of the last one, where the segment directory is; more only if the
                                    directory is larger
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.chunk_store.objects.names import Segment, pack_name
from tensorus_server.chunk_store.objects.reader import ObjectReader, Span, UnreadableReader
from tensorus_server.chunk_store.objects.segments import (
    END_BYTES,
    DirectoryError,
    directory_bytes,
    parse_directory,
)
from tensorus_server.limits import PACKED_BYTES_MAX
from tensorus_server.payload_keys import PackedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.chunk_store.objects.ahead import PackedAhead
    from tensorus_server.chunk_store.objects.client import ObjectClient
    from tensorus_server.chunk_store.objects.reader import ReaderParts
    from tensorus_server.payload_keys import SegmentedKey

__all__ = ["open_payload", "spans_of"]

_TAIL_BYTES = 128 * 1024
"""Enough for the chunk index of 8,000 chunks, a footer, and the directory of 2,000 segments."""


def open_payload(parts: ReaderParts, key: str, ahead: PackedAhead | None = None) -> ChunkReader:
    """Open a published payload.

    Args:
        ahead: what was fetched ahead; None: nothing.

    Raises:
        PayloadMissingError: no payload has this key.
        StoreUnavailableError: the store is away.
    """
    parsed = parse_key(key)
    if parsed is None:
        raise PayloadMissingError(f"no payload has the key {key}")
    try:
        return _open(parts, key, parsed, ahead)
    except PayloadMissingError as error:
        raise PayloadMissingError(f"no payload has the key {key}: {error}") from error
    except DirectoryError as error:
        return UnreadableReader(f"payload {key}: {error}")


def spans_of(parts: ReaderParts, key: str) -> Sequence[Span]:
    """Return where the bytes of a payload are. A payload in one object is not looked for.

    Raises:
        PayloadMissingError: no payload has this key, or its segment directory is damaged.
        StoreUnavailableError: the store is away.
    """
    parsed = parse_key(key)
    if parsed is None:
        raise PayloadMissingError(f"no payload has the key {key}")
    if isinstance(parsed, PackedKey):
        return [Span(0, parsed.length, pack_name(parsed.pack), parsed.offset)]
    if parsed.tail_offset == 0:
        return [Span(0, parsed.tail_bytes, _tail(parsed).name)]
    try:
        return _read_directory(parts.client, parsed)[0]
    except DirectoryError as error:
        raise PayloadMissingError(f"payload {key} cannot be found: {error}") from error


def _open(parts: ReaderParts, key: str, parsed: PackedKey | SegmentedKey, ahead: PackedAhead | None) -> ChunkReader:
    client = parts.client
    if isinstance(parsed, PackedKey):
        name = pack_name(parsed.pack)
        whole = None if ahead is None else ahead.take(parsed)
        if whole is None:
            whole = client.get(name, parsed.offset, parsed.length)
        return ObjectReader(parts, key, [Span(0, parsed.length, name, parsed.offset)], (0, whole))
    if parsed.tail_offset > 0:
        spans, tail = _read_directory(client, parsed)
        return ObjectReader(parts, key, spans, (spans[-1].end - tail.nbytes, tail))
    name, size = _tail(parsed).name, parsed.tail_bytes
    spans = [Span(0, size, name)]
    if size == 0:
        client.size(name)
        return ObjectReader(parts, key, spans)
    start = 0 if size <= PACKED_BYTES_MAX else size - _TAIL_BYTES
    return ObjectReader(parts, key, spans, (start, client.get(name, start, size - start)))


def _tail(key: SegmentedKey) -> Segment:
    return Segment(key.payload_key, key.generation, key.tail_offset, is_end=True)


def _read_directory(client: ObjectClient, key: SegmentedKey) -> tuple[list[Span], memoryview]:
    """Return the spans of a payload of several segments, and the last bytes of the payload, as far as they were fetched."""
    name, size = _tail(key).name, key.tail_bytes
    fetched = min(size, _TAIL_BYTES)
    tail = client.get(name, size - fetched, fetched)
    if tail.nbytes != fetched or fetched < END_BYTES:
        raise DirectoryError(f"the last segment has fewer than {size} bytes")
    length = directory_bytes(tail[-END_BYTES:])
    if length > size:
        raise DirectoryError("the segment directory is larger than its object")
    if length > fetched:
        tail = client.get(name, size - length, length)
    segments, payload_bytes = parse_directory(key.payload_key, bytes(tail[-length:]))
    if segments[-1] != _tail(key) or payload_bytes - key.tail_offset != size - length:
        raise DirectoryError("the segment directory is of another payload")
    spans = [Span(one.offset, following.offset - one.offset, one.name) for one, following in pairwise(segments)]
    spans.append(Span(key.tail_offset, payload_bytes - key.tail_offset, name))
    return spans, tail[: tail.nbytes - length]
