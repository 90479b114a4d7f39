"""How commands print: tables and human sizes for people, JSON for scripts, progress on the error stream."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from tensorus.types import DatasetStats, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "human_bytes",
    "human_error",
    "human_shape",
    "print_error",
    "print_json",
    "print_table",
    "print_text",
    "progress_bar",
    "to_json",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count: float) -> str:
    """Return a size as people read it: "91.0 MiB"."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def human_shape(shape: Sequence[int]) -> str:
    """Return a shape as people read it: "384 x 1536"; "scalar" without axes."""
    return " x ".join(map(str, shape)) or "scalar"


def human_error(info: TensorInfo | DatasetStats) -> str:
    """Return the measured relative error, or "exact"."""
    if isinstance(info, TensorInfo):
        return f"{info.relative_error:.1e}" if info.lossy else "exact"
    return f"{info.worst_relative_error:.1e}" if info.lossy_tensors else "exact"


def to_json(value: object) -> Any:  # `Any`: JSON
    """Return a value of the client's as JSON: its fields and, where it has one, its ratio."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {**fields, "ratio": value.ratio} if isinstance(value, (TensorInfo, DatasetStats)) else fields
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.__name__ if isinstance(value, type) else value


def print_json(value: object) -> None:
    """Print one JSON document."""
    Console(soft_wrap=True, highlight=False, markup=False).print(json.dumps(to_json(value), indent=2))


def print_text(text: str) -> None:
    """Print a line as it is."""
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


def print_error(error: BaseException) -> None:
    """Print one line on the error stream."""
    message = str(error) or type(error).__name__
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"tensorus: {message}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table; columns whose name begins with ">" are aligned to the right. Piped, it is never cut."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=1000)
    console.print(table)


def progress_bar(*, quiet: bool) -> Progress:
    """Return a bar for bytes, on the error stream; it vanishes when it is done, and is not there where nobody looks."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
