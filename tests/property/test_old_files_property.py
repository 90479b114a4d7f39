"""Damaged files of the original: whatever is changed in one, it is refused in our words, or read; and memory stays bounded.

Damage to the file itself is mostly found by checksums, so it is also done behind them: to the pickle, to the description of a
compressed record, and to the container within.
"""

from __future__ import annotations

import copy
import datetime as dt
import io
import json
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.old_tensorus import Written, archive, integer, text
from tensorus.old_files import OldDataset, OldFileError
from tensorus.old_files.metadata import converted_metadata
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import read_pickle
from tensorus.old_files.record_ids import unique_ids
from tensorus.tensor_storage._metadata import SYSTEM_KEYS, new_metadata
from tensorus_server.engine.validate import require_id, require_metadata

MEMORY_BYTES_MAX = 160 * 1024 * 1024
"""Twice what a tensor may repeat a few elements to, and a little: nothing else is larger than the file, some thousand times."""

SEEDS = st.integers(0, 2**63)

OBJECTS: dict[str, Any] = {
    "loss": np.float32(0.5),
    "step": np.int64(7),
    "name": np.str_("a name"),
    "moment": np.datetime64("2025-09-01", "ns"),
    "when": dt.datetime(2025, 9, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    "day": dt.date(2025, 9, 1),
    "hour": dt.time(12, 30),
    "tags": {"a", (1, 2)},
}

fast = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to four changes of any kind."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 50))
        kind = chance.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            changed[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            changed[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b"(", b"]", b"h")) * length
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            source = chance.randrange(len(changed) + 1)
            changed[at:at] = changed[source : source + length]
        else:
            source = chance.randrange(len(changed) + 1)
            changed[at : at + length] = changed[source : source + length]
    return bytes(changed)


def written(generation: int = 3) -> Written:
    made = Written(generation=generation, schema={"dtype": "torch.float32", "metadata": {"label": "str"}})
    made.insert(torch.arange(12.0).reshape(3, 4).t(), "strided", label="a", box=(1, [2, {"k": 0.5}]), seen={1, 2})
    made.insert(torch.arange(5), "plain", label="b" * 300, **OBJECTS)
    made.insert(torch.ones(3, dtype=torch.uint16), "new")
    if generation == 3:
        for compression in ("gzip-6", "lz4-1", "none"):
            for quantization in ("none", "fp16", "int8"):
                made.insert(torch.linspace(0, 1, 50), f"{compression} {quantization}", compression, quantization)
    return made


@cache
def content(generation: int = 3) -> dict[str, Any]:
    return written(generation).content


@cache
def whole(generation: int) -> bytes:
    return saved(content(generation))


def copied() -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return the tensors and the metadata of the third generation, and the dict of both, to be changed."""
    tensors, metadata = list(content()["tensors"]), copy.deepcopy(content()["metadata"])
    return tensors, metadata, {**content(), "tensors": tensors, "metadata": metadata}


def saved(value: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as read:
        return {name.partition("/")[2]: read.read(name) for name in read.namelist()}


def damaged_whole(chance: random.Random) -> bytes:
    return damaged(whole(chance.randint(1, 3)), chance)


def damaged_member(chance: random.Random) -> bytes:
    found = members(whole(chance.randint(1, 3)))
    name = chance.choice(("data.pkl", "data.pkl", "data.pkl", "byteorder", "version", "data/0"))
    found[name] = damaged(found[name], chance)
    return archive(found.pop("data.pkl"), extra=found)


def damaged_codec(chance: random.Random) -> bytes:
    tensors, metadata, value = copied()
    position = chance.randrange(3, len(tensors))
    values = (
        None,
        True,
        0,
        -1,
        2**70,
        1.0,
        float("nan"),
        "",
        "gzip",
        "none",
        "torch.int8",
        [],
        {},
        (),
        b"x",
        torch.float64,
    )
    codec = metadata[position].get("compression_metadata", {})
    for target in (codec, codec.get("quantization_params", {}), metadata[position]):
        for key in list(target):
            if chance.random() < 0.3:
                target[key] = chance.choice(values)
            elif chance.random() < 0.1:
                del target[key]
    return saved(value)


def damaged_inside(chance: random.Random) -> bytes:
    tensors, _, value = copied()
    position = chance.choice([place for place, item in enumerate(tensors) if isinstance(item, bytes)])
    tensors[position] = damaged(tensors[position], chance)
    return saved(value)


def damaged_inner_pickle(chance: random.Random) -> bytes:
    tensors, _, value = copied()
    # Of those without a compressor.
    position = chance.choice((10, 11))
    found = members(tensors[position])
    found["data.pkl"] = damaged(found["data.pkl"], chance)
    tensors[position] = archive(found.pop("data.pkl"), extra=found)
    return saved(value)


DAMAGES = [damaged_whole, damaged_member, damaged_codec, damaged_inside, damaged_inner_pickle]


def read(data: bytes, folder: Path) -> int:
    """Read a file to its end, verify what comes out, and return how many records had values."""
    path = folder / "old.pt"
    path.write_bytes(data)
    values = 0
    with OldDataset(path) as old:
        for position, record in enumerate(old.records()):
            assert record.outcome.position == position
            assert (record.array is None) == (record.outcome.status == "failed")
            assert record.outcome.status != "failed" or record.outcome.reason
            require_id(record.outcome.id, dataset="d")
            require_metadata(record.metadata, dataset="d", tensor="t")
            if record.array is not None:
                values += 1
                assert isinstance(record.array, np.ndarray)
                assert record.array.flags.c_contiguous
    return values


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@fast
@given(seed=SEEDS)
def test_a_damaged_file_is_refused_in_our_words_or_read(
    tmp_path: Path, damage: Callable[[random.Random], bytes], seed: int
) -> None:
    data = damage(random.Random(seed))
    tracemalloc.start()
    try:
        with suppress(OldFileError):
            read(data, tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES_MAX


@fast
@given(seed=SEEDS)
def test_any_opcodes_are_refused_in_our_words_or_read(seed: int) -> None:
    chance = random.Random(seed)
    codes = b".(}])t\x85\x86\x87aesuN\x88\x89JKM\x8aGXqrhjcR\x81bQ"
    body = bytearray(b"\x80\x02")
    for _ in range(chance.randrange(200)):
        body += bytes([chance.choice(codes)])
        if chance.random() < 0.5:
            body += chance.choice((b"\0", b"\1", b"\2\0\0\0ab", b"torch\nSize\n", b"\0\0\0\0", chance.randbytes(3)))
    with suppress(OldFileError):
        read_pickle(PtContainer(io.BytesIO(archive(bytes(body) + b"."))))


CALLED = (
    b"cnumpy\ndtype\n",
    b"cnumpy._core.multiarray\nscalar\n",
    b"cdatetime\ndate\n",
    b"cdatetime\ntime\n",
    b"cdatetime\ndatetime\n",
    b"cdatetime\ntimezone\n",
    b"cdatetime\ntimedelta\n",
    b"c__builtin__\nset\n",
    b"c_codecs\nencode\n",
)

CODES = ("b1", "i8", "f4", "U1", "U3", "M8", "c8", "O8", "V4", "U99999", "f4,f4", "", "<", ">", "|", "latin1")


def described(chance: random.Random, depth: int = 0) -> bytes:
    """Return the opcodes of some value, most of them calls with arguments that may or may not be right."""
    kind = chance.randrange(9 if depth < 4 else 5)
    if kind == 0:
        return chance.choice((b"N", b"K\1", b"K\3", b"\x88", b"G" + chance.randbytes(8), b"J" + chance.randbytes(4)))
    if kind == 1:
        return text(chance.choice(CODES))
    if kind == 2:
        return integer(chance.choice((0, 1, 3, 4, -1, 86399, 2**40, 2**200)))
    if kind == 3:
        data = text("".join(chr(chance.randrange(256)) for _ in range(chance.choice((0, 1, 4, 6, 8, 10, 12)))))
        return CALLED[-1] + b"(" + data + text("latin1") + b"tR"
    if kind == 4:
        return chance.choice((b")", b"]", b"}", b"cos\nsystem\n"))
    items = b"".join(described(chance, depth + 1) for _ in range(chance.randrange(4)))
    if kind == 5:
        return chance.choice((b"](" + items + b"e", b"(" + items + b"t"))
    made = chance.choice(CALLED) + b"(" + items + b"tR"
    if chance.random() < 0.5:
        state = b"".join(described(chance, depth + 1) for _ in range(chance.choice((3, 8, 9))))
        made += b"(" + chance.choice((b"K\3" + text("<"), b"K\4" + text("|"), b"")) + state + b"tb"
    return made


@fast
@given(seed=SEEDS)
def test_any_description_of_an_object_is_read_or_dropped(seed: int) -> None:
    chance = random.Random(seed)
    items = b"".join(text(key) + described(chance) for key in ("record_id", "timestamp_utc", "a", "b"))
    container = PtContainer(io.BytesIO(archive(b"\x80\x02}(" + items + b"u.")))
    try:
        pickled = read_pickle(container)
    except OldFileError:
        # Bytes were given a state: they are none of the described.
        return
    (record_id,) = unique_ids(container, [pickled], 1)
    require_id(record_id.id, dataset="d")
    metadata, dropped = converted_metadata(container, pickled)
    require_metadata(metadata, dataset="d", tensor="t")
    assert {key for key in ("record_id", "timestamp_utc", "a", "b") if key not in metadata} <= {
        value.path.partition("[")[0].partition(".")[0] for value in dropped
    }


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=80)

ZONES = st.none() | st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone)

LEAVES = (
    PLAIN
    | st.floats(width=16, allow_nan=False).map(np.float16)
    | st.floats(width=32, allow_nan=False).map(np.float32)
    | st.floats(allow_nan=False).map(np.float64)
    | st.integers(-(2**63), 2**63 - 1).map(np.int64)
    | st.integers(0, 255).map(np.uint8)
    | st.booleans().map(np.bool_)
    | st.text(max_size=80).map(np.str_)
    | st.integers(-(10**15), 10**15).map(lambda count: np.datetime64(count, "us"))
    | st.dates()
    | st.times(timezones=ZONES)
    | st.datetimes(timezones=ZONES)
    | st.frozensets(st.text(max_size=5) | st.integers(-9, 9) | st.floats(allow_nan=False), max_size=5)
)

VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(metadata=st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_an_import_makes_of_any_metadata_what_an_insert_makes(metadata: dict[str, Any]) -> None:
    file = io.BytesIO()
    torch.save({**metadata, "record_id": "r"}, file)
    container = PtContainer(file)
    found, dropped = converted_metadata(container, read_pickle(container))
    assert dropped == []
    _, _, inserted = new_metadata(metadata, None)
    users = {key: value for key, value in found.items() if key not in SYSTEM_KEYS}
    assert set(inserted) == {*users, "timestamp_utc"}
    del inserted["timestamp_utc"]
    # As text: 1, True and 1.0 are equal, and so are 0.0 and -0.0.
    assert json.dumps(users, sort_keys=True) == json.dumps(inserted, sort_keys=True)


def test_the_files_are_read_where_nothing_is_damaged(tmp_path: Path) -> None:
    # Otherwise the damage above would be done to nothing.
    assert [read(whole(generation), tmp_path) for generation in (1, 2, 3)] == [3, 3, 12]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_damage_is_done(tmp_path: Path, damage: Callable[[random.Random], bytes]) -> None:
    # Otherwise the tests above would show nothing.
    harmless = 0
    for seed in range(30):
        with suppress(OldFileError):
            harmless += read(damage(random.Random(seed)), tmp_path) == 12
    assert harmless < 25
