"""The options of an insert, and the services that it uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tensorus_server.engine.insert.edited_chunks import DetailsCache
from tensorus_server.errors import InvalidRequestError, LimitExceededError
from tensorus_server.limits import ITEMS_TOGETHER_MAX, OPEN_ITEMS_MAX

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
    from tensorus_server.meters import Trace
    from tensorus_server.model import Dataset, NewTensor, Tensor

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
    trace: Trace | None = None
    """Is told of the stages of the insert's items; None: nobody traces it."""

    def require_edits(self, dataset: Dataset) -> None:
        """Refuse an edit where these options allow none.

        Raises:
            InvalidRequestError: names the option.
        """
        for mode in ("all_or_nothing", "validate_only"):
            if getattr(self, mode):
                raise InvalidRequestError(f"an insert with {mode} cannot have edits", dataset=dataset.name)

    def require_room(self, new: NewTensor, dataset: Dataset, *, open_items: int, items: int) -> None:
        """Refuse a tensor that is one too many.

        Args:
            open_items: items of the stream that are begun and not ended.
            items: all items so far, with this one.

        Raises:
            LimitExceededError: too many are open, or too many are to be stored together.
        """
        if open_items >= OPEN_ITEMS_MAX:
            raise LimitExceededError(
                f"{open_items} items of the stream are open, limit is {OPEN_ITEMS_MAX} (open_items_max)",
                dataset=dataset.name,
                tensor=new.id,
                limit=OPEN_ITEMS_MAX,
            )
        if self.all_or_nothing and items > ITEMS_TOGETHER_MAX:
            raise LimitExceededError(
                f"{items} items are to be stored together, limit is {ITEMS_TOGETHER_MAX} (items_together_max)",
                dataset=dataset.name,
                tensor=new.id,
                limit=ITEMS_TOGETHER_MAX,
            )


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
    shares_sessions: bool = False
    """Whether processes on other machines may go on with inserts, so that each commit checks who has the insert."""
    details_cache: DetailsCache = field(default_factory=DetailsCache)
