"""Cleans up after a tensor that was not stored: drops it, or keeps it so that another stream can resume it.

No function here raises. They run while another error is handled, or while a stream ends, and must not disturb either. If a
clean-up fails, it is logged, and the sweep does it later.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from tensorus_server.errors import StoreBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import UploadTable
    from tensorus_server.chunk_store.abc import StagedPayload, Staging
    from tensorus_server.engine.insert.items import Batch
    from tensorus_server.model import NewTensor

__all__ = ["drop", "drop_batch", "drop_upload", "park", "park_writer", "put_away"]

_log = logging.getLogger(__name__)


class _Writer(Protocol):
    """A `TensorWriter`."""

    new: NewTensor

    def drop(self) -> None: ...

    def park(self) -> None: ...


def _drop_writer(writer: _Writer) -> None:
    """Drop an unfinished tensor."""
    try:
        writer.drop()
    except Exception:  # noqa: BLE001 - see the module's description
        _log.exception("tensor %s, which failed, could not be dropped; it is left to the sweep", writer.new.id)


def park_writer(writer: _Writer) -> None:
    """Keep an unfinished tensor up to its last mark; drop it if it has none."""
    try:
        writer.park()
    except Exception:  # noqa: BLE001 - see the module's description
        _log.exception("tensor %s, whose insert ended, could not be put away; it is left to the sweep", writer.new.id)


def put_away(writer: _Writer, error: BaseException, *, resumable: bool) -> None:
    """Drop a tensor that failed. If the catalogue was merely locked, keep it up to its last mark, so that it can be resumed.

    Args:
        resumable: whether another stream may resume it.
    """
    if resumable and isinstance(error, StoreBusyError):
        park_writer(writer)
    else:
        _drop_writer(writer)


def park(staging: Staging, staged: Sequence[StagedPayload]) -> None:
    """Keep finished payloads up to their last marks; drop those without one."""
    _for_each(staged, staging.park)


def drop(staging: Staging, staged: Sequence[StagedPayload]) -> None:
    """Drop finished payloads that will not be published."""
    _for_each(staged, staging.drop)


def drop_batch(staging: Staging, uploads: UploadTable, batch: Batch) -> None:
    """Drop the payloads and uploads of a batch that will not be committed."""
    drop(staging, batch.staged)
    for stored in batch.stored:
        if stored.upload is not None:
            drop_upload(uploads, stored.upload)


def drop_upload(uploads: UploadTable, upload: tuple[str, int | None]) -> None:
    """Drop the row of an upload that cannot be resumed, or all rows of a request. If that fails, they expire."""
    try:
        uploads.drop(*upload)
    except Exception:  # noqa: BLE001 - see the module's description
        _log.warning("upload %s of insert %s is left to expire", upload[1], upload[0], exc_info=True)


def _for_each(staged: Sequence[StagedPayload], how: Callable[[StagedPayload], None]) -> None:
    for payload in staged:
        try:
            how(payload)
        except Exception:  # noqa: BLE001 - see the module's description
            _log.exception("payload %s could not be put away; it is left to the sweep", payload.payload_key)
