"""tensorus ls."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import at_option, json_option
from tensorus.cli._output import (
    human_bytes,
    human_worst_error,
    print_error,
    print_json,
    print_table,
    print_tensors,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus.cli._connection import ServerOptions
    from tensorus.client import Client
    from tensorus.errors import DataCorruptError
    from tensorus.types import At, DatasetInfo, DatasetStats, TensorInfo

__all__ = ["ls"]


@click.command()
@click.argument("dataset", required=False)
@click.option("--where", help="Only tensors that match this filter, such as 'layer >= 3 AND @dtype = \"float32\"'.")
@click.option("--order-by", help="Sort by created, id, nbytes or stored_bytes; append ' desc' for descending order.")
@click.option("--limit", type=click.IntRange(0), help="Maximum number of tensors.")
@at_option
@store_options()
@json_option
def ls(
    dataset: str | None,
    where: str | None,
    order_by: str | None,
    limit: int | None,
    at: At | None,
    server: ServerOptions,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """List datasets, or the tensors of DATASET.

    Damaged datasets or tensors are listed last, and the exit code is then 1.

    \b
    Examples:
      tensorus ls
      tensorus ls weights --where '@nbytes > 1e6' --order-by 'nbytes desc' --limit 10
      tensorus ls weights --at 2026-01-31T12:00
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if at is not None and dataset is None:
        raise click.UsageError("--at needs a DATASET: each dataset has its own states")
    damages: list[DataCorruptError] = []
    with connected(server, store, reads=True) as client:
        if dataset is None:
            datasets = [(info, client.stats(info.name)) for info in client.datasets(on_damaged=damages.append)]
            _print_datasets(client, datasets, damages, as_json=as_json)
        else:
            infos = client.list(dataset, where, order_by=order_by, limit=limit, at=at, on_damaged=damages.append)
            _print_tensors(list(infos), damages, as_json=as_json)
    if damages:
        sys.exit(1)


def _print_datasets(
    client: Client,
    datasets: Sequence[tuple[DatasetInfo, DatasetStats]],
    damages: Sequence[DataCorruptError],
    *,
    as_json: bool,
) -> None:
    if as_json:
        print_json([{"dataset": info, "stats": stats} for info, stats in datasets] + _damages_as_json(damages))
        return
    print_table(
        ["dataset", "policy", ">tensors", ">size", ">stored", ">ratio", ">worst error"],
        (
            (
                info.name,
                _policy_name(info.policy.preset, explicit=info.policy.encoding is not None),
                f"{stats.tensors:,}",
                human_bytes(stats.canonical_bytes),
                human_bytes(stats.stored_bytes),
                f"{stats.ratio:.2f}",
                human_worst_error(client, info.name, stats),
            )
            for info, stats in datasets
        ),
    )
    _print_damages(damages)


def _print_tensors(infos: Sequence[TensorInfo], damages: Sequence[DataCorruptError], *, as_json: bool) -> None:
    if as_json:
        print_json([to_json(info) for info in infos] + _damages_as_json(damages))
        return
    print_tensors(infos)
    _print_damages(damages)


def _print_damages(damages: Sequence[DataCorruptError]) -> None:
    for error in damages:
        print_error(error)


def _damages_as_json(damages: Sequence[DataCorruptError]) -> list[dict[str, object]]:
    """Return an object for each error, with `dataset`, `id`, `generation` and `damage`; None for unknown values."""
    return [
        {
            "dataset": error.facts.get("dataset", ""),
            "id": error.facts.get("tensor"),
            "generation": int(error.facts["generation"]) if "generation" in error.facts else None,
            "damage": str(error),
        }
        for error in damages
    ]


def _policy_name(preset: str | None, *, explicit: bool) -> str:
    return "explicit" if explicit else preset or "default"
