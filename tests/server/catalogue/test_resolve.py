"""The one rule for a tensor whose id may be taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.engine import stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Resolution, StoredTensor, resolve
from tensorus_server.errors import AlreadyExistsError, GenerationMismatchError
from tensorus_server.model import Checksum, Dataset, Schema

DATASET = Dataset(1, "dataset", StoragePolicy(), Schema(), 0)
SOURCE = b"s" * 16
POLICY = StoragePolicy(preset="fast")


def stored(if_generation_match: int | None = None, **fields: Any) -> StoredTensor:
    filled: dict[str, Any] = {"source": SOURCE, "metadata": {"a": 1}, "policy": POLICY, "source_crc32c": 7}
    return stored_tensor(DATASET, "t", if_generation_match=if_generation_match, **(filled | fields))


THERE = stored().committed(generation=7, ordinal=1, created_us=0)

OTHERS = [
    pytest.param({"source": b"o" * 16}, id="values"),
    pytest.param({"shape": (2, 2)}, id="shape"),
    pytest.param({"dtype": "int8"}, id="dtype"),
]
SAID = [pytest.param({"metadata": {"a": 2}}, id="metadata"), pytest.param({"policy": None}, id="policy")]


@pytest.mark.parametrize("match", [None, 0])
def test_a_tensor_whose_id_is_free_is_inserted(match: int | None) -> None:
    assert resolve(stored(match), None, None) is Resolution.INSERT


@pytest.mark.parametrize("match", [None, 0])
@pytest.mark.parametrize("said", [pytest.param({}, id="nothing"), *SAID])
def test_the_same_values_again_are_the_same_insert_whatever_is_said_of_them(
    match: int | None, said: dict[str, Any]
) -> None:
    assert resolve(stored(match, **said), THERE, 7) is Resolution.REPEATED


@pytest.mark.parametrize("match", [None, 0])
@pytest.mark.parametrize("other", OTHERS)
def test_another_tensor_cannot_have_an_id_that_is_taken(match: int | None, other: dict[str, Any]) -> None:
    with pytest.raises(AlreadyExistsError, match=r"has this id already \[dataset=dataset, tensor=t\]") as caught:
        resolve(stored(match, **other), THERE, 7)
    assert caught.value.facts["generation"] == "7"


@pytest.mark.parametrize("other", [pytest.param({}, id="nothing"), *OTHERS, *SAID])
def test_a_replacement_takes_the_place_of_its_generation_whatever_it_is(other: dict[str, Any]) -> None:
    assert resolve(stored(7, **other), THERE, 7) is Resolution.REPLACE


def test_a_replacement_that_was_done_is_repeated() -> None:
    assert resolve(stored(6), THERE, 7) is Resolution.REPEATED


@pytest.mark.parametrize("other", [*OTHERS, *SAID])
def test_another_replacement_of_a_generation_that_is_gone_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(GenerationMismatchError, match="generation is 7, 6 was to be replaced") as caught:
        resolve(stored(6, **other), THERE, 7)
    assert caught.value.facts["generation"] == "7"


def test_a_replacement_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(GenerationMismatchError, match="there is no such tensor, generation 6 was to be replaced"):
        resolve(stored(6), None, None)


@pytest.mark.parametrize("match", [None, 6])
@pytest.mark.parametrize("resumed", ["the one that is there", "the new one"])
def test_checksums_of_different_algorithms_are_compared_by_the_crc(match: int | None, resumed: str) -> None:
    crc = Checksum("crc32c", (7).to_bytes(4, "big"))
    new, there = stored(match), THERE
    if resumed == "the new one":
        new = replace(new, source_checksum=crc)
    else:
        there = replace(there, source_checksum=crc)
    assert resolve(new, there, 7) is Resolution.REPEATED
    for known in (8, None):
        with pytest.raises((AlreadyExistsError, GenerationMismatchError)):
            resolve(new, there, known)


def test_checksums_of_one_algorithm_are_compared_by_themselves() -> None:
    # Equal by chance, a CRC must not make two tensors one.
    with pytest.raises(AlreadyExistsError):
        resolve(stored(source=b"o" * 16), THERE, 7)
    assert resolve(stored(source_crc32c=8), THERE, 7) is Resolution.REPEATED
