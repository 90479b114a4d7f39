"""The options of an insert, and the services that it uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tensorus_server.engine.insert.edited_chunks import DetailsCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.background import WorkerPool
    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import Staging
    from tensorus_server.engine.codec_pool import CodecPool
    from tensorus_server.engine.health import Health
    from tensorus_server.engine.insert.committer import Committer
    from tensorus_server.engine.insert.tensor_locks import TensorLocks
    from tensorus_server.engine.read.reader import TensorReader
    from tensorus_server.model import Tensor

__all__ = ["Find", "InsertOptions", "InsertServices"]

Find: TypeAlias = "Callable[..., Iterator[Tensor | Exception]]"
"""`Engine.find`, which takes keyword arguments."""


@dataclass(frozen=True)
class InsertOptions:
    """The options of an insert."""

    request_id: str | None = None
    """The id under which the insert can be resumed; None: it cannot."""
    all_or_nothing: bool = False
    """Whether no item becomes visible unless all items succeed, at `finish`."""
    validate_only: bool = False
    """Whether to check and measure everything, but store nothing."""


@dataclass(frozen=True)
class InsertServices:
    """The services that inserts use; shared by all streams."""

    catalogue: Catalogue
    staging: Staging
    pool: CodecPool
    committer: Committer
    seal_pool: WorkerPool
    health: Health
    reader: TensorReader
    tensor_locks: TensorLocks
    find: Find
    """`Engine.find`."""
    details_cache: DetailsCache = field(default_factory=DetailsCache)
