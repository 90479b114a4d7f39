"""Output of commands: tables and readable sizes for people, JSON for scripts, progress on the error stream."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from tensorus._imported import LOST_BEFORE_IMPORT, lost_before_import
from tensorus._moving.exact import HAS_ERROR_BEFORE, error_before
from tensorus.errors import InternalError
from tensorus.types import DatasetStats, PolicyExplanation, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from tensorus._grpc.patience import Interruption
    from tensorus.client import Client
    from tensorus.types import At

__all__ = [
    "TransferBar",
    "counted",
    "human_bytes",
    "human_duration",
    "human_encoding",
    "human_error",
    "human_ratio",
    "human_shape",
    "human_worst_error",
    "print_error",
    "print_fields",
    "print_json",
    "print_note",
    "print_table",
    "print_tensors",
    "print_text",
    "progress_bar",
    "to_json",
    "told",
]

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, ends a line for some programs or turns a text around; half characters. Not tab, newline."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count: float) -> str:
    """Return a readable size such as "91.0 MiB"."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 tensor" or "1,024 tensors"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def human_duration(duration: timedelta) -> str:
    """Return a duration in its largest whole unit, such as "7d", "36h" or "90s"; "0" for none."""
    seconds = int(duration.total_seconds())
    for unit, unit_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % unit_s == 0:
            return f"{seconds // unit_s}{unit}"
    return f"{seconds}s" if seconds else "0"


def human_shape(shape: Sequence[int]) -> str:
    """Return a readable shape such as "384 x 1536"; "scalar" for no axes."""
    return " x ".join(map(str, shape)) or "scalar"


def human_encoding(codecs: Sequence[str]) -> str:
    """Return the codecs in encoding order, such as "fp16 > rotated_planes > zstd"; "as it is" for none."""
    return " > ".join(codecs) or "as it is"


def human_ratio(info: TensorInfo | DatasetStats) -> str:
    """Return the ratio and its factors, such as "2.356 (quantizer 2.000 x compressor 1.178)"."""
    return f"{info.ratio:.3f} (quantizer {info.quantizer_ratio:.3f} x compressor {info.compressor_ratio:.3f})"


def human_error(info: TensorInfo | PolicyExplanation) -> str:
    """Return the measured relative error or "exact"; "unknown" if the tensor was lossy before it was imported.

    Of a copy of a lossy tensor, the error is that of the original, if that is larger.
    """
    if isinstance(info, TensorInfo):
        if lost_before_import(info.metadata):
            return "unknown"
        if (before := error_before(info.metadata)) > info.relative_error:
            return f"{before:.1e}"
    return f"{info.relative_error:.1e}" if info.lossy else "exact"


def human_worst_error(client: Client, dataset: str, stats: DatasetStats, at: At | None = None) -> str:
    """Return a dataset's largest relative error or "exact"; "unknown" if one was lossy before it was imported or copied."""
    # Damaged tensors are reported elsewhere.
    for _ in client.list(
        dataset, f"{LOST_BEFORE_IMPORT} OR {HAS_ERROR_BEFORE}", limit=1, at=at, on_damaged=lambda _: None
    ):
        return "unknown"
    return f"{stats.worst_relative_error:.1e}" if stats.lossy_tensors else "exact"


def to_json(value: object) -> Any:  # `Any`: JSON
    """Return a value of the client as JSON: its fields and, if it has them, its ratios.

    JSON has no NaN and no infinities, so they become "NaN", "Infinity" and "-Infinity", as in protobuf's JSON.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, (TensorInfo, DatasetStats, PolicyExplanation)):
            return fields | {name: getattr(value, name) for name in ("ratio", "quantizer_ratio", "compressor_ratio")}
        return fields
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.__name__ if isinstance(value, type) else value


def print_json(value: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(to_json(value), indent=2, allow_nan=False))


def print_text(text: str) -> None:
    """Print a line."""
    click.echo(_harmless(text))


def print_error(error: BaseException) -> None:
    """Print one line on the error stream; of an unexpected error, with the id under which the server's log has the call."""
    text = str(error) or type(error).__name__
    if isinstance(error, InternalError) and "request_id" in error.facts:
        text += f" (request {error.facts['request_id']})"
    click.echo(f"tensorus: {_harmless(text)}", err=True)


