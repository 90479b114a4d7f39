"""tensorus get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from tensorus.cli._checkpoint import MANIFEST_ID, ids_in
from tensorus.cli._connection import connected, store_options
from tensorus.cli._files import HEADER_KEY
from tensorus.cli._output import TransferBar, counted, human_bytes, print_note, print_text
from tensorus.cli._writing import WRITABLE, Expected, in_writing_order, require_writable, write_checkpoint, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import tensorus
    from tensorus._arrays import AnyArray
    from tensorus.types import TensorInfo

__all__ = ["get", "parse_index_text"]


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

    Without IDS and --where: all of them. The file's name says its format: .safetensors or .npz, .npy for a single tensor, or
    .pt (torch). A checkpoint that was put from a .pt file becomes one again in a .pt file, with all that was in it. Tensors are
    written as they arrive, one in memory at a time; only a .pt file is put together in memory.

    \b
    Examples:
      tensorus get weights -o model.safetensors
      tensorus get weights encoder.layer.0.attention -o slice.npy --index '0:10, ...'
      tensorus get weights --where 'layer >= 3' -o top.npz
      tensorus get run7 -o checkpoint.pt
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
    bar = TransferBar("reading", quiet=False)
    with bar, connected(server, store, bar.connection_lost) as client:
        listed = (client.info(dataset, i) for i in ids) if ids else client.list(dataset, where)
        infos = {info.id: info for info in listed}
        require_writable(output, {info.id: info.dtype for info in infos.values()})
        reading = _Reading(client, dataset, infos, parsed, bar)
        write = _write_checkpoint if output.suffix.lower() == ".pt" else _write
        count = write(output, reading)
    print_text(f"{counted(count, 'tensor')}, {human_bytes(output.stat().st_size)} in {output}")


class _Reading:
    """The tensors that are wanted, and how they are read."""

    def __init__(
        self, client: tensorus.Client, dataset: str, infos: Mapping[str, TensorInfo], index: Any, bar: TransferBar
    ) -> None:
        self.infos = infos
        self.index = index
        self._client = client
        self._dataset = dataset
        self._bar = bar
        self._total_bytes = sum(info.canonical_bytes for info in infos.values())
        self._done_bytes = 0

    def read(self, ids: Sequence[str]) -> Iterator[tuple[str, AnyArray]]:
        """Yield tensors, or the part of each that is wanted, in this order."""
        for tensor_id, array in self._whole(ids) if self.index is None else self._parts(ids):
            yield tensor_id, array
            self._done_bytes += self.infos[tensor_id].canonical_bytes
            self._bar.show(self._done_bytes, self._total_bytes)

    def _whole(self, ids: Sequence[str]) -> Iterator[tuple[str, AnyArray]]:
        for record in self._client.get_many(self._dataset, ids, as_="numpy"):
            yield record.info.id, record.tensor

    def _parts(self, ids: Sequence[str]) -> Iterator[tuple[str, AnyArray]]:
        for tensor_id in ids:
            array = self._client.get(self._dataset, tensor_id, index=self.index, as_="numpy")
            # An index of numbers alone leads to one value.
            yield tensor_id, np.asarray(array)

    def expected(self, ids: Sequence[str]) -> list[Expected]:
        """Return what will be read."""
        return [Expected(i, self.infos[i].dtype, self._shape(self.infos[i].shape)) for i in ids]

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.index is None:
            return shape
        # An array of that shape that takes one byte: NumPy knows what an index leaves of it.
        try:
            part: AnyArray = np.broadcast_to(np.uint8(0), shape)[self.index]
        except (IndexError, ValueError):
            # The tensor has no such part. The store says so in better words when it is asked for it.
            return shape
        return part.shape


def _write(output: Path, reading: _Reading) -> int:
    infos = reading.infos
    ids = in_writing_order(output, {info.id: info.dtype for info in infos.values()})
    metadata: dict[str, str] = {}
    for info in infos.values():
        header = info.metadata.get(HEADER_KEY)
        if isinstance(header, dict):
            metadata |= {key: str(text) for key, text in header.items()}
    with writing(output, reading.expected(ids), metadata) as write:
        for tensor_id, array in reading.read(ids):
            write(tensor_id, array)
    return len(ids)


def _write_checkpoint(output: Path, reading: _Reading) -> int:
    """Write a .pt file: the checkpoint that the tensors' manifest describes, or a dict of them by name."""
    infos = reading.infos
    manifests = [i for i, info in infos.items() if i.endswith(MANIFEST_ID) and info.dtype == "uint8"]
    if reading.index is not None or not manifests:
        tensors = dict(reading.read(list(infos)))
        write_checkpoint(output, tensors, None)
        return len(tensors)
    if len(manifests) > 1:
        raise ValueError(
            f"these are the tensors of {len(manifests)} checkpoints ({', '.join(map(repr, manifests))}); "
            "choose one, such as with --where '@id STARTS WITH \"...\"'"
        )
    (manifest_id,) = manifests
    prefix = manifest_id.removesuffix(MANIFEST_ID)
    tensors = dict(reading.read([manifest_id]))
    named = ids_in(tensors[manifest_id].tobytes())
    wanted = [prefix + tensor_id for tensor_id in named]
    if missing := [tensor_id for tensor_id in wanted if tensor_id not in infos]:
        raise ValueError(
            f"{len(missing)} of the checkpoint's {len(wanted)} tensors are not there, or not asked for, such as {missing[0]!r}"
        )
    # Of tensors that are one, such as tied weights, the first is read.
    tensors |= reading.read([prefix + tensor_id for tensor_id, same_as in named.items() if tensor_id == same_as])
    own = {*wanted, manifest_id}
    if others := [tensor_id for tensor_id in infos if tensor_id not in own]:
        print_note(f"{counted(len(others), 'tensor')} not of the checkpoint, such as {others[0]!r}: left out")
    write_checkpoint(output, tensors, manifest_id)
    return len(wanted)


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
