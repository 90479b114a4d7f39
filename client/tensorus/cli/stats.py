"""tensorus stats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import at_option, json_option
from tensorus.cli._output import (
    counted,
    human_bytes,
    human_encoding,
    human_ratio,
    human_worst_error,
    print_json,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from tensorus.cli._connection import ServerOptions
    from tensorus.types import At, DTypeShare, EncodingShare

__all__ = ["stats"]


@click.command()
@click.argument("dataset")
@at_option
@store_options()
@json_option
def stats(dataset: str, at: At | None, server: ServerOptions, store: str | None, *, as_json: bool) -> None:
    """Show sizes and ratios of DATASET, by dtype and by encoding.

    Tensors with equal bytes share them; if there are any, a line says what they take once.

    \b
    Examples:
      tensorus stats weights
      tensorus stats weights --at before-pruning
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store, reads=True) as client:
        found = client.stats(dataset, at=at)
        worst_error = "" if as_json else human_worst_error(client, dataset, found, at)
    if as_json:
        print_json(found)
        return
    print_table(
        ["dtype", ">tensors", ">size", ">stored", ">ratio"],
        ((share.dtype, f"{share.tensors:,}", *_sizes(share)) for share in found.dtypes),
    )
    print_text("")
    print_table(
        ["encoding", ">chunks", ">size", ">stored", ">ratio"],
        ((human_encoding(share.codecs), f"{share.chunks:,}", *_sizes(share)) for share in found.encodings),
    )
    print_text("")
    print_text(
        f"{counted(found.tensors, 'tensor')}, "
        f"{human_bytes(found.canonical_bytes)} stored in {human_bytes(found.stored_bytes)}, "
        f"ratio {human_ratio(found)}, worst relative error {worst_error}"
    )
    if found.unique_bytes < found.canonical_bytes:
        print_text(
            f"equal bytes counted once: {human_bytes(found.unique_bytes)} stored in {human_bytes(found.unique_stored_bytes)}"
        )
    if found.damaged_tensors:
        named = ", ".join(found.damaged_ids)
        more = " and others" if found.damaged_tensors > len(found.damaged_ids) else ""
        print_text(f"not counted because damaged: {counted(found.damaged_tensors, 'tensor')}: {named}{more}")


def _sizes(share: DTypeShare | EncodingShare) -> tuple[str, str, str]:
    ratio = share.canonical_bytes / max(share.stored_bytes, 1)
    return human_bytes(share.canonical_bytes), human_bytes(share.stored_bytes), f"{ratio:.2f}"
