"""Chunks that are merged as an edit plan says are those of an array that NumPy changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import random_bits
from support.engine import announce, spec_of, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.insert.edit_plan import EditPlan
from tensorus_server.model import Append, Dataset, Edit, Schema, SliceSet, Tensor, Write

DATASET = Dataset(1, "d", StoragePolicy(), Schema(), 0)

shapes = st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple)
dtypes = st.sampled_from(["uint8", "int16", "float32", "complex128"])
chunk_elements = st.integers(1, 40)


def base_of(array: np.ndarray[Any, Any], chunk_bytes: int) -> Tensor:
    """Return a tensor with the spec of an array."""
    stored = replace(stored_tensor(DATASET, "t", dtype=array.dtype.name, shape=array.shape), chunk_bytes=chunk_bytes)
    return stored.committed(1, 1, 0)


def assert_merged(
    old: np.ndarray[Any, Any], new: np.ndarray[Any, Any], sent: np.ndarray[Any, Any], edit: Edit, elements: int
) -> None:
    """Check that an edit makes `new` of `old`, chunk by chunk, and that it touches no other chunks."""
    chunk_bytes = elements * old.dtype.itemsize
    plan = EditPlan(base_of(old, chunk_bytes), announce("t", sent, edit=edit))
    assert plan.spec == spec_of(new)
    before, after, given_bytes = old.tobytes(), new.tobytes(), memoryview(sent.tobytes())
    merged = bytearray(before.ljust(len(after), b"\0"))
    at, last = 0, -1
    for touched in plan.touched():
        assert touched.chunk > last
        last = touched.chunk
        start = touched.chunk * chunk_bytes
        part = given_bytes[at : at + touched.sent_bytes]
        at += touched.sent_bytes
        old_chunk = memoryview(before[start : start + chunk_bytes])
        chunk = plan.merge(touched, old_chunk, part)
        assert len(chunk) == touched.canonical_bytes
        assert plan.sent_part(touched, memoryview(chunk)) == part
        assert plan.keeps(touched, old_chunk, memoryview(chunk))
        assert touched.is_whole == (part.nbytes == len(chunk))
        merged[start : start + len(chunk)] = chunk
    assert at == given_bytes.nbytes
    assert bytes(merged) == after


@st.composite
def indexes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Draw slices with positive steps that do not go beyond the ends, of the first axes."""
    found = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        start, stop = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
        found.append(slice(start, stop, draw(st.integers(1, 3))))
    return tuple(found)


@given(st.data(), shapes, dtypes, chunk_elements)
def test_a_write_is_numpys_assignment(data: st.DataObject, shape: tuple[int, ...], dtype: str, elements: int) -> None:
    old = random_bits(dtype, shape, seed=1)
    index = data.draw(indexes(shape))
    new = old.copy()
    sent = random_bits(dtype, new[index].shape, seed=2)
    new[index] = sent
    assert_merged(old, new, sent, Write(SliceSet(index)), elements)


@given(shapes, st.integers(0, 3), st.integers(0, 9), dtypes, chunk_elements)
def test_an_append_is_numpys_concatenation(
    inner: tuple[int, ...], ones: int, count: int, dtype: str, elements: int
) -> None:
    shape = (1,) * ones + inner
    old = random_bits(dtype, shape, seed=1)
    sent = random_bits(dtype, (*shape[:ones], count, *shape[ones + 1 :]), seed=2)
    new = np.concatenate([old, sent], axis=ones)
    for axis in (ones, ones - len(shape)):
        assert_merged(old, new, sent, Append(axis), elements)


@given(st.data(), dtypes, chunk_elements)
def test_a_chunk_with_another_byte_that_the_edit_does_not_write_is_not_kept(
    data: st.DataObject, dtype: str, elements: int
) -> None:
    old = random_bits(dtype, (9, 5), seed=1)
    index = data.draw(indexes(old.shape))
    sent = random_bits(dtype, old[index].shape, seed=2)
    chunk_bytes = elements * old.itemsize
    plan = EditPlan(base_of(old, chunk_bytes), announce("t", sent, edit=Write(SliceSet(index))))
    written = np.zeros(old.shape, bool)
    written[index] = True
    kept = np.repeat(~written.reshape(-1), old.itemsize)
    before = old.tobytes()
    at = 0
    for touched in plan.touched():
        start = touched.chunk * chunk_bytes
        old_chunk = memoryview(before[start : start + chunk_bytes])
        chunk = plan.merge(touched, old_chunk, memoryview(sent.tobytes())[at : at + touched.sent_bytes])
        at += touched.sent_bytes
        place = data.draw(st.integers(0, len(chunk) - 1))
        chunk[place] ^= 1
        assert plan.keeps(touched, old_chunk, memoryview(chunk)) == (not kept[start + place])


def test_edits_have_the_same_layout_where_the_tensor_has_the_same_shape() -> None:
    one, other, longer = (np.zeros(shape, np.uint8) for shape in ((3, 4), (3, 4), (4, 4)))
    sent = announce("t", np.zeros((1, 4), np.uint8), edit=Append(0))
    plans = [EditPlan(base_of(array, 4), sent) for array in (one, other, longer)]
    assert plans[0].same_layout(plans[1])
    assert not plans[0].same_layout(plans[2])
