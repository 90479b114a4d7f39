"""Metadata as messages and back: every kind both ways, and everything else refused by name."""

from __future__ import annotations

import datetime as dt
import enum
import math
import struct
from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import from_value, from_value_map, to_value, to_value_map

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def number_bits(value: pb.Value) -> bytes:
    return struct.pack("<d", value.number)


KINDS: list[Any] = [
    pytest.param(None, pb.Value(null=True), id="None"),
    pytest.param(True, pb.Value(boolean=True), id="True"),
    pytest.param(False, pb.Value(boolean=False), id="False"),
    pytest.param(0, pb.Value(integer=0), id="zero"),
    pytest.param(1, pb.Value(integer=1), id="an integer"),
    pytest.param(2**53 + 1, pb.Value(integer=2**53 + 1), id="an integer that no double holds"),
    pytest.param(INT64_MIN, pb.Value(integer=INT64_MIN), id="the smallest integer"),
    pytest.param(INT64_MAX, pb.Value(integer=INT64_MAX), id="the largest integer"),
    pytest.param(0.0, pb.Value(number=0.0), id="zero as a float"),
    pytest.param(1.0, pb.Value(number=1.0), id="a float"),
    pytest.param(5e-324, pb.Value(number=5e-324), id="the smallest float"),
    pytest.param(math.inf, pb.Value(number=math.inf), id="infinity"),
    pytest.param(-math.inf, pb.Value(number=-math.inf), id="minus infinity"),
    pytest.param("", pb.Value(text=""), id="empty text"),
    pytest.param("na\x00ïve 🦦", pb.Value(text="na\x00ïve 🦦"), id="any text"),
    pytest.param([], pb.Value(list=pb.ListValue()), id="an empty list"),
    pytest.param(
        [1, 1.0, True, [None]],
        pb.Value(
            list=pb.ListValue(
                values=[
                    pb.Value(integer=1),
                    pb.Value(number=1.0),
                    pb.Value(boolean=True),
                    pb.Value(list=pb.ListValue(values=[pb.Value(null=True)])),
                ]
            )
        ),
        id="a list of every kind",
    ),
    pytest.param({}, pb.Value(map=pb.MapValue()), id="an empty dict"),
    pytest.param(
        {"": {"a.b": "c"}},
        pb.Value(map=pb.MapValue(entries={"": pb.Value(map=pb.MapValue(entries={"a.b": pb.Value(text="c")}))})),
        id="a dict in a dict",
    ),
]


@pytest.mark.parametrize(("value", "message"), KINDS)
def test_every_kind_has_its_field(value: object, message: pb.Value) -> None:
    found = to_value(value)
    assert found == message
    assert found.WhichOneof("kind") == message.WhichOneof("kind")


@pytest.mark.parametrize(("value", "message"), KINDS)
def test_every_kind_comes_back_as_it_was(value: object, message: pb.Value) -> None:
    found = from_value(pb.Value.FromString(message.SerializeToString()))
    assert found == value
    assert type(found) is type(value)


def test_what_python_calls_equal_stays_apart() -> None:
    found = from_value_map(to_value_map({"integer": 1, "number": 1.0, "boolean": True}))
    assert {key: type(value) for key, value in found.items()} == {"integer": int, "number": float, "boolean": bool}


def test_nan_stays_nan() -> None:
    found = from_value(to_value(math.nan))
    assert isinstance(found, float)
    assert math.isnan(found)


def test_minus_zero_keeps_its_sign() -> None:
    assert number_bits(to_value(-0.0)) == struct.pack("<d", -0.0) != number_bits(to_value(0.0))
    assert math.copysign(1, from_value(to_value(-0.0))) == -1  # type: ignore[arg-type]


def test_a_tuple_becomes_a_list() -> None:
    assert to_value((1, (2,))) == to_value([1, [2]])
    assert from_value(to_value((1, (2,)))) == [1, [2]]


class Colour(enum.IntEnum):
    RED = 3


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(np.bool_(True), True, id="bool"),
        pytest.param(np.int8(-3), -3, id="int8"),
        pytest.param(np.uint64(7), 7, id="uint64"),
        pytest.param(np.float16(0.1), float(np.float16(0.1)), id="float16"),
        pytest.param(np.float32(0.1), float(np.float32(0.1)), id="float32, with its own rounding"),
        pytest.param(np.float64(0.1), 0.1, id="float64"),
        pytest.param(ml_dtypes.bfloat16(1.5), 1.5, id="bfloat16"),
        pytest.param(np.str_("x"), "x", id="str"),
        pytest.param([np.int64(1), np.float32(2.0)], [1, 2.0], id="inside a list"),
        pytest.param({"k": np.bool_(False)}, {"k": False}, id="inside a dict"),
    ],
)
def test_a_numpy_scalar_counts_as_the_python_value_it_holds(value: object, expected: object) -> None:
    found = from_value(to_value(value))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(Colour.RED, 3, id="an IntEnum"),
        pytest.param(Name("x"), "x", id="a str"),
        pytest.param(OrderedDict(a=1), {"a": 1}, id="a dict"),
    ],
)
def test_a_subclass_counts_as_what_it_is(value: object, expected: object) -> None:
    found = from_value(to_value(value))
    assert found == expected
    assert type(found) is type(expected)


