"""A plain dataclass behaves like a frozen one, except that assignments are not refused at run time."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import asdict, dataclass, field, fields, replace

import pytest

from tensorus_codecs.plain_dataclass import plain_dataclass


@dataclass(frozen=True)
class Frozen:
    """What is compared with."""

    first: int
    second: str = "two"
    third: list[int] = field(default_factory=list, compare=False)
    fourth: bytes | None = field(default=None, repr=False)


@plain_dataclass
class Plain:
    """The same fields."""

    first: int
    second: str = "two"
    third: list[int] = field(default_factory=list, compare=False)
    fourth: bytes | None = field(default=None, repr=False)


@pytest.mark.parametrize(
    "arguments", [{"first": 1}, {"first": 1, "second": "2"}, {"first": 1, "third": [3], "fourth": b"4"}], ids=str
)
def test_it_has_the_same_fields(arguments: dict[str, object]) -> None:
    plain, frozen = Plain(**arguments), Frozen(**arguments)  # type: ignore[arg-type]
    assert asdict(plain) == asdict(frozen)
    assert repr(plain) == repr(frozen).replace("Frozen", "Plain")
    assert hash(plain) == hash((1, plain.second, plain.fourth))


def test_it_is_made_as_a_frozen_one() -> None:
    made, expected = inspect.signature(Plain).parameters, inspect.signature(Frozen).parameters
    assert [(one.name, one.kind) for one in made.values()] == [(one.name, one.kind) for one in expected.values()]
    assert Plain(1, "2", [3], b"4") == Plain(fourth=b"4", third=[3], second="2", first=1)
    with pytest.raises(TypeError):
        Plain()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Plain(1, fifth=5)  # type: ignore[call-arg]


def test_each_has_defaults_of_its_own() -> None:
    assert Plain(1).third is not Plain(1).third


def test_values_decide_whether_two_are_equal() -> None:
    assert Plain(1) == Plain(1, third=[3])
    assert Plain(1) != Plain(2)
    assert Plain(1) != Frozen(1)
    assert len({Plain(1), Plain(1), Plain(2)}) == 2


def test_it_can_be_replaced_copied_and_pickled() -> None:
    one = Plain(1, third=[3])
    assert replace(one, first=2) == Plain(2)
    assert copy.deepcopy(one).third == pickle.loads(pickle.dumps(one)).third == [3]
    assert [found.name for found in fields(one)] == ["first", "second", "third", "fourth"]


def test_only_type_checkers_refuse_a_change() -> None:
    one = Plain(1)
    # mypy reports an ignored error that is none: this line holds it to what the decorator says.
    one.first = 2  # type: ignore[misc]
    assert one.first == 2
