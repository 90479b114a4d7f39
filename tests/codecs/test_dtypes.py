"""The table of dtypes: it is the wire contract's, and NumPy's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from contract.codec_quantizer_contract import component_dtype
from support.cases import each
from tensorus_codecs.dtypes import DTYPES, DType, Kind, dtype_by_name, dtype_by_number, opaque_dtype
from tensorus_codecs.errors import UnsupportedDTypeError
from tensorus_protos.v1 import tensorus_pb2 as pb

# name: kind, component, word, may be rounded
TABLE = {
    "bool": (Kind.BOOL, "|b1", "|u1", False),
    "uint8": (Kind.INTEGER, "|u1", "|u1", False),
    "int8": (Kind.INTEGER, "|i1", "|u1", False),
    "uint16": (Kind.INTEGER, "<u2", "<u2", False),
    "int16": (Kind.INTEGER, "<i2", "<u2", False),
    "uint32": (Kind.INTEGER, "<u4", "<u4", False),
    "int32": (Kind.INTEGER, "<i4", "<u4", False),
    "uint64": (Kind.INTEGER, "<u8", "<u8", False),
    "int64": (Kind.INTEGER, "<i8", "<u8", False),
    "float16": (Kind.FLOAT, "<f2", "<u2", True),
    "bfloat16": (Kind.FLOAT, "bfloat16", "<u2", True),
    "float32": (Kind.FLOAT, "<f4", "<u4", True),
    "float64": (Kind.FLOAT, "<f8", "<u8", True),
    "complex64": (Kind.COMPLEX, "<f4", "<u4", True),
    "complex128": (Kind.COMPLEX, "<f8", "<u8", True),
    "float8_e4m3fn": (Kind.FLOAT, "float8_e4m3fn", "|u1", True),
    "float8_e5m2": (Kind.FLOAT, "float8_e5m2", "|u1", True),
}


def test_names_and_numbers_are_those_of_the_wire_contract() -> None:
    contract = {name.removeprefix("DATA_TYPE_").lower(): number for name, number in pb.DataType.items() if number != 0}
    assert {dtype.name: dtype.number for dtype in DTYPES} == contract


def test_the_table_is_in_the_order_of_its_numbers() -> None:
    assert [dtype.number for dtype in DTYPES] == list(range(1, len(DTYPES) + 1))
    assert [dtype.name for dtype in DTYPES] == list(TABLE)


@each("name", TABLE)
def test_a_dtype_has_this_kind_component_and_word(name: str) -> None:
    kind, component, word, is_real = TABLE[name]
    dtype = dtype_by_name(name)
    assert dtype.kind is kind
    assert dtype.component == component_dtype(component)
    assert dtype.word == np.dtype(word)
    assert dtype.is_real is is_real


@each("dtype", DTYPES)
def test_a_dtype_is_numpys_of_that_name_and_width(dtype: DType) -> None:
    assert dtype.numpy == component_dtype(dtype.name)
    assert dtype.numpy.itemsize == dtype.element_bytes
    assert dtype.numpy.name == dtype.name


@each("dtype", DTYPES)
def test_a_dtype_is_found_by_name_and_by_number(dtype: DType) -> None:
    assert dtype_by_name(dtype.name) is dtype
    assert dtype_by_number(dtype.number) is dtype


@each("name", ["float128", "int4", "FLOAT32", "", "float8_e4m3"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(UnsupportedDTypeError, match=rf"^dtype '{name}' is not one of {', '.join(TABLE)}$"):
        dtype_by_name(name)


@each("number", [0, 18, -1, 255, 1000])
def test_an_unknown_number_has_no_dtype(number: int) -> None:
    assert dtype_by_number(number) is None


def test_a_dtype_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DTYPES[0].number = 2  # type: ignore[misc]  # that is what must not work


class TestOpaque:
    """A dtype outside the table: a width, and nothing else."""

    @each("element_bytes", range(1, 17))
    def test_it_is_bytes_of_its_width(self, element_bytes: int) -> None:
        dtype = opaque_dtype(42, 8 * element_bytes)
        assert (dtype.number, dtype.element_bytes, dtype.kind) == (42, element_bytes, Kind.OPAQUE)
        assert dtype.numpy == np.dtype(f"V{element_bytes}")
        assert dtype.component == dtype.numpy
        assert not dtype.is_real

    @each("element_bytes", range(1, 17))
    def test_its_words_are_the_integer_of_its_width_or_bytes(self, element_bytes: int) -> None:
        integers = {1: "|u1", 2: "<u2", 4: "<u4", 8: "<u8"}
        assert opaque_dtype(42, 8 * element_bytes).word == np.dtype(integers.get(element_bytes, "|u1"))

    def test_it_is_called_by_its_number(self) -> None:
        assert opaque_dtype(42, 8).name == "dtype_42"
        assert opaque_dtype(42, 8) == opaque_dtype(42, 8)
        assert opaque_dtype(42, 8) != opaque_dtype(43, 8)

    @each("element_bits", [0, 1, 4, 7, 9, 127, 129, 136, 256, -8])
    def test_a_width_that_cannot_be_stored_is_refused(self, element_bits: int) -> None:
        message = (
            rf"^dtype 42 is unknown here and its element_bits is {element_bits}; "
            r"an unknown dtype needs whole bytes, 8 to 128 bits$"
        )
        with pytest.raises(UnsupportedDTypeError, match=message):
            opaque_dtype(42, element_bits)
