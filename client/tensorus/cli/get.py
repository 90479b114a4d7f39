"""tensorus get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import numpy as np

from tensorus import types
from tensorus._arrays.indexing import selected_shape
from tensorus.cli._checkpoint import MANIFEST_ID, ids_in
from tensorus.cli._connection import connected, store_options
from tensorus.cli._files import HEADER_KEY
from tensorus.cli._options import at_option
from tensorus.cli._output import TransferBar, counted, human_bytes, print_note, print_text
from tensorus.cli._writing import WRITABLE, Expected, in_writing_order, require_writable, write_checkpoint, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import tensorus
    from tensorus._arrays.canonical import AnyArray
    from tensorus.cli._connection import ServerOptions
    from tensorus.types import At, Precision, TensorInfo

__all__ = ["get", "parse_index_text"]


@click.command()
@click.argument("dataset")
@click.argument("ids", nargs=-1)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--where", help="Write all tensors that match this filter, instead of IDS.")
@click.option("--index", help="Write only this part of each tensor, in NumPy syntax: '0:10', '..., ::2', '3, 4:8'.")
@click.option(
    "--precision",
    type=click.Choice(get_args(types.Precision)),
    help="Read float32 values rounded to bfloat16, which moves about 40 % of the bytes. The dtype stays.",
)
@at_option
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@store_options()
def get(
    dataset: str,
    ids: tuple[str, ...],
    output: Path,
    where: str | None,
    index: str | None,
    precision: Precision | None,
    at: At | None,
    server: ServerOptions,
    store: str | None,
    *,
    force: bool,
) -> None:
    """Write tensors of DATASET to a file.

    Without IDS and --where, all tensors are written. The file's extension sets the format: .safetensors, .npz, .npy (a single
    tensor) or .pt (torch). A checkpoint that was stored from a .pt file is restored completely when written to a .pt file.
    Tensors are written as they arrive, with one in memory at a time; only a .pt file is assembled in memory.

    \b
    Examples:
      tensorus get weights -o back.safetensors
      tensorus get weights encoder.layer.0.attention -o slice.npy --index '0:10, ...'
      tensorus get weights --where 'layer >= 3' -o top.npz
      tensorus get weights --precision bf16 -o preview.safetensors
      tensorus get run7 -o back.pt
      tensorus get run7 -o before.pt --at before-pruning
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if output.suffix.lower() not in WRITABLE:
        raise click.BadParameter(f"{output} must end in {', '.join(WRITABLE)}", param_hint="--output")
    if output.exists() and not force:
        raise click.BadParameter(f"{output} exists already; --force overwrites it", param_hint="--output")
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"folder {output.parent} does not exist", param_hint="--output")
    if ids and where:
        raise click.UsageError("IDS and --where cannot be combined")
    parsed = None if index is None else parse_index_text(index)
    bar = TransferBar("reading", quiet=False)
    with bar, connected(server, store, bar.connection_lost, reads=True) as client:
        listed = (client.info(dataset, i, at=at) for i in ids) if ids else client.list(dataset, where, at=at)
        infos = {info.id: info for info in listed}
        require_writable(output, {info.id: info.dtype for info in infos.values()})
        reading = _Reading(client, dataset, infos, parsed, bar, precision, at)
        write = _write_checkpoint if output.suffix.lower() == ".pt" else _write
        count = write(output, reading)
    if precision is not None:
        error = reading.coarse_error
        print_note(
            f"--precision {precision}: {f'relative error at most {error:.1e}' if error else 'all values are exact'}"
        )
    print_text(f"{counted(count, 'tensor')}, {human_bytes(output.stat().st_size)} in {output}")