class Opaque:
    pass


REFUSED_TYPES = [
    pytest.param(Opaque(), "value is a Opaque; metadata holds None, bool, int, float, str, lists", id="an object"),
    pytest.param(b"x", "value is a bytes", id="bytes"),
    pytest.param({1}, "value is a set", id="a set"),
    pytest.param(1j, "value is a complex", id="a complex number"),
    pytest.param(dt.date(2020, 1, 1), "value is a date", id="a date"),
    pytest.param(np.arange(1), "value is a ndarray", id="an array, even of one element"),
    pytest.param(np.complex64(1), "value is a complex", id="a complex NumPy scalar"),
    pytest.param(np.bytes_(b"x"), "value is a bytes", id="a NumPy scalar of bytes"),
    pytest.param(np.datetime64("2020-01-01", "D"), "value is a date", id="a NumPy day"),
    pytest.param(np.datetime64("2020-01-01", "ns"), "value is a", id="a NumPy time in nanoseconds"),
    pytest.param(np.timedelta64(1, "ns"), "value is a", id="a NumPy duration in nanoseconds"),
    pytest.param(np.array((1, 2), "i4, i4")[()], "value is a", id="a NumPy record"),
    pytest.param([1, [2, Opaque()]], r"value\[1\]\[1\] is a Opaque", id="inside lists"),
    pytest.param((0, Opaque()), r"value\[1\] is a Opaque", id="inside a tuple"),
    pytest.param({"a": [{"b": Opaque()}]}, r"value\['a'\]\[0\]\['b'\] is a Opaque", id="inside dicts"),
    pytest.param({1: 2}, "a key of value is a int, must be a str", id="a key that is no text"),
    pytest.param({"a": {None: 2}}, r"a key of value\['a'\] is a NoneType, must be a str", id="an inner key"),
]


@pytest.mark.parametrize(("value", "match"), REFUSED_TYPES)
def test_a_type_without_a_place_is_refused_with_the_path_to_it(value: object, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        to_value(value)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        pytest.param(INT64_MAX + 1, "value is 9223372036854775808, beyond the 64 bits", id="above 64 bits"),
        pytest.param(INT64_MIN - 1, "value is -9223372036854775809, beyond the 64 bits", id="below 64 bits"),
        pytest.param(np.uint64(2**63), "value is 9223372036854775808, beyond the 64 bits", id="a large uint64"),
        pytest.param([2**64], r"value\[0\] is 18446744073709551616", id="inside a list"),
        pytest.param("a\ud800", "value is not Unicode text: surrogates not allowed at character 1", id="a surrogate"),
        pytest.param({"k": "\udfff"}, r"value\['k'\] is not Unicode text", id="a surrogate inside a dict"),
        pytest.param({"\ud800": 1}, "a key of value is not Unicode text: .* at character 0", id="a surrogate in a key"),
    ],
)
def test_a_value_that_the_contract_cannot_carry_is_refused_with_the_path_to_it(value: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        to_value(value)


def test_a_map_is_called_metadata_unless_it_is_called_otherwise() -> None:
    with pytest.raises(TypeError, match=r"^metadata\['k'\] is a set"):
        to_value_map({"k": set()})
    with pytest.raises(TypeError, match=r"^a key of metadata is a int"):
        to_value_map({1: 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"^other\['k'\] is a set"):
        to_value_map({"k": set()}, "other")


def test_a_kind_from_the_future_is_refused_and_not_taken_for_nothing() -> None:
    from_the_future = pb.Value.FromString(b"\xa2\x06\x01x")
    with pytest.raises(ValueError, match="has no kind that this version knows"):
        from_value(from_the_future)
    with pytest.raises(ValueError, match="has no kind that this version knows"):
        from_value_map({"k": pb.Value(list=pb.ListValue(values=[from_the_future]))})


def nested(depth: int, kind: type) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value] if kind is list else {"k": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_nesting_beyond_what_a_server_takes_still_becomes_a_message(kind: type) -> None:
    # A server takes 16 levels, and can only say so of what has reached it.
    value = nested(20, kind)
    assert from_value(to_value(value)) == value


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("depth", [100, 5_000], ids=["too deep for protobuf", "too deep for Python"])
def test_nesting_that_no_message_holds_is_refused(depth: int, kind: type) -> None:
    with pytest.raises(ValueError):
        to_value(nested(depth, kind))


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError):
        to_value(endless)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(INT64_MIN, INT64_MAX)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
metadata = st.dictionaries(
    st.text(),
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=9
    ),
    max_size=4,
)


@given(metadata)
def test_metadata_survives_the_wire(value: dict[str, Any]) -> None:
    tensor = pb.Tensor.FromString(pb.Tensor(metadata=to_value_map(value)).SerializeToString())
    found = from_value_map(tensor.metadata)
    assert found == value
    # repr tells 1 from 1.0 and True, and 0.0 from -0.0; maps have no order.
    assert {key: repr(item) for key, item in _sorted(found).items()} == {
        key: repr(item) for key, item in _sorted(value).items()
    }


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
