"""The assembly of tensors from bytes that are not all there, not theirs, or not what was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import crc32c
import numpy as np
import pytest
import xxhash

from support.arrays import assert_same_bits, canonical, normal
from support.arrivals import FOUR, assembled, at_once, began, info_of, pieces, raw, record_of, records
from tensorus._arrays.assemble import Assembler
from tensorus._backend import Arrival, Began, Bytes, Failed
from tensorus.errors import (
    DataCorruptError,
    TensorNotFoundError,
    TensorusError,
    UnsupportedDTypeError,
)


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


@pytest.mark.parametrize("short", [0, 1, 2])
def test_a_tensor_that_breaks_off_is_told_of_by_name_and_the_others_come_out(assembler: Assembler, short: int) -> None:
    arrivals: list[Arrival] = []
    for number, tensor_id in enumerate("abc"):
        arrivals += [began(FOUR, number, tensor_id), raw(b"ab" if number == short else b"abcd", item=number)]
    damages: list[DataCorruptError] = []
    found = [info.id for info, _ in assembler.assemble(iter(arrivals), on_damaged=damages.append)]
    assert [damage.facts["tensor"] for damage in damages] == ["abc"[short]]
    assert sorted([*found, "abc"[short]]) == ["a", "b", "c"]


def test_what_is_told_of_a_tensor_that_breaks_off_is_told_once(assembler: Assembler) -> None:
    told: list[DataCorruptError] = []

    def refuse(damage: DataCorruptError) -> None:
        told.append(damage)
        raise damage

    with pytest.raises(DataCorruptError):
        list(assembler.assemble(iter([began(FOUR), raw(b"ab"), began(FOUR, 1)]), on_damaged=refuse))
    assert len(told) == 1
