"""Metadata of the original: what a store keeps is kept as it is, everything else is dropped by name and path."""

from __future__ import annotations

import datetime as dt
import io
import math
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
import torch

from support.cases import each
from support.old_tensorus import archive, text
from tensorus.old_files.metadata import converted_metadata
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import read_pickle
from tensorus_server.engine.validate import require_metadata
from tensorus_server.limits import METADATA_BYTES_MAX, METADATA_DEPTH_MAX


def converted(value: object) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return what is kept of metadata that torch saved, and names and paths of what is not."""
    file = io.BytesIO()
    torch.save(value, file)
    return read(PtContainer(file))


def read(container: PtContainer) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    metadata, dropped = converted_metadata(container, read_pickle(container))
    require_metadata(metadata, dataset="d", tensor="t")
    return metadata, [(value.name, value.path) for value in dropped]


KEPT: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "integers": [0, -1, 2**63 - 1, -(2**63)],
    "floats": [0.5, -0.0, math.inf],
    "one": 1,
    "one as a float": 1.0,
    "text": "é\N{GRINNING FACE}",
    "a long text": "é" * 5000,
    "": "an empty key",
    "lists": [[], [[1]], [{}]],
    "dicts": {"a": {"b": {"c": [1, "x", None]}}, "a.b": 1},
}


def test_what_a_store_keeps_is_as_it_was() -> None:
    found, dropped = converted(KEPT)
    assert found == KEPT
    assert list(found) == list(KEPT)
    assert [type(found[key]) for key in ("one", "one as a float")] == [int, float]
    assert dropped == []


def test_tuples_become_lists_and_ordered_dicts_dicts() -> None:
    found, dropped = converted({"a": (1, (2, 3)), "size": torch.Size([4, 5]), "o": OrderedDict(x=(1,))})
    assert found == {"a": [1, [2, 3]], "size": [4, 5], "o": {"x": [1]}}
    assert dropped == []


@each(
    ("value", "name"),
    [
        (dt.timedelta(1), "datetime.timedelta"),
        ({1, 2j}, "__builtin__.complex"),
        (1j, "__builtin__.complex"),
        (b"bytes", "bytes"),
        (bytearray(b"x"), "__builtin__.bytearray"),
        (torch.ones(2), "torch.Tensor"),
        (torch.float32, "torch.float32"),
        (print, "__builtin__.print"),
        (2**63, "an integer beyond 64 bits"),
        ("\ud800", "a text that is not Unicode"),
        ("x" * 100_000, "more than 65536 bytes"),
        ([0] * 100_000, "more than 65536 bytes"),
        (["x" * 200] * 1000, "more than 65536 bytes"),
    ],
)
def test_anything_else_is_dropped_with_its_key(value: object, name: str) -> None:
    found, ((dropped, path),) = converted({"before": 1, "key": value, "after": 2})
    assert found == {"before": 1, "after": 2}
    assert (dropped, path.removesuffix("[]")) == (name, "key")


def test_what_is_dropped_has_a_path() -> None:
    found, dropped = converted(
        {
            "camera": {"open": dt.timedelta(1), "lens": {"made": {1j}, "f": 1.8}},
            "tags": ["a", {"when": dt.timedelta.min}, (1j,)],
        }
    )
    assert found == {"camera": {"lens": {"f": 1.8}}}
    assert dropped == [
        ("datetime.timedelta", "camera.open"),
        ("__builtin__.complex", "camera.lens.made[]"),
        ("__builtin__.complex", "tags[][]"),
    ]


def test_keys_that_are_no_text_are_dropped_alone() -> None:
    found, dropped = converted({"a": {1: "x", "b": 2}, 7: "y", None: "z"})
    assert found == {"a": {"b": 2}}
    assert dropped == [("a key that is a int", "a"), ("a key that is a int", ""), ("a key that is a NoneType", "")]


def test_a_key_that_is_too_long_is_dropped() -> None:
    found, ((name, path),) = converted({"k" * 1025: 1, "a": 2})
    assert found == {"a": 2}
    # Such a text stays in the file, and is no key then.
    assert (name, path) == ("a key that is a str", "")


def test_a_path_of_keys_that_is_too_long_is_dropped() -> None:
    value: Any = 1
    for _ in range(6):
        value = {"k" * 200: value}
    assert converted({"a": value, "b": 2}) == ({"b": 2}, [("more than 1024 bytes", "a")])


def test_keys_that_are_not_unicode_are_dropped_alone() -> None:
    found, dropped = converted({"a": {"\ud800": 1, "b": 2}, "\ud801": 3})
    assert found == {"a": {"b": 2}}
    assert dropped == [("a text that is not Unicode", "a"), ("a text that is not Unicode", "\ud801")]


@each("make", [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,)])
def test_depth_is_kept_up_to_the_limit(make: Any) -> None:
    value: Any = 1
    for _ in range(METADATA_DEPTH_MAX - 1):
        value = make(value)
    _, dropped = converted({"key": value})
    assert dropped == []
    found, ((name, _),) = converted({"key": make(value), "other": 1})
    assert found["other"] == 1
    assert name == f"nested deeper than {METADATA_DEPTH_MAX} levels"


def test_the_largest_values_of_the_user_go_first_where_all_are_too_much() -> None:
    system = {"record_id": "r", "timestamp_utc": 1.5, "compression_metadata": {"quantization": "int8"}}
    found, dropped = converted({"a": "x" * 30_000, "b": "y" * 40_000, **system, "c": 1})
    assert found == {"a": "x" * 30_000, **system, "c": 1}
    assert dropped == [(f"more than {METADATA_BYTES_MAX} bytes in all", "b")]


@each("value", [None, [], "text", 7, torch.ones(1)])
def test_metadata_that_is_no_dict_is_dropped_as_a_whole(value: object) -> None:
    found, ((_, path),) = converted(value)
    assert (found, path) == ({}, "")


# ---- Hostile ------------------------------------------------------------------------------------------------------------


def of_opcodes(opcodes: bytes) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    return read(PtContainer(io.BytesIO(archive(b"\x80\x02" + opcodes + b"."))))


@pytest.mark.slow
def test_a_value_that_holds_itself_is_dropped() -> None:
    for own in (
        b"]q\0h\0a",
        b"}q\0" + text("k") + b"h\0s",
        b"]q\0(h\0h\0h\0h\0e",
        b"}q\0(" + text("k") + b"h\0" + text("l") + b"h\0u",
    ):
        found, dropped = of_opcodes(b"}(" + text("self") + own + text("other") + b"K\1u")
        assert found.get("other") == 1
        assert dropped


def test_a_value_that_doubles_at_every_level_is_dropped() -> None:
    # 2**12 lists of 2**5 values, within the limit of depth, in a few hundred bytes.
    level = b"(" + b"N" * 32 + b"t"
    doubled = level + b"q\0" + b"".join(b"h" + bytes([n, ord("h"), n]) + b"\x86q" + bytes([n + 1]) for n in range(12))
    found, dropped = of_opcodes(b"}(" + text("a") + b"(" + doubled + b"t" + text("b") + b"K\1u")
    assert found == {"b": 1}
    assert dropped == [("more than 65536 bytes", "a")]


def test_a_text_that_is_named_a_million_times_takes_no_memory() -> None:
    shared = text("x" * 60_000) + b"q\0"
    many = b"(" + shared + b"h\0" * 10_000 + b"t"
    keys = b"".join(text(f"{number}") + b"h\0" for number in range(2_000))
    tracemalloc.start()
    try:
        found, dropped = of_opcodes(b"}(" + text("many") + many + keys + b"u")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 1
    assert len(dropped) == 2_000
    assert peak_bytes < 10_000_000


def test_a_path_is_not_longer_than_a_line() -> None:
    level = b"}" + text("k" * 200)
    found, ((_, path),) = of_opcodes(b"}(" + text("a") + level * 4 + b"cos\nsystem\n" + b"s" * 4 + text("b") + b"K\1u")
    assert found["b"] == 1
    assert path.endswith("...")
    assert len(path) <= 203
