"""tensorus bench."""

from __future__ import annotations

import signal
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click
import numpy as np

from tensorus._arrays.canonical import as_numpy, dtype_name, empty_canonical
from tensorus._arrays.sample import PIECE_BYTES, sample_of
from tensorus.cli._bench import Plan, measure
from tensorus.cli._bench_report import Report, print_report, print_report_json
from tensorus.cli._connection import connected, store_options
from tensorus.cli._files import read_tensors
from tensorus.cli._options import SIZE, json_option
from tensorus.cli._output import counted, human_bytes, print_error, progress_bar
from tensorus.errors import DatasetNotFoundError, TensorusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import Progress

    from tensorus._arrays.canonical import AnyArray
    from tensorus.cli._bench import Figures
    from tensorus.cli._connection import ServerOptions
    from tensorus.client import Client

__all__ = ["bench"]

_PRESETS = ("none", "fast", "lossless", "balanced", "fp16_only", "int8_only")

_SIZE_BYTES_MIN, _SIZE_BYTES_MAX = PIECE_BYTES, 4 * 1024**3
"""At least one chunk. More than the maximum does not make speeds steadier, and the client holds the tensor twice."""

_SEED = 0
_SCALE = 0.02
"""Standard deviation of the generated values, of the order of model weights."""


