"""Which writer streams an announced tensor: a new one, one that continues what an earlier stream left, or an edit's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_codecs.plan import plan
from tensorus_server.engine.insert.delta_base import opened_base, plan_with_base
from tensorus_server.engine.insert.edit_writer import EditWriter
from tensorus_server.engine.insert.items import ItemProgress
from tensorus_server.engine.insert.marker import Marker
from tensorus_server.engine.insert.tensor_writer import TensorWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_codecs.plan import ChunkPlan
    from tensorus_server.catalogue.abc import Upload
    from tensorus_server.chunk_store.abc import Staging
    from tensorus_server.engine.insert.options import InsertOptions, InsertServices
    from tensorus_server.model import Dataset, NewTensor, Tensor

__all__ = ["writer_of"]


def writer_of(
    dataset: Dataset,
    item: int,
    new: NewTensor,
    *,
    chunk_plan: ChunkPlan,
    base: Tensor | None,
    upload: Upload | None,
    staging: Staging,
    services: InsertServices,
    options: InsertOptions,
    report: Callable[[ItemProgress], None],
    inline: bool,
) -> TensorWriter:
    """Return a writer for an item. The caller drops, parks or seals it.

    Args:
        chunk_plan: the plan of its policy; if it has a base, changed by `plan_with_base`, unless it is continued.
        base: the tensor that `find_base` returned.
        upload: what an earlier stream left of it.
        report: is told of durable progress.
        inline: whether its payload may be inline.

    Raises:
        EngineError: see `EditWriter`, `opened_base` and `TensorWriter.resume`.
    """
    request_id = options.request_id
    if new.edit is not None:
        return EditWriter(dataset, new, services, staging, (request_id, item) if request_id else None)
    marker = None
    if request_id is not None and not options.validate_only:

        def tell(committed_bytes: int) -> None:
            report(ItemProgress(item, new.id, committed_bytes))

        marker = Marker((request_id, item), services.catalogue.uploads, services.committer, tell)
    policy = new.policy or dataset.policy
    if upload is not None and marker is not None:
        # The policy of the dataset may have changed since.
        policy = upload.policy
        chunk_plan = plan(policy, new.spec.dtype)
    delta_base = None
    if base is not None:
        chunk_plan, is_compared = plan_with_base(chunk_plan, base, policy.chunk_bytes)
        if is_compared:
            chunk_plan, delta_base = opened_base(chunk_plan, base, services.reader)
    if upload is not None and marker is not None:
        return TensorWriter.resume(
            dataset,
            new,
            chunk_plan,
            upload,
            staging=staging,
            pool=services.pool,
            marker=marker,
            delta_base=delta_base,
        )
    return TensorWriter(
        dataset,
        new,
        chunk_plan,
        staging=staging,
        pool=services.pool,
        marker=marker,
        inline=inline,
        delta_base=delta_base,
    )
