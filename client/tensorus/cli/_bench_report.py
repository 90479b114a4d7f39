"""The report of `tensorus bench`: tables and a recommendation for people, one JSON document for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus._version import __version__
from tensorus.cli._output import (
    counted,
    human_bytes,
    print_fields,
    print_json,
    print_table,
    print_text,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus.cli._bench import Figures, Latency, PresetFigures, Spread

__all__ = ["Report", "print_report", "print_report_json"]

_CALLS = {
    "dataset": "dataset, the round trip",
    "info": "info of a tensor",
    "insert": "insert of {}",
    "get": "get of {}",
    "get_slice": "get of a slice of {}",
}
"""Descriptions of the kinds of single calls, with a placeholder for the size."""


@dataclass(frozen=True)
class Report:
    """The measurements and their circumstances."""

    server: str | None
    """Address of the server; None for a folder."""
    store: str | None
    """The folder; None for a server."""
    dtype: str
    size_bytes: int
    """Size of the large tensor."""
    values: str
    """Origin of the values."""
    repeats: int
    figures: Figures


def print_report_json(report: Report) -> None:
    """Print one JSON document."""
    presets = report.figures.presets
    fastest, level = _fastest_get(presets)
    exact = _smallest_exact(presets)
    found = to_json(report)
    # Flatten the document: `Figures` is only how this program groups the results.
    figures = found.pop("figures")
    advice = {
        "fastest_get": fastest.preset,
        "not_clearly_slower": [other.preset for other in level],
        "smallest": min(presets, key=_stored_bytes).preset,
        "smallest_exact": None if exact is None else exact.preset,
    }
    print_json({"client_version": __version__} | found | figures | advice)


def print_report(report: Report) -> None:
    """Print the circumstances, three tables, and a recommendation."""
    figures = report.figures
    print_fields(_head(report))
    print_text("")
    _print_presets(figures.presets)
    print_text("")
    small = figures.small
    print_table(
        [f"{counted(small.tensors, 'tensor')} of {human_bytes(small.tensor_bytes)}", ">tensors/s", ">range"],
        [
            ("insert_many", *_rates(small.insert_tensors_per_second)),
            ("get_many", *_rates(small.get_tensors_per_second)),
        ],
    )
    print_text("")
    print_table(
        [counted(figures.latencies[0].calls, "single call"), ">median ms", ">p95 ms", ">max ms"],
        (
            (_call(found), *(f"{time_ms:,.2f}" for time_ms in (found.median_ms, found.p95_ms, found.max_ms)))
            for found in figures.latencies
        ),
    )
    print_text("")
    if len(figures.presets) > 1:
        for sentence in _advice(figures.presets):
            print_text(sentence)
    print_text(
        f"{human_bytes(figures.total_stored_bytes)} were stored in total; the store frees this space in about an hour."
    )


def _head(report: Report) -> Iterator[tuple[str, str]]:
    round_trip = next(found for found in report.figures.latencies if found.call == "dataset")
    if report.server is None:
        yield "store", f"{report.store}, in this process"
    else:
        yield "server", f"{report.server}, round trip {round_trip.median_ms:.2f} ms"
    yield "client", f"tensorus {__version__}"
    yield "values", f"{human_bytes(report.size_bytes)} of {report.dtype}, {report.values}"
    yield "figures", f"median and range of {counted(report.repeats, 'repeat')}, in turn, after one to warm up"


def _print_presets(presets: Sequence[PresetFigures]) -> None:
    print_table(
        ["preset", ">insert MB/s", ">range", ">get MB/s", ">range", ">ratio", ">on disk", ">error"],
        (
            (
                found.preset,
                *_rates(found.insert_bytes_per_second, 1e6),
                *_rates(found.get_bytes_per_second, 1e6),
                f"{found.ratio:.2f}",
                human_bytes(found.stored_bytes),
                _error(found),
            )
            for found in presets
        ),
    )
    for found in presets:
        if found.fallback_reason:
            print_text(f"{found.preset}: {found.fallback_reason}")


def _rates(spread: Spread, unit: float = 1.0) -> tuple[str, str]:
    median, smallest, largest = (
        f"{figure / unit:,.0f}" if figure >= 10 * unit else f"{figure / unit:.2f}"
        for figure in (spread.median, spread.smallest, spread.largest)
    )
    return median, f"{smallest} - {largest}"


def _call(found: Latency) -> str:
    return _CALLS[found.call].format(human_bytes(found.canonical_bytes))


def _error(found: PresetFigures) -> str:
    return f"{found.relative_error:.1e}" if found.lossy else "exact"


def _advice(presets: Sequence[PresetFigures]) -> Iterator[str]:
    """Yield sentences that name the fastest preset and the smallest ones, as far as the figures allow."""
    fastest, level = _fastest_get(presets)
    found = f"Fastest to read here: {fastest.preset}, {_rates(fastest.get_bytes_per_second, 1e6)[0]} MB/s"
    yield f"{found}; not clearly slower: {', '.join(other.preset for other in level)}." if level else f"{found}."
    smallest, exact = min(presets, key=_stored_bytes), _smallest_exact(presets)
    if exact is None or not smallest.lossy:
        yield f"Smallest on disk: {_named(smallest)}."
    else:
        yield f"Smallest on disk: {_named(smallest)}; smallest exact: {exact.preset}, ratio {exact.ratio:.2f}."


def _named(found: PresetFigures) -> str:
    return f"{found.preset}, ratio {found.ratio:.2f}, {f'error {_error(found)}' if found.lossy else 'exact'}"


def _fastest_get(presets: Sequence[PresetFigures]) -> tuple[PresetFigures, list[PresetFigures]]:
    """Return the preset with the fastest median, and those whose ranges overlap with its range."""
    fastest = max(presets, key=lambda found: found.get_bytes_per_second.median)
    smallest = fastest.get_bytes_per_second.smallest
    return fastest, [
        found for found in presets if found is not fastest and found.get_bytes_per_second.largest >= smallest
    ]


def _smallest_exact(presets: Sequence[PresetFigures]) -> PresetFigures | None:
    """Return the exact preset that stores the fewest bytes, the first of equal ones; None if none is exact."""
    return min((found for found in presets if not found.lossy), key=_stored_bytes, default=None)


def _stored_bytes(found: PresetFigures) -> int:
    return found.stored_bytes
