"""The measurements of `tensorus bench`, with any client, in a dataset provided by the caller. Prints nothing.

Every pass inserts and reads the same values under each preset, then many small tensors. The first pass warms up and is
discarded. Every second pass goes through the presets in reverse, so that none always follows the same one. Single calls follow,
all kinds in turn. Reads go into fresh memory, and measured times include nothing but the call.
"""

from __future__ import annotations

import math
import random
import statistics
import uuid
from dataclasses import dataclass
from functools import partial
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus.client import Client
    from tensorus.types import Progress, TensorInfo

__all__ = ["Figures", "Latency", "Plan", "PresetFigures", "SmallFigures", "Spread", "measure"]

T = TypeVar("T")

_SMALL_BYTES = 4 * 1024
"""Size of a small tensor."""

_SLICE_BYTES = (64 * 1024, 1024 * 1024)
"""Sizes of slices of the large tensor, unless it is smaller."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    values: AnyArray
    """The large tensor, with one axis and at least one element; parts of it are inserted as small tensors."""
    presets: Sequence[str]
    """At least one, without duplicates."""
    repeats: int
    """Number of measured passes; at least 1."""
    small_count: int
    """Small tensors per `insert_many`; at least 1."""
    calls: int
    """Single calls of each kind; at least 1."""

    @property
    def small_elements(self) -> int:
        """Elements of a small tensor."""
        return min(_SMALL_BYTES // self.values.itemsize, self.values.size)

    @property
    def small_bytes(self) -> int:
        """Canonical bytes of a small tensor."""
        return self.small_elements * self.values.itemsize

    @property
    def slice_bytes(self) -> list[int]:
        """Canonical bytes of the slices that are read."""
        return [size for size in _SLICE_BYTES if size <= self.values.nbytes]

    @property
    def moved_bytes(self) -> int:
        """Canonical bytes that all measurements move, in both directions."""
        a_pass = 2 * (len(self.presets) * self.values.nbytes + self.small_count * self.small_bytes)
        return (self.repeats + 1) * a_pass + (self.calls + 1) * self._single_bytes

    @property
    def _single_bytes(self) -> int:
        """Canonical bytes that one single call of each kind moves."""
        return 2 * self.small_bytes + sum(self.slice_bytes)


@dataclass(frozen=True)
class Spread:
    """A figure measured several times, in the unit given by the name of its field."""

    median: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class PresetFigures:
    """Speed, size and error of the large tensor under one preset."""

    preset: str
    insert_bytes_per_second: Spread
    """Canonical bytes per second until the tensor is durable."""
    get_bytes_per_second: Spread
    """Canonical bytes per second."""
    canonical_bytes: int
    stored_bytes: int
    """Size on disk, including all framing."""
    ratio: float
    """Canonical bytes divided by bytes on disk."""
    lossy: bool
    relative_error: float
    """L2 norm of the error divided by L2 norm of the values; 0 if lossless."""
    fallback_reason: str
    """Why the preset could not be applied; empty if it was."""


@dataclass(frozen=True)
class SmallFigures:
    """Rates of many small tensors in one stream, stored with the default policy."""

    tensor_bytes: int
    tensors: int
    insert_tensors_per_second: Spread
    get_tensors_per_second: Spread


@dataclass(frozen=True)
class Latency:
    """Latency of sequential single calls of one kind."""

    call: str
    """Method of the client; "get_slice" is `get` with an index."""
    canonical_bytes: int
    """Canonical bytes that a call moves; 0: no values."""
    calls: int
    median_ms: float
    p95_ms: float
    """95th percentile."""
    max_ms: float


@dataclass(frozen=True)
class Figures:
    """All results."""

    presets: list[PresetFigures]
    small: SmallFigures
    latencies: list[Latency]
    total_stored_bytes: int
    """Bytes on disk of all inserts together, including warm-up."""


def measure(
    client: Client, dataset: str, plan: Plan, show: Callable[[str, int], None], check: Callable[[], None]
) -> Figures:
    """Run the measurements of `plan`.

    Args:
        client: client of the measured store.
        dataset: an empty dataset with the default policy. Tensors of the passes are deleted at once, so that little remains.
        plan: what to measure.
        show: called between measurements with the next activity and the canonical bytes moved so far.
        check: called often, also during long transfers; an exception that it raises ends the measurements. Must be cheap.
    """
    bench = _Bench(client, dataset, plan, show, check)
    large: dict[str, list[_Pass]] = {preset: [] for preset in plan.presets}
    small = []
    for number in range(plan.repeats + 1):
        which = f"{number} of {plan.repeats}" if number else "warming up"
        for preset in plan.presets[:: 1 if number % 2 else -1]:
            large[preset].append(bench.large(preset, which))
        small.append(bench.small(which))
    return Figures(
        presets=[_preset_figures(preset, passes[1:]) for preset, passes in large.items()],
        small=SmallFigures(
            tensor_bytes=plan.small_bytes,
            tensors=plan.small_count,
            insert_tensors_per_second=_spread(plan.small_count / a_pass.insert_s for a_pass in small[1:]),
            get_tensors_per_second=_spread(plan.small_count / a_pass.get_s for a_pass in small[1:]),
        ),
        latencies=bench.latencies(),
        total_stored_bytes=bench.total_stored_bytes,
    )


class _Pass(NamedTuple):
    """Times of one insert and one read."""

    insert_s: float
    get_s: float
    info: TensorInfo
    """Description of the first tensor."""


class _Bench:
    """Measures, and counts the bytes that it moves."""

    def __init__(
        self, client: Client, dataset: str, plan: Plan, show: Callable[[str, int], None], check: Callable[[], None]
    ) -> None:
        self._client = client
        self._dataset = dataset
        self._plan = plan
        self._tell = show
        self._check = check
        self._moved_bytes = 0
        self._random = random.Random(0)  # noqa: S311 - not a secret
        self.total_stored_bytes = 0

    def large(self, preset: str, which: str) -> _Pass:
        """Insert and read the large tensor once."""
        client, dataset, values, tensor_id = self._client, self._dataset, self._plan.values, uuid.uuid4().hex
        self._show(f"{preset}, insert, {which}")
        insert_s, info = _timed(
            lambda: client.insert(dataset, values, id=tensor_id, preset=preset, on_progress=self._go_on)
        )
        self._stored([info])
        self._show(f"{preset}, get, {which}")
        get_s = _timed(lambda: client.get(dataset, tensor_id, as_="numpy", on_progress=self._go_on))[0]
        self._moved_bytes += info.canonical_bytes
        client.delete(dataset, tensor_id)
        return _Pass(insert_s, get_s, info)

    def small(self, which: str) -> _Pass:
        """Insert and read the small tensors once."""
        client, dataset, prefix = self._client, self._dataset, uuid.uuid4().hex
        tensors = {f"{prefix}-{number}": self._small_values(number) for number in range(self._plan.small_count)}
        self._show(f"small tensors, {which}")
        insert_s, infos = _timed(lambda: client.insert_many(dataset, tensors.items()))
        self._stored(infos)
        get_s = _timed(lambda: list(client.get_many(dataset, tensors, as_="numpy")))[0]
        self._moved_bytes += sum(info.canonical_bytes for info in infos)
        client.delete(dataset, list(tensors))
        return _Pass(insert_s, get_s, infos[0])

    def latencies(self) -> list[Latency]:
        """Measure single calls, all kinds in turn."""
        plan = self._plan
        self._show("single calls")
        kinds = self._kinds()
        times_s: list[list[float]] = [[] for _ in kinds]
        for number in range(plan.calls + 1):
            for (_, size, call), times in zip(kinds, times_s, strict=True):
                times.append(_timed(call)[0])
                self._moved_bytes += size
            self._show(f"single calls, {number} of {plan.calls}")
        return [_latency(name, size, times[1:]) for (name, size, _), times in zip(kinds, times_s, strict=True)]

    def _kinds(self) -> list[tuple[str, int, Callable[[], object]]]:
        """Return name, canonical bytes and call of each kind, and insert the tensors that they read."""
        client, dataset, plan = self._client, self._dataset, self._plan
        few = self._small_values(0)
        large, small = (
            client.insert(dataset, array, id=id_) for id_, array in (("large", plan.values), ("small", few))
        )
        self.total_stored_bytes += large.stored_bytes + (plan.calls + 2) * small.stored_bytes
        numbers = count()
        return [
            ("dataset", 0, lambda: client.dataset(dataset)),
            ("info", 0, lambda: client.info(dataset, "large")),
            ("insert", few.nbytes, lambda: client.insert(dataset, few, id=f"insert-{next(numbers)}")),
            ("get", few.nbytes, lambda: client.get(dataset, "small", as_="numpy")),
            *(("get_slice", size, partial(self._get_slice, size)) for size in plan.slice_bytes),
        ]

    def _get_slice(self, size: int) -> object:
        """Read a slice at a random position of the large tensor, regardless of chunk boundaries."""
        values = self._plan.values
        elements = size // values.itemsize
        start = self._random.randrange(values.size - elements + 1)
        return self._client.get(self._dataset, "large", index=slice(start, start + elements), as_="numpy")

    def _small_values(self, number: int) -> AnyArray:
        """Return the values of a small tensor: consecutive parts of the large one, in turn."""
        elements = self._plan.small_elements
        start = number % (self._plan.values.size // elements) * elements
        return self._plan.values[start : start + elements]

    def _go_on(self, _: Progress) -> None:
        self._check()

    def _show(self, doing: str) -> None:
        self._check()
        self._tell(doing, self._moved_bytes)

    def _stored(self, infos: Sequence[TensorInfo]) -> None:
        self.total_stored_bytes += sum(info.stored_bytes for info in infos)
        self._moved_bytes += sum(info.canonical_bytes for info in infos)


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    """Return the duration of a call in seconds, and its result."""
    begin = perf_counter()
    result = call()
    return perf_counter() - begin, result


def _preset_figures(preset: str, passes: Sequence[_Pass]) -> PresetFigures:
    info = passes[0].info
    return PresetFigures(
        preset=preset,
        insert_bytes_per_second=_spread(info.canonical_bytes / a_pass.insert_s for a_pass in passes),
        get_bytes_per_second=_spread(info.canonical_bytes / a_pass.get_s for a_pass in passes),
        canonical_bytes=info.canonical_bytes,
        stored_bytes=info.stored_bytes,
        ratio=info.ratio,
        lossy=info.lossy,
        relative_error=info.relative_error,
        fallback_reason=info.fallback_reason,
    )


def _latency(call: str, size: int, times_s: Sequence[float]) -> Latency:
    in_order = sorted(1000 * time_s for time_s in times_s)
    return Latency(
        call=call,
        canonical_bytes=size,
        calls=len(in_order),
        median_ms=statistics.median(in_order),
        p95_ms=in_order[math.ceil(0.95 * len(in_order)) - 1],
        max_ms=in_order[-1],
    )


def _spread(figures: Iterable[float]) -> Spread:
    found = list(figures)
    return Spread(statistics.median(found), min(found), max(found))
