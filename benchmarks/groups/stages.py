"""What each stage of a transfer costs on one core, chunk by chunk of 1 MiB: the parts of which throughput is made.

This group runs in the benchmark's own process, without a network and without a sync.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from common.result import GIGABYTES, Bar, Bars, Picture, Row, Table, measured_row
from common.runs import Contestant, Here, alternate
from common.settings import MIB, Settings
from common.values import Array, normal

from tensorus._allocator import tune_allocator
from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.measure import measure as measure_error
from tensorus_codecs.pipeline import decode_chunk, decode_chunk_into, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.select import narrowed
from tensorus_codecs.summary import summarize
from tensorus_protos.framing import join, split

__all__ = ["measure"]

CHUNKS = 32

PRESETS = ("none", "fast", "lossless", "balanced", "bf16", "fp16_only", "int8_only")

NOTES = (
    "One thread: processor time is time. Add up what a path goes through for its CPU seconds per GB, and the transport's.",
    "An encoder's stage holds the summary of values, its CRC32C and, for lossy presets, decoding and measuring the error.",
)


def measure(settings: Settings) -> Table:
    """Return GB/s and CPU seconds per GB of canonical bytes of each stage."""
    # As a server does: otherwise every fresh megabyte is mapped, touched and unmapped.
    tune_allocator()
    values = normal(CHUNKS)
    with tempfile.TemporaryFile(dir=settings.scratch) as file:
        file.write(values)
        file.flush()
        contestants: dict[str, Contestant] = {
            name: Here(work) for name, work in {**_plain(values, file.fileno()), **_codecs(values)}.items()
        }
        found = alternate(contestants, settings.repeats, settings.report)
    amount = values.nbytes / 1e9
    rows = [measured_row(name, measured, GIGABYTES, amount) for name, measured in found.items()]
    bars = [Bar(name, GIGABYTES.spread(measured, amount), ours=True) for name, measured in found.items()]
    title = f"stages of a transfer, one thread, float32 N(0, 0.02) in chunks of 1 MiB, {CHUNKS} MiB"
    shown = [Row(row.name, {name: row.figures[name] for name in _COLUMNS}) for row in rows]
    return Table(title, "stage", shown, Picture(title, [Bars("", "GB/s", bars, logarithmic=True)]), NOTES)


_COLUMNS = (GIGABYTES.rate, "from", "to", f"client {GIGABYTES.cpu}")


def _plain(values: Array, descriptor: int) -> dict[str, Callable[[], object]]:
    """Return the stages that no preset changes."""
    chunks = _chunks(values)
    dtype = dtype_by_name(values.dtype.name)
    arrays = values.reshape(CHUNKS, -1)
    messages = [join(b"\x0a\x00", [chunk]) for chunk in chunks]

    def copy_to_fresh_array() -> None:
        target = np.empty_like(arrays)
        for row, chunk in zip(target, arrays, strict=True):
            row[:] = chunk

    def digest() -> bytes:
        found = TensorDigest()
        for chunk in chunks:
            found.update(chunk)
        return found.digest()

    return {
        "read a chunk from the page cache": partial(
            _each, lambda start: os.pread(descriptor, MIB, start), range(0, values.nbytes, MIB)
        ),
        "CRC32C": partial(_each, crc32c, chunks),
        "xxh3 digest of the tensor": digest,
        "summary of values": partial(_each, lambda array: summarize(array, dtype), arrays),
        "join a message": partial(_each, lambda chunk: join(b"\x0a\x00", [chunk]), chunks),
        "split a message": partial(_each, split, messages),
        "copy into a fresh array": copy_to_fresh_array,
    }


def _codecs(values: Array) -> dict[str, Callable[[], object]]:
    """Return encoding and decoding of each preset, and measuring an error."""
    dtype = dtype_by_name(values.dtype.name)
    chunks = _chunks(values)
    stages: dict[str, Callable[[], object]] = {}
    for preset in PRESETS:
        planned = narrowed(plan(StoragePolicy(preset=preset), dtype), chunks[0], dtype)
        encode = partial(encode_chunk, dtype=dtype, plan=planned)
        records = [b"".join(bytes(piece) for piece in encode(chunk).record) for chunk in chunks]
        stages[f"encode {preset}"] = partial(_each, encode, chunks)
        stages[f"decode {preset} into a fresh array"] = partial(_decode, records)
    decoded = np.frombuffer(decode_chunk(records[0]), values.dtype)
    original = values.reshape(CHUNKS, -1)[0]
    stages["measure an error"] = partial(_each, lambda _: measure_error(original, decoded), chunks)
    return stages


# `Any`: chunks, their numbers, or what became of them.
def _each(work: Callable[[Any], object], pieces: Iterable[Any]) -> None:
    for piece in pieces:
        work(piece)


def _decode(records: list[bytes]) -> None:
    target = memoryview(np.empty(CHUNKS * MIB, np.uint8))
    for number, record in enumerate(records):
        decode_chunk_into(record, target[number * MIB : (number + 1) * MIB])


def _chunks(values: Array) -> list[memoryview]:
    data = memoryview(values.view(np.uint8)).cast("B")
    return [data[start : start + MIB] for start in range(0, data.nbytes, MIB)]
