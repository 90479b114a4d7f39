"""A quick dataclass is a frozen one in everything but that nothing refuses a change at run time."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import asdict, dataclass, field, fields, replace

import pytest

from tensorus_codecs.quick import quick


@dataclass(frozen=True)
class Frozen:
    """What is compared with."""

    first: int
    second: str = "two"
    third: list[int] = field(default_factory=list, compare=False)
    fourth: bytes | None = field(default=None, repr=False)


@quick
class Quick:
    """The same fields."""

    first: int
    second: str = "two"
    third: list[int] = field(default_factory=list, compare=False)
    fourth: bytes | None = field(default=None, repr=False)


@pytest.mark.parametrize(
    "arguments", [{"first": 1}, {"first": 1, "second": "2"}, {"first": 1, "third": [3], "fourth": b"4"}], ids=str
)
def test_it_has_the_same_fields(arguments: dict[str, object]) -> None:
    quick_one, frozen = Quick(**arguments), Frozen(**arguments)  # type: ignore[arg-type]
    assert asdict(quick_one) == asdict(frozen)
    assert repr(quick_one) == repr(frozen).replace("Frozen", "Quick")
    assert hash(quick_one) == hash((1, quick_one.second, quick_one.fourth))


def test_it_is_made_as_a_frozen_one() -> None:
    made, expected = inspect.signature(Quick).parameters, inspect.signature(Frozen).parameters
    assert [(one.name, one.kind) for one in made.values()] == [(one.name, one.kind) for one in expected.values()]
    assert Quick(1, "2", [3], b"4") == Quick(fourth=b"4", third=[3], second="2", first=1)
    with pytest.raises(TypeError):
        Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Quick(1, fifth=5)  # type: ignore[call-arg]


def test_each_has_defaults_of_its_own() -> None:
    assert Quick(1).third is not Quick(1).third


def test_values_decide_whether_two_are_equal() -> None:
    assert Quick(1) == Quick(1, third=[3])
    assert Quick(1) != Quick(2)
    assert Quick(1) != Frozen(1)
    assert len({Quick(1), Quick(1), Quick(2)}) == 2


def test_it_can_be_replaced_copied_and_pickled() -> None:
    one = Quick(1, third=[3])
    assert replace(one, first=2) == Quick(2)
    assert copy.deepcopy(one).third == pickle.loads(pickle.dumps(one)).third == [3]
    assert [found.name for found in fields(one)] == ["first", "second", "third", "fourth"]


def test_only_type_checkers_refuse_a_change() -> None:
    one = Quick(1)
    # mypy reports an ignored error that is none: this line holds it to what the decorator says.
    one.first = 2  # type: ignore[misc]
    assert one.first == 2
