"""The results of a group: rows of a table, goals, and the contents of its chart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from common.runs import Measured, Run

__all__ = [
    "GIGABYTES",
    "MILLISECONDS",
    "TENSORS",
    "Bar",
    "Bars",
    "Figure",
    "Goal",
    "Line",
    "Lines",
    "Panel",
    "Picture",
    "Row",
    "Spread",
    "Table",
    "Unit",
    "at_least",
    "at_most",
    "bar_of",
    "measured_row",
]

Figure: TypeAlias = "float | str | None"
"""A cell of a table; None: not applicable."""


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was found."""

    wanted: str
    found: str
    reached: bool
    mark: float | None = None
    """Where the goal is on the axis of the picture."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    name: str
    figures: dict[str, Figure]
    """By column."""
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Spread:
    """A median, and the runs on both sides of it."""

    median: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Unit:
    """What is counted, and per what."""

    rate: str
    """Column of the medians."""
    cpu: str
    """Columns of processor time, behind "server" and "client"."""
    scale: float = 1.0
    """Of the rate: amounts per second times this."""
    cpu_scale: float = 1.0
    """Of processor time: seconds per amount times this."""
    is_time: bool = False
    """Whether time per amount is shown, instead of amounts per time."""

    def value(self, run: Run, amount: float) -> float:
        """Return what is shown of a run that did `amount`."""
        return self.scale * (run.seconds / amount if self.is_time else amount / run.seconds)

    def spread(self, measured: Measured, amount: float) -> Spread:
        """Return the same of all runs."""
        values = [self.value(run, amount) for run in measured.runs]
        return Spread(statistics.median(values), min(values), max(values))


GIGABYTES = Unit("GB/s", "CPU s/GB")
"""Amounts are in GB."""

TENSORS = Unit("per second", "CPU s per 1,000", scale=1.0, cpu_scale=1000.0)
"""Amounts are numbers of tensors."""

MILLISECONDS = Unit("ms", "CPU ms", scale=1000.0, cpu_scale=1000.0, is_time=True)
"""Amounts are numbers of operations."""


@dataclass(frozen=True)
class Bar:
    """A contestant's bar."""

    name: str
    spread: Spread
    ours: bool
    marks: tuple[float, ...] = ()
    """Its goals, on the same axis."""


@dataclass(frozen=True)
class Bars:
    """Bars on one axis."""

    title: str
    unit: str
    bars: Sequence[Bar]
    logarithmic: bool = False


@dataclass(frozen=True)
class Line:
    """A line of medians."""

    name: str
    x: Sequence[float]
    y: Sequence[Spread]
    ours: bool = True


@dataclass(frozen=True)
class Lines:
    """Lines on one pair of axes; that to the right is logarithmic."""

    title: str
    x: str
    unit: str
    lines: Sequence[Line]
    mark: float | None = None
    """A goal, on the upward axis."""
    mark_name: str = "goal"


Panel: TypeAlias = "Bars | Lines"


@dataclass(frozen=True)
class Picture:
    """Panels, a few to a line."""

    title: str
    panels: Sequence[Panel]
    columns: int = 1


@dataclass(frozen=True)
class Table:
    """What a group found."""

    title: str
    heading: str
    """Of the first column."""
    rows: Sequence[Row]
    picture: Picture
    notes: Sequence[str] = field(default=())
    """What one must know to read it; what was skipped, and why."""


def bar_of(name: str, spread: Spread, *, ours: bool, goals: tuple[Goal, ...] = ()) -> Bar:
    """Return the bar of a row, with its goals as marks."""
    return Bar(name, spread, ours, tuple(goal.mark for goal in goals if goal.mark is not None))


def at_least(share: float, found: float, peer: float, name: str) -> Goal:
    """Return the goal of at least `share` times what a peer reached."""
    ratio = found / peer
    return Goal(f"≥ {share:g} x {name}", f"{ratio:.2f} x", ratio >= share, share * peer)


def at_most(limit: float, found: float, unit: str) -> Goal:
    """Return the goal of at most so much."""
    return Goal(f"≤ {limit:g} {unit}", f"{found:.3g} {unit}", found <= limit, limit)


def measured_row(
    name: str,
    measured: Measured,
    unit: Unit,
    amount: float,
    *,
    goals: tuple[Goal, ...] = (),
    more: dict[str, Figure] | None = None,
) -> Row:
    """Return the row of runs that did `amount` each: rate, spread, processor time and memory, then `more`."""
    spread = unit.spread(measured, amount)
    figures: dict[str, Figure] = {unit.rate: spread.median, "from": spread.smallest, "to": spread.largest}
    for who, cpu_s in (("server", measured.server_cpu_s), ("client", measured.client_cpu_s)):
        figures[f"{who} {unit.cpu}"] = None if cpu_s is None else unit.cpu_scale * cpu_s / amount
    figures["server MiB"] = measured.server_mib
    figures["client MiB"] = measured.client_mib
    return Row(name, figures | (more or {}), goals)
