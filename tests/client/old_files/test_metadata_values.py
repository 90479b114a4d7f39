"""NumPy scalars, dates, times and sets in a pickle: read as what Python would make of them, and nothing is made."""

from __future__ import annotations

import datetime as dt
import io
import math
import tracemalloc
import zoneinfo
from typing import Any

import numpy as np
import pytest
import torch

from support.cases import each
from support.old_tensorus import archive, integer, text
from tensorus.old_files.metadata import converted_metadata
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import read_pickle
from tensorus_protos.plain import plain
from tensorus_server.engine.validate import require_metadata

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def read(file: io.BytesIO) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    container = PtContainer(file)
    metadata, dropped = converted_metadata(container, read_pickle(container))
    require_metadata(metadata, dataset="d", tensor="t")
    return metadata, [(value.name, value.path) for value in dropped]


def converted(value: object) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return what is kept of `{"key": value}` that torch saved, and names and paths of what is not."""
    file = io.BytesIO()
    torch.save({"key": value}, file)
    return read(file)


SCALARS: list[Any] = [
    *(
        np.dtype(name).type(value)
        for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
        for value in (0, 1, np.iinfo(name).max if name != "uint64" else 2**63 - 1, np.iinfo(name).min)
    ),
    *(np.dtype(name).type(value) for name in ("float16", "float32", "float64") for value in (0.1, -0.0, math.inf)),
    np.bool_(True),
    np.bool_(False),
    np.str_(""),
    np.str_("x"),
    np.str_("é\N{GRINNING FACE}"),
    np.str_("x" * 300),
    np.str_("é" * 30_000),
    np.datetime64("2025-09-01"),
    np.datetime64("2025-09-01T12:30:05.123456789", "ns"),
    np.datetime64("2025", "Y"),
    np.datetime64("2025-09-01T12:30", "25s"),
    np.datetime64(-1, "as"),
]

MOMENTS: list[Any] = [
    dt.date(2025, 9, 1),
    dt.date.min,
    dt.time(12, 30, 5, 123456),
    dt.time(12, tzinfo=dt.UTC),
    dt.datetime.fromisoformat("2025-09-01T12:30:05.123456"),
    dt.datetime.fromisoformat("2025-09-01"),
    dt.datetime.fromisoformat("9999-12-31T23:59:59.999999"),
    dt.datetime(2025, 9, 1, tzinfo=dt.UTC),
    dt.datetime(2025, 9, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    dt.datetime(2025, 9, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, seconds=7, microseconds=9), "named")),
    dt.datetime.fromisoformat("2025-10-26T02:30").replace(fold=1),
]

SETS: list[Any] = [
    set(),
    frozenset(),
    {3, 1, 2},
    {"b", "a", "é"},
    {2.5, True, 3, -math.inf},
    {"b", 3, None, "a", 1.5},
    {(1, "x")},
    frozenset({frozenset({2, 1})}),
    {np.float32(0.5), np.int64(3)},
    {dt.date(2025, 9, 2), dt.date(2025, 9, 1)},
]


@each("value", [*SCALARS, *MOMENTS, *SETS])
def test_what_torch_saved_is_what_the_live_value_becomes(value: Any) -> None:
    found, dropped = converted(value)
    assert dropped == []
    expected = plain(value)
    assert found == {"key": expected}
    assert type(found["key"]) is type(expected)
    # Otherwise -0.0 would equal 0.0, and True 1.
    assert repr(found["key"]) == repr(expected)


def test_nan_of_every_width_is_kept() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        found, dropped = converted(dtype("nan"))
        assert math.isnan(found["key"])
        assert dropped == []


@each("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@each(("order", "data"), [("<", "\0\0\0?"), (">", "?\0\0\0")])
def test_scalars_of_every_numpy_and_byte_order_are_read(module: str, order: str, data: str) -> None:
    assert of(scalar("f4", data, order=order, module=module)) == ({"key": 0.5}, [])


@each(
    ("value", "name"),
    [
        (np.complex64(1j), "numpy.complex64"),
        (np.complex128(1j), "numpy.complex128"),
        (np.longdouble(2), "numpy.longdouble"),
        (np.timedelta64(1, "D"), "numpy.timedelta64"),
        (np.datetime64("NaT"), "numpy.datetime64"),
        (np.datetime64("NaT", "ns"), "numpy.datetime64"),
        (np.bytes_(b"x"), "a NumPy scalar of dtype 'S1'"),
        (np.void(b"x"), "a NumPy scalar of dtype 'V1'"),
        (np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])[0], "a NumPy scalar of dtype 'V12'"),
        (np.uint64(2**63), "an integer beyond 64 bits"),
        (dt.timedelta(1), "datetime.timedelta"),
        (dt.UTC, "datetime.timezone"),
        (dt.datetime(2025, 9, 1, tzinfo=BERLIN), "datetime.datetime in a time zone of __builtin__.getattr"),
        (dt.time(12, tzinfo=BERLIN), "datetime.time in a time zone of __builtin__.getattr"),
    ],
)
def test_what_metadata_does_not_hold_is_dropped_by_name(value: object, name: str) -> None:
    assert converted(value) == ({}, [(name, "key")])


def test_a_time_of_the_record_becomes_seconds_however_it_was_given() -> None:
    moment = dt.datetime(2025, 9, 1, tzinfo=dt.UTC)
    for given in (moment, moment.replace(tzinfo=None), "2025-09-01", "2025-09-01T02:00+02:00", np.datetime64(0, "s")):
        file = io.BytesIO()
        torch.save({"timestamp_utc": given, "other": "2025-09-01"}, file)
        expected = 0.0 if isinstance(given, np.datetime64) else 1756684800.0
        assert read(file) == ({"timestamp_utc": expected, "other": "2025-09-01"}, [])


@each("given", ["yesterday", "", 5, 1756684800.25, None, ["2025-09-01"]])
def test_a_time_of_the_record_that_is_none_stays_what_it_is(given: object) -> None:
    file = io.BytesIO()
    torch.save({"timestamp_utc": given}, file)
    assert read(file) == ({"timestamp_utc": given}, [])


# ---- What no library writes ---------------------------------------------------------------------------------------------

DATE, TIME = "\x07\xe9\x09\x01", "\x0c\x1e\x05\0\0\0"


def called(name: str, *arguments: bytes) -> bytes:
    """Return the opcodes of a call."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n(".encode() + b"".join(arguments) + b"tR"


