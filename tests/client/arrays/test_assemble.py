"""Pieces become arrays: in any order, decoded on threads, and never with a byte that did not arrive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES, assert_same_bits, normal, random_bits
from support.arrivals import CHUNK_BYTES, FOUR, assembled, at_once, began, info_of, pieces, raw, record_of, records
from tensorus._arrays import assemble
from tensorus._arrays.assemble import Assembler
from tensorus._arrays.decode import accepted_codecs, decode_record_into
from tensorus._backend import Arrival, Began, Bytes
from tensorus.errors import (
    DataCorruptError,
    UnavailableError,
)
from tensorus.types import Progress
from tensorus_codecs.pipeline import decode_chunk
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.registry import available_codecs


def plainly_decoded(array: np.ndarray[Any, Any], preset: str) -> bytes:
    """Return what decoding the records one after the other gives."""
    return b"".join(bytes(decode_chunk(piece.data)) for piece in records(array, preset))


# ---- What arrives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_bytes_become_the_array_they_are_of(assembler: Assembler, dtype: str) -> None:
    shapes: list[tuple[int, ...]] = [(), (0, 3), (5,), (50, 60)]
    for shape in shapes:
        array = random_bits(dtype, shape)
        (found,) = assembled(assembler, began(array), *pieces(array))
        assert_same_bits(found, array)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_bytes_that_come_with_the_header_become_the_same_array(assembler: Assembler, dtype: str) -> None:
    shapes: list[tuple[int, ...]] = [(), (5,), (50, 60)]
    for shape in shapes:
        array = random_bits(dtype, shape)
        (found,) = assembled(assembler, at_once(array))
        assert_same_bits(found, array)
        assert found.flags.owndata
        assert found.flags.writeable


@pytest.mark.parametrize("data", [b"abc", b"abcde", b""], ids=["short", "long", "empty"])
def test_bytes_that_come_with_the_header_must_be_all(assembler: Assembler, data: bytes) -> None:
    arrivals = [replace(began(FOUR), data=memoryview(data)), at_once(FOUR, item=1)]
    with pytest.raises(DataCorruptError, match="bytes"):
        assembled(assembler, *arrivals)


def test_a_tensor_may_begin_again_at_once(assembler: Assembler) -> None:
    first, again = began(FOUR), replace(at_once(FOUR), restarts=True)
    (found,) = assembled(assembler, first, raw(b"x"), again)
    assert_same_bits(found, FOUR)


@pytest.mark.parametrize("preset", PRESETS)
def test_records_decode_as_they_decode_plainly(assembler: Assembler, preset: str) -> None:
    array = normal((60, 1000))
    (found,) = assembled(assembler, began(array), *records(array, preset))
    assert found.tobytes() == plainly_decoded(array, preset)


MIXED = normal((11, 1000))
PLAIN, ENCODED = pieces(MIXED), records(MIXED, "lossless")


@given(
    order=st.permutations(range(len(PLAIN))),
    encoded=st.lists(st.booleans(), min_size=11, max_size=11),
    threads=st.integers(0, 2),
)
def test_the_order_of_the_pieces_does_not_matter(order: list[int], encoded: list[bool], threads: int) -> None:
    assembler = Assembler(threads)
    try:
        (found,) = assembled(assembler, began(MIXED), *(ENCODED[at] if encoded[at] else PLAIN[at] for at in order))
    finally:
        assembler.close()
    assert_same_bits(found, MIXED)


def test_an_empty_tensor_is_complete_when_it_begins(assembler: Assembler) -> None:
    empty, other = np.empty((3, 0), np.float32), np.ones(2)
    found = assembled(assembler, began(empty), began(other, 1), *pieces(other, 1))
    assert [array.shape for array in found] == [(3, 0), (2,)]


def test_tensors_come_out_one_after_the_other(assembler: Assembler) -> None:
    arrays = [normal((1, 3000)), np.arange(3), normal((2, 3000), seed=1)]
    arrivals: list[Arrival] = []
    for item, array in enumerate(arrays):
        arrivals += [began(array, item, f"t{item}"), *records(array, "lossless", item)]
    found = list(assembler.assemble(iter(arrivals)))
    assert [info.id for info, _ in found] == ["t0", "t1", "t2"]
    for (_, array), expected in zip(found, arrays, strict=True):
        assert_same_bits(array, expected)


def test_a_tensor_comes_out_before_the_next_is_asked_for(assembler: Assembler) -> None:
    array = np.ones(2)

    def arrivals() -> Iterator[Arrival]:
        yield began(array)
        yield from pieces(array)
        raise AssertionError("asked for too early")

    assert next(assembler.assemble(arrivals()))[1].tolist() == [1, 1]


def test_a_part_has_the_shape_of_the_part(assembler: Assembler) -> None:
    whole, part = np.arange(12.0).reshape(3, 4), np.arange(2.0).reshape(1, 2)
    arrivals = [Began(0, info_of(whole), (1, 2)), *pieces(part)]
    ((info, found),) = assembler.assemble(iter(arrivals))
    assert info.shape == (3, 4)
    assert_same_bits(found, part)


def test_bytes_are_copied_out_of_their_message(assembler: Assembler) -> None:
    message = bytearray(b"abcd")
    array = np.frombuffer(b"abcd", np.uint8)
    arrival = Bytes(0, 0, memoryview(message), encoded=False, decoded_length=4)
    (found,) = assembled(assembler, began(array), arrival)
    message[:] = b"wxyz"
    assert found.tobytes() == b"abcd"


# ---- Progress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pieces, lambda array: records(array, "lossless")], ids=["bytes", "records"])
def test_progress_counts_canonical_bytes_up_to_all_of_them(
    assembler: Assembler, make: Callable[[np.ndarray[Any, Any]], list[Bytes]]
) -> None:
    array = normal((10, 1024))
    reported: list[Progress] = []
    list(assembler.assemble(iter([began(array), *make(array)]), reported.append))
    assert reported == [Progress("t", CHUNK_BYTES * count, array.nbytes) for count in range(1, 11)]


def test_progress_of_bytes_that_come_with_the_header_is_all_of_them(assembler: Assembler) -> None:
    reported: list[Progress] = []
    list(assembler.assemble(iter([at_once(FOUR)]), reported.append))
    assert reported == [Progress("t", 4, 4)]


def test_progress_of_a_part_counts_the_part(assembler: Assembler) -> None:
    whole, part = np.arange(12.0), np.arange(2.0)
    reported: list[Progress] = []
    list(assembler.assemble(iter([Began(0, info_of(whole), (2,)), *pieces(part)]), reported.append))
    assert reported == [Progress("t", 16, 16)]


# ---- Threads ------------------------------------------------------------------------------------------------------------


class Later:
    """A decode that happens when somebody waits for it."""

    def __init__(self, pool: LazyPool, work: Callable[[], None]) -> None:
        self._pool = pool
        self._work = work

    def result(self) -> None:
        self._pool.waiting -= 1
        self._work()


class LazyPool:
    """Threads that begin nothing by themselves: the most records that can wait do."""

    def __init__(self) -> None:
        self.waiting = 0
        self.waiting_max = 0

    def submit(self, work: Callable[..., None], *arguments: Any) -> Later:
        self.waiting += 1
        self.waiting_max = max(self.waiting_max, self.waiting)
        return Later(self, lambda: work(*arguments))

    def shutdown(self, **_: Any) -> None:
        pass


def test_only_a_few_records_are_in_memory_at_a_time(threaded: Assembler) -> None:
    pool = LazyPool()
    threaded._pool = pool  # type: ignore[assignment]
    array = normal((50, 1000))
    (found,) = assembled(threaded, began(array), *records(array, "lossless"))
    assert_same_bits(found, array)
    assert pool.waiting_max == assemble._DECODES_MAX == 4
    assert pool.waiting == 0


def test_bytes_as_they_are_need_no_threads(threaded: Assembler) -> None:
    array = normal((50, 1000))
    assembled(threaded, began(array), *pieces(array))
    assert threaded._pool is not None
    assert not threaded._pool._threads


def test_threads_end_with_the_assembler() -> None:
    assembler = Assembler(2)
    array = normal((50, 1000))
    assembled(assembler, began(array), *records(array, "lossless"))
    assert assembler._pool is not None
    threads = list(assembler._pool._threads)
    assert threads
    assembler.close()
    assembler.close()
    assert not any(thread.is_alive() for thread in threads)


def test_an_assembler_without_threads_can_be_closed() -> None:
    Assembler(2).close()
    Assembler(0).close()


@pytest.mark.parametrize(("processors", "threads"), [(None, 0), (1, 0), (2, 0), (3, 1), (16, 14)])
def test_two_processors_have_enough_to_do(
    monkeypatch: pytest.MonkeyPatch, processors: int | None, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert Assembler()._threads == threads


def test_a_record_that_arrives_after_the_end_of_the_threads_is_an_error_of_ours(threaded: Assembler) -> None:
    array = normal((50, 1000))
    assembled(threaded, began(array), *records(array, "lossless"))
    threaded.close()
    with pytest.raises(UnavailableError, match="closed"):
        assembled(threaded, began(array), *records(array, "lossless"))


# ---- Codecs -------------------------------------------------------------------------------------------------------------


def test_the_codecs_that_can_be_decoded_are_those_that_are_installed_and_need_no_base() -> None:
    assert accepted_codecs() == tuple(entry.id for entry in available_codecs() if entry.id != "int_delta")
    assert {"fp16", "int8_block", "planes", "rotated_planes", "gzip"} <= set(accepted_codecs())


def test_a_record_decodes_to_its_canonical_bytes() -> None:
    array, target = normal((100,)), bytearray(400)
    decode_record_into(record_of(array.tobytes(), "float32", "lossless"), memoryview(target))
    assert target == array.tobytes()
