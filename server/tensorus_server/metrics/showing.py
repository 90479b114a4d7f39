"""The metrics of a server, from the port to the boards of its processes; what `processes/` uses of this package.

It must not import gRPC, nor any module that does, since the supervisor of several workers uses it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.metrics.board import Board
from tensorus_server.metrics.endpoint import Endpoint
from tensorus_server.metrics.exposition import Exposition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Showing", "shown"]


class Showing:
    """A port and what is shown at it."""

    def __init__(self, listen: str) -> None:
        """Bind the port; nothing is served before `serve`.

        Raises:
            StoreUnavailableError: the port is not available.
        """
        self._exposition = Exposition()
        self._endpoint = Endpoint(listen, self._exposition)

    @property
    def address(self) -> str:
        """HOST:PORT with the port that was bound."""
        return self._endpoint.address

    def own_board(self) -> Board:
        """Return a board for this process."""
        board = Board()
        self._exposition.add(os.getpid(), board)
        return board

    def add(self, pid: int, board: Board) -> None:
        """Show a worker's values."""
        self._exposition.add(pid, board)

    def ended(self, pid: int) -> None:
        """Keep what a worker has counted that has ended."""
        self._exposition.ended(pid)

    def serve(self, is_healthy: Callable[[], bool], workers: Callable[[], tuple[int, int, int]] | None = None) -> None:
        """Answer requests from now on; see `Endpoint.start` and `Exposition.workers`."""
        self._exposition.workers = workers
        self._endpoint.start(is_healthy)

    def close(self) -> None:
        """Stop answering. Idempotent."""
        self._endpoint.close()


@contextmanager
def shown(listen: str | None) -> Iterator[Showing | None]:
    """Bind the port of the metrics for the duration of the block.

    Args:
        listen: HOST:PORT; None: there are no metrics, and nothing is yielded.

    Raises:
        StoreUnavailableError: the port is not available.
    """
    if listen is None:
        yield None
        return
    showing = Showing(listen)
    try:
        yield showing
    finally:
        showing.close()
