"""tensorus put."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tensorus
from tensorus.cli._connection import connected, store_options
from tensorus.cli._files import read_tensors
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, human_bytes, print_json, print_tensors, print_text, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["put"]


@click.command()
@click.argument("dataset")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--preset",
    help="How to store them: none, fast, lossless, archive, balanced, bf16, maximum, extreme, auto, fp16_only, int8_only.  "
    "[default: as the dataset says]",
)
@click.option("--prefix", default="", help="Put this before every id.")
@click.option(
    "--metadata", "pairs", multiple=True, metavar="KEY=VALUE", help="For every tensor; VALUE is JSON, or text."
)
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
    as_json: bool,
) -> None:
    """Store the tensors of FILES in DATASET.

    DATASET is made if it is not there. FILES are .safetensors, .npy, .npz, or .pt (torch; read with weights_only, so that
    nothing in it runs). A tensor's id is its name in the file; of a .npy file, the file's name without the ending.

    \b
    Examples:
      tensorus put weights model.safetensors --preset balanced
      tensorus put activations layer1.npy layer2.npy --metadata run=7 --metadata split='"test"'
    """  # noqa: D301 - click's mark for lines that stay as they are
    metadata = dict(map(_parse_pair, pairs))
    policy = None if preset is None else tensorus.Policy(preset=preset)
    total_bytes = sum(path.stat().st_size for path in files)
    with connected(server, store) as client, progress_bar(quiet=as_json) as bar:
        client.create_dataset(dataset, exist_ok=True)
        task = bar.add_task("storing", total=total_bytes)
        infos = client.insert_many(
            dataset,
            _tensors(files, prefix, metadata, policy),
            # A compressed .npz file has fewer bytes than its tensors.
            on_progress=lambda progress: bar.update(
                task, completed=progress.done_bytes, total=max(total_bytes, progress.done_bytes)
            ),
        )
    if as_json:
        print_json(infos)
        return
    print_tensors(infos)
    canonical_bytes = sum(info.canonical_bytes for info in infos)
    stored_bytes = sum(info.stored_bytes for info in infos)
    print_text(f"{counted(len(infos), 'tensor')}, {human_bytes(canonical_bytes)} stored in {human_bytes(stored_bytes)}")


def _tensors(
    files: tuple[Path, ...], prefix: str, metadata: dict[str, Any], policy: tensorus.Policy | None
) -> Iterator[tensorus.NewTensor]:
    for path in files:
        for name, tensor in read_tensors(path):
            yield tensorus.NewTensor(tensor, prefix + name, metadata, policy)


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--metadata")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
