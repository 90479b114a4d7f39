"""What the parts of an engine have done and do now, in one place. The values are live: read them again to see later ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.cache.block_cache import CacheStatistics
    from tensorus_server.chunk_store.cache.payloads import CachedPayloads
    from tensorus_server.engine.insert.committer import Committer
    from tensorus_server.meters import ChunkStoreMeters, CommitMeters, Connections, SweepMeters

__all__ = ["EngineMeters"]


@dataclass(frozen=True)
class EngineMeters:
    """See the module's description. Nothing here waits for the catalogue or for a disk."""

    chunk_store: ChunkStoreMeters
    sweeps: SweepMeters
    _committer: Committer
    _catalogue: Catalogue
    _cache: CachedPayloads | None

    @property
    def commits(self) -> CommitMeters:
        """Commits so far."""
        return self._committer.meters

    @property
    def waiting_commits(self) -> int:
        """Requests that wait for the next commit."""
        return self._committer.queued

    @property
    def cache(self) -> CacheStatistics | None:
        """The cache of an object store's payloads; None: there is none."""
        return None if self._cache is None else self._cache.statistics

    @property
    def connections(self) -> Connections | None:
        """Connections to the catalogue's database; None: it is in a file."""
        return self._catalogue.connections()
