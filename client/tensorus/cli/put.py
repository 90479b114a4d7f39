"""tensorus put."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import tensorus
from tensorus.cli._connection import RETRY_TIMEOUT_S, connected, store_options
from tensorus.cli._files import expanded, open_file
from tensorus.cli._options import json_option
from tensorus.cli._output import (
    TransferBar,
    counted,
    human_bytes,
    print_json,
    print_note,
    print_tensors,
    print_text,
)
from tensorus.cli._storing import outcome, store_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus.cli._files import FileTensor
    from tensorus.types import Progress, TensorInfo

__all__ = ["put"]

_ROWS_MAX = 40
"""Of the table: what fits a screen."""

_NAMED_MAX = 5
"""Of what is left out."""


@click.command()
@click.argument("dataset")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--preset",
    help="How to store them: none, fast, lossless, archive, balanced, bf16, maximum, extreme, auto, fp16_only, int8_only.  "
    "[default: as the dataset says]",
)
@click.option("--prefix", default="", help="Put this before every id.")
@click.option(
    "--metadata", "pairs", multiple=True, metavar="KEY=VALUE", help="For every tensor; VALUE is JSON, or text."
)
@click.option("--replace", "replaces", is_flag=True, help="Replace other tensors of the same ids.")
@click.option("--drop-other", is_flag=True, help="Leave out what cannot be stored, instead of refusing the file.")
@click.option("--all", "all_rows", is_flag=True, help=f"List every tensor, also where they are more than {_ROWS_MAX}.")
@store_options(makes_store=True)
@json_option
def put(
    dataset: str,
    files: tuple[Path, ...],
    preset: str | None,
    prefix: str,
    pairs: tuple[str, ...],
    server: str,
    store: str | None,
    *,
    replaces: bool,
    drop_other: bool,
    all_rows: bool,
    as_json: bool,
) -> None:
    """Store the tensors of FILES in DATASET.

    DATASET is made if it is not there. FILES are .safetensors, .npy, .npz, or torch's .pt, .pth, .ckpt and .bin (read with
    weights_only, so that nothing in them runs), an index of shards, or a folder with such files. A tensor's id is its name in
    the file; of a .npy file, the file's name without the ending.

    Of a checkpoint, what is no tensor is kept, too, and `tensorus get DATASET -o out.pt` makes the same checkpoint of it.

    While the server's disk is full, this waits for up to a minute for space.

    \b
    Examples:
      tensorus put weights model.safetensors --preset balanced
      tensorus put activations layer1.npy layer2.npy --metadata run=7 --metadata split='"test"'
      tensorus put run7 checkpoint.pt --replace
    """  # noqa: D301 - click's mark for lines that stay as they are
    metadata = dict(map(_parse_pair, pairs))
    policy = None if preset is None else tensorus.Policy(preset=preset)
    paths = expanded(files)
    load = _opened(paths, prefix, metadata, policy, drop_other=drop_other)
    total_bytes = sum(path.stat().st_size for path in paths)
    bar = TransferBar("storing", quiet=as_json)

    def show(progress: Progress) -> None:
        # A compressed .npz file has fewer bytes than its tensors.
        bar.show(progress.done_bytes, max(total_bytes, progress.done_bytes))

    with bar, connected(server, store, bar.connection_lost) as client:
        if policy is not None:
            # Of no values everything is known at once: an unknown preset is refused before a dataset is made.
            client.explain(np.empty(0, np.uint8), policies=[policy])
        client.create_dataset(dataset, exist_ok=True)
        infos = store_all(
            client,
            dataset,
            load,
            replaces=replaces,
            disk_timeout_s=RETRY_TIMEOUT_S,
            on_progress=show,
            on_disk_full=bar.disk_full,
        )
    if as_json:
        print_json(infos)
    else:
        _print(infos, all_rows=all_rows)


def _opened(
    paths: Sequence[Path],
    prefix: str,
    metadata: dict[str, Any],
    policy: tensorus.Policy | None,
    *,
    drop_other: bool,
) -> dict[str, Callable[[], tensorus.NewTensor]]:
    """Return what loads each tensor of the files, by id. All files are looked at.

    Raises:
        ValueError: a file that cannot be stored, or two tensors of one id; names the file.
    """
    found: dict[str, tuple[Path, Callable[[], tensorus.NewTensor]]] = {}
    for path in paths:
        opened = open_file(path)
        if opened.left_out:
            others = ", ".join([*opened.left_out[:_NAMED_MAX], *(["..."] if len(opened.left_out) > _NAMED_MAX else [])])
            if not drop_other:
                raise ValueError(f"{path} has what cannot be stored: {others}; --drop-other leaves it out")
            print_note(f"{path}: left out {others}")
        for note in opened.notes:
            print_note(note)
        for tensor in opened.tensors:
            tensor_id = prefix + tensor.name
            if tensor_id in found:
                raise ValueError(
                    f"{found[tensor_id][0]} and {path} both have a tensor {tensor_id!r}; put them one by one, with --prefix"
                )
            found[tensor_id] = path, partial(_load, tensor, tensor_id, metadata, policy)
    return {tensor_id: load for tensor_id, (_, load) in found.items()}


def _load(
    tensor: FileTensor, tensor_id: str, metadata: dict[str, Any], policy: tensorus.Policy | None
) -> tensorus.NewTensor:
    return tensorus.NewTensor(tensor.load(), tensor_id, {**tensor.metadata, **metadata}, policy)


def _print(infos: Sequence[TensorInfo], *, all_rows: bool) -> None:
    listed = all_rows or len(infos) <= _ROWS_MAX
    if listed:
        print_tensors(infos, outcome)
    canonical_bytes = sum(info.canonical_bytes for info in infos)
    stored_bytes = sum(info.stored_bytes for info in infos)
    text = f"{counted(len(infos), 'tensor')}, {human_bytes(canonical_bytes)} stored in {human_bytes(stored_bytes)}"
    if present := sum(outcome(info) == "present" for info in infos):
        text += f"; {present:,} of them present before"
    print_text(text if listed else f"{text}; --all lists them")


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--metadata")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