class _Reading:
    """Reads the selected tensors, and shows progress."""

    def __init__(
        self,
        client: tensorus.Client,
        dataset: str,
        infos: Mapping[str, TensorInfo],
        index: Any,
        bar: TransferBar,
        precision: Precision | None,
        at: At | None,
    ) -> None:
        self.infos = infos
        self.index = index
        self._client = client
        self._dataset = dataset
        self._bar = bar
        self._precision = precision
        self._at = at
        self.coarse_error = 0.0
        self._total_bytes = sum(info.canonical_bytes for info in infos.values())
        self._done_bytes = 0

    def read(self, ids: Sequence[str]) -> Iterator[tuple[str, AnyArray]]:
        """Yield tensors, or the requested part of each, in this order."""
        for tensor_id, array in self._whole(ids) if self.index is None else self._parts(ids):
            yield tensor_id, array
            self._done_bytes += self.infos[tensor_id].canonical_bytes
            self._bar.show(self._done_bytes, self._total_bytes)

    def _whole(self, ids: Sequence[str]) -> Iterator[tuple[str, AnyArray]]:
        found = self._client.get_many(self._dataset, ids, precision=self._precision, at=self._at, as_="numpy")
        for record in found:
            self.coarse_error = max(self.coarse_error, record.info.coarse_error)
            yield record.info.id, record.tensor

    def _parts(self, ids: Sequence[str]) -> Iterator[tuple[str, AnyArray]]:
        for tensor_id in ids:
            if self._precision is not None:
                info = self._client.info(self._dataset, tensor_id, precision=self._precision, at=self._at)
                self.coarse_error = max(self.coarse_error, info.coarse_error)
            array = self._client.get(
                self._dataset, tensor_id, index=self.index, precision=self._precision, at=self._at, as_="numpy"
            )
            # An index of integers alone selects a scalar.
            yield tensor_id, np.asarray(array)

    def expected(self, ids: Sequence[str]) -> list[Expected]:
        """Return name, dtype and shape of what `read` will yield."""
        return [Expected(i, self.infos[i].dtype, self._shape(self.infos[i].shape)) for i in ids]

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.index is None:
            return shape
        try:
            return selected_shape(shape, self.index)
        except (IndexError, ValueError):
            # The index does not fit the tensor. The store's error, when the tensor is read, explains it better.
            return shape


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
    """Write a .pt file: the checkpoint that a manifest among the tensors describes, or a dict of tensors by name."""
    infos = reading.infos
    manifests = [i for i, info in infos.items() if i.endswith(MANIFEST_ID) and info.dtype == "uint8"]
    if reading.index is not None or not manifests:
        tensors = dict(reading.read(list(infos)))
        write_checkpoint(output, tensors, None)
        return len(tensors)
    if len(manifests) > 1:
        raise ValueError(
            f"the selected tensors belong to {len(manifests)} checkpoints ({', '.join(map(repr, manifests))}); "
            "choose one, for example with --where '@id STARTS WITH \"...\"'"
        )
    (manifest_id,) = manifests
    prefix = manifest_id.removesuffix(MANIFEST_ID)
    tensors = dict(reading.read([manifest_id]))
    named = ids_in(tensors[manifest_id].tobytes())
    wanted = [prefix + tensor_id for tensor_id in named]
    if missing := [tensor_id for tensor_id in wanted if tensor_id not in infos]:
        raise ValueError(
            f"{len(missing)} of the checkpoint's {len(wanted)} tensors are missing or not selected, such as {missing[0]!r}"
        )
    # Of tensors that share memory, such as tied weights, only the first is read.
    tensors |= reading.read([prefix + tensor_id for tensor_id, same_as in named.items() if tensor_id == same_as])
    own = {*wanted, manifest_id}
    if others := [tensor_id for tensor_id in infos if tensor_id not in own]:
        print_note(f"{counted(len(others), 'tensor')} not part of the checkpoint left out, such as {others[0]!r}")
    write_checkpoint(output, tensors, manifest_id)
    return len(wanted)


def parse_index_text(text: str) -> Any:  # `Any`: what `Client.get` takes as an index
    """Parse an index such as "0:10, ..., ::2".

    Raises:
        click.BadParameter: a part is not an integer, a slice or "...".
    """
    parts = [_parse_part(part.strip(), text) for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return tuple(parts)


def _parse_part(part: str, text: str) -> Any:
    if part == "...":
        return Ellipsis
    try:
        bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
    except ValueError as error:
        raise click.BadParameter(
            f"{part!r} in {text!r} is not an integer, a slice or '...'", param_hint="--index"
        ) from error
    if len(bounds) == 1 and bounds[0] is not None:
        return bounds[0]
    if not 2 <= len(bounds) <= 3:
        raise click.BadParameter(f"{part!r} in {text!r} is not an integer, a slice or '...'", param_hint="--index")
    return slice(*bounds)
