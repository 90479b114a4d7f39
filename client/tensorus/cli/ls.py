"""tensorus ls."""

from __future__ import annotations

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import json_option
from tensorus.cli._output import human_bytes, human_error, print_json, print_table, print_tensors

__all__ = ["ls"]


@click.command()
@click.argument("dataset", required=False)
@click.option("--where", help="A filter, such as 'layer >= 3 AND @dtype = \"float32\"'.")
@click.option("--order-by", help="created, id, nbytes or stored_bytes; with ' desc' the other way round.")
@click.option("--limit", type=click.IntRange(0), help="At most so many.")
@store_options()
@json_option
def ls(
    dataset: str | None,
    where: str | None,
    order_by: str | None,
    limit: int | None,
    server: str,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """List datasets, or the tensors of DATASET.

    \b
    Examples:
      tensorus ls
      tensorus ls weights --where '@nbytes > 1e6' --order-by 'nbytes desc' --limit 10
    """  # noqa: D301 - click's mark for lines that stay as they are
    with connected(server, store) as client:
        if dataset is None:
            datasets = [(info, client.stats(info.name)) for info in client.datasets()]
            if as_json:
                print_json([{"dataset": info, "stats": stats} for info, stats in datasets])
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
                        human_error(stats),
                    )
                    for info, stats in datasets
                ),
            )
            return
        infos = list(client.list(dataset, where, order_by=order_by, limit=limit))
    if as_json:
        print_json(infos)
        return
    print_tensors(infos)


def _policy_name(preset: str | None, *, explicit: bool) -> str:
    return "explicit" if explicit else preset or "default"