def data_of(characters: str) -> bytes:
    """Return the opcodes of bytes, a character each."""
    return called("_codecs.encode", text(characters), text("latin1"))


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def state(*, order: str = "<", width: int = -1, more: tuple[bytes, ...] = (), version: int = 3) -> bytes:
    return tuple_of(integer(version), text(order), b"NNN", integer(width), integer(-1), integer(0), *more)


def scalar(
    code: str, data: str, *, order: str = "<", module: str = "numpy._core.multiarray", of_dtype: bytes | None = None
) -> bytes:
    dtype = (
        called("numpy.dtype", text(code), b"\x89\x88") + (state(order=order) if of_dtype is None else of_dtype) + b"b"
    )
    return called(f"{module}.scalar", dtype, data_of(data))


def unit(name: bytes, *numbers: int) -> bytes:
    return state(version=4, more=(tuple_of(b"N", tuple_of(name, *map(integer, numbers))),))


def zone(days: int, seconds: int, microseconds: int) -> bytes:
    return called("datetime.timezone", called("datetime.timedelta", *map(integer, (days, seconds, microseconds))))


def of(opcodes: bytes) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return what is kept of a dict with this value, and what is not."""
    return read(io.BytesIO(archive(b"\x80\x02}" + text("key") + opcodes + b"s.")))


def test_the_opcodes_are_those_that_are_read() -> None:
    # Otherwise what is dropped below would show nothing.
    assert of(scalar("f4", "\0\0\0?")) == ({"key": 0.5}, [])
    assert of(scalar("M8", "\1" + "\0" * 7, of_dtype=unit(data_of("s"), 1, 1, 1)))[0] == {"key": "1970-01-01T00:00:01"}
    assert of(called("datetime.date", data_of(DATE))) == ({"key": "2025-09-01"}, [])
    assert of(called("datetime.datetime", data_of(DATE + TIME), zone(0, 60, 0)))[0] == {
        "key": "2025-09-01T12:30:05+00:01"
    }
    assert of(called("__builtin__.set", b"](K\2K\1e")) == ({"key": [1, 2]}, [])


F4 = "\0\0\0?"

WRONG: list[Any] = [
    pytest.param(scalar("f4", "\0\0?"), id="too few bytes"),
    pytest.param(scalar("f4", "\0\0\0\0?"), id="too many bytes"),
    pytest.param(scalar("f4", ""), id="no bytes"),
    pytest.param(scalar("f4", F4, order="="), id="the order of another machine"),
    pytest.param(scalar("f4", F4, order="|"), id="no order"),
    pytest.param(scalar("i1", "\1", order="<"), id="an order of one byte"),
    pytest.param(scalar("f4", F4, of_dtype=b"N"), id="no state"),
    pytest.param(scalar("f4", F4, of_dtype=state(version=1)), id="another version of the state"),
    pytest.param(scalar("f4", F4, of_dtype=b"](K\1e"), id="a state that is a list"),
    pytest.param(scalar("f4", F4, of_dtype=tuple_of(b"K\3", text("<"))), id="half a state"),
    pytest.param(scalar("f4", F4, of_dtype=tuple_of(*[b"]"] * 8)), id="a state of lists"),
    pytest.param(scalar("f4", F4, of_dtype=tuple_of(*[b"}"] * 9)), id="a state of dicts"),
    pytest.param(
        scalar("f4", F4, of_dtype=tuple_of(b"K\3", text("<"), b"N", tuple_of(text("a")), b"N", *[b"K\1"] * 3)),
        id="fields",
    ),
    pytest.param(scalar("U999999", "abcd"), id="a huge text"),
    pytest.param(scalar("U" + "9" * 100, "abcd"), id="a text without an end"),
    pytest.param(scalar("U1", "a\0\0\0", of_dtype=state(width=8)), id="a text of two widths"),
    pytest.param(scalar("U1", "\0\0\x11\0", of_dtype=state(width=4)), id="a text beyond Unicode"),
    pytest.param(scalar("U1", "\xff\xff\xff\xff", of_dtype=state(width=4)), id="a text far beyond Unicode"),
    pytest.param(scalar("U1", "\0\xd8\0\0", of_dtype=state(width=4)), id="half a surrogate"),
    pytest.param(scalar("O8", "\0" * 8), id="an object"),
    pytest.param(scalar("O", "\0" * 8), id="an object without a width"),
    pytest.param(scalar("f4,f4", F4 + F4), id="a dtype of two"),
    pytest.param(scalar("(99999999,)f4", F4), id="a dtype of many"),
    pytest.param(scalar("float32", F4), id="a dtype by name"),
    pytest.param(scalar("é4", F4), id="no dtype"),
    pytest.param(scalar("M8", "\0" * 8), id="a time without a unit"),
    pytest.param(scalar("M8", "\0" * 8, of_dtype=unit(data_of("xx"), 1, 1, 1)), id="an unknown unit"),
    pytest.param(scalar("M8", "\0" * 8, of_dtype=unit(text("s"), 1, 1, 1)), id="a unit as text"),
    pytest.param(scalar("M8", "\0" * 8, of_dtype=unit(data_of("s"), 2**40, 1, 1)), id="a huge unit"),
    pytest.param(scalar("M8", "\0" * 8, of_dtype=unit(data_of("s"), 0, 1, 1)), id="no unit"),
    pytest.param(scalar("M8", "\0" * 8, of_dtype=unit(data_of("s"), 1, 7, 1)), id="a part of a unit"),
    pytest.param(scalar("M8", "\0" * 8, of_dtype=unit(data_of("s" * 300), 1, 1, 1)), id="a long unit"),
    pytest.param(called("numpy._core.multiarray.scalar"), id="a scalar of nothing"),
    pytest.param(called("numpy._core.multiarray.scalar", b"N", data_of(F4)), id="a scalar without a dtype"),
    pytest.param(called("numpy._core.multiarray.scalar", called("numpy.dtype"), data_of(F4)), id="a dtype of nothing"),
    pytest.param(called("numpy._core.multiarray.scalar", called("os.system"), data_of(F4)), id="a dtype that runs"),
    pytest.param(scalar("f4", F4).replace(b"encode", b"decode"), id="bytes of another function"),
    pytest.param(scalar("f4", "\u0141\0\0?"), id="bytes beyond a byte"),
    pytest.param(scalar("f4", F4) + b"}b", id="a scalar with a state"),
    pytest.param(called("numpy.dtype", text("f4"), b"\x89\x88"), id="a dtype"),
    pytest.param(called("datetime.date", data_of("\x07\xe9\x0d\x01")), id="month 13"),
    pytest.param(called("datetime.date", data_of("\x07\xe9\x89\x01")), id="month 137"),
    pytest.param(called("datetime.date", data_of("\0\0\x01\x01")), id="year 0"),
    pytest.param(called("datetime.date", data_of("\x07\xe9\x09")), id="half a date"),
    pytest.param(called("datetime.date", data_of(DATE + TIME)), id="a date that is a datetime"),
    pytest.param(called("datetime.date", integer(2025), integer(9), integer(1)), id="a date of numbers"),
    pytest.param(called("datetime.date"), id="a date of nothing"),
    pytest.param(called("datetime.date", data_of(DATE), b"N"), id="a date in no zone"),
    pytest.param(called("datetime.date", text(DATE)), id="a date of a text"),
    pytest.param(called("datetime.date", data_of(DATE)) + b"}b", id="a date with a state"),
    pytest.param(called("datetime.date", data_of(DATE * 1000)), id="a long date"),
    pytest.param(called("datetime.time", data_of("\x19\0\0\0\0\0")), id="hour 25"),
    pytest.param(called("datetime.time", data_of("\x01\0\0\xff\xff\xff")), id="too many microseconds"),
    pytest.param(called("datetime.datetime", data_of(DATE + TIME), zone(2, 0, 0)), id="a zone two days off"),
    pytest.param(called("datetime.datetime", data_of(DATE + TIME), zone(10**100, 0, 0)), id="a zone without an end"),
    pytest.param(called("datetime.datetime", data_of(DATE + TIME), zone(0, 10**300, 0)), id="a zone beyond a float"),
    pytest.param(called("datetime.datetime", data_of(DATE + TIME), b"N"), id="no zone"),
    pytest.param(called("datetime.datetime", data_of(DATE + TIME), b"cos\nsystem\n"), id="a zone that runs"),
    pytest.param(
        called("datetime.datetime", data_of(DATE + TIME), called("datetime.timezone", integer(1))), id="a number as zone"
    ),
    pytest.param(
        called(
            "datetime.datetime",
            data_of(DATE + TIME),
            called("datetime.timezone", called("datetime.timedelta", b"G" + bytes(8), b"K\0", b"K\0")),
        ),
        id="a float as days",
    ),
    pytest.param(called("__builtin__.set"), id="a set of nothing"),
    pytest.param(called("__builtin__.set", b")"), id="a set of a tuple"),
    pytest.param(called("__builtin__.set", b"](K\1e", b"N"), id="a set of two"),
    pytest.param(called("__builtin__.set", b"](K\1e") + b"}b", id="a set with attributes"),
    pytest.param(called("__builtin__.set", b"](K\1cos\nsystem\ne"), id="a set of what cannot be kept"),
]  # fmt: skip


@each("opcodes", WRONG)
def test_a_description_that_no_library_writes_is_dropped(opcodes: bytes) -> None:
    found, ((name, path),) = of(opcodes)
    assert found == {}
    assert name
    assert path in {"key", "key[]"}


def test_sets_in_one_another_count_as_levels() -> None:
    nested = b"K\1"
    for _ in range(40):
        nested = called("__builtin__.frozenset", b"](" + nested + b"e")
    found, ((name, _),) = of(nested)
    assert found == {}
    assert name == "nested deeper than 16 levels"


def test_a_set_that_holds_itself_is_dropped() -> None:
    # The list that it is made of, and then it in the list.
    found, dropped = of(b"(]q\0c__builtin__\nset\nh\0\x85Rq\1h\0h\1at")
    assert found == {}
    assert dropped


def test_sets_of_any_size_are_bounded() -> None:
    many = called("__builtin__.set", b"](" + b"K\1" * 100_000 + b"e")
    assert of(many) == ({}, [("more than 65536 bytes", "key")])


def test_a_long_text_of_numpy_that_is_named_often_takes_little_memory() -> None:
    shared = scalar("U60000", "x\0\0\0" * 60_000, of_dtype=state(width=240_000)) + b"q\0"
    keys = b"".join(text(f"{number}") + b"h\0" for number in range(2_000))
    tracemalloc.start()
    try:
        found, dropped = read(io.BytesIO(archive(b"\x80\x02}(" + text("first") + shared + keys + b"u.")))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(found.values()) == ["x" * 60_000]
    assert len(dropped) == 2_000
    assert peak_bytes < 10_000_000


def test_a_text_of_numpy_is_read_in_either_byte_order() -> None:
    assert of(scalar("U2", "a\0\0\0\0\0\0\0", of_dtype=state(width=8))) == ({"key": "a"}, [])
    assert of(scalar("U2", "\0\0\0a\0\0\0b", of_dtype=state(order=">", width=8))) == ({"key": "ab"}, [])
