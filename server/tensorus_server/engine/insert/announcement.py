"""The announcements of an item that several streams of one request send: the first one holds.

A later announcement may repeat the first, or leave out everything but id, dtype and shape. One that says anything else is
refused: taken silently, it would decide what a tensor is of which a part is stored already.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.resolve import bounded_json, same_json
from tensorus_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from tensorus_server.catalogue.abc import Upload
    from tensorus_server.model import Checksum, NewTensor

__all__ = ["first_announcement"]


def first_announcement(upload: Upload, later: NewTensor, *, dataset: str) -> NewTensor:
    """Return what holds of an item that is announced again.

    Args:
        upload: what the earlier streams left of the item.
        later: what the present stream says of it.

    Raises:
        InvalidRequestError: they differ; names the item, the field and both values.
    """
    if (upload.id, upload.spec) != (later.id, later.spec):
        raise InvalidRequestError(
            f"item {upload.item} was announced as another tensor by an earlier stream of the request: "
            f"{upload.id!r}, {upload.spec.dtype.name} of shape {list(upload.spec.shape)}",
            dataset=dataset,
            tensor=later.id,
        )
    first = upload.announced
    if first is None:
        # An older version of Tensorus began it, and kept nothing else.
        return later
    for field, said, holds in _said(upload, first, later):
        if said is not None and not same_json({field: said}, {field: holds}):
            raise InvalidRequestError(
                f"{field} of item {upload.item} is {bounded_json(said)}, "
                f"an earlier stream of the request announced {bounded_json(holds)}",
                dataset=dataset,
                tensor=later.id,
                field=field,
            )
    return first if first.source_checksum is not None else replace(first, source_checksum=later.source_checksum)


def _said(upload: Upload, first: NewTensor, later: NewTensor) -> list[tuple[str, Any, Any]]:
    """Return each field with what the later announcement says, None where it says nothing, and what the first one said."""
    return [
        ("metadata", later.metadata or None, first.metadata),
        # The dataset's, where the first one brought none.
        ("policy", None if later.policy is None else later.policy.to_json(), upload.policy.to_json()),
        # One that the first did not bring is welcome.
        (
            "source_checksum",
            first.source_checksum and _checksum_text(later.source_checksum),
            _checksum_text(first.source_checksum),
        ),
        ("if_generation_match", later.if_generation_match, first.if_generation_match),
        ("replace", later.replace or None, first.replace),
    ]


def _checksum_text(checksum: Checksum | None) -> str | None:
    return None if checksum is None else f"{checksum.algorithm} {checksum.value.hex()}"
