"""How an insert is done, and what it works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus_server.background import WorkerPool
    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import Staging
    from tensorus_server.engine.codec_pool import CodecPool
    from tensorus_server.engine.health import Health
    from tensorus_server.engine.insert.committer import Committer

__all__ = ["InsertOptions", "InsertServices"]


@dataclass(frozen=True)
class InsertOptions:
    """How an insert is done."""

    request_id: str | None = None
    """Under which it can be resumed; None: it cannot."""
    all_or_nothing: bool = False
    """Whether nothing is visible before `finish` has succeeded for every item."""
    validate_only: bool = False
    """Whether everything is checked and measured, and nothing stored."""


@dataclass(frozen=True)
class InsertServices:
    """What an insert works with; shared by all streams."""

    catalogue: Catalogue
    staging: Staging
    pool: CodecPool
    committer: Committer
    seal_pool: WorkerPool
    health: Health
