"""tensorus rm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tensorus._arguments import batches
from tensorus.cli._connection import connected, store_options
from tensorus.cli._output import counted, print_text
from tensorus.errors import HasSnapshotsError, TensorNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tensorus
    from tensorus.cli._connection import ServerOptions
    from tensorus.errors import DataCorruptError

__all__ = ["rm"]

_IDS_PER_FILTER = 40
"""A filter with this many ids of maximum length stays below the server's limit of 64 KiB."""


@click.command()
@click.argument("dataset")
@click.argument("ids", nargs=-1)
@click.option("--dataset", "whole", is_flag=True, help="Delete the dataset with all its tensors.")
@click.option("--drop-snapshots", is_flag=True, help="Delete the dataset even if it has snapshots, and them with it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@store_options()
def rm(
    dataset: str,
    ids: tuple[str, ...],
    server: ServerOptions,
    store: str | None,
    *,
    whole: bool,
    drop_snapshots: bool,
    yes: bool,
) -> None:
    """Delete the tensors IDS of DATASET, or the whole dataset.

    \b
    Examples:
      tensorus rm weights encoder.layer.0.attention
      tensorus rm weights --dataset --yes
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if whole == bool(ids):
        raise click.UsageError("name the tensors to delete, or pass --dataset to delete the whole dataset")
    if drop_snapshots and not whole:
        raise click.UsageError("--drop-snapshots needs --dataset; tensorus drop-snapshot drops one snapshot")
    with connected(server, store) as client:
        if whole:
            _delete_dataset(client, dataset, drop_snapshots=drop_snapshots, yes=yes)
            return
        there = _stored(client, dataset, ids)
        deleted = client.delete(dataset, list(ids))
    print_text(f"{deleted} of {len(ids)} tensors deleted")
    if missing := [tensor_id for tensor_id in ids if tensor_id not in there]:
        raise TensorNotFoundError(
            f"no such tensor: {', '.join(map(repr, missing))} [dataset={dataset}]", reason="TENSOR_NOT_FOUND"
        )


def _delete_dataset(client: tensorus.Client, dataset: str, *, drop_snapshots: bool, yes: bool) -> None:
    if not yes:
        lost = counted(client.stats(dataset).tensors, "tensor")
        if drop_snapshots:
            lost += f" and {counted(len(client.snapshots(dataset, on_damaged=lambda _: None)), 'snapshot')}"
        click.confirm(f"Delete the dataset {dataset!r} with {lost}?", abort=True)
    try:
        deleted = client.delete_dataset(dataset, drop_snapshots=drop_snapshots)
    except HasSnapshotsError as error:
        raise HasSnapshotsError(
            f"{error}: `tensorus drop-snapshot {dataset} NAME`, or --drop-snapshots",
            reason=error.reason,
            facts=error.facts,
        ) from error
    print_text(f"{counted(deleted, 'tensor')} deleted, and their dataset")


def _stored(client: tensorus.Client, dataset: str, ids: Sequence[str]) -> set[str]:
    """Return the ids that exist, including those of damaged tensors, which can be deleted too."""
    there: set[str] = set()
    damaged: list[DataCorruptError] = []
    for batch in batches(list(dict.fromkeys(ids)), _IDS_PER_FILTER):
        if batch:
            there |= {info.id for info in client.list(dataset, {"@id": batch}, on_damaged=damaged.append)}
    return there | {error.facts.get("tensor", "") for error in damaged}
