"""Which tests show that a catalogue keeps which of the promises that `tensorus_server.catalogue.abc` lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from tensorus_server.catalogue import abc

_Test = TypeVar("_Test", bound=Callable[..., None])

_NUMBERED = re.compile(r"^    (\d+)\. (\w[\w ]*)\.", re.MULTILINE)


def keeps(*promises: int) -> Callable[[_Test], _Test]:
    """Say which promises a test shows, by number."""

    def note(test: _Test) -> _Test:
        test.promises = promises  # type: ignore[attr-defined] - a function has any attribute
        return test

    return note


def promised() -> dict[int, str]:
    """Return the promises of a catalogue, by number: the first words of each."""
    return {int(number): words for number, words in _NUMBERED.findall(abc.__doc__ or "")}


def shown(contracts: Iterable[type]) -> dict[int, list[str]]:
    """Return the names of the tests of these contracts that show each promise."""
    tests: dict[int, list[str]] = {}
    for contract in contracts:
        for name, test in vars(contract).items():
            for promise in getattr(test, "promises", ()):
                tests.setdefault(promise, []).append(f"{contract.__name__}.{name}")
    return tests
