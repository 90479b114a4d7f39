"""Saves the marks of one upload asynchronously, while its thread goes on receiving.

A mark is a position up to which an upload is durable. First the payload is synced, then the mark is saved in the catalogue. At
most one mark is in flight. A single future represents it through both steps; an error of either step becomes its result.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from tensorus_server.background import result_of
from tensorus_server.engine.insert.leftovers import drop_upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import Mark, Upload, UploadTable
    from tensorus_server.chunk_details import ChunkDetails
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.engine.insert.committer import Committer

__all__ = ["Marker"]


class Marker:
    """See the module's description. Not thread-safe: all methods belong to the stream's thread."""

    def __init__(
        self, upload: tuple[str, int], uploads: UploadTable, committer: Committer, report: Callable[[int], None]
    ) -> None:
        """Save marks of this upload.

        Args:
            upload: request id and item number.
            report: called with the number of durable canonical bytes, on the committer's thread; must not block.
        """
        self.upload = upload
        self.begun_bytes = 0
        self.committed_bytes = 0
        self._uploads = uploads
        self._committer = committer
        self._report = report
        self._under_way: Future[int] | None = None

    def begin(self, keep: Future[None], mark: Mark) -> None:
        """Save `mark` when `keep`, which syncs the payload, is done. The mark before must have been waited for."""
        self.begun_bytes = mark.upload.committed_bytes
        saved: Future[int] = Future()
        saved.add_done_callback(self._tell)
        self._under_way = saved
        keep.add_done_callback(partial(self._kept, mark, saved))

    def wait(self) -> None:
        """Wait for the mark in flight, if any.

        Raises:
            StorageFullError, StoreUnavailableError, StoreBusyError: it could not be saved.
        """
        if self._under_way is not None:
            self.committed_bytes = result_of(self._under_way, "a mark", self._committer.health.require)
            self._under_way = None

    def settle(self) -> None:
        """Wait for the mark in flight, if any, and ignore its error."""
        if self._under_way is not None:
            try:
                self.wait()
            except Exception:  # noqa: BLE001 - nobody needs the mark any more, or its error was reported
                self._under_way = None

    def resumed(self, committed_bytes: int) -> None:
        """Start from a mark that an earlier stream saved."""
        self.begun_bytes = self.committed_bytes = committed_bytes

    def chunks(self, upload: Upload) -> tuple[ChunkIndex, ChunkDetails]:
        """Return the parts of the upload's chunk index and chunk details that are saved."""
        return self._uploads.chunks(upload)

    def drop(self) -> None:
        """Drop the upload's row. If that fails, the upload expires."""
        self.settle()
        drop_upload(self._uploads, self.upload)

    def _kept(self, mark: Mark, saved: Future[int], keep: Future[None]) -> None:
        """Save the mark once its payload is synced, or fail it; runs on the thread that synced."""
        try:
            keep.result(timeout=0)
            self._committer.save(mark, saved)
        except BaseException as error:  # noqa: BLE001 - passed on to whoever waits for the mark
            if not saved.done():
                saved.set_exception(error)

    def _tell(self, saved: Future[int]) -> None:
        if saved.exception(timeout=0) is None:
            committed_bytes = saved.result(timeout=0)
            self.committed_bytes = max(self.committed_bytes, committed_bytes)
            self._report(committed_bytes)
