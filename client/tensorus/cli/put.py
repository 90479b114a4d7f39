"""tensorus put."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import tensorus
from tensorus.cli._bases import BASES, Bases
from tensorus.cli._connection import RETRY_TIMEOUT_S, connected, store_options
from tensorus.cli._files import expanded, open_file
from tensorus.cli._options import DURATION, json_option
from tensorus.cli._output import (
    TransferBar,
    counted,
    human_bytes,
    human_duration,
    print_json,
    print_note,
    print_tensors,
    print_text,
)
from tensorus.cli._storing import outcome, store_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from tensorus.cli._bases import Place
    from tensorus.cli._connection import ServerOptions
    from tensorus.cli._files import FileTensor
    from tensorus.types import Progress, TensorInfo

__all__ = ["put"]

_ROWS_MAX = 40
"""Rows of the table that fit on a screen."""

_NAMED_MAX = 5
"""Left-out objects that a message names."""


@click.command()
@click.argument("dataset")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--preset",
    help="Storage preset: none, fast, lossless, archive, balanced, bf16, maximum, extreme, auto, fp16_only, int8_only.  "
    "[default: the dataset's policy]",
)
@click.option("--prefix", default="", help="Prefix for every id.")
@click.option(
    "--metadata",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Add metadata to every tensor; can be repeated. VALUE is JSON, or else text.",
)
@click.option(
    "--base",
    type=BASES,
    metavar="DATASET[@STATE]",
    help="Store each tensor as the differences to the one of the same id in this dataset, where that is smaller: an earlier "
    "checkpoint. STATE is a snapshot, a generation or a time, as for --at of other commands.",
)
@click.option("--replace", "replaces", is_flag=True, help="Replace stored tensors that have the same ids.")
@click.option(
    "--no-ask",
    is_flag=True,
    help="Send every tensor, without asking first which ones the store has already. Saves reading the files twice.",
)
@click.option(
    "--retention",
    type=DURATION,
    help="How long tensors of a new dataset stay readable after they were replaced or deleted, such as 7d or 12h.",
)
@click.option(
    "--drop-other", is_flag=True, help="Leave out objects that cannot be stored, instead of refusing the file."
)
@click.option("--all", "all_rows", is_flag=True, help=f"List every tensor, even if there are more than {_ROWS_MAX}.")
@store_options(makes_store=True)
@json_option
def put(
    dataset: str,
    files: tuple[Path, ...],
    preset: str | None,
    prefix: str,
    pairs: tuple[str, ...],
    base: Place | None,
    retention: timedelta | None,
    server: ServerOptions,
    store: str | None,
    *,
    replaces: bool,
    no_ask: bool,
    drop_other: bool,
    all_rows: bool,
    as_json: bool,
) -> None:
    """Store the tensors of FILES in DATASET.

    DATASET is created if it does not exist. FILES are .safetensors, .npy, .npz, or torch's .pt, .pth, .ckpt and .bin (loaded
    with weights_only, so no code in them runs), an index of shards, or a folder with such files. The id of a tensor is its
    name in the file; for a .npy file, the file name without extension.

    Tensors that the store has already, under these or other ids, are not sent: the command sends checksums first.

    The non-tensor contents of a checkpoint are stored too, so `tensorus get DATASET -o out.pt` restores the same checkpoint.

    If the server's disk is full, the command waits up to a minute for space.

    \b
    Examples:
      tensorus put weights model.safetensors --preset balanced
      tensorus put activations layer1.npy layer2.npy --metadata run=7 --metadata split='"test"'
      tensorus put run7 checkpoint.pt --replace
      tensorus put step2000 step2000.safetensors --base step1000
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    metadata = dict(map(_parse_pair, pairs))
    policy = None if preset is None else tensorus.Policy(preset=preset)
    paths = expanded(files)
    loaders = _opened(paths, prefix, metadata, policy, drop_other=drop_other)
    total_bytes = sum(path.stat().st_size for path in paths)
    bar = TransferBar("storing", quiet=as_json)

    def show(progress: Progress) -> None:
        # A compressed .npz file has fewer bytes than its tensors.
        bar.show(progress.done_bytes, max(total_bytes, progress.done_bytes))

    with bar, connected(server, store, bar.connection_lost) as client:
        bases = _prepared(client, dataset, policy, base, retention)
        infos = store_all(
            client,
            dataset,
            loaders if bases is None else {name: partial(_with_base, load, bases) for name, load in loaders.items()},
            replaces=replaces,
            asks=not no_ask,
            disk_timeout_s=RETRY_TIMEOUT_S,
            on_progress=show,
            on_disk_full=bar.disk_full,
        )
    if as_json:
        print_json(infos)
    else:
        _print(infos, all_rows=all_rows)
        if bases is not None:
            print_text(bases.report(infos))