def print_note(text: str) -> None:
    """Print a notice that is not an error, as one line on the error stream."""
    click.echo(f"tensorus: {_harmless(text)}", err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a header; columns whose name begins with ">" are right-aligned."""
    head, *lines = _aligned(
        [[column.removeprefix(">") for column in columns], *rows], [column.startswith(">") for column in columns]
    )
    click.secho(head, bold=True)
    for line in lines:
        click.echo(line)


def print_tensors(infos: Iterable[TensorInfo], outcome: Callable[[TensorInfo], str] | None = None) -> None:
    """Print a table with one line per tensor.

    Args:
        infos: descriptions of the tensors.
        outcome: returns the text of an additional column; None: no such column.
    """
    columns = ["id", "dtype", "shape", ">size", ">stored", ">ratio", ">error"]
    print_table(
        columns if outcome is None else [*columns, "outcome"],
        (
            (
                info.id,
                info.dtype,
                human_shape(info.shape),
                human_bytes(info.canonical_bytes),
                human_bytes(info.stored_bytes),
                f"{info.ratio:.2f}",
                human_error(info),
                *(() if outcome is None else (outcome(info),)),
            )
            for info in infos
        ),
    )


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair per line."""
    for line in _aligned(list(fields), [False, False]):
        click.echo(line)


def _harmless(text: str) -> str:
    r"""Return a text with control characters as escapes, such as "\x9b": whoever stored it must not control a terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _aligned(rows: Sequence[Sequence[str]], to_the_right: Sequence[bool]) -> Iterator[str]:
    """Yield one line per row, with aligned cells.

    Cells are never truncated, even on a narrow terminal, so that an id can be copied to the next command.
    """
    rows = [[_harmless(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = []
        for cell, width, right in zip(row, widths, to_the_right, strict=True):
            # Not `str.ljust`: some characters are two columns wide.
            blank = " " * (width - cell_len(cell))
            cells.append(blank + cell if right else cell + blank)
        yield "  ".join(cells).rstrip()


def progress_bar(*, quiet: bool) -> Bar:
    """Return a progress bar for bytes on the error stream. It vanishes when done, and is disabled without a terminal."""
    console = Console(stderr=True)
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


class TransferBar:
    """A progress bar for one transfer. It also reports interruptions; without a terminal, as one line each."""

    def __init__(self, description: str, *, quiet: bool) -> None:
        """Show nothing yet.

        Args:
            description: the activity, such as "storing".
            quiet: show no bar.
        """
        self._description = description
        self._bar = progress_bar(quiet=quiet)
        self._task = self._bar.add_task(description, total=None)
        self._done_bytes = 0

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        """Show the progress of the transfer; without a total, as far as it is known."""
        if done_bytes > self._done_bytes:
            self._done_bytes = done_bytes
            self._bar.update(self._task, description=self._description)
        self._bar.update(self._task, completed=done_bytes, total=total_bytes)

    def connection_lost(self, interruption: Interruption) -> None:
        """Report that a call failed and is being retried: an `Observer` for clients."""
        self._bar.update(self._task, description="connection lost, retrying")
        line = told(interruption)
        if self._bar.disable:
            if line:
                print_note(line)
        elif interruption.at_same_place == 2:
            # Above the bar, which shows that the call is being retried.
            self._bar.console.print(f"tensorus: {_harmless(line)}", markup=False, highlight=False)

    def disk_full(self, interruption: Interruption) -> None:
        """Report that the server's disk is full: an `Observer` for `store_all`."""
        self._bar.update(self._task, description="the server's disk is full, waiting")
        # Count any bytes after the wait as progress: tensors that were not stored are sent again from their start.
        self._done_bytes = 0
        if self._bar.disable and interruption.at_same_place == 1:
            print_note(f"the server's disk is full, waiting ({interruption.error})")


def told(interruption: Interruption) -> str:
    """Return the line to print: the error at the first interruption, a possible cause at the second, then nothing."""
    if interruption.at_same_place == 1:
        return f"connection lost, retrying ({interruption.error})"
    return interruption.explanation if interruption.at_same_place == 2 else ""
