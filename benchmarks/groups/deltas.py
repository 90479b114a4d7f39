"""Checkpoints stored as differences to an earlier one: size and speed beside the same checkpoints alone.

This group trains a small transformer, and runs in the benchmark's own process. The codecs are measured on one core, over chunks
of the whole checkpoint; a store in this process is measured from `insert_many` to `get_many`.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from common.checkpoints import Checkpoint, train
from common.result import Bar, Bars, Figure, Goal, Picture, Row, Spread, Table
from common.runs import Contestant, Here, Measured, alternate
from common.settings import MIB, Settings
from common.values import Array

import tensorus
from tensorus import NewTensor
from tensorus._allocator import tune_allocator
from tensorus.types import TensorInfo
from tensorus_codecs.base import Base
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.select import narrowed

__all__ = ["measure"]

LEARNING_RATES = (1e-5, 1e-6)
WARM_UP_STEPS = 150
SMOKE_TEST_STEPS = 3
"""Of a run with small tensors, whose figures are meaningless."""

RATIO_GOALS = {(1e-5, 10): 8.0, (1e-6, 10): 20.0}
"""By learning rate and steps between the checkpoints."""
ALONE_GOAL = 1.5
CPU_GOAL = 1.5
"""Largest processor time relative to the preset `lossless`."""

BF16 = dtype_by_name("bfloat16")

NOTES = (
    "Ratio: bytes of all tensors over their bytes in a store, all framing included.",
    "Encode, decode: codecs over the checkpoint in chunks of 1 MiB, one thread; the base is decoded already.",
    "Insert, get: insert_many and get_many of a store in this process; the base is read each time.",
    "Processor time: medians of alternating runs.",
)


@dataclass(frozen=True)
class _Pair:
    """A chunk, and the bytes of the earlier checkpoint at the same place."""

    chunk: memoryview
    base: memoryview | None


@dataclass(frozen=True)
class _InStore:
    """What a store makes of a checkpoint."""

    ratio: float
    insert_cpu_s: float
    get_cpu_s: float


def measure(settings: Settings) -> Table:
    """Return ratio and processor time, alone and as differences, for each learning rate and number of steps."""
    # As a server does: otherwise every fresh megabyte is mapped, touched and unmapped.
    tune_allocator()
    rows: list[Row] = []
    ratios: list[Bar] = []
    warm_up_steps = WARM_UP_STEPS if settings.mebibytes >= 64 else SMOKE_TEST_STEPS
    for trained in train(LEARNING_RATES, warm_up_steps, settings.report):
        for steps, checkpoint in trained.later.items():
            name = f"lr {trained.learning_rate:g}, {steps} step{'s' if steps > 1 else ''}"
            ratio_goal = RATIO_GOALS.get((trained.learning_rate, steps))
            alone, delta = _measure_one(name, checkpoint, trained.first, ratio_goal, settings)
            rows += [alone, delta]
            for row, ours in ((alone, False), (delta, True)):
                ratio = float(row.figures["ratio"] or 0)
                marks = tuple(goal.mark for goal in row.goals if goal.mark is not None)
                label = f"{name}, {row.figures['stored as']}"
                ratios.append(Bar(label, Spread(ratio, ratio, ratio), ours, marks))
    title = "checkpoints of a small transformer, bfloat16, some steps of AdamW after another one"
    picture = Picture(title, [Bars("", "ratio, logarithmic", ratios, logarithmic=True)])
    return Table(title, "", rows, picture, NOTES)


def _measure_one(
    name: str, checkpoint: Checkpoint, base: Checkpoint, ratio_goal: float | None, settings: Settings
) -> tuple[Row, Row]:
    """Return the rows of a checkpoint alone, and as differences to an earlier one."""
    joined = _pairs(_joined(checkpoint), _joined(base))
    alone = [_Pair(pair.chunk, None) for pair in joined]
    encoded = {"alone": _encode(alone), "delta": _encode(joined)}
    pairs = {"alone": alone, "delta": joined}
    contestants: dict[str, Contestant] = {}
    for kind, chunks in pairs.items():
        contestants[f"{kind} encode"] = Here(partial(_encode, chunks))
        contestants[f"{kind} decode"] = Here(partial(_decode, encoded[kind], chunks))
    found = alternate(contestants, settings.repeats, lambda text: settings.report(f"{name}: {text}"))
    gigabytes = sum(pair.chunk.nbytes for pair in joined) / 1e9
    cpu = {key: _cpu_s(measured) / gigabytes for key, measured in found.items()}
    in_store = _in_store(name, checkpoint, base, settings)
    ratios = {kind: in_store[kind].ratio for kind in pairs}
    goals = [_at_least(ratio_goal, ratios["delta"])] if ratio_goal is not None else []
    goals += [_at_most_times(verb, cpu[f"delta {verb}"] / cpu[f"alone {verb}"]) for verb in ("encode", "decode")]

    def figures(kind: str, stored_as: str) -> dict[str, Figure]:
        return {
            "stored as": stored_as,
            "ratio": ratios[kind],
            "encode CPU s/GB": cpu[f"{kind} encode"],
            "decode CPU s/GB": cpu[f"{kind} decode"],
            "insert CPU s/GB": in_store[kind].insert_cpu_s / gigabytes,
            "get CPU s/GB": in_store[kind].get_cpu_s / gigabytes,
        }

    return (
        Row(name, figures("alone", "lossless, alone"), (_at_least(ALONE_GOAL, ratios["alone"]),)),
        Row(name, figures("delta", "differences"), tuple(goals)),
    )


def _encode(pairs: list[_Pair]) -> list[bytes]:
    """Encode chunks as a writer does: with one choice for all of them."""
    planned = narrowed(plan(StoragePolicy(), BF16), pairs[0].chunk, BF16)
    records = []
    for pair in pairs:
        base = None if pair.base is None else Base(pair.base, BF16)
        records.append(b"".join(bytes(piece) for piece in encode_chunk(pair.chunk, BF16, planned, base=base).record))
    return records


def _decode(records: list[bytes], pairs: list[_Pair]) -> None:
    for record, pair in zip(records, pairs, strict=True):
        decode_chunk(record, base=None if pair.base is None else Base(pair.base, BF16))


def _in_store(name: str, checkpoint: Checkpoint, base: Checkpoint, settings: Settings) -> dict[str, _InStore]:
    """Store a checkpoint alone and with a base, each in a store of its own, and read it; every tensor is verified.

    In one store, equal tensors would share what is stored first.
    """
    with ExitStack() as stack:
        clients: dict[str, tensorus.Client] = {}
        for kind in ("alone", "delta"):
            clients[kind] = stack.enter_context(tensorus.open(stack.enter_context(settings.folder())))
            clients[kind].create_dataset("base")
            clients[kind].insert_many("base", base.items())
        infos: dict[str, list[TensorInfo]] = {}

        def insert(kind: str) -> None:
            client = clients[kind]
            client.create_dataset(kind, exist_ok=True)
            client.delete(kind, list(checkpoint))
            infos[kind] = client.insert_many(
                kind,
                (
                    NewTensor(values, tensor, base=("base", tensor) if kind == "delta" else None)
                    for tensor, values in checkpoint.items()
                ),
            )

        def get(kind: str) -> None:
            for record in clients[kind].get_many(kind, list(checkpoint), as_="numpy"):
                if record.tensor.tobytes() != checkpoint[record.info.id].tobytes():
                    raise SystemExit(f"tensor {record.info.id} does not come back")

        contestants = {
            f"{kind} {verb}": Here(partial(action, kind))
            for verb, action in (("insert", insert), ("get", get))
            for kind in ("alone", "delta")
        }
        found = alternate(contestants, settings.repeats, lambda text: settings.report(f"{name}, store: {text}"))
        return {
            kind: _InStore(
                sum(info.canonical_bytes for info in infos[kind]) / sum(info.stored_bytes for info in infos[kind]),
                _cpu_s(found[f"{kind} insert"]),
                _cpu_s(found[f"{kind} get"]),
            )
            for kind in ("alone", "delta")
        }


def _joined(checkpoint: Checkpoint) -> Array:
    return np.concatenate(list(checkpoint.values()))


def _pairs(values: Array, base: Array | None) -> list[_Pair]:
    """Cut a tensor into chunks of 1 MiB."""
    chunks = _cut(values)
    return [_Pair(*pair) for pair in zip(chunks, [None] * len(chunks) if base is None else _cut(base), strict=True)]


def _cut(values: Array) -> list[memoryview]:
    data = memoryview(values.view(np.uint8))
    return [data[start : start + MIB] for start in range(0, data.nbytes, MIB)]


def _cpu_s(measured: Measured) -> float:
    return statistics.median(run.client_cpu_s or 0.0 for run in measured.runs)


def _at_least(limit: float, ratio: float) -> Goal:
    return Goal(f"ratio ≥ {limit:g}", f"{ratio:.2f}", ratio >= limit, limit)


def _at_most_times(verb: str, times: float) -> Goal:
    return Goal(f"{verb} ≤ {CPU_GOAL:g} x lossless", f"{times:.2f} x", times <= CPU_GOAL)
