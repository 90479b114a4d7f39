"""Placement of labels in a plot: each label in turn goes to the nearest position where it covers nothing.

Requires matplotlib. Distances are in pixels of the canvas unless their names say otherwise.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Point", "place_labels"]

_TOGETHER = 11
"""Points of one colour closer than this look like one, and share a label."""

_WRAP = 44
"""Maximum characters per line of a label."""

_FONT_POINTS = 9.5

_MARK_POINTS = 4.5
"""Half the width of a mark, in points of 1/72 inch."""

_RINGS_POINTS = (9, 17, 26, 36, 48, 62, 78, 96)
"""Distances of a label from its point to try, in points of 1/72 inch."""

_SIDES: tuple[tuple[float, float, Literal["left", "center", "right"], Literal["bottom", "center", "top"]], ...] = (
    (1, 0, "left", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (-1, 0, "right", "center"),
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
)
"""Sides of a point, best first: fractions of the distance to the right and up, and the label's alignment there."""


_BEFORE = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
"""Fraction of a label's size that lies before its alignment point."""


@dataclass(frozen=True)
class Point:
    """A point with its label."""

    label: str
    axes: Axes
    x: float
    y: float
    """In the units of the axes."""
    colour: str

    @property
    def pixel(self) -> tuple[float, float]:
        """Position on the canvas, in pixels."""
        x, y = self.axes.transData.transform((self.x, self.y))
        return float(x), float(y)


def place_labels(figure: Figure, points: Sequence[Point], keep_clear: Iterable[Bbox] = ()) -> None:
    """Draw the labels of points. A label without a free position goes to the last one tried.

    Args:
        figure: the figure in its final layout.
        points: the points, already drawn.
        keep_clear: further areas that labels must not cover.
    """
    radius = _MARK_POINTS * figure.dpi / 72
    marks = [Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius) for x, y in (p.pixel for p in points)]
    taken = [*keep_clear, *marks]
    for group in _groups(points):
        taken.append(_place(figure, group, taken))


def _groups(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Yield the points that share a label, from left to right."""
    left = sorted(points, key=lambda point: point.pixel)
    while left:
        group = [left.pop(0)]
        for point in list(left):
            if point.colour == group[0].colour and math.dist(point.pixel, group[-1].pixel) < _TOGETHER:
                group.append(point)
                left.remove(point)
        yield group


def _place(figure: Figure, group: Sequence[Point], taken: Sequence[Bbox]) -> Bbox:
    """Draw the label of some points at the nearest free position, and return the area it covers."""
    point = group[-1]
    text = textwrap.fill(", ".join(member.label for member in group), _WRAP)
    measured = point.axes.text(point.x, point.y, text, fontsize=_FONT_POINTS)
    size = measured.get_window_extent()
    measured.remove()
    inside = point.axes.get_window_extent()
    for ring, (right, up, horizontal, vertical) in product(_RINGS_POINTS, _SIDES):
        offset = ring * figure.dpi / 72
        left = point.pixel[0] + offset * right - _BEFORE[horizontal] * size.width
        bottom = point.pixel[1] + offset * up - _BEFORE[vertical] * size.height
        box = Bbox.from_bounds(left, bottom, size.width, size.height).padded(3)
        is_inside = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if is_inside and not any(box.overlaps(other) for other in taken):
            break
    point.axes.annotate(
        text,
        (point.x, point.y),
        (ring * right, ring * up),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=_FONT_POINTS,
        color=point.colour,
        zorder=4,
        # A line connects a distant label to its point; the line may cross anything.
        arrowprops={"arrowstyle": "-", "color": "#9AA1A8", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
        if ring > _RINGS_POINTS[0]
        else None,
    )
    return box
