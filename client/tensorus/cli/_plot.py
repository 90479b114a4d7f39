"""The rate-distortion plot of `tensorus explain`: ratio to the right, error upwards, exact presets in a band below.

Requires matplotlib. It uses only figures and the Agg canvas, and so changes no global state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from tensorus.cli._labels import Point, place_labels
from tensorus.cli._output import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.text import Text

    from tensorus.cli._explained import DTypeExplanation

__all__ = ["PICTURES", "draw", "figure_of"]

PICTURES = (".png", ".svg", ".pdf")
"""Extensions of the supported formats."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""One for each dtype, safe for colour-blind readers. Source: Okabe and Ito, "Color Universal Design"."""

_MARKERS = "osD^vPX"
"""One for each dtype."""

_DPI = 160
_WIDTH_INCHES = 10.0
_TITLE_INCHES, _ERRORS_INCHES, _BETWEEN_INCHES, _BELOW_INCHES = 0.62, 4.0, 0.12, 0.65
_LEGEND_INCHES, _LEGEND_COLUMNS = 0.23, 4
"""Height of a line of the legend, and entries per line."""
_LANE_INCHES = 0.8
"""Height of a lane of the band of exact presets; each dtype has a lane."""
_LEFT, _WIDTH = 0.085, 0.89
"""Position and width of the axes, as fractions of the figure."""

_LOGARITHMIC_ABOVE = 12
"""Ratio above which the axis is logarithmic: constant tensors shrink a thousandfold, and would squeeze all others together."""

_ERROR_DRAWN_MAX = 10.0
"""Larger errors, including infinity, are drawn here."""


def draw(path: Path, *, title: str, explained: Sequence[DTypeExplanation], error_max: float) -> None:
    """Plot explanations to a file whose extension sets the format. Arguments as for `figure_of`."""
    figure_of(title=title, explained=explained, error_max=error_max).savefig(path)


def figure_of(*, title: str, explained: Sequence[DTypeExplanation], error_max: float) -> Figure:
    """Return the plot.

    Args:
        title: heading of the plot.
        explained: one explanation per dtype, at least one.
        error_max: a relative error to mark; 0: none.
    """
    # A lossy preset can have a measured error of zero, which a logarithmic axis cannot show.
    errors = [found.relative_error for dtype in explained for found in dtype.explanations if found.relative_error]
    errors = [min(error, _ERROR_DRAWN_MAX) for error in errors]
    figure, lossy, exact = _figure(lanes=len(explained), with_errors=bool(errors))
    FigureCanvasAgg(figure)
    _set_ratios(exact, [found.ratio for dtype in explained for found in dtype.explanations])
    drawn: list[Line2D | Text] = []
    if lossy is not None:
        drawn += _set_errors(lossy, errors, error_max)
    points = []
    for number, dtype in enumerate(explained):
        mine = list(_points(dtype, _COLOURS[number % len(_COLOURS)], lossy, exact, 1 - (number + 0.5) / len(explained)))
        for point in mine:
            point.axes.plot(point.x, point.y, **_mark(number))
        points += mine
    inches = figure.get_figheight()
    # The file's name may contain dollar signs, which must not start a formula.
    figure.text(_LEFT, 1 - 0.36 / inches, title, fontsize=14, fontweight="bold", parse_math=False)
    figure.legend(
        [Line2D([], [], **_mark(number)) for number in range(len(explained))],
        [_legend(dtype) for dtype in explained],
        loc="upper left",
        bbox_to_anchor=(_LEFT - 0.018, 1 - 0.4 / inches),
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        fontsize=10,
        handletextpad=0.1,
    )
    place_labels(figure, points, [artist.get_window_extent().padded(2) for artist in drawn])
    return figure


def _figure(*, lanes: int, with_errors: bool) -> tuple[Figure, Axes | None, Axes]:
    """Return a figure, its axes for points with an error (or None), and the axes for exact ones below them."""
    errors_inches, lanes_inches = (_ERRORS_INCHES if with_errors else 0.0), _LANE_INCHES * lanes
    above_inches = _TITLE_INCHES + _LEGEND_INCHES * math.ceil(lanes / _LEGEND_COLUMNS)
    inches = above_inches + errors_inches + _BETWEEN_INCHES + lanes_inches + _BELOW_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, inches), dpi=_DPI, facecolor="white")
    exact = figure.add_axes((_LEFT, _BELOW_INCHES / inches, _WIDTH, lanes_inches / inches))
    exact.set_facecolor("#F3F5F7")
    exact.set_xlabel("ratio: canonical bytes / bytes on disk", fontsize=11)
    exact.set_ylabel("exact", fontsize=11)
    exact.set_ylim(0, 1)
    exact.set_yticks([])
    lossy = None
    if with_errors:
        bottom = 1 - (above_inches + errors_inches) / inches
        lossy = figure.add_axes((_LEFT, bottom, _WIDTH, errors_inches / inches), sharex=exact)
        lossy.set_ylabel("relative error (L2)", fontsize=11)
    for axes in figure.axes:
        axes.yaxis.set_label_coords(-0.057, 0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#E1E4E8", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, lossy, exact


def _set_ratios(axes: Axes, ratios: Sequence[float]) -> None:
    low, high = min([1.0, *ratios]), max([1.0, *ratios])
    if high > _LOGARITHMIC_ABOVE:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.15, high * 1.6)
        digits = (1, 1.5, 2, 3, 5, 7) if high < 100 else (1, 3)
        axes.xaxis.set_major_locator(FixedLocator([digit * 10.0**power for power in range(9) for digit in digits]))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = max(0.06 * (high - low), 0.05)
        axes.set_xlim(low - margin, high + 2.5 * margin)


def _set_errors(axes: Axes, errors: Sequence[float], error_max: float) -> list[Line2D | Text]:
    """Scale the axis of errors, mark an error on it, and return the marks."""
    shown = [*errors, error_max] if error_max else errors
    axes.set_yscale("log")
    axes.set_ylim(min(shown) / 3, max(shown) * 4)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="both", length=0, labelbottom=False)
    if not error_max:
        return []
    line = axes.axhline(error_max, color="#888888", linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    text = axes.text(0.995, error_max * 1.08, f"error {100 * error_max:g} %", transform=axes.get_yaxis_transform())
    text.set(ha="right", va="bottom", color="#666666", fontsize=9)
    return [line, text]


def _points(dtype: DTypeExplanation, colour: str, lossy: Axes | None, exact: Axes, lane: float) -> Iterator[Point]:
    for found in dtype.explanations:
        preset = found.policy.preset or ""
        if lossy is not None and found.relative_error:
            yield Point(preset, lossy, found.ratio, min(found.relative_error, _ERROR_DRAWN_MAX), colour)
        else:
            yield Point(preset, exact, found.ratio, lane, colour)


def _mark(number: int) -> dict[str, Any]:
    """Return the style of a dtype's points. `Any`: settings of a line."""
    return {
        "marker": _MARKERS[number % len(_MARKERS)],
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": "",
        "markersize": 7,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
        "zorder": 3,
    }


def _legend(dtype: DTypeExplanation) -> str:
    of_all = "" if dtype.sample_bytes == dtype.canonical_bytes else f" of {human_bytes(dtype.canonical_bytes)}"
    return f"{dtype.dtype}, {human_bytes(dtype.sample_bytes)}{of_all}"
