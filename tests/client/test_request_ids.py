"""Ids of calls: random ones, or what the caller sets."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading

import pytest

import tensorus
from support.cases import each
from tensorus._request_ids import current_id


def test_random_ids_are_short_and_do_not_repeat() -> None:
    ids = [current_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(found) <= 20 and found.isascii() and found.isprintable() for found in ids)


def test_they_neither_follow_nor_disturb_the_seed_of_random() -> None:
    random.seed(1)
    first, value = current_id(), random.random()
    random.seed(1)
    assert current_id() != first
    assert random.random() == value


def _starts(queue: multiprocessing.Queue[str]) -> None:
    queue.put(current_id().partition("-")[0])


def test_a_forked_process_makes_other_ids() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_starts, args=(queue,))
    child.start()
    start = queue.get(timeout=30)
    child.join()
    assert start != current_id().partition("-")[0]


def test_an_id_that_is_set_holds_in_its_block_alone() -> None:
    with tensorus.request_id("job-17"):
        assert current_id() == "job-17"
        with tensorus.request_id("step 2"):
            assert current_id() == "step 2"
        assert current_id() == "job-17"
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(current_id()))
        thread.start()
        thread.join()
        assert found != ["job-17"]
    assert current_id() != "job-17"


def test_tasks_inherit_it() -> None:
    async def ask() -> str:
        return current_id()

    async def run() -> list[str]:
        with tensorus.request_id("job-17"):
            inherited = asyncio.create_task(ask())
        return [await inherited, await ask()]

    inherited, other = asyncio.run(run())
    assert inherited == "job-17"
    assert other != "job-17"


@each("text", ["", " x", "x ", "ü", "a\nb", "x" * 129])
def test_what_no_header_can_carry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"has {len(text)} characters, must have 1 to 128"), tensorus.request_id(text):
        pass
    with pytest.raises(TypeError, match="a request id is text, not int"), tensorus.request_id(7):  # type: ignore[arg-type]
        pass


def test_the_longest_id_is_taken() -> None:
    with tensorus.request_id("x" * 128):
        assert current_id() == "x" * 128