def _prepared(
    client: tensorus.Client,
    dataset: str,
    policy: tensorus.Policy | None,
    base: Place | None,
    retention: timedelta | None,
) -> Bases | None:
    """Create the dataset unless it exists, once nothing speaks against it, and return the bases of its tensors."""
    if policy is not None:
        # Explaining an empty sample is cheap, and refuses an unknown preset.
        client.explain(np.empty(0, np.uint8), policies=[policy])
    if base is not None and base[0] != dataset:
        bases = Bases(client, base)
        _create_dataset(client, dataset, retention)
        return bases
    # The first checkpoint of a dataset whose checkpoints replace each other has no bases yet.
    _create_dataset(client, dataset, retention)
    return None if base is None else Bases(client, base)


def _create_dataset(client: tensorus.Client, dataset: str, retention: timedelta | None) -> None:
    """Create the dataset unless it exists.

    Raises:
        ValueError: it exists with another retention.
    """
    found = client.create_dataset(dataset, exist_ok=True, retention=retention)
    if retention not in {None, found.retention}:
        raise ValueError(
            f"dataset {dataset!r} exists with a retention of {human_duration(found.retention)}; "
            f"change it with `tensorus retention {dataset} {human_duration(retention)}`"
        )


def _opened(
    paths: Sequence[Path],
    prefix: str,
    metadata: dict[str, Any],
    policy: tensorus.Policy | None,
    *,
    drop_other: bool,
) -> dict[str, Callable[[], tensorus.NewTensor]]:
    """Return a loader for each tensor of the files, by id. All files are checked first.

    Raises:
        ValueError: a file cannot be stored, or two tensors have one id; the message names the file.
    """
    found: dict[str, tuple[Path, Callable[[], tensorus.NewTensor]]] = {}
    for path in paths:
        opened = open_file(path)
        if opened.left_out:
            others = ", ".join([*opened.left_out[:_NAMED_MAX], *(["..."] if len(opened.left_out) > _NAMED_MAX else [])])
            if not drop_other:
                raise ValueError(f"{path} has objects that cannot be stored: {others}; --drop-other leaves them out")
            print_note(f"{path}: left out {others}")
        for note in opened.notes:
            print_note(note)
        for tensor in opened.tensors:
            tensor_id = prefix + tensor.name
            if tensor_id in found:
                raise ValueError(
                    f"{found[tensor_id][0]} and {path} both have a tensor {tensor_id!r}; put them separately, with --prefix"
                )
            found[tensor_id] = path, partial(_load, tensor, tensor_id, metadata, policy)
    return {tensor_id: load for tensor_id, (_, load) in found.items()}


def _load(
    tensor: FileTensor, tensor_id: str, metadata: dict[str, Any], policy: tensorus.Policy | None
) -> tensorus.NewTensor:
    return tensorus.NewTensor(tensor.load(), tensor_id, {**tensor.metadata, **metadata}, policy)


def _with_base(load: Callable[[], tensorus.NewTensor], bases: Bases) -> tensorus.NewTensor:
    new = load()
    return new if new.id is None else replace(new, base=bases.of(new.id, new.tensor))


def _print(infos: Sequence[TensorInfo], *, all_rows: bool) -> None:
    listed = all_rows or len(infos) <= _ROWS_MAX
    if listed:
        print_tensors(infos, outcome)
    canonical_bytes = sum(info.canonical_bytes for info in infos)
    stored_bytes = sum(info.stored_bytes for info in infos)
    text = f"{counted(len(infos), 'tensor')}, {human_bytes(canonical_bytes)} stored in {human_bytes(stored_bytes)}"
    if present := sum(outcome(info) == "present" for info in infos):
        text += f"; {present:,} already present"
    print_text(text if listed else f"{text}; --all lists them")


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--metadata")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
