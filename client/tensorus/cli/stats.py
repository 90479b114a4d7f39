"""tensorus stats."""

from __future__ import annotations

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, human_bytes, human_error, print_json, print_table, print_text

__all__ = ["stats"]


@click.command()
@click.argument("dataset")
@store_options()
@json_option
def stats(dataset: str, server: str, store: str | None, *, as_json: bool) -> None:
    """Show what DATASET holds, by dtype, and what storing it saved.

    \b
    Example:
      tensorus stats weights
    """  # noqa: D301 - click's mark for lines that stay as they are
    with connected(server, store) as client:
        found = client.stats(dataset)
    if as_json:
        print_json(found)
        return
    print_table(
        ["dtype", ">tensors", ">size", ">stored", ">ratio"],
        (
            (
                share.dtype,
                f"{share.tensors:,}",
                human_bytes(share.canonical_bytes),
                human_bytes(share.stored_bytes),
                f"{share.canonical_bytes / max(share.stored_bytes, 1):.2f}",
            )
            for share in found.dtypes
        ),
    )
    print_text(
        f"{counted(found.tensors, 'tensor')}, "
        f"{human_bytes(found.canonical_bytes)} stored in {human_bytes(found.stored_bytes)}, "
        f"ratio {found.ratio:.3f}, worst relative error {human_error(found)}"
    )
