"""tensorus rm."""

from __future__ import annotations

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._output import counted, print_text
from tensorus.cli._storing import stored
from tensorus.errors import TensorNotFoundError

__all__ = ["rm"]


@click.command()
@click.argument("dataset")
@click.argument("ids", nargs=-1)
@click.option("--dataset", "whole", is_flag=True, help="Delete the dataset itself, with everything in it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_options()
def rm(dataset: str, ids: tuple[str, ...], server: str, store: str | None, *, whole: bool, yes: bool) -> None:
    """Delete the tensors IDS of DATASET, or all of it.

    \b
    Examples:
      tensorus rm weights encoder.layer.0.attention
      tensorus rm weights --dataset --yes
    """  # noqa: D301 - click's mark for lines that stay as they are
    if whole == bool(ids):
        raise click.UsageError("name the tensors to delete, or --dataset for all of it")
    with connected(server, store) as client:
        if whole:
            count = client.stats(dataset).tensors
            if not yes:
                click.confirm(f"Delete the dataset {dataset!r} with {counted(count, 'tensor')}?", abort=True)
            print_text(f"{counted(client.delete_dataset(dataset), 'tensor')} deleted, and their dataset")
            return
        there = stored(client, dataset, ids)
        deleted = client.delete(dataset, list(ids))
    print_text(f"{deleted} of {len(ids)} tensors deleted")
    if missing := [tensor_id for tensor_id in ids if tensor_id not in there]:
        raise TensorNotFoundError(
            f"there is no tensor {', '.join(map(repr, missing))} [dataset={dataset}]", reason="TENSOR_NOT_FOUND"
        )
