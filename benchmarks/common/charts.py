"""Pictures of what was measured: Tensorus in colour, everybody else in grey, goals as marks.

Only figures and the Agg canvas of matplotlib are used: no state of the process is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter

from common.result import Bar, Bars, Line, Lines, Panel, Picture

__all__ = ["draw"]

OURS = "#0B6E99"
PEERS = "#B9C0C8"
GOAL = "#D55E00"
INK = "#24292F"
FAINT = "#6A737D"
GRID = "#E4E7EB"
LINE_COLOURS = (OURS, "#3C9D6B")
"""Of our own lines in one panel; others have the same marks, hollow."""
LEGEND_ROOM = 1.3
"""Height of the axes over the highest point."""
MARKERS = "os"

HALO = withStroke(linewidth=2.6, foreground="white")
"""Around thin lines that cross bars."""

DPI = 150
WIDTH_INCHES = 11.0
BAR_INCHES = 0.26
LINES_INCHES = 3.4
PANEL_INCHES = 0.85
"""Title and axis of a panel."""
TICKS = 7
LABEL_SHARE = 0.05
"""Of the width of a panel, for the number beside a bar."""
HEAD_INCHES = 0.75
LEGEND_INCHES = 0.3


def draw(path: Path, picture: Picture, machine: str) -> None:
    """Draw a picture into a PNG file."""
    rows = [picture.panels[at : at + picture.columns] for at in range(0, len(picture.panels), picture.columns)]
    heights = [max(map(_inches, row)) for row in rows]
    head_inches = HEAD_INCHES + (LEGEND_INCHES if _bars(picture) else 0)
    inches = head_inches + sum(heights)
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - head_inches / inches), h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(WIDTH_INCHES, inches), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), picture.columns, height_ratios=heights)
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, column])
            _draw_panel(axes, panel)
    figure.text(
        0.012,
        1 - 0.36 / inches,
        picture.title[:1].upper() + picture.title[1:],
        fontsize=15,
        fontweight="bold",
        color=INK,
    )
    figure.text(0.012, 1 - 0.6 / inches, machine, fontsize=9, color=FAINT, parse_math=False)
    _legend(figure, picture, 1 - 0.68 / inches)
    figure.savefig(path)


def _inches(panel: Panel) -> float:
    return PANEL_INCHES + (BAR_INCHES * len(panel.bars) if isinstance(panel, Bars) else LINES_INCHES)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PEERS)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)
    if isinstance(panel, Bars):
        _draw_bars(axes, panel)
    else:
        _draw_lines(axes, panel)


def _draw_bars(axes: Axes, panel: Bars) -> None:
    bars = panel.bars
    rows = range(len(bars))
    medians = [bar.spread.median for bar in bars]
    axes.barh(rows, medians, height=0.68, color=[OURS if bar.ours else PEERS for bar in bars])
    for row, bar in zip(rows, bars, strict=True):
        low, high = bar.spread.smallest, bar.spread.largest
        axes.plot([low, high], [row, row], color=INK, linewidth=1.3, path_effects=[HALO], solid_capstyle="butt")
        for mark in bar.marks:
            axes.plot([mark, mark], [row - 0.46, row + 0.46], color=GOAL, linewidth=2.2, solid_capstyle="butt")
    end = max([*(bar.spread.largest for bar in bars), *(mark for bar in bars for mark in bar.marks)])
    axes.set_xlim(0, end * 1.1)
    for row, bar in zip(rows, bars, strict=True):
        at = _free_place(bar, end * LABEL_SHARE)
        axes.annotate(
            _number(bar.spread.median),
            (at, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(rows, [bar.name for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(medians) / 2, end * 4)
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel(panel.unit, fontsize=9, color=FAINT)


def _free_place(bar: Bar, width: float) -> float:
    """Return where a label as wide as that hides none of the bar's goals: at its end, or behind a goal."""
    at = bar.spread.largest
    for mark in sorted(bar.marks):
        if at <= mark < at + width:
            at = mark
    return at


def _draw_lines(axes: Axes, panel: Lines) -> None:
    for line in panel.lines:
        style = _style(line, [one for one in panel.lines if one.ours == line.ours].index(line))
        medians = [point.median for point in line.y]
        low, high = [point.smallest for point in line.y], [point.largest for point in line.y]
        axes.fill_between(line.x, low, high, color=style["color"], alpha=0.14, linewidth=0)
        axes.plot(line.x, medians, label=line.name, linewidth=2, markersize=6, **style)
    if panel.mark is not None:
        axes.axhline(panel.mark, color=GOAL, linewidth=1.4, linestyle=(0, (5, 3)), label=panel.mark_name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = sorted({value for line in panel.lines for value in line.x})
    axes.set_xticks(ticks)
    axes.minorticks_off()
    top = max(point.largest for line in panel.lines for point in line.y)
    axes.set_ylim(0, LEGEND_ROOM * max(top, panel.mark or 0))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel(panel.x, fontsize=9, color=FAINT)
    axes.set_ylabel(panel.unit, fontsize=9, color=FAINT)
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=len(panel.lines) + 1, labelcolor=INK)


def _style(line: Line, number: int) -> dict[str, Any]:
    """Return how a line is drawn, the `number`th of ours or of the others. `Any`: settings of a line."""
    if not line.ours:
        return {"color": "#8C959F", "marker": MARKERS[number % len(MARKERS)], "linestyle": "--", "fillstyle": "none"}
    return {"color": LINE_COLOURS[number % len(LINE_COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _legend(figure: Figure, picture: Picture, top: float) -> None:
    """Say what bars mean; lines say it themselves."""
    bars = _bars(picture)
    if not bars:
        return
    handles: list[Patch | Line2D] = [Patch(color=OURS, label="Tensorus")]
    if not all(bar.ours for bar in bars):
        handles.append(Patch(color=PEERS, label="others"))
    if any(bar.marks for bar in bars):
        handles.append(
            Line2D([], [], color=GOAL, marker="|", markersize=11, markeredgewidth=2.2, linestyle="", label="goal")
        )
    if any(bar.spread.smallest < bar.spread.largest for bar in bars):
        handles.append(Line2D([], [], color=INK, linewidth=1.1, label="smallest to largest run"))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.004, top),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        labelcolor=INK,
    )


def _bars(picture: Picture) -> list[Bar]:
    return [bar for panel in picture.panels if isinstance(panel, Bars) for bar in panel.bars]


def _number(value: float) -> str:
    """Return two or three digits."""
    sizes: Sequence[tuple[float, str]] = ((1000, ",.0f"), (100, ".0f"), (10, ".1f"), (0.1, ".2f"))
    form = next((form for limit, form in sizes if abs(value) >= limit), ".3f")
    return "0" if value == 0 else f"{value:{form}}"
