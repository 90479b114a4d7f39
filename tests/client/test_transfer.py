"""Pieces become arrays: in any order, decoded on threads, and never with a byte that did not arrive."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import crc32c
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES, assert_same_bits, canonical, normal, random_bits
from tensorus import _transfer
from tensorus._backend import Arrival, Began, Bytes, Failed
from tensorus._decode import accepted_codecs, decode_record_into
from tensorus._transfer import Assembler
from tensorus.errors import (
    DataCorruptError,
    TensorNotFoundError,
    TensorusError,
    UnavailableError,
    UnsupportedDTypeError,
)
from tensorus.types import Progress, TensorInfo
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.registry import available_codecs

CHUNK_BYTES = 4096


def info_of(array: np.ndarray[Any, Any], tensor_id: str = "t", dtype: str | None = None) -> TensorInfo:
    return TensorInfo(
        dataset="d",
        id=tensor_id,
        dtype=dtype or array.dtype.name,
        shape=array.shape,
        metadata={},
        generation=1,
        ordinal=1,
        canonical_bytes=array.nbytes,
        quantized_bytes=array.nbytes,
        stored_bytes=array.nbytes,
        lossy=False,
        relative_error=0.0,
        max_absolute_error=0.0,
        encodings=(),
        fallback_reason="",
        values=None,
        source_checksum="",
        value_checksum="",
        created=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )


def began(array: np.ndarray[Any, Any], item: int = 0, tensor_id: str = "t") -> Began:
    return Began(item, info_of(array, tensor_id), array.shape)


def at_once(array: np.ndarray[Any, Any], item: int = 0) -> Began:
    """Return the array with all of its bytes."""
    return replace(began(array, item), data=memoryview(canonical(array)))


def raw(data: bytes, offset: int = 0, item: int = 0) -> Bytes:
    return Bytes(item, offset, memoryview(data), encoded=False, decoded_length=len(data))


def pieces(array: np.ndarray[Any, Any], item: int = 0) -> list[Bytes]:
    """Return the array's bytes as they are, in chunks."""
    data = canonical(array)
    return [raw(data[start : start + CHUNK_BYTES], start, item) for start in range(0, len(data), CHUNK_BYTES)]


def record_of(data: bytes, dtype: str, preset: str) -> bytes:
    kind = dtype_by_name(dtype)
    return b"".join(bytes(piece) for piece in encode_chunk(data, kind, plan(StoragePolicy(preset), kind)).record)


def records(array: np.ndarray[Any, Any], preset: str, item: int = 0) -> list[Bytes]:
    """Return the array's bytes as chunk records."""
    return [
        Bytes(
            item,
            piece.offset,
            memoryview(record_of(bytes(piece.data), array.dtype.name, preset)),
            encoded=True,
            decoded_length=piece.decoded_length,
        )
        for piece in pieces(array, item)
    ]


def plainly_decoded(array: np.ndarray[Any, Any], preset: str) -> bytes:
    """Return what decoding the records one after the other gives."""
    return b"".join(bytes(decode_chunk(piece.data)) for piece in records(array, preset))


@pytest.fixture(params=[2, 0], ids=["on threads", "by who takes"])
def assembler(request: pytest.FixtureRequest) -> Iterator[Assembler]:
    made = Assembler(request.param)
    yield made
    made.close()


@pytest.fixture
def threaded() -> Iterator[Assembler]:
    """An assembler that decodes on threads."""
    made = Assembler(2)
    yield made
    made.close()


def assembled(assembler: Assembler, *arrivals: Arrival) -> list[np.ndarray[Any, Any]]:
    return [array for _, array in assembler.assemble(iter(arrivals))]


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


# ---- What must not arrive -----------------------------------------------------------------------------------------------

