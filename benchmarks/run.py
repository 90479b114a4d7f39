"""Measure Tensorus and its peers in one run.

    make bench                                          all groups: a quarter of an hour, 20 GB of disk
    make bench ARGS="large slices --mebibytes 64"       some groups
    make bench ARGS="--mebibytes 8 --repeats 1"         a smoke test; the figures are meaningless
    make bench ARGS=--full                              includes the largest sizes: an hour, 30 GB of disk

Every figure is the median of runs in which the contestants alternate. Servers and clients are separate processes on this
machine, over loopback. Compare only figures within one table: machines differ, and the same machine differs from hour to hour.

`groups/` contains the measurements, `contestants/` the systems, `common/` the processes, measures, tables and charts.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from common.charts import draw
from common.machine import describe, in_one_line
from common.memory import warm_up
from common.result import Table
from common.settings import Settings
from common.tables import machine_lines, markdown, print_table, to_json
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

GROUPS = (
    "large",
    "small",
    "slices",
    "many",
    "memory",
    "growth",
    "sizes",
    "startup",
    "local",
    "codecs",
    "deltas",
    "stages",
    "transport",
    "replicas",
    "security",
)


def main() -> None:
    """Run the requested groups; print a table for each, and write tables and charts to files."""
    # Otherwise a run that is told to end leaves its servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = _arguments()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    # A table that is piped into a file has no terminal whose width it must fit.
    console = Console(width=max(Console().width, 190))
    results: dict[str, Table] = {}
    with tempfile.TemporaryDirectory(prefix="tensorus-bench-", dir=arguments.scratch) as scratch:
        machine = describe(Path(scratch))
        console.print(f"{machine_lines(machine)}\n", highlight=False)
        warm_up(arguments.mebibytes * (arguments.repeats + 1) * 4)
        for name in arguments.groups or GROUPS:
            started_s = time.monotonic()
            with _progress(name) as report:
                settings = Settings(arguments.mebibytes, arguments.repeats, arguments.full, Path(scratch), report)
                results[name] = _measure(name)(settings)
            print_table(console, name, results[name])
            console.print(f"Took {time.monotonic() - started_s:,.0f} s.\n", style="dim", highlight=False)
            _write(output, results, machine)
    console.print(f"Tables, pictures and figures are in {output}/.")


def _measure(group: str) -> Callable[[Settings], Table]:
    """Return what measures a group. It is imported only now: `growth` and `stages` run without the peers' libraries."""
    try:
        found: Callable[[Settings], Table] = import_module(f"groups.{group}").measure
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed, which group {group} needs: pip install '.[all,bench]'"
        ) from error
    return found


def _write(output: Path, results: dict[str, Table], machine: dict[str, str]) -> None:
    """Write all that there is so far, so that a run that is stopped was not in vain."""
    name = next(reversed(results))
    draw(output / f"{name}.png", results[name].picture, in_one_line(machine))
    (output / "results.md").write_text(markdown(results, machine), encoding="utf-8")
    found: dict[str, Any] = {"machine": machine, **{name: to_json(table) for name, table in results.items()}}
    (output / "results.json").write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Tensorus beside its peers.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; without one: all")
    parser.add_argument("--mebibytes", type=int, default=256, help="size of a large tensor; default: 256")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each contestant; default: 5")
    parser.add_argument(
        "--full",
        action="store_true",
        help="a tensor of 10 GiB for slices, one of 8 GiB for growth, and a million small ones",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark-results"), help="folder for the results; default: %(default)s"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for stores, on the disk that is to be measured; default: the output's"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no group is called {', '.join(sorted(unknown))}")
    if arguments.mebibytes < 4 or arguments.repeats < 1:
        parser.error("--mebibytes must be at least 4, --repeats at least 1")
    # Servers and clients run in another folder, where a relative path would lead elsewhere.
    arguments.output = arguments.output.resolve()
    arguments.scratch = (arguments.scratch or arguments.output).resolve()
    return arguments


@contextmanager
def _progress(group: str) -> Iterator[Callable[[str], None]]:
    """Show a line that says what runs now; where nobody watches, only the group's name."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{group} ...")
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(group)
        yield lambda text: progress.update(task, description=f"{group}: {text}")


if __name__ == "__main__":
    main()
