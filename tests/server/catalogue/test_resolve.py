"""The one rule for a tensor whose id may be taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.cases import each
from support.engine import stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.catalogue.resolve import bounded_json, resolve, same_json
from tensorus_server.errors import AlreadyExistsError, EngineError, GenerationMismatchError, StoredDifferentlyError
from tensorus_server.model import Checksum, Dataset, Outcome, Schema, Tensor

DATASET = Dataset(1, "dataset", StoragePolicy(), Schema(), 0)
SOURCE = b"s" * 16
POLICY = StoragePolicy(preset="fast")


def stored(if_generation_match: int | None = None, **fields: Any) -> StoredTensor:
    """Return the tensor of an insert; `errors` makes it lossy: its relative and its largest error."""
    filled: dict[str, Any] = {"source": SOURCE, "metadata": {"a": 1}, "policy": POLICY, "source_crc32c": 7}
    filled |= fields
    errors, replaces = filled.pop("errors", None), filled.pop("replace", False)
    if errors is not None:
        filled |= {"lossy": True, "relative_error": errors[0], "max_absolute_error": errors[1]}
    made = stored_tensor(DATASET, "t", if_generation_match=if_generation_match, **filled)
    made = replace(made, new=replace(made.new, replace=replaces))
    # What readers get is what was sent, or differs with every encoding.
    return made if errors is None else replace(made, value_checksum=Checksum("xxh3_128", repr(errors).encode()))


def there(**fields: Any) -> Tensor:
    return stored(**fields).committed(generation=7, ordinal=1, created_us=0)


THERE = there()

OTHERS = [
    pytest.param({"source": b"o" * 16}, id="values"),
    pytest.param({"shape": (2, 2)}, id="shape"),
    pytest.param({"dtype": "int8"}, id="dtype"),
]
SAID = [
    pytest.param({"metadata": {"a": 2}}, id="metadata"),
    pytest.param({"metadata": {}}, id="no metadata"),
    pytest.param({"policy": None}, id="policy"),
]


@each("how", [{}, {"if_generation_match": 0}, {"replace": True}])
def test_a_tensor_whose_id_is_free_is_inserted(how: dict[str, Any]) -> None:
    assert resolve(stored(**how), None, None) is Outcome.INSERTED


@each("other", OTHERS)
def test_another_tensor_cannot_have_an_id_that_is_taken_and_the_message_says_how_it_can(other: dict[str, Any]) -> None:
    with pytest.raises(AlreadyExistsError, match=r'on_conflict="replace" .* \[dataset=dataset, tensor=t\]') as caught:
        resolve(stored(**other), THERE, 7)
    assert caught.value.reason == "ALREADY_EXISTS"
    assert caught.value.facts["generation"] == "7"


class TestTheSameValues:
    """An insert of the values that are there is done already, or is refused: it never passes for what it is not."""

    @each(
        "said",
        [
            pytest.param({}, id="nothing"),
            pytest.param({"policy": None}, id="another lossless policy"),
            pytest.param({"metadata": {}}, id="no metadata"),
            pytest.param({"errors": (0.1, 0.5)}, id="a lossy policy"),
        ],
    )
    def test_are_stored_already_where_all_that_is_asked_for_is_kept(self, said: dict[str, Any]) -> None:
        assert resolve(stored(**said), THERE, 7) is Outcome.ALREADY_STORED

    @each(
        ("asked", "has"),
        [({"a": 2}, {"a": 1}), ({"a": 1}, {}), ({"a": 1}, {"a": 1.0}), ({"a": 1}, {"a": True}), ({"a": 1}, {"b": 1})],
    )
    def test_with_other_metadata_are_refused_and_the_message_has_both(
        self, asked: dict[str, Any], has: dict[str, Any]
    ) -> None:
        with pytest.raises(StoredDifferentlyError) as caught:
            resolve(stored(metadata=asked), there(metadata=has), 7)
        assert f"with other metadata: {bounded_json(has)}, this insert has {bounded_json(asked)}" in str(caught.value)
        assert 'on_conflict="replace"' in str(caught.value)
        assert (caught.value.reason, caught.value.facts["generation"]) == ("STORED_DIFFERENTLY", "7")

    def test_have_the_same_metadata_where_one_of_them_is_nan(self) -> None:
        assert resolve(stored(metadata={"a": float("nan")}), there(metadata={"a": float("nan")}), 7) is (
            Outcome.ALREADY_STORED
        )

    @each(
        ("asked", "has"),
        [
            pytest.param({}, {"errors": (1e-3, 0.1)}, id="lossless"),
            pytest.param({"errors": (1e-4, 0.1)}, {"errors": (1e-3, 0.1)}, id="more exact"),
            pytest.param(
                {"errors": (1e-3, 0.1), "policy": StoragePolicy("maximum", max_absolute_error=0.1)},
                {"errors": (1e-4, 0.2)},
                id="with a smaller largest error",
            ),
        ],
    )
    def test_that_are_stored_less_exactly_than_asked_for_are_refused(
        self, asked: dict[str, Any], has: dict[str, Any]
    ) -> None:
        with pytest.raises(StoredDifferentlyError, match=r"less exactly: relative error .*on_conflict") as caught:
            resolve(stored(**asked), there(**has), 7)
        assert caught.value.facts["stored_relative_error"] == str(has["errors"][0])

    @each(
        ("asked", "has"),
        [
            pytest.param({"errors": (1e-3, 0.1)}, {"errors": (1e-3, 0.1)}, id="as exactly"),
            pytest.param({"errors": (1e-3, 0.1)}, {"errors": (1e-4, 0.1)}, id="more exactly"),
            pytest.param({"errors": (1e-3, 0.1)}, {"errors": (1e-4, 0.2)}, id="with a larger largest error"),
        ],
    )
    def test_that_are_stored_at_least_as_exactly_are_stored_already(
        self, asked: dict[str, Any], has: dict[str, Any]
    ) -> None:
        assert resolve(stored(**asked), there(**has), 7) is Outcome.ALREADY_STORED

    def test_that_readers_get_as_this_insert_would_store_them_are_stored_already_whatever_was_measured(self) -> None:
        has = replace(there(errors=(2.0, 2.0)), value_checksum=stored(errors=(1.0, 1.0)).value_checksum)
        assert resolve(stored(errors=(1.0, 1.0)), has, 7) is Outcome.ALREADY_STORED

    def test_are_refused_in_a_message_of_bounded_length(self) -> None:
        with pytest.raises(StoredDifferentlyError) as caught:
            resolve(stored(metadata={"a": "x" * 60_000}), there(metadata={"b": "y" * 60_000}), 7)
        assert len(str(caught.value)) < 700


class TestReplacing:
    """`replace` takes the place of whatever is there; done twice, it is done once."""

    @each("other", [*OTHERS, *SAID, pytest.param({"errors": (0.1, 0.1)}, id="errors")])
    def test_whatever_is_there_is_replaced(self, other: dict[str, Any]) -> None:
        assert resolve(stored(replace=True, **other), THERE, 7) is Outcome.REPLACED

    def test_what_is_there_exactly_so_is_not_replaced_again(self) -> None:
        assert resolve(stored(replace=True), THERE, 7) is Outcome.ALREADY_STORED

    def test_what_another_policy_of_the_dataset_stored_otherwise_is_replaced(self) -> None:
        has = there(policy=None, stored_bytes=20)
        assert resolve(stored(replace=True, policy=None), has, 7) is Outcome.REPLACED


class TestGenerations:
    """`if_generation_match` replaces one generation; 0 replaces none."""

    @each("other", [pytest.param({}, id="nothing"), *OTHERS, *SAID])
    def test_a_replacement_takes_the_place_of_its_generation_whatever_it_is(self, other: dict[str, Any]) -> None:
        assert resolve(stored(7, **other), THERE, 7) is Outcome.REPLACED

    @pytest.mark.parametrize("match", [0, 6])
    def test_one_that_was_done_is_repeated(self, match: int) -> None:
        assert resolve(stored(match), THERE, 7) is Outcome.ALREADY_STORED

    @each("other", [*OTHERS, *SAID])
    def test_another_one_of_a_generation_that_is_gone_is_refused(self, other: dict[str, Any]) -> None:
        with pytest.raises(GenerationMismatchError, match="generation is 7, 6 was to be replaced") as caught:
            resolve(stored(6, **other), THERE, 7)
        assert caught.value.facts["generation"] == "7"

    @each("other", [*OTHERS, *SAID])
    def test_zero_is_refused_where_the_id_is_taken(self, other: dict[str, Any]) -> None:
        with pytest.raises(GenerationMismatchError, match="has this id already, and the id was to be free"):
            resolve(stored(0, **other), THERE, 7)

    def test_a_replacement_of_what_is_not_there_is_refused(self) -> None:
        with pytest.raises(GenerationMismatchError, match="there is no such tensor, generation 6 was to be replaced"):
            resolve(stored(6), None, None)


@each("match", [None, 6])
@each("resumed", ["the one that is there", "the new one"])
def test_checksums_of_different_algorithms_are_compared_by_the_crc(match: int | None, resumed: str) -> None:
    crc = Checksum("crc32c", (7).to_bytes(4, "big"))
    new, has = stored(match), THERE
    if resumed == "the new one":
        new = replace(new, source_checksum=crc)
    else:
        has = replace(has, source_checksum=crc)
    assert resolve(new, has, 7) is Outcome.ALREADY_STORED
    for known in (8, None):
        with pytest.raises(EngineError):
            resolve(new, has, known)


def test_checksums_of_one_algorithm_are_compared_by_themselves() -> None:
    # Equal by chance, a CRC must not make two tensors one.
    with pytest.raises(AlreadyExistsError):
        resolve(stored(source=b"o" * 16), THERE, 7)
    assert resolve(stored(source_crc32c=8), THERE, 7) is Outcome.ALREADY_STORED


def test_the_order_of_keys_makes_no_other_metadata() -> None:
    assert same_json({"a": 1, "b": {"c": 1, "d": [2]}}, {"b": {"d": [2], "c": 1}, "a": 1})
    assert not same_json({"a": [1, 2]}, {"a": [2, 1]})
