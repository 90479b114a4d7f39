"""Saves the marks of one upload, behind the thread that receives it.

A mark is a place up to which a tensor on its way in is durable: its payload is kept first, then the catalogue says so. At
most one is under way.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tensorus_server.committer import PendingMark, forget_upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tensorus_server.catalogue.abc import Mark, Upload, UploadTable
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.committer import Committer

__all__ = ["Marker"]


class Marker:
    """See the module's description. `wait` and `begin` belong to one thread."""

    def __init__(
        self, upload: tuple[str, int], uploads: UploadTable, committer: Committer, report: Callable[[int], None]
    ) -> None:
        """Save marks of this upload.

        Args:
            upload: request and item.
            report: told the canonical bytes that are durable, on the committer's thread; must not block or raise.
        """
        self.upload = upload
        self.begun_bytes = 0
        self.committed_bytes = 0
        self._uploads = uploads
        self._committer = committer
        self._report = report
        self._changed = threading.Condition()
        self._under_way = False
        self._failure: BaseException | None = None

    def begin(self, keep: Future[None], mark: Mark) -> None:
        """Save `mark` when `keep` is done. The one before must be."""
        self.begun_bytes = mark.upload.committed_bytes
        self._under_way = True
        keep.add_done_callback(lambda kept: self._kept(kept.exception(), mark))

    def wait(self) -> None:
        """Wait for the mark that is under way.

        Raises:
            StorageFullError, StoreUnavailableError: it could not be saved.
        """
        self.settle()
        if self._failure is not None:
            raise self._failure

    def settle(self) -> None:
        """Wait for the mark that is under way, however it ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    def resumed(self, committed_bytes: int) -> None:
        """Go on from a mark that was saved before."""
        self.begun_bytes = self.committed_bytes = committed_bytes

    def chunks(self, upload: Upload) -> ChunkIndex:
        """Return the upload's chunk index as far as it is saved."""
        return self._uploads.chunks(upload)

    def forget(self) -> None:
        """Forget the upload. What cannot be forgotten now expires."""
        self.settle()
        forget_upload(self._uploads, self.upload)

    def _kept(self, failure: BaseException | None, mark: Mark) -> None:
        if failure is not None:
            self._saved(failure, mark)
        else:
            self._committer.submit(PendingMark(mark, lambda failure: self._saved(failure, mark)))

    def _saved(self, failure: BaseException | None, mark: Mark) -> None:
        with self._changed:
            self._failure = failure
            if failure is None:
                self.committed_bytes = mark.upload.committed_bytes
            self._under_way = False
            self._changed.notify_all()
        if failure is None:
            self._report(mark.upload.committed_bytes)