@click.command()
@click.option(
    "--size",
    "size_bytes",
    type=SIZE,
    default="64MiB",
    show_default=True,
    help="Size of the large tensor (1MiB to 4GiB); needs twice that in client RAM.",
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    help=f"Measure this preset; can be repeated.  [default: {', '.join(_PRESETS)}]",
)
@click.option(
    "--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of measured passes."
)
@click.option(
    "--small-count",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    help="Number of small tensors (4 KiB) in one stream.",
)
@click.option(
    "--calls",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Number of single calls of each kind.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), help="Dtype of the generated values.  [default: float32]"
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use values and dtype of this file instead of generated ones; any file that `tensorus put` reads, up to --size.",
)
@store_options()
@json_option
def bench(
    size_bytes: int,
    presets: tuple[str, ...],
    repeats: int,
    small_count: int,
    calls: int,
    dtype: str | None,
    file: Path | None,
    server: ServerOptions,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """Measure the speed of a store as seen from this machine.

    The benchmark inserts and reads a large tensor under each preset, then many small tensors, then makes single calls. An
    insert counts as done when it is durable on the server's disk. Reads are served from the server's page cache, since the
    data was just written.

    It uses a temporary dataset, which it removes at the end, also after Ctrl-C. The store frees the disk space an hour later:
    about 1.5 GiB with the defaults. Speeds and sizes depend on the values; use --file to measure with your own.

    \b
    Examples:
      tensorus bench
      tensorus bench --server gpu-store:7733 --size 256MiB --preset none --preset balanced
      tensorus bench --file model.safetensors --json
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if not _SIZE_BYTES_MIN <= size_bytes <= _SIZE_BYTES_MAX:
        raise click.BadParameter("must be from 1MiB to 4GiB", param_hint="--size")
    if file is not None and dtype is not None:
        raise click.UsageError("--file and --dtype cannot be combined")
    values, origin = _made(dtype or "float32", size_bytes) if file is None else _taken(file, size_bytes)
    plan = Plan(values, list(dict.fromkeys(presets or _PRESETS)), repeats, small_count, calls)
    place = f"--server {server.connection}" if store is None else f"--store {store}"
    with connected(server, store) as client:
        # Explaining an empty sample is cheap, and refuses an unknown preset before anything is created.
        client.explain(values[:0], policies=plan.presets)
        with _Interruption() as interruption, _own_dataset(client, place) as dataset:
            figures = _measured(client, dataset, plan, progress_bar(quiet=as_json), interruption.check)
            report = Report(
                str(server.connection) if store is None else None,
                store,
                dtype_name(values),
                values.nbytes,
                origin,
                repeats,
                figures,
            )
            (print_report_json if as_json else print_report)(report)


# ---- The values ---------------------------------------------------------------------------------------------------------


def _made(dtype: str, size_bytes: int) -> tuple[AnyArray, str]:
    """Return normally distributed values and a description of them."""
    target = empty_canonical(dtype, (0,)).dtype
    values = np.random.default_rng(_SEED).standard_normal(size_bytes // target.itemsize, np.float32)
    values *= np.float32(_SCALE)
    return values.astype(target, copy=False), f"N(0, {_SCALE}), generated from a fixed seed"


def _taken(file: Path, size_bytes: int) -> tuple[AnyArray, str]:
    """Return values of a file and a description of them. They are evenly spread over the dtype with the most bytes.

    Raises:
        ValueError: the file cannot be read, or has no values.
    """
    by_dtype: dict[str, list[AnyArray]] = {}
    for _, tensor in read_tensors(file):
        array = as_numpy(tensor)
        if array.size:
            by_dtype.setdefault(dtype_name(array), []).append(array)
    if not by_dtype:
        raise ValueError(f"{file} has no values")
    arrays = max(by_dtype.values(), key=_total_bytes)
    sample = sample_of(arrays, size_bytes)
    taken = np.concatenate([np.frombuffer(block, np.uint8) for block in sample.blocks(PIECE_BYTES)])
    of_all = (
        "all" if taken.nbytes == _total_bytes(arrays) else f"evenly spread over {human_bytes(_total_bytes(arrays))}"
    )
    origin = f"from {file.name}, {of_all} of its {counted(len(arrays), 'tensor')} of this dtype"
    return taken.view(empty_canonical(sample.dtype, (0,)).dtype), origin


def _total_bytes(arrays: Sequence[AnyArray]) -> int:
    return sum(array.nbytes for array in arrays)


# ---- Measuring ----------------------------------------------------------------------------------------------------------


def _measured(client: Client, dataset: str, plan: Plan, bar: Progress, check: Callable[[], None]) -> Figures:
    """Measure, and show progress; `check` may raise to end it."""
    # Draw the bar between measurements; a refresh thread would disturb them.
    bar.live.auto_refresh = False
    with bar:
        task = bar.add_task("", total=plan.moved_bytes)

        def show(doing: str, moved_bytes: int) -> None:
            bar.update(task, description=f"{doing:<32}", completed=moved_bytes, refresh=True)

        return measure(client, dataset, plan, show, check)


@contextmanager
def _own_dataset(client: Client, place: str) -> Iterator[str]:
    """Yield a temporary dataset with a unique name, and remove it afterwards.

    Args:
        client: client of the measured store.
        place: the command-line option that names the store, for messages.

    Raises:
        TensorusError: the dataset could not be removed; the message names it. Only printed if another error is being raised.
    """
    # With 122 random bits the dataset is certainly ours, even if the answer to the call that creates it was lost.
    name = f"tensorus-bench-{uuid.uuid4().hex}"
    try:
        client.create_dataset(name)
        yield name
    except BaseException:
        try:
            _remove(client, name, place)
        except TensorusError as error:
            print_error(error)
        raise
    _remove(client, name, place)


def _remove(client: Client, name: str, place: str) -> None:
    try:
        client.delete_dataset(name)
    except DatasetNotFoundError:
        # It was never created.
        return
    except (TensorusError, KeyboardInterrupt, SystemExit) as error:
        why = str(error) or "interrupted"
        raise TensorusError(
            f"the temporary dataset {name!r} could not be removed ({why}); "
            f"`tensorus rm {name} --dataset {place}` removes it"
        ) from error


class _Interruption:
    """Defers Ctrl-C and other terminating signals to a point where no call is half started.

    An exception raised while gRPC starts a call can orphan that call, and closing the channel then waits for it forever. A
    second signal is raised immediately: the user has already waited.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        # Windows has no SIGHUP. Ignored signals stay ignored, as `nohup` expects.
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        handlers = {number: signal.getsignal(number) for number in numbers}
        self._before = {
            number: handler for number, handler in handlers.items() if handler not in {signal.SIG_IGN, None}
        }

    def __enter__(self) -> Self:
        for number in self._before:
            signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise a deferred signal: `KeyboardInterrupt` for Ctrl-C, else `SystemExit` with the signal's exit code."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            sys.exit(128 + self._number)

    def _arrived(self, number: int, _: object) -> None:
        was_asked = self._number is not None
        self._number = number
        if was_asked:
            self.check()
