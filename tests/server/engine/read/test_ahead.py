"""The payloads of the next tensors are announced in order and within bounds, and a read with them is the one without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tensorus_server.engine.read.ahead import TENSORS_AHEAD_MAX, tensors_announced
from tensorus_server.limits import PACKED_BYTES_MAX, READ_AHEAD_BYTES

MIB = 1024 * 1024


class _Payloads:
    """A store that notes what is announced, and given up."""

    def __init__(self, *, fetches_ahead: bool = True) -> None:
        self.fetches_ahead = fetches_ahead
        self.announced: list[str] = []
        self.given_up: list[str] = []

    def fetch_ahead(self, keys: Sequence[str]) -> Callable[[], None]:
        self.announced += keys
        return lambda: self.given_up.extend(keys)


def tensor(number: int, size: int = MIB, inline: bytes | None = None) -> Any:
    return SimpleNamespace(locator=SimpleNamespace(key=str(number), length=size), inline_payload=inline)


def through(payloads: _Payloads, items: Any) -> Iterator[Any]:
    return tensors_announced(cast("Any", payloads), items, lambda item: item)


def test_every_payload_is_announced_once_and_in_order_before_it_is_read() -> None:
    payloads, tensors = _Payloads(), [tensor(number) for number in range(100)]
    for number, found in enumerate(through(payloads, tensors)):
        assert found is tensors[number]
        assert str(number) in payloads.announced
        assert (len(payloads.announced) - number) * MIB <= READ_AHEAD_BYTES
        assert str(number) not in payloads.given_up
    assert payloads.announced == payloads.given_up == [str(number) for number in range(100)]


def test_inline_and_missing_tensors_are_passed_on_and_bounded() -> None:
    payloads, taken = _Payloads(), []

    def items() -> Iterator[Any]:
        for number in range(500):
            taken.append(number)
            yield tensor(number, inline=b"value") if number % 2 else None

    for number, _ in enumerate(through(payloads, items())):
        assert len(taken) - number <= TENSORS_AHEAD_MAX
    assert len(taken) == 500
    assert payloads.announced == []


def test_nothing_behind_a_large_tensor_is_taken_before_it_was_read() -> None:
    payloads = _Payloads()
    found = through(payloads, [tensor(0), tensor(1, PACKED_BYTES_MAX + 1), tensor(2)])
    next(found)
    next(found)
    assert payloads.announced == ["0", "1"]
    assert len(list(found)) == 1
    assert payloads.announced == ["0", "1", "2"]


def test_an_error_comes_after_what_came_before_it() -> None:
    payloads = _Payloads()

    def items() -> Iterator[Any]:
        yield tensor(0)
        yield tensor(1)
        raise ValueError("lost")

    found = through(payloads, items())
    assert [next(found).locator.key for _ in range(2)] == ["0", "1"]
    with pytest.raises(ValueError, match="lost"):
        next(found)
    assert payloads.given_up == ["0", "1"]


def test_a_read_that_ends_early_gives_up_all_that_was_announced() -> None:
    payloads = _Payloads()
    found = through(payloads, [tensor(number) for number in range(100)])
    for _ in range(10):
        next(found)
    found.close()  # type: ignore[attr-defined]  # a generator
    assert payloads.announced == payloads.given_up


def test_nothing_is_taken_ahead_for_a_store_that_fetches_nothing_ahead() -> None:
    payloads, tensors = _Payloads(fetches_ahead=False), iter([tensor(0), tensor(1)])
    next(through(payloads, tensors))
    assert next(tensors).locator.key == "1"
    assert payloads.announced == []
