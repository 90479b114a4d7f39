"""The picture of `tensorus explain`: everything is on it, and no label covers another, a point, or what is marked."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from support.cases import each
from tensorus.cli._explained import DTypeExplanation
from tensorus.cli._plot import PICTURES, draw, figure_of
from tensorus.types import Policy, PolicyExplanation

pytestmark = pytest.mark.slow

MIB = 1024 * 1024

FLOATS = {
    "none": (1.0, 0.0),
    "fast": (1.15, 0.0),
    "lossless": (1.22, 0.0),
    "archive": (1.26, 0.0),
    "balanced": (2.36, 2.1e-4),
    "bf16": (3.01, 1.7e-3),
    "maximum": (4.2, 6.8e-3),
    "extreme": (7.4, 9e-2),
    "auto": (1.22, 0.0),
    "fp16_only": (2.0, 2.1e-4),
    "int8_only": (3.88, 6.2e-3),
}
"""As of weights in float32: ratios and errors."""

HALVES = {name: (1 + (ratio - 1) / 2, error if error > 1e-3 else 0.0) for name, (ratio, error) in FLOATS.items()}

INTEGERS = dict.fromkeys(FLOATS, (8.75, 0.0)) | {"none": (0.99, 0.0), "fast": (13.84, 0.0), "archive": (63.0, 0.0)}


def explanation(dtype: str, presets: dict[str, tuple[float, float]], sample_bytes: int = 10 * MIB) -> DTypeExplanation:
    found = [
        PolicyExplanation(
            policy=Policy(preset=name),
            canonical_bytes=10**9,
            quantized_bytes=10**9,
            stored_bytes=round(10**9 / ratio),
            lossy=error > 0,
            relative_error=error,
            max_absolute_error=error,
            encodings=(),
            fallback_reason="",
            encode_bytes_per_second=1.0,
            decode_bytes_per_second=1.0,
        )
        for name, (ratio, error) in presets.items()
    ]
    return DTypeExplanation(dtype, 1, 10 * MIB, sample_bytes, None, None, found)


CASES = {
    "one dtype": [explanation("float32", FLOATS)],
    "three dtypes": [
        explanation("float32", FLOATS, MIB),
        explanation("bfloat16", HALVES),
        explanation("int64", INTEGERS),
    ],
    "exact alone": [explanation("int64", INTEGERS)],
    "errors alone": [explanation("float32", {name: FLOATS[name] for name in ("balanced", "maximum", "extreme")})],
    "a single point": [explanation("float32", {"none": (1.0, 0.0)})],
    "an infinite error": [explanation("float32", {"none": (1.0, 0.0), "extreme": (7.4, math.inf)})],
    "constant tensors": [explanation("float32", {"none": (1.0, 0.0), "fast": (2.5, 0.0), "lossless": (7700.0, 0.0)})],
    "as many dtypes as there are": [explanation(f"dtype{number}", FLOATS) for number in range(9)],
}


@cache
def picture(case: str, error_max: float = 0.01) -> Figure:
    return figure_of(title="What each preset makes of model.safetensors", explained=CASES[case], error_max=error_max)


def labels_of(figure: Figure) -> list[Annotation]:
    return [text for axes in figure.axes for text in axes.texts if isinstance(text, Annotation)]


def box_of(label: Annotation) -> Bbox:
    canvas: Any = label.get_figure().canvas
    assert isinstance(canvas, FigureCanvasAgg)
    label.update_positions(canvas.get_renderer())
    return Text.get_window_extent(label)


@each("case", CASES)
def test_every_preset_of_every_dtype_has_its_point_and_is_named(case: str) -> None:
    figure = picture(case)
    points = sum(len(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_marker() != "None")
    assert points == sum(len(dtype.explanations) for dtype in CASES[case])
    named = [name for label in labels_of(figure) for name in label.get_text().replace("\n", " ").split(", ")]
    assert sorted(named) == sorted(found.policy.preset or "" for dtype in CASES[case] for found in dtype.explanations)


@each("case", CASES)
def test_no_label_covers_another_or_leaves_the_picture(case: str) -> None:
    figure = picture(case)
    boxes = [box_of(label) for label in labels_of(figure)]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    for label, box in zip(labels_of(figure), boxes, strict=True):
        inside = label.axes.get_window_extent() if label.axes is not None else figure.bbox
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1


@each("case", CASES)
def test_no_label_covers_a_point_or_the_line_of_the_marked_error(case: str) -> None:
    figure = picture(case)
    boxes = [box_of(label) for label in labels_of(figure)]
    for axes in figure.axes:
        for line in axes.lines:
            assert not any(box.overlaps(line.get_window_extent()) for box in boxes)


def test_what_is_exact_is_apart_from_what_has_an_error() -> None:
    exact, lossy = picture("one dtype").axes
    assert {name for label in exact.texts for name in label.get_text().split(", ")} == {
        name for name, (_, error) in FLOATS.items() if not error
    }
    assert lossy.get_yscale() == "log"
    assert len(picture("exact alone").axes) == 1


def test_the_picture_says_how_much_was_looked_at() -> None:
    texts = [text.get_text() for legend in picture("three dtypes").legends for text in legend.get_texts()]
    assert texts == ["float32, 1.0 MiB of 10.0 MiB", "bfloat16, 10.0 MiB", "int64, 10.0 MiB"]


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    draw(tmp_path / "out.svg", title=r"What $x^{ makes of \frac$.npy", explained=CASES["one dtype"], error_max=0.01)
    assert (tmp_path / "out.svg").is_file()


def test_an_error_contract_of_zero_is_not_marked() -> None:
    assert picture("one dtype", error_max=0.0).axes[1].texts[0].get_text() != "error 0 %"


def test_a_dtype_has_one_colour() -> None:
    figure = picture("three dtypes")
    colours = [{label.get_color() for axes in figure.axes for label in axes.texts if isinstance(label, Annotation)}]
    assert len(colours[0]) == 3


@pytest.mark.parametrize("suffix", PICTURES)
def test_the_file_is_of_the_format_that_its_name_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    draw(path, title="A title", explained=CASES["one dtype"], error_max=0.01)
    head = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}[suffix]
    assert path.read_bytes().startswith(head)
