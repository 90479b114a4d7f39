"""tensorus info."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from tensorus._imported import lost_before_import
from tensorus.cli._connection import connected, store_options
from tensorus.cli._options import at_option, json_option
from tensorus.cli._output import (
    counted,
    human_bytes,
    human_encoding,
    human_ratio,
    human_shape,
    print_fields,
    print_json,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus.cli._connection import ServerOptions
    from tensorus.types import At, TensorInfo

__all__ = ["info"]


@click.command()
@click.argument("dataset")
@click.argument("id")
@at_option
@store_options()
@json_option
def info(
    dataset: str,
    id: str,  # noqa: A002 - the field's word
    at: At | None,
    server: ServerOptions,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """Show everything about the tensor ID of DATASET except its values.

    \b
    Example:
      tensorus info weights encoder.layer.0.attention
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    with connected(server, store, reads=True) as client:
        found = client.info(dataset, id, at=at)
    if as_json:
        print_json(found)
    else:
        print_fields(_fields(found))


def _fields(info: TensorInfo) -> Iterator[tuple[str, str]]:
    yield "id", info.id
    yield "dtype", info.dtype
    yield "shape", human_shape(info.shape)
    yield "generation", str(info.generation)
    yield "ordinal", str(info.ordinal)
    yield "created", info.created.isoformat(sep=" ", timespec="seconds")
    yield "size", f"{human_bytes(info.canonical_bytes)} ({info.canonical_bytes:,} bytes)"
    yield "stored", f"{human_bytes(info.stored_bytes)} ({info.stored_bytes:,} bytes), ratio {human_ratio(info)}"
    for share in info.encodings:
        yield (
            "encoding",
            f"{human_encoding(share.codecs)}: {counted(share.chunks, 'chunk')}, {human_bytes(share.stored_bytes)}",
        )
    if lost_before_import(info.metadata):
        yield "error", "unknown: the values were already lossy in Tensorus 0.1, before the import"
    elif info.lossy:
        yield "relative error", f"{info.relative_error:.3e}"
        yield "largest error", f"{info.max_absolute_error:.3e}"
    else:
        yield "error", "exact"
    if info.fallback_reason:
        yield "fallback", info.fallback_reason
    if info.values is not None:
        for name, value in to_json(info.values).items():
            if value is not None:
                yield name.replace("_", " "), value if isinstance(value, str) else f"{value:.6g}"
    yield "source checksum", info.source_checksum
    yield "value checksum", info.value_checksum
    yield "metadata", json.dumps(to_json(info.metadata), ensure_ascii=False)
