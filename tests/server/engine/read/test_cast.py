"""Casts on the server: the values are NumPy's, whole and in parts, from every dtype to every one that it has a cast to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from contract.codec_quantizer_contract import component_dtype
from support.arrays import DTYPE_NAMES, normal, random_bits
from support.cases import each
from support.engine import assemble, engine_on, find, insert
from tensorus_codecs.dtypes import Kind, dtype_by_name
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read.reader import ReadPlan
from tensorus_server.errors import InvalidRequestError
from tensorus_server.model import ByteRange, SliceSet

FLOATS = [name for name in DTYPE_NAMES if dtype_by_name(name).kind is Kind.FLOAT]
COMPLEX = [name for name in DTYPE_NAMES if dtype_by_name(name).kind is Kind.COMPLEX]
PARTS: dict[str, SliceSet | None] = {
    "whole": None,
    "a run": SliceSet((slice(3, 17),)),
    "gathered": SliceSet((slice(None, None, -3), slice(1, None, 2))),
    "nothing": SliceSet((slice(0, 0),)),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a tensor of every dtype, in chunks of 4 KiB."""
    with engine_on(tmp_path_factory.mktemp("cast") / "store") as opened:
        opened.create_dataset("d", StoragePolicy(preset="lossless", chunk_bytes=4096))
        for name in DTYPE_NAMES:
            insert(opened, "d", name, random_bits(name, (60, 41)))
        insert(opened, "d", "quantized", normal((60, 41)), policy=StoragePolicy(preset="int8_only", chunk_bytes=4096))
        yield opened


def cast(engine: Engine, tensor_id: str, target: str, part: Any = None) -> np.ndarray:
    """Read a tensor, or a part of it, as another dtype."""
    tensor = find(engine, "d", tensor_id)
    plan = ReadPlan(tensor, part, dtype_by_name(target))
    return assemble(plan.result, list(engine.reader.read(tensor, plan)))


def expected(array: np.ndarray, target: str, part: SliceSet | None) -> bytes:
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array[part.axes if part else ...]).astype(component_dtype(target)).tobytes()


@each("part", PARTS.values(), ids=PARTS)
@each("target", FLOATS)
def test_real_values_become_floats_as_numpy_s(engine: Engine, target: str, part: SliceSet | None) -> None:
    for name in DTYPE_NAMES:
        if name not in COMPLEX:
            array = random_bits(name, (60, 41))
            assert cast(engine, name, target, part).tobytes() == expected(array, target, part), name


@pytest.mark.parametrize("target", COMPLEX)
def test_complex_values_become_complex_ones(engine: Engine, target: str) -> None:
    for name in COMPLEX:
        found = cast(engine, name, target)
        with np.errstate(all="ignore"):
            values = random_bits(name, (60, 41)).astype(target)
        np.testing.assert_array_equal(found, values)


def test_quantized_values_are_decoded_first(engine: Engine) -> None:
    tensor = find(engine, "d", "quantized")
    plan = ReadPlan(tensor, None)
    stored = assemble(plan.result, list(engine.reader.read(tensor, plan)))
    assert cast(engine, "quantized", "float16").tobytes() == stored.astype(np.float16).tobytes()


def test_the_same_dtype_is_no_cast_and_may_go_out_as_it_is_stored(engine: Engine) -> None:
    tensor = find(engine, "d", "quantized")
    plan = ReadPlan(tensor, None, dtype_by_name("float32"))
    pieces = list(engine.reader.read(tensor, plan, frozenset({"int8_block"})))
    assert plan.cast is None
    assert all(piece.codec_ids == ("int8_block",) for piece in pieces)


@each(("source", "target"), [("float32", "int8"), ("int8", "bool"), ("complex64", "float32"), ("float32", "complex64")])
def test_other_casts_are_refused(engine: Engine, source: str, target: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"as_dtype is {target}, the tensor is {source}"):
        cast(engine, source, target)


def test_a_byte_range_cannot_be_cast(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="does not apply to a byte range, which has no dtype"):
        cast(engine, "float32", "float16", ByteRange(0, 4))
