"""tensorus cp and tensorus mv."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import AT, json_option
from tensorus.cli._output import human_bytes, human_shape, print_json, print_text

if TYPE_CHECKING:
    from datetime import datetime

    from tensorus.cli._connection import ServerOptions
    from tensorus.types import DatasetInfo, TensorInfo

__all__ = ["cp", "mv"]

_TO = click.option(
    "--to", metavar="DATASET", help="Dataset that gets the tensor, under NEW if given. Default: the same."
)
_REPLACE = click.option("--replace", is_flag=True, help="Replace another tensor that has the id.")


@click.command()
@click.argument("dataset")
@click.argument("id")
@click.argument("new", required=False)
@_TO
@click.option(
    "--at",
    type=AT,
    metavar="STATE",
    help="Copy from an earlier state of the dataset: the name of a snapshot, a generation, or a time.",
)
@_REPLACE
@click.option(
    "--dataset", "whole", is_flag=True, help="Copy the dataset DATASET with all its tensors; ID is its new name."
)
@store_options()
@json_option
def cp(
    dataset: str,
    id: str,  # noqa: A002 - the field's word
    new: str | None,
    to: str | None,
    at: str | int | datetime | None,
    server: ServerOptions,
    store: str | None,
    *,
    replace: bool,
    whole: bool,
    as_json: bool,
) -> None:
    """Copy the tensor ID of DATASET to the id NEW, to another dataset, or both. Or copy a whole dataset.

    A copy shares the stored bytes with its original, so it takes no time and next to no space. Both can be changed and deleted
    independently.

    \b
    Examples:
      tensorus cp weights encoder encoder-before
      tensorus cp weights encoder --to archive
      tensorus cp weights encoder --at last-week --replace
      tensorus cp weights weights-before --dataset
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if whole:
        _require_two_names(new, to, replace=replace)
        with connected(server, store) as client:
            copied = client.copy_dataset(dataset, id, at=at)
        _print_dataset(f"{dataset} copied to", copied, as_json=as_json)
        return
    if new is None and to is None and at is None:
        raise click.UsageError("give the NEW id of the copy, or another dataset with --to")
    with connected(server, store) as client:
        info = client.copy(dataset, id, new, to=to, at=at, replace=replace)
    _print(f"{id} of {dataset} copied to", info, to or dataset, as_json=as_json)


@click.command()
@click.argument("dataset")
@click.argument("id")
@click.argument("new", required=False)
@_TO
@_REPLACE
@click.option("--dataset", "whole", is_flag=True, help="Rename the dataset DATASET; ID is its new name.")
@store_options()
@json_option
def mv(
    dataset: str,
    id: str,  # noqa: A002 - the field's word
    new: str | None,
    to: str | None,
    server: ServerOptions,
    store: str | None,
    *,
    replace: bool,
    whole: bool,
    as_json: bool,
) -> None:
    """Move the tensor ID of DATASET to the id NEW, to another dataset, or both. Or rename a whole dataset.

    No stored bytes are moved, and readers see the tensor in one place or the other.

    \b
    Examples:
      tensorus mv weights encoder encoder-old
      tensorus mv weights encoder --to archive
      tensorus mv weights old-weights --dataset
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if whole:
        _require_two_names(new, to, replace=replace)
        with connected(server, store) as client:
            renamed = client.rename_dataset(dataset, id)
        _print_dataset(f"{dataset} renamed to", renamed, as_json=as_json)
        return
    if new is None and to is None:
        raise click.UsageError("give the NEW id of the tensor, or another dataset with --to")
    with connected(server, store) as client:
        info = client.move(dataset, id, new, to=to, replace=replace)
    _print(f"{id} of {dataset} moved to", info, to or dataset, as_json=as_json)


def _require_two_names(new: str | None, to: str | None, *, replace: bool) -> None:
    """Refuse what has no meaning for a whole dataset."""
    if new is not None or to is not None or replace:
        raise click.UsageError("with --dataset, give the dataset and its new name, and neither --to nor --replace")


def _print(what: str, info: TensorInfo, dataset: str, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print_text(
        f"{what} {info.id} of {dataset}: shape {human_shape(info.shape)}, {human_bytes(info.canonical_bytes)} "
        f"in {human_bytes(info.stored_bytes)}, generation {info.generation}"
    )


def _print_dataset(what: str, info: DatasetInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print_text(f"dataset {what} {info.name}")
