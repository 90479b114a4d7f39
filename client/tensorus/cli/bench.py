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

from tensorus._arrays import as_numpy, dtype_name, empty_canonical
from tensorus._sample import PIECE_BYTES, sample_of
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

    from tensorus._arrays import AnyArray
    from tensorus.cli._bench import Figures
    from tensorus.client import Client

__all__ = ["bench"]

_PRESETS = ("none", "fast", "lossless", "balanced", "fp16_only", "int8_only")

_SIZE_BYTES_MIN, _SIZE_BYTES_MAX = PIECE_BYTES, 4 * 1024**3
"""A chunk; and what steady speeds do not need more than, while this machine holds it twice."""

_SEED = 0
_SCALE = 0.02
"""Standard deviation of the values that are made: weights are of that order."""


@click.command()
@click.option(
    "--size",
    "size_bytes",
    type=SIZE,
    default="64MiB",
    show_default=True,
    help="Of the large tensor, 1MiB to 4GiB; this machine holds it twice.",
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    help=f"Measure this preset; can be repeated.  [default: {', '.join(_PRESETS)}]",
)
@click.option(
    "--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="How often everything is measured."
)
@click.option(
    "--small-count",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    help="Small tensors, of 4 KiB, in one stream.",
)
@click.option(
    "--calls", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Single calls of each kind."
)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of the values that are made.  [default: float32]"
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the values from this file, and their dtype: what `tensorus put` takes, up to --size of it.",
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
    server: str,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """Measure how fast a store is, from here.

    A large tensor is inserted and read under one preset after the other, then many small ones, then single calls are made. An
    insert ends when it is safe on the server's disk; a read finds in the server's memory what was just inserted.

    All of it happens in a dataset of its own, which is removed at the end, also after Ctrl-C. What was inserted stays on the
    store's disk for an hour after that: about 1.5 GiB with the defaults. Speeds and sizes depend on the values: --file takes
    yours.

    \b
    Examples:
      tensorus bench
      tensorus bench --server gpu-store:7733 --size 256MiB --preset none --preset balanced
      tensorus bench --file model.safetensors --json
    """  # noqa: D301 - click's mark for lines that stay as they are
    if not _SIZE_BYTES_MIN <= size_bytes <= _SIZE_BYTES_MAX:
        raise click.BadParameter("must be from 1MiB to 4GiB", param_hint="--size")
    if file is not None and dtype is not None:
        raise click.UsageError("--file and --dtype exclude each other")
    values, origin = _made(dtype or "float32", size_bytes) if file is None else _taken(file, size_bytes)
    plan = Plan(values, list(dict.fromkeys(presets or _PRESETS)), repeats, small_count, calls)
    place = f"--server {server}" if store is None else f"--store {store}"
    with connected(server, store) as client:
        # Of no values everything is known at once; an unknown preset is refused, before anything is made.
        client.explain(values[:0], policies=plan.presets)
        with _Interruption() as interruption, _own_dataset(client, place) as dataset:
            figures = _measured(client, dataset, plan, progress_bar(quiet=as_json), interruption.check)
            report = Report(
                server if store is None else None, store, dtype_name(values), values.nbytes, origin, repeats, figures
            )
            (print_report_json if as_json else print_report)(report)


# ---- The values ---------------------------------------------------------------------------------------------------------


def _made(dtype: str, size_bytes: int) -> tuple[AnyArray, str]:
    """Return values of a normal distribution, and what they are."""
    target = empty_canonical(dtype, (0,)).dtype
    values = np.random.default_rng(_SEED).standard_normal(size_bytes // target.itemsize, np.float32)
    values *= np.float32(_SCALE)
    return values.astype(target, copy=False), f"N(0, {_SCALE}), made from a fixed seed"


def _taken(file: Path, size_bytes: int) -> tuple[AnyArray, str]:
    """Return values of a file, of the dtype with the most bytes, evenly spread, and what they are.

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


# ---- The measuring ------------------------------------------------------------------------------------------------------


def _measured(client: Client, dataset: str, plan: Plan, bar: Progress, check: Callable[[], None]) -> Figures:
    """Measure, and show how far it is; `check` may end it."""
    # The bar is drawn between measurements, not by a thread of its own in the midst of them.
    bar.live.auto_refresh = False
    with bar:
        task = bar.add_task("", total=plan.moved_bytes)

        def show(doing: str, moved_bytes: int) -> None:
            bar.update(task, description=f"{doing:<32}", completed=moved_bytes, refresh=True)

        return measure(client, dataset, plan, show, check)


@contextmanager
def _own_dataset(client: Client, place: str) -> Iterator[str]:
    """Lend a dataset that nobody else has, and remove it.

    Args:
        client: of the store that it is in.
        place: the option that names the store.

    Raises:
        TensorusError: it could not be removed; names it. Printed only, where something else is raised already.
    """
    # 122 random bits: what has this name is ours, even if nobody has heard the answer to the call that makes it.
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
        # It was never made.
        return
    except (TensorusError, KeyboardInterrupt, SystemExit) as error:
        why = str(error) or "interrupted"
        raise TensorusError(
            f"the dataset {name!r} of this measurement could not be removed ({why}); "
            f"`tensorus rm {name} --dataset {place}` removes it"
        ) from error


class _Interruption:
    """Puts Ctrl-C, and the signals that would end the process at once, off to a moment at which nothing is half done.

    Raised while gRPC begins a call, an exception can leave that call behind, and closing the channel then waits for it without
    end. The second signal is raised where it arrives nevertheless: by then, somebody has waited.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        # Windows has no SIGHUP. What is ignored stays ignored: `nohup` does so.
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
        """Raise what has arrived: `KeyboardInterrupt` for Ctrl-C, `SystemExit` with the exit code of the signal for others."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            sys.exit(128 + self._number)

    def _arrived(self, number: int, _: object) -> None:
        was_asked = self._number is not None
        self._number = number
        if was_asked:
            self.check()
