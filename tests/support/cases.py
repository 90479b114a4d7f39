"""Tests of many small cases: pytest sees one test, and a failure names its case."""

from __future__ import annotations

import functools
import inspect
import itertools
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

__all__ = ["each"]

_Param = type(pytest.param())

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 8


def each(
    names: str | tuple[str, ...],
    cases: Iterable[Any] | Callable[[Any], Iterable[Any]],
    ids: Iterable[str] = (),
) -> Callable[[Any], Any]:
    """Run a test once for each of `cases`, as one test of pytest's.

    It takes the place of `pytest.mark.parametrize` where a case takes about a millisecond: pytest itself takes longer than that
    for each test that it collects, starts and reports. The cases share the test's fixtures. The first case that fails ends the
    test, and a note on its error names the case. On a class, it does so for every test that has these arguments.

    Args:
        names: arguments of the test.
        cases: for each case a value, a tuple of one value per name, or a `pytest.param` without marks. A function is called
            with the instance of the test's class, and returns the cases.
        ids: what the cases are called, in their order, where their values say too little.
    """
    names = (names,) if isinstance(names, str) else names
    single = len(names) == 1
    labels = list(ids)
    fixed = None if callable(cases) else _labelled(cases, labels, single=single)

    def looped(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            for label, values in fixed or _labelled(cases(args[0]), labels, single=single):
                case = dict(zip(names, values, strict=True))
                try:
                    test(*args, **kwargs, **case)
                except Exception as error:
                    shown = ", ".join(f"{name}={_SHORT.repr(value)}" for name, value in case.items())
                    error.add_note(f"in the case {label!r}: {shown}" if label else f"in the case {shown}")
                    raise

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in names]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]  # what pytest reads
        return run

    def decorate(test: Any) -> Any:
        if not isinstance(test, type):
            return looped(test)
        for name, member in list(vars(test).items()):
            if name.startswith("test_") and set(names) <= inspect.signature(member).parameters.keys():
                setattr(test, name, looped(member))
        return test

    return decorate


def _labelled(cases: Iterable[Any], labels: list[str], *, single: bool) -> list[tuple[str | None, tuple[Any, ...]]]:
    """Return the values of each case, and what it is called if it has a name."""
    found: list[tuple[str | None, tuple[Any, ...]]] = []
    for case, label in itertools.zip_longest(cases, labels):
        if isinstance(case, _Param):
            assert not case.marks
            found.append((case.id, case.values))
        else:
            found.append((label, (case,) if single else case))
    assert found, "there are no cases"
    return found