FOUR = np.arange(4, dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrivals", "match"),
    [
        pytest.param([raw(b"abcd")], "bytes arrived for a tensor that had not begun", id="bytes before their tensor"),
        pytest.param(
            [began(FOUR), raw(b"abcd", item=1)], "bytes arrived for a tensor that had not begun", id="another's bytes"
        ),
        pytest.param(
            [began(FOUR), raw(b"abcd"), raw(b"abcd")],
            "bytes arrived for a tensor that had not begun",
            id="bytes after its last ones",
        ),
        pytest.param(
            [began(FOUR), raw(b"abcde")], "bytes up to 5 arrived, the tensor has 4", id="more than the tensor has"
        ),
        pytest.param(
            [began(FOUR), raw(b"ab", 3)], "bytes up to 5 arrived, the tensor has 4", id="beyond the end of the tensor"
        ),
        pytest.param(
            [began(FOUR), raw(b"a", 2**40)], "bytes up to 1099511627777 arrived", id="far beyond the end of the tensor"
        ),
        pytest.param(
            [began(FOUR), Bytes(0, 0, memoryview(b"x"), encoded=True, decoded_length=5)],
            "bytes up to 5 arrived, the tensor has 4",
            id="a record that claims more than the tensor has",
        ),
    ],
)
def test_bytes_without_a_place_are_damage(assembler: Assembler, arrivals: list[Arrival], match: str) -> None:
    with pytest.raises(DataCorruptError, match=match) as caught:
        assembled(assembler, *arrivals)
    assert caught.value.reason == "DATA_CORRUPT"


def test_damage_names_its_tensor(assembler: Assembler) -> None:
    with pytest.raises(DataCorruptError, match=r"^2 of 4 bytes arrived \[dataset=d, tensor=t\]$") as caught:
        assembled(assembler, began(FOUR), raw(b"ab"))
    assert caught.value.facts == {"dataset": "d", "tensor": "t"}


def test_a_record_that_decodes_to_another_length_is_damage(assembler: Assembler) -> None:
    array = normal((4,))
    record = record_of(array.tobytes(), "float32", "none")
    arrival = Bytes(0, 0, memoryview(record), encoded=True, decoded_length=12)
    whole = normal((3,))
    with pytest.raises(DataCorruptError, match="chunk record decodes to 16 bytes, 12 are expected"):
        assembled(assembler, began(whole), arrival)


@pytest.mark.parametrize("record", [b"", b"\x01", bytes(40), b"\xff" * 40], ids=["empty", "a byte", "zeros", "ones"])
def test_what_is_no_record_is_damage(assembler: Assembler, record: bytes) -> None:
    arrival = Bytes(0, 0, memoryview(record), encoded=True, decoded_length=4)
    with pytest.raises(DataCorruptError, match="chunk record"):
        assembled(assembler, began(FOUR), arrival)


def test_a_damaged_record_among_many_is_found(assembler: Assembler) -> None:
    array = normal((30, 1000))
    arrivals: list[Arrival] = [began(array), *records(array, "lossless")]
    broken = arrivals[15]
    assert isinstance(broken, Bytes)
    arrivals[15] = Bytes(0, broken.offset, memoryview(b"\xff" * 40), encoded=True, decoded_length=broken.decoded_length)
    with pytest.raises(DataCorruptError, match="chunk record"):
        assembled(assembler, *arrivals)


def test_an_unknown_dtype_is_refused_before_its_bytes_arrive(assembler: Assembler) -> None:
    unknown = Began(0, info_of(FOUR, dtype="dtype_77"), (4,))
    with pytest.raises(UnsupportedDTypeError, match="dtype 'dtype_77' is not known"):
        assembled(assembler, unknown)


@pytest.mark.parametrize(
    "arrivals",
    [
        pytest.param([began(FOUR), raw(b"ab"), raw(b"ab")], id="the same bytes twice"),
        pytest.param([began(FOUR), raw(b"ab"), raw(b"bc", 1)], id="bytes that overlap"),
    ],
)
def test_bytes_that_come_twice_do_not_stand_for_those_that_are_missing(
    assembler: Assembler, arrivals: list[Arrival]
) -> None:
    # The array is not initialized: what never arrived would be whatever the memory held before.
    with pytest.raises(DataCorruptError):
        assembled(assembler, *arrivals)


@pytest.mark.parametrize(
    "arrivals",
    [
        pytest.param([began(FOUR)], id="before its first byte"),
        pytest.param([began(FOUR), raw(b"ab")], id="in its middle"),
        pytest.param([began(FOUR), raw(b"ab"), began(FOUR, 1), raw(b"abcd", item=1)], id="where the next one begins"),
    ],
)
def test_a_tensor_that_breaks_off_is_not_passed_over(assembler: Assembler, arrivals: list[Arrival]) -> None:
    with pytest.raises(TensorusError):
        assembled(assembler, *arrivals)


