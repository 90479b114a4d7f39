"""tensorus get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorus.cli._connection import connected, store_options
from tensorus.cli._files import WRITABLE, require_writable, write_tensors
from tensorus.cli._output import counted, human_bytes, print_text, progress_bar

if TYPE_CHECKING:
    from tensorus._arrays import AnyArray
    from tensorus.types import Progress

__all__ = ["get"]


@click.command()
@click.argument("dataset")
@click.argument("ids", nargs=-1)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--where", help="Instead of ids: all tensors that match this filter.")
@click.option("--index", help="A part of each, as in NumPy: '0:10', '..., ::2', '3, 4:8'.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@store_options()
def get(
    dataset: str,
    ids: tuple[str, ...],
    output: Path,
    where: str | None,
    index: str | None,
    server: str,
    store: str | None,
    *,
    force: bool,
) -> None:
    """Write tensors of DATASET to a file.

    Without IDS and --where: all of them. The file's name says its format: .safetensors or .npz, or .npy for a single tensor.

    \b
    Examples:
      tensorus get weights -o model.safetensors
      tensorus get weights encoder.layer.0.attention -o slice.npy --index '0:10, ...'
      tensorus get weights --where 'layer >= 3' -o top.npz
    """  # noqa: D301 - click's mark for lines that stay as they are
    if output.suffix.lower() not in WRITABLE:
        raise click.BadParameter(f"{output} must end in {', '.join(WRITABLE)}", param_hint="--output")
    if output.exists() and not force:
        raise click.BadParameter(f"{output} is there already; --force replaces it", param_hint="--output")
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    if ids and where:
        raise click.UsageError("IDS and --where exclude each other")
    parsed = None if index is None else parse_index_text(index)
    tensors: dict[str, AnyArray] = {}
    with connected(server, store) as client, progress_bar(quiet=False) as bar:
        infos = (
            {info.id: info for info in (client.info(dataset, i) for i in ids)}
            if ids
            else {info.id: info for info in client.list(dataset, where)}
        )
        require_writable(output, {info.id: info.dtype for info in infos.values()})
        task = bar.add_task("reading", total=sum(info.canonical_bytes for info in infos.values()))
        done_bytes = 0

        def show(progress: Progress) -> None:
            bar.update(task, completed=done_bytes + progress.done_bytes)

        for tensor_id, info in infos.items():
            tensors[tensor_id] = client.get(dataset, tensor_id, index=parsed, as_="numpy", on_progress=show)
            done_bytes += info.canonical_bytes
    write_tensors(output, tensors)
    print_text(f"{counted(len(tensors), 'tensor')}, {human_bytes(output.stat().st_size)} in {output}")


def parse_index_text(text: str) -> Any:  # `Any`: what `Client.get` takes as an index
    """Return the index that `text` says, such as "0:10, ..., ::2".

    Raises:
        click.BadParameter: a part is neither a number nor a slice nor "...".
    """
    parts = [_parse_part(part.strip(), text) for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return tuple(parts)


def _parse_part(part: str, text: str) -> Any:
    if part == "...":
        return Ellipsis
    try:
        bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
    except ValueError as error:
        raise click.BadParameter(f"{part!r} of {text!r} is not understood", param_hint="--index") from error
    if len(bounds) == 1 and bounds[0] is not None:
        return bounds[0]
    if not 2 <= len(bounds) <= 3:
        raise click.BadParameter(f"{part!r} of {text!r} is not understood", param_hint="--index")
    return slice(*bounds)
