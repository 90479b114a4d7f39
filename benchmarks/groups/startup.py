"""Time until a server is ready, and its resource use until then."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.processes import serve_command
from common.result import Bars, Goal, Picture, Table, Unit, at_most, bar_of, measured_row
from common.runs import Contestant, Run, Start, alternate
from common.settings import Settings
from common.stores import filled_store
from contestants import flight, raw_grpc

__all__ = ["measure"]

EMPTY_LIMIT_S = 1.5
FILLED_LIMIT_S = 3.0
"""Of a store with a million tensors."""

SECONDS = Unit("s", "CPU s", is_time=True)
HELLO = "print(0, flush=True)"


@dataclass(frozen=True)
class _NewStore:
    """A server on a store that is not there yet, another one each time."""

    parent: Path

    def run(self) -> Run:
        with tempfile.TemporaryDirectory(dir=self.parent) as folder:
            return Start(serve_command(Path(folder))).run()


def measure(settings: Settings) -> Table:
    """Return seconds from the start of the process to the line that says that it is ready."""
    filled = filled_store(settings, settings.tensors_max)
    with settings.folder() as empty, settings.folder() as files:
        contestants: dict[str, Contestant] = {
            "Python alone": Start(("-c", HELLO)),
            "import tensorus, the client": Start(("-c", f"import tensorus; tensorus.connect('localhost:1'); {HELLO}")),
            "raw grpcio server": Start(raw_grpc.SERVE),
            "Flight server, 4 KiB in memory": Start(flight.serve_command(4, files)),
            "tensorus serve, a new store": _NewStore(empty),
            f"tensorus serve, {settings.tensors_max:,} tensors": Start(serve_command(filled)),
        }
        found = alternate(contestants, settings.repeats, settings.report)
    rows, bars = [], []
    for name, measured in found.items():
        spread = SECONDS.spread(measured, 1)
        goals = _goals(name, spread.median)
        row = measured_row(name, measured, SECONDS, 1, goals=goals)
        del row.figures["client MiB"], row.figures["client CPU s"]
        rows.append(row)
        bars.append(bar_of(name, spread, ours="tensorus" in name, goals=goals))
    title = "start-up"
    note = f"Memory: all that the process has when it is ready. {settings.tensors_max:,} tensors of 64 bytes each"
    note += "." if settings.full else "; --full takes a million, which is what the goal is about."
    return Table(title, "", rows, Picture("Start-up: from nothing to ready", [Bars("", "seconds", bars)]), [note])


def _goals(name: str, seconds: float) -> tuple[Goal, ...]:
    if not name.startswith("tensorus serve"):
        return ()
    return (at_most(EMPTY_LIMIT_S if "new" in name else FILLED_LIMIT_S, seconds, "s"),)