def test_a_failure_is_raised_at_its_place(assembler: Assembler) -> None:
    error = TensorNotFoundError("there is no such tensor", reason="TENSOR_NOT_FOUND")
    found = assembler.assemble(iter([began(FOUR), raw(b"abcd"), Failed(1, error), began(FOUR, 2)]))
    assert next(found)[1].tobytes() == b"abcd"
    with pytest.raises(TensorNotFoundError) as caught:
        next(found)
    assert caught.value is error


def test_a_tensor_that_fails_in_its_middle_does_not_come_out(assembler: Assembler) -> None:
    error = DataCorruptError("chunk 1 is damaged", reason="DATA_CORRUPT")
    with pytest.raises(DataCorruptError, match="chunk 1 is damaged"):
        assembled(assembler, began(FOUR), raw(b"ab"), Failed(0, error))


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
    assert pool.waiting_max == _transfer._DECODES_MAX == 4
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


def test_the_codecs_that_can_be_decoded_are_those_that_are_installed() -> None:
    assert accepted_codecs() == tuple(entry.id for entry in available_codecs())
    assert {"fp16", "int8_block", "planes", "rotated_planes", "gzip"} <= set(accepted_codecs())


def test_a_record_decodes_to_its_canonical_bytes() -> None:
    array, target = normal((100,)), bytearray(400)
    decode_record_into(record_of(array.tobytes(), "float32", "lossless"), memoryview(target))
    assert target == array.tobytes()


class TestValueChecksum:
    """A whole tensor is compared with its value checksum, however it came."""

    @staticmethod
    def sums(array: np.ndarray[Any, Any]) -> list[bytes]:
        data = canonical(array)
        return [xxhash.xxh3_128_digest(data), crc32c.crc32c(data).to_bytes(4, "big"), b"of another kind"]

    @pytest.mark.parametrize("kind", [0, 1, 2])
    @pytest.mark.parametrize("order", [1, -1])
    def test_what_was_written_comes_out(self, assembler: Assembler, kind: int, order: int) -> None:
        array = normal((3000,), "float32")
        start = replace(began(array), checksum=self.sums(array)[kind])
        for arrived in (pieces(array), records(array, "lossless")):
            (found,) = assembled(assembler, start, *arrived[::order])
            assert_same_bits(found, array)
        (found,) = assembled(assembler, replace(at_once(array), checksum=start.checksum))
        assert_same_bits(found, array)

    @pytest.mark.parametrize("kind", [0, 1])
    @pytest.mark.parametrize("order", [1, -1])
    def test_anything_else_is_damage_and_names_its_tensor(self, assembler: Assembler, kind: int, order: int) -> None:
        array = normal((3000,), "float32")
        other = array.copy()
        other[1234] += 1
        start = replace(began(array), checksum=self.sums(other)[kind])
        for arrived in ([start, *pieces(array)[::order]], [start, *records(array, "lossless")[::order]]):
            with pytest.raises(DataCorruptError, match=r"value checksum \[dataset=d, tensor=t\]"):
                assembled(assembler, *arrived)
        with pytest.raises(DataCorruptError, match=r"\[dataset=d, tensor=t\]"):
            assembled(assembler, replace(at_once(array), checksum=start.checksum))


def test_whoever_wants_to_know_hears_of_what_is_damaged_and_the_others_come_out(assembler: Assembler) -> None:
    arrays = [normal((3000,), "float32") + number for number in range(3)]
    broken = [began(arrays[1], 1, "broken"), *pieces(arrays[1], 1)]
    broken.insert(2, replace(broken[1], item=1, offset=10**6))
    arrivals: list[Arrival] = [began(arrays[0], 0), *pieces(arrays[0], 0), *broken]
    failed = DataCorruptError("gone", reason="DATA_CORRUPT")
    arrivals += [
        began(arrays[2], 2),
        pieces(arrays[2], 2)[0],
        Failed(2, failed),
        began(arrays[2], 3),
        *pieces(arrays[2], 3),
    ]
    damages: list[DataCorruptError] = []
    found = [array for _, array in assembler.assemble(iter(arrivals), on_damaged=damages.append)]
    assert [array.tolist() for array in found] == [arrays[0].tolist(), arrays[2].tolist()]
    assert len(damages) == 2
    assert "tensor=broken" in str(damages[0])
    assert damages[1] is failed
