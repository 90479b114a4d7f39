"""The bases of a checkpoint's tensors: those of the same ids in a dataset that has an earlier checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tensorus._arrays.canonical import as_numpy, dtype_name
from tensorus.cli._options import AT
from tensorus.cli._output import counted, human_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus.client import Client
    from tensorus.types import At, Base, TensorInfo

__all__ = ["BASES", "Bases", "Place"]

Place = tuple[str, "At | None"]
"""Name and state of a dataset; None: its current state."""

_DIFFERENCES = "int_delta"
"""The codec of chunks that are stored as differences."""


class _Bases(click.ParamType):  # type: ignore[type-arg]  # not generic in every version of click
    """A dataset, or a dataset and one of its states after the last "@"."""

    name = "bases"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """Return name and state. `Any`: text, or both already."""
        if not isinstance(value, str):
            found: Place = value
            return found
        name, separator, state = value.rpartition("@")
        if not separator:
            return value, None
        if not name or not state:
            self.fail(f"{value!r} is not DATASET or DATASET@STATE", param, ctx)
        return name, AT.convert(state, param, ctx)


BASES = _Bases()
"""Type of options that take a dataset with bases."""


class Bases:
    """The tensors of a dataset, as bases of tensors with the same ids."""

    def __init__(self, client: Client, place: Place) -> None:
        """List the dataset. Damaged tensors are no bases.

        Raises:
            DatasetNotFoundError, SnapshotNotFoundError, StateNotKeptError: dataset or state do not exist.
        """
        self._dataset, self._at = place
        infos = client.list(self._dataset, at=self._at, on_damaged=lambda _: None)
        self._kinds = {info.id: (info.dtype, info.shape) for info in infos}
        self._found: set[str] = set()

    def of(self, tensor_id: str, tensor: object) -> Base | None:
        """Return the base of a tensor; None if none has its id, dtype and shape."""
        array = as_numpy(tensor)
        if self._kinds.get(tensor_id) != (dtype_name(array), array.shape):
            return None
        self._found.add(tensor_id)
        return (self._dataset, tensor_id) if self._at is None else (self._dataset, tensor_id, self._at)

    def report(self, infos: Sequence[TensorInfo]) -> str:
        """Return how many of the stored tensors have a base, and what that saved."""
        shares = [share for info in infos for share in info.encodings if _DIFFERENCES in share.codecs]
        text = f"{len(self._found):,} of {counted(len(infos), 'tensor')} have a base in {self._dataset}"
        if not shares:
            return f"{text}; nothing is stored as differences"
        canonical_bytes = sum(share.canonical_bytes for share in shares)
        stored_bytes = sum(share.stored_bytes for share in shares)
        return (
            f"{text}; {human_bytes(canonical_bytes)} are stored as {human_bytes(stored_bytes)} of differences "
            f"({canonical_bytes / stored_bytes:.1f} times smaller)"
        )
