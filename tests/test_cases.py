"""Many cases in one test: all of them run, and a failure names its case."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import pytest

from support.cases import each


def notes_of(test: Any, *arguments: Any) -> list[str]:
    """Return the notes on the error that `test` raises."""
    with pytest.raises(ValueError, match="wrong") as caught:
        test(*arguments)
    return caught.value.__notes__


def test_every_combination_runs_in_order() -> None:
    ran: list[tuple[int, str]] = []

    @each("number", [1, 2])
    @each("letter", "ab")
    def test(number: int, letter: str) -> None:
        ran.append((number, letter))

    test()
    assert ran == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


def test_pytest_sees_the_other_arguments_alone() -> None:
    @each(("a", "b"), [(1, 2)])
    def test(tmp_path: object, a: int, b: int) -> None:
        pass

    assert list(inspect.signature(test).parameters) == ["tmp_path"]


def test_a_failure_names_its_case() -> None:
    def fail(a: int, b: object = None) -> None:
        if a == 2:
            raise ValueError("wrong")

    assert notes_of(each("a", [1, 2])(fail)) == ["in the case a=2"]
    assert notes_of(each(("a", "b"), [(1, "x"), (2, "y")])(fail)) == ["in the case a=2, b='y'"]
    assert notes_of(each("a", [1, 2], ids=["one", "two"])(fail)) == ["in the case 'two': a=2"]
    assert notes_of(each("a", [1, pytest.param(2, id="two")])(fail)) == ["in the case 'two': a=2"]


def test_a_class_has_cases_of_its_own_and_for_all_of_its_tests() -> None:
    ran: list[int] = []

    @each("factor", [10, 100])
    class Tests:
        NUMBERS: ClassVar[tuple[int, ...]] = (1, 2)

        @each("number", lambda test: test.NUMBERS)
        def test_products(self, number: int, factor: int) -> None:
            ran.append(number * factor)

        def test_nothing(self) -> None:
            ran.append(0)

    Tests().test_products()
    Tests().test_nothing()
    assert ran == [10, 20, 100, 200, 0]


def test_cases_that_are_none_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="there are no cases"):
        each("a", [])

    @each("a", lambda _: [])
    def test(self: object, a: int) -> None:
        pass

    with pytest.raises(AssertionError, match="there are no cases"):
        test(None)
