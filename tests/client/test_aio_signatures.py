"""The asynchronous client takes what the synchronous one takes, and returns the same, awaited or iterated asynchronously."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tensorus
import tensorus.aio
from support.cases import each

METHODS = [
    name for name, _ in inspect.getmembers(tensorus.Client, inspect.isfunction) if name == "close" or name[0] != "_"
]

OTHER_ANNOTATIONS = {("insert_many", "tensors"): "Iterable[object] | AsyncIterable[object]"}
"""Where more is taken."""


def pair(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return getattr(tensorus.Client, name), getattr(tensorus.aio.AsyncClient, name)


def parameters(method: Callable[..., Any], name: str = "") -> list[inspect.Parameter]:
    """Return the parameters, with the annotations that the asynchronous method `name` is to have."""
    return [
        parameter.replace(annotation=OTHER_ANNOTATIONS.get((name, parameter.name), parameter.annotation))
        for parameter in inspect.signature(method).parameters.values()
    ]


def test_both_have_the_same_methods() -> None:
    found = {name for name, _ in inspect.getmembers(tensorus.aio.AsyncClient, inspect.isfunction) if name[0] != "_"}
    assert found == set(METHODS)
    assert len(found) == 33


@each("name", METHODS)
def test_a_method_takes_the_same_arguments(name: str) -> None:
    synchronous, asynchronous = pair(name)
    # Names, order, kinds, defaults and annotations.
    assert parameters(asynchronous) == parameters(synchronous, name)


@each("name", METHODS)
def test_a_method_returns_the_same_awaited_or_iterated_asynchronously(name: str) -> None:
    synchronous, asynchronous = pair(name)
    returned, expected = (inspect.signature(method).return_annotation for method in (asynchronous, synchronous))
    iterated = expected.startswith("Iterator[")
    assert returned == (f"Async{expected}" if iterated else expected)
    assert inspect.iscoroutinefunction(asynchronous) is not iterated


def test_what_more_is_taken_is_taken_indeed() -> None:
    for method, name in OTHER_ANNOTATIONS:
        synchronous, asynchronous = pair(method)
        assert inspect.signature(synchronous).parameters[name] != inspect.signature(asynchronous).parameters[name]


def test_both_are_connected_by_the_same_arguments() -> None:
    assert parameters(tensorus.aio.connect) == parameters(tensorus.connect)
