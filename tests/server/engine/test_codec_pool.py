"""The codec pool: work in order, no more under way than its depth, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tensorus_server.engine.codec_pool import CodecPool


@pytest.fixture
def pool() -> Iterator[CodecPool]:
    opened = CodecPool(3)
    yield opened
    opened.close()


def test_it_has_as_many_threads_as_asked_for_and_is_one_deeper(pool: CodecPool) -> None:
    assert (pool.threads, pool.depth) == (3, 4)


def test_it_has_a_thread_per_processor_where_nothing_is_said() -> None:
    opened = CodecPool()
    assert opened.threads >= 1
    opened.close()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_results_come_in_order(pool: CodecPool, count: int) -> None:
    assert list(pool.map_in_order(lambda number: number * 2, range(count))) == [2 * number for number in range(count)]


def test_no_more_inputs_are_taken_than_may_be_under_way(pool: CodecPool) -> None:
    taken = 0

    def inputs() -> Iterator[int]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number

    results = pool.map_in_order(lambda number: number, inputs())
    for done in range(1, 17):
        next(results)
        assert taken == done + pool.depth - 1


def test_an_error_comes_in_its_place(pool: CodecPool) -> None:
    def work(number: int) -> int:
        if number == 2:
            raise KeyError(number)
        return number

    results = pool.map_in_order(work, range(10))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)


def test_what_is_under_way_is_waited_for_when_the_caller_stops_early(pool: CodecPool) -> None:
    going_on, may_end = threading.Event(), threading.Event()
    ended: list[int] = []

    def work(number: int) -> int:
        if number:
            going_on.set()
            assert may_end.wait(30)
            ended.append(number)
        else:
            # What has not begun when the caller stops never does.
            assert going_on.wait(30)
        return number

    results = pool.map_in_order(work, range(3))
    begun = []

    def take_one_and_stop() -> None:
        begun.append(next(results))
        results.close()  # type: ignore[attr-defined]
        # Whatever the work used may be closed now.
        begun.extend(ended)

    # Fewer inputs than the depth: the first result is asked for when all are under way.
    caller = threading.Thread(target=take_one_and_stop)
    caller.start()
    assert going_on.wait(30)
    may_end.set()
    caller.join()
    assert begun[0] == 0
    assert sorted(begun[1:]) == sorted(ended)


def test_it_may_be_closed_twice(pool: CodecPool) -> None:
    pool.close()
    pool.close()
