"""Finds what earlier streams of an insert left: tensors that can be resumed, and complete ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus_server.engine.insert.items import ItemProgress
from tensorus_server.errors import InvalidRequestError
from tensorus_server.model import Outcome, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import Catalogue, Upload
    from tensorus_server.model import Dataset

__all__ = ["progress_of", "tensors_of", "uploads_of"]


def uploads_of(catalogue: Catalogue, dataset: Dataset, request_id: str) -> dict[int, tuple[Upload, Tensor | None]]:
    """Return the uploads of a request by item, each with the tensor that it became, if it is complete.

    Uploads whose tensors were deleted or damaged since are left out. If the client sends one again, its result says so.

    Raises:
        InvalidRequestError: the request id belongs to an insert into another dataset.
    """
    uploads = catalogue.uploads.find(request_id)
    if any(upload.dataset_number != dataset.number for upload in uploads):
        raise InvalidRequestError(
            f"request_id {request_id} belongs to an insert into another dataset", dataset=dataset.name
        )
    tensors = tensors_of(catalogue, dataset.name, uploads)
    return {
        upload.item: (upload, tensors.get(upload.item))
        for upload in uploads
        if upload.generation is None or upload.item in tensors
    }


def tensors_of(catalogue: Catalogue, dataset: str, uploads: Sequence[Upload]) -> dict[int, Tensor]:
    """Return the tensors that uploads of one request became, by item, except those that were deleted or damaged since."""
    generations = {upload.item: upload.generation for upload in uploads if upload.generation is not None}
    if not generations:
        return {}
    found = dict(zip(generations, catalogue.tensors.by_generation(dataset, list(generations.values())), strict=True))
    outcomes = {upload.item: upload.outcome for upload in uploads}
    for upload in uploads:
        if upload.outcome is Outcome.CHANGED and found.get(upload.item) is None:
            # The edit was done, and the tensor has changed again: it must not be done a second time.
            (found[upload.item],) = catalogue.tensors.get(dataset, [upload.id])
    return {
        item: replace(tensor, outcome=outcomes[item]) for item, tensor in found.items() if isinstance(tensor, Tensor)
    }


def progress_of(upload: Upload, tensor: Tensor | None) -> ItemProgress:
    """Return the progress of an upload.

    Args:
        tensor: the tensor that it became; None: it is not complete, or the tensor no longer exists.
    """
    committed_bytes = upload.committed_bytes if upload.generation is None else upload.spec.canonical_bytes
    return ItemProgress(upload.item, upload.id, committed_bytes, tensor)
