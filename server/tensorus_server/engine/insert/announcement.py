"""Compares the announcements of an item when several streams of one request send it: the first one is binding.

A later announcement may repeat the first, or omit everything except id, dtype and shape. Any other one is refused, because it
would change the definition of a tensor that is already stored in part.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.conflicts import bounded_json, same_json
from tensorus_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from tensorus_server.catalogue.abc import Upload
    from tensorus_server.model import Checksum, NewTensor

__all__ = ["first_announcement"]


def first_announcement(upload: Upload, later: NewTensor, *, dataset: str) -> NewTensor:
    """Return the binding announcement of an item that is announced again.

    Args:
        upload: the item's upload, left by an earlier stream.
        later: the announcement by the current stream.

    Raises:
        InvalidRequestError: the announcements differ; names the item, the field and both values.
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
        # An older version of Tensorus started the upload, and stored only these fields.
        return later
    for field, said, holds in _compared_fields(upload, first, later):
        if said is not None and not same_json({field: said}, {field: holds}):
            raise InvalidRequestError(
                f"{field} of item {upload.item} is {bounded_json(said)}, "
                f"an earlier stream of the request announced {bounded_json(holds)}",
                dataset=dataset,
                tensor=later.id,
                field=field,
            )
    return first if first.source_checksum is not None else replace(first, source_checksum=later.source_checksum)


def _compared_fields(upload: Upload, first: NewTensor, later: NewTensor) -> list[tuple[str, Any, Any]]:
    """Return each field with its value in the later announcement, None if it is omitted, and its value in the first one."""
    return [
        ("metadata", later.metadata or None, first.metadata),
        # The upload has the dataset's policy if the first announcement had none.
        ("policy", None if later.policy is None else later.policy.to_json(), upload.policy.to_json()),
        # A checksum that the first announcement lacked may be added.
        (
            "source_checksum",
            first.source_checksum and _checksum_text(later.source_checksum),
            _checksum_text(first.source_checksum),
        ),
        ("if_generation_match", later.if_generation_match, first.if_generation_match),
        ("replace", later.replace or None, first.replace),
        (
            "base",
            None if later.base is None else asdict(later.base),
            None if first.base is None else asdict(first.base),
        ),
    ]


def _checksum_text(checksum: Checksum | None) -> str | None:
    return None if checksum is None else f"{checksum.algorithm} {checksum.value.hex()}"
