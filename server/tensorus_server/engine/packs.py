"""Deletes packs that nothing needs, and moves the payloads of packs that are mostly garbage to new ones.

A pack is one object, so the bytes of a deleted tensor in it stay until nothing in it is needed any more. A pack of which less
than half is needed is emptied: its needed payloads are copied, those of several packs to one new pack, and their rows get the
new keys. Then nothing needs the old pack; its object is deleted when the grace period of that is over (see `PackTable`), so a
reader that has a row from before can finish.

A crash leaves one of these, and each is handled by a later sweep:
    before the copies are committed    a new pack that its process had begun, and that died with it
    after that                         the tombstones of old packs
    before the object is deleted       the tombstone of a pack whose object is still there, or no longer
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import packed_key
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.errors import EngineError
from tensorus_server.limits import MOVED_ROWS_MAX, PACK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_server.catalogue.abc import PackContent, PackTable
    from tensorus_server.chunk_store.abc import PackStore

__all__ = ["PacksSwept", "sweep_packs"]

_CLAIMED = 100
"""Packs that are looked at, or retired, in one transaction."""

_LOOKED_AT_MAX = 10_000
"""Packs that one sweep looks at. At one sweep per minute, 14 million packs are looked at each day, which is 220 TiB of them."""

_MOVED_BYTES_MAX = 256 * 1024 * 1024
"""Bytes that one sweep moves, so that it does not take the network from others for long; one batch of packs may exceed it."""

_MOVED_ROWS_AT_ONCE = MOVED_ROWS_MAX
"""Rows that one transaction changes, so that other writers wait for less than 0.1 s; those of one pack may be more."""

_NEEDED_SHARE = 0.5
"""A pack of which less is needed is emptied. So a byte is moved at most once for each byte that this frees."""

_log = logging.getLogger(__name__)


@dataclass
class PacksSwept:
    """What one sweep of packs did."""

    looked_at: int = 0
    retired: int = 0
    """Packs that nothing needs any more. Their objects are deleted when the grace period is over."""
    emptied: int = 0
    """Packs whose needed payloads were moved to new ones."""
    moved: int = 0
    """Payloads that were moved."""
    moved_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """Packs that stay as they are, because a needed payload in them is damaged or missing."""


def sweep_packs(table: PackTable, store: PackStore, *, is_closing: Callable[[], bool] = lambda: False) -> PacksSwept:
    """Look at the packs that are due; retire those that nothing needs, and empty those of which little is needed.

    Args:
        is_closing: returns whether to stop and leave the rest to the next sweep.

    Raises:
        EngineError: the catalogue or the object store cannot be used now. What was not done is due again.
    """
    swept = PacksSwept()
    unneeded: list[PackContent] = []
    sparse: list[PackContent] = []
    size = 0
    waiting: set[str] = set()
    try:
        while swept.looked_at < _LOOKED_AT_MAX and size < _MOVED_BYTES_MAX and not is_closing():
            contents = table.claim(_CLAIMED)
            if not contents:
                break
            swept.looked_at += len(contents)
            unneeded += [content for content in contents if not content.payloads]
            found = [content for content in contents if is_sparse(content)]
            sparse += found
            size += sum(content.needed_bytes for content in found)
        waiting = {content.pack for content in (*unneeded, *sparse)}
        doubtful = table.doubtful([*unneeded, *sparse])
        if doubtful:
            _log.error("%d packs stay, because rows name more payloads in them than their index does", len(doubtful))
        waiting -= doubtful
        retired = [content.pack for content in unneeded if content.pack in waiting]
        for start in range(0, len(retired), _CLAIMED):
            swept.retired += len(table.retire(retired[start : start + _CLAIMED]))
            waiting.difference_update(retired[start : start + _CLAIMED])
        for group in _groups([content for content in sparse if content.pack in waiting]):
            if is_closing():
                break
            _empty(table, store, group, swept)
            waiting.difference_update(content.pack for content in group)
    finally:
        # If this fails too, the table remembers them; if the process ends, they are looked at within a day.
        with suppress(EngineError):
            table.look_again(waiting)
    if swept.retired or swept.emptied:
        _log.info(
            "%d packs are no longer needed; %d payloads, %d bytes, were moved out of %d packs",
            *(swept.retired, swept.moved, swept.moved_bytes, swept.emptied),
        )
    return swept


def is_sparse(content: PackContent) -> bool:
    """Whether the payloads of a pack should be moved: few are needed, and all of these can be."""
    needed = content.needed
    return (
        bool(needed)
        and content.needed_bytes < _NEEDED_SHARE * content.object_bytes
        and not any(payload.is_named or payload.rows > MOVED_ROWS_MAX for payload in needed)
    )


def _groups(contents: Sequence[PackContent]) -> Iterator[list[PackContent]]:
    """Yield packs whose needed payloads fit into one new pack, and whose rows fit into one transaction."""
    group: list[PackContent] = []
    size = rows = 0
    for content in contents:
        more, more_rows = content.needed_bytes, sum(payload.rows for payload in content.needed)
        if group and (size + more > PACK_BYTES_MAX or rows + more_rows > _MOVED_ROWS_AT_ONCE):
            yield group
            group, size, rows = [], 0, 0
        group.append(content)
        size, rows = size + more, rows + more_rows
    if group:
        yield group


def _empty(table: PackTable, store: PackStore, group: Sequence[PackContent], swept: PacksSwept) -> None:
    """Move the needed payloads of packs to a new one. A pack with a damaged payload stays, and is reported."""
    keys = [payload.key for content in group for payload in content.needed]
    try:
        new_keys = store.copy_to_new_pack(keys)
    except (PayloadMissingError, PayloadUnreadableError) as error:
        if len(group) == 1:
            _log.error("pack %s stays as it is: %s", group[0].pack, error)
            swept.damaged.append(group[0].pack)
            return
        half = len(group) // 2
        _empty(table, store, group[:half], swept)
        _empty(table, store, group[half:], swept)
        return
    try:
        used = set(table.repoint(list(zip(keys, new_keys, strict=True))))
    except EngineError:
        # It may be unknown whether the new packs are in use. Those that are stay.
        for pack in {packed_key(key).pack for key in new_keys}:
            store.drop_pack(pack)
        raise
    swept.moved += len(used)
    swept.moved_bytes += sum(packed_key(key).length for key in used)
    swept.emptied += len(group)
    # One with a payload in the grace period of a deletion is retired after that.
    swept.retired += len(table.retire([content.pack for content in group]))
