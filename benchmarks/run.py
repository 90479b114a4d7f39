"""Measure Tensorus beside its peers, in one run.

    make bench                                   every group
    make bench ARGS="large --mebibytes 256"      one of them
    make bench ARGS="--json results.json"        for scripts

Every figure is a median of alternating runs: first one contestant, then the next, and again. All run on this machine, servers
in processes of their own, over loopback. Compare what stands in one table, and nothing else: machines differ, and the same
machine differs from hour to hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from groups import codecs, growth, large, memory, small, transport
from rich.console import Console
from rich.table import Table

GROUPS = {
    "codecs": codecs.measure,
    "large": large.measure,
    "memory": memory.measure,
    "small": small.measure,
    "growth": growth.measure,
    "transport": transport.measure,
}


def main() -> None:
    """Run the groups that were asked for, and print a table for each."""
    parser = argparse.ArgumentParser(description="Measure Tensorus beside its peers.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; without one: all")
    parser.add_argument("--mebibytes", type=int, default=256, help="size of a large tensor; default: 256")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contestant; default: 5")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no group is called {', '.join(sorted(unknown))}")
    # A table that is piped into a file has no terminal whose width it must fit.
    console = Console(width=max(Console().width, 120))
    console.print(f"{machine()}\n")
    results: dict[str, Any] = {"machine": machine()}
    for name in arguments.groups or GROUPS:
        results[name] = GROUPS[name](mebibytes=arguments.mebibytes, repeats=arguments.repeats)
        show(console, name, results[name])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def machine() -> str:
    """Return what this machine is."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    return f"{os.cpu_count()} processors ({model}), {platform.system()}, Python {platform.python_version()}"


def show(console: Console, name: str, rows: list[dict[str, Any]]) -> None:
    """Print a group's table: text to the left, numbers to the right."""
    table = Table(title=name, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,.2f}" for value in row.values()))
    console.print(table)
    console.print()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
