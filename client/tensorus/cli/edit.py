"""tensorus append and tensorus write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._files import open_file
from tensorus.cli._options import json_option
from tensorus.cli._output import TransferBar, human_bytes, human_shape, print_json, print_text
from tensorus.cli.get import parse_index_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus.cli._connection import ServerOptions
    from tensorus.cli._files import FileTensor
    from tensorus.types import Progress, TensorInfo

__all__ = ["append", "write"]

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_NAME = click.option("--name", help="Name of the tensor in FILE, if it has several.")
_GENERATION = click.option(
    "--if-generation", "generation", type=click.IntRange(1), help="Change the tensor only if it has this generation."
)


@click.command()
@click.argument("dataset")
@click.argument("id")
@_FILE
@click.option("--axis", default=0, show_default=True, help="Axis that grows; all axes before it must have size 1.")
@_NAME
@_GENERATION
@store_options()
@json_option
def append(
    dataset: str,
    id: str,  # noqa: A002 - the field's word
    file: Path,
    axis: int,
    name: str | None,
    generation: int | None,
    server: ServerOptions,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """Append the tensor in FILE to the tensor ID of DATASET.

    It takes little longer than to store FILE, however large the tensor is. FILE may have any format that `put` reads.

    \b
    Examples:
      tensorus append logs loss today.npy
      tensorus append images train batch.npz --name images
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    tensor = _only_tensor(file, name)
    bar = TransferBar("appending", quiet=as_json)
    with bar, connected(server, store, bar.connection_lost) as client:
        info = client.append(
            dataset, id, tensor.load(), axis=axis, if_generation_match=generation, on_progress=_shown(bar)
        )
    _print(info, as_json=as_json)


@click.command()
@click.argument("dataset")
@click.argument("id")
@_FILE
@click.option("--index", required=True, help="Where to write, in NumPy syntax: '0:10', '..., ::2', '3, 4:8'.")
@_NAME
@_GENERATION
@store_options()
@json_option
def write(
    dataset: str,
    id: str,  # noqa: A002 - the field's word
    file: Path,
    index: str,
    name: str | None,
    generation: int | None,
    server: ServerOptions,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """Write the tensor in FILE into a part of the tensor ID of DATASET.

    Only the parts of the tensor that --index touches are stored anew. FILE may have any format that `put` reads.

    \b
    Examples:
      tensorus write weights bias bias.npy --index '0:10'
      tensorus write images train fixed.npy --index '42'
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    parsed = parse_index_text(index)
    tensor = _only_tensor(file, name)
    bar = TransferBar("writing", quiet=as_json)
    with bar, connected(server, store, bar.connection_lost) as client:
        info = client.write(dataset, id, parsed, tensor.load(), if_generation_match=generation, on_progress=_shown(bar))
    _print(info, as_json=as_json)


def _only_tensor(file: Path, name: str | None) -> FileTensor:
    """Return the tensor of this name in a file, or its only one.

    Raises:
        ValueError: the file has no such tensor, or several and no name is given.
    """
    tensors = {tensor.name: tensor for tensor in open_file(file).tensors}
    if name is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if name not in tensors:
        names = ", ".join(sorted(tensors)[:10])
        problem = f"has {len(tensors)} tensors, choose one with --name" if name is None else f"has no tensor {name!r}"
        raise ValueError(f"{file} {problem}; the first are: {names}")
    return tensors[name]


def _shown(bar: TransferBar) -> Callable[[Progress], None]:
    """Return a function that shows the progress of one tensor."""

    def show(progress: Progress) -> None:
        bar.show(progress.done_bytes, progress.total_bytes or progress.done_bytes)

    return show


def _print(info: TensorInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print_text(
        f"{info.id} has shape {human_shape(info.shape)} now, {human_bytes(info.canonical_bytes)} "
        f"in {human_bytes(info.stored_bytes)}, generation {info.generation}"
    )
