"""Saves the marks of one upload, behind the thread that receives it.

A mark is a place up to which a tensor on its way in is durable: its payload is kept first, then the catalogue says so. At
most one is under way. It is a future from its beginning on: keeping the payload and saving the mark each pass it on, and
whatever either raises is its outcome.
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
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.engine.insert.committer import Committer

__all__ = ["Marker"]


class Marker:
    """See the module's description. All methods belong to one thread."""

    def __init__(
        self, upload: tuple[str, int], uploads: UploadTable, committer: Committer, report: Callable[[int], None]
    ) -> None:
        """Save marks of this upload.

        Args:
            upload: request and item.
            report: told the canonical bytes that are durable, on the committer's thread; must not block.
        """
        self.upload = upload
        self.begun_bytes = 0
        self.committed_bytes = 0
        self._uploads = uploads
        self._committer = committer
        self._report = report
        self._under_way: Future[int] | None = None

    def begin(self, keep: Future[None], mark: Mark) -> None:
        """Save `mark` when `keep` is done. The one before must be."""
        self.begun_bytes = mark.upload.committed_bytes
        saved: Future[int] = Future()
        saved.add_done_callback(self._tell)
        self._under_way = saved
        keep.add_done_callback(partial(self._kept, mark, saved))

    def wait(self) -> None:
        """Wait for the mark that is under way.

        Raises:
            StorageFullError, StoreUnavailableError, StoreBusyError: it could not be saved.
        """
        if self._under_way is not None:
            self.committed_bytes = result_of(self._under_way, "a mark", self._committer.health.require)
            self._under_way = None

    def settle(self) -> None:
        """Wait for the mark that is under way, however it ends."""
        if self._under_way is not None:
            try:
                self.wait()
            except Exception:  # noqa: BLE001 - whoever needed the mark has been told, or nobody does
                self._under_way = None

    def resumed(self, committed_bytes: int) -> None:
        """Go on from a mark that was saved before."""
        self.begun_bytes = self.committed_bytes = committed_bytes

    def chunks(self, upload: Upload) -> ChunkIndex:
        """Return the upload's chunk index as far as it is saved."""
        return self._uploads.chunks(upload)

    def drop(self) -> None:
        """Drop the upload's row. One that cannot be dropped now expires."""
        self.settle()
        drop_upload(self._uploads, self.upload)

    def _kept(self, mark: Mark, saved: Future[int], keep: Future[None]) -> None:
        """Go on with a mark whose payload is kept, or is not. Runs where that ended."""
        try:
            keep.result(timeout=0)
            self._committer.save(mark, saved)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the mark gets it
            if not saved.done():
                saved.set_exception(error)

    def _tell(self, saved: Future[int]) -> None:
        if saved.exception(timeout=0) is None:
            committed_bytes = saved.result(timeout=0)
            self.committed_bytes = max(self.committed_bytes, committed_bytes)
            self._report(committed_bytes)
