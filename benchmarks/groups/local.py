"""Without a server: a store opened in the process that uses it, beside safetensors, zarr-python and TensorStore."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from common.processes import Client
from common.result import GIGABYTES, Bar, Bars, Picture, Row, Table, measured_row
from common.runs import Measured, Transfer, alternate
from common.settings import MIB, Settings
from contestants import files

__all__ = ["measure"]

PRESETS = ("none", "fast", "lossless", "balanced")

VERBS = {
    "write": "write, and let the system sync it later",
    "write, synced": "write, synced",
    "read": "read, into a fresh array",
}
"""And what the picture calls them."""

NOTES = (
    "In one process, page cache warm. Tensorus checks every byte that it reads, and has no insert that is not synced.",
    "Chunks of 1 MiB where there are chunks; safetensors has none.",
    "Ratio: bytes of the values over bytes on disk, everything counted.",
)


def measure(settings: Settings) -> Table:
    """Return GB/s of one float32 array, and its ratio on disk."""
    with ExitStack() as stack:
        settings.report("writing what will be read")
        ratios: dict[str, float] = {}
        transfers: dict[tuple[str, str], Transfer] = {}
        for formats, client, folder in _contestants(settings, stack):
            for name in formats:
                is_ours = name in PRESETS
                shown = f"Tensorus {name}" if is_ours else name
                ratios[shown] = settings.mebibytes * MIB / _stored_bytes(folder / name)
                # Ours has no insert that is not synced.
                for verb in list(VERBS)[is_ours:]:
                    after = None if is_ours or verb == "read" else f"remove {name}"
                    transfers[verb, shown] = Transfer([client], f"{verb} {name}", after=after)
        contestants = {f"{verb}: {name}": transfer for (verb, name), transfer in transfers.items()}
        found = alternate(contestants, settings.repeats, settings.report)
    rows: list[Row] = []
    panels: list[Bars] = []
    amount = settings.mebibytes * MIB / 1e9
    for verb, title in VERBS.items():
        measured = {name: found[f"{verb}: {name}"] for name in ratios if (verb, name) in transfers}
        rows += [_row(f"{verb}: {name}", one, amount, ratios[name]) for name, one in measured.items()]
        bars = [Bar(name, GIGABYTES.spread(one, amount), "Tensorus" in name) for name, one in measured.items()]
        panels.append(Bars(title, "GB/s", bars))
    title = f"without a server, float32 N(0, 0.02), {settings.mebibytes} MiB"
    return Table(title, "", rows, Picture(title, panels), NOTES)


def _contestants(settings: Settings, stack: ExitStack) -> list[tuple[Sequence[str], Client, Path]]:
    """Return, for each library: the formats that it knows, its client, and the folder with a folder for each format."""
    found: list[tuple[Sequence[str], Client, Path]] = []
    for formats, make, more in (
        (PRESETS, files.tensorus_stores, (PRESETS,)),
        (files.SAFETENSORS, files.safetensors, ()),
        (files.ZARRS, files.zarrs, ()),
        (files.TENSORSTORES, files.tensorstores, ()),
    ):
        folder = stack.enter_context(settings.folder())
        client = stack.enter_context(Client(make, str(folder), settings.mebibytes, *more))
        found.append((formats, client, folder))
    return found


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _row(name: str, measured: Measured, amount: float, ratio: float) -> Row:
    row = measured_row(name, measured, GIGABYTES, amount, more={"ratio": ratio})
    return Row(name, {column: figure for column, figure in row.figures.items() if not column.startswith("server")})
