"""Counters of several processes are added up and never go backwards; gauges are those of the living."""

from __future__ import annotations

import os
import re
import threading

from tensorus_server.meters import BUCKETS_S, Timings
from tensorus_server.metrics.board import Board
from tensorus_server.metrics.exposition import Exposition
from tensorus_server.metrics.families import FAMILIES, Kind


def value(exposition: Exposition, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", exposition.text().decode(), re.MULTILINE)
    return None if found is None else float(found[1])


def board_of(exposition: Exposition, pid: int) -> Board:
    board = Board()
    exposition.add(pid, board)
    return board


def test_counters_go_on_where_a_process_that_ended_had_come_to() -> None:
    shown, name = Exposition(), "tensorus_inserted_bytes_total"
    first, second = board_of(shown, 1), board_of(shown, 2)
    first.put(name, 5.0)
    second.put(name, 7.0)
    assert value(shown, name) == 12.0
    shown.ended(1)
    assert value(shown, name) == 12.0
    board_of(shown, 1).put(name, 1.0)
    assert value(shown, name) == 13.0
    shown.ended(2)
    shown.ended(1)
    shown.ended(1)
    assert value(shown, name) == 13.0


def test_counters_never_go_backwards_while_processes_come_and_go() -> None:
    shown, name = Exposition(), "tensorus_committed_tensors_total"
    shown.add(0, Board())
    stop, seen = threading.Event(), []

    def scrape() -> None:
        while not stop.is_set():
            seen.append(value(shown, name))

    reader = threading.Thread(target=scrape)
    reader.start()
    for pid in range(1, 30):
        board_of(shown, pid).put(name, float(pid))
        shown.ended(pid)
    stop.set()
    reader.join()
    seen.append(value(shown, name))
    assert seen == sorted(seen)
    assert seen[-1] == sum(range(1, 30))


def test_gauges_of_processes_that_ended_are_gone() -> None:
    shown = Exposition()
    first, second = board_of(shown, 1), board_of(shown, 2)
    for board, used, tensors in ((first, 5.0, 40.0), (second, 7.0, None)):
        board.put("tensorus_memory_used_bytes", used)
        board.put("tensorus_store_tensors", tensors)
    assert value(shown, "tensorus_memory_used_bytes") == 12.0
    assert value(shown, "tensorus_store_tensors") == 40.0
    shown.ended(1)
    assert value(shown, "tensorus_memory_used_bytes") == 7.0
    assert value(shown, "tensorus_store_tensors") is None


def test_gauges_about_the_store_are_not_added_up() -> None:
    shown = Exposition()
    for pid, expires_s in ((1, 1000.0), (2, 2000.0)):
        board_of(shown, pid).put("tensorus_certificate_expiry_timestamp_seconds", expires_s)
    assert value(shown, "tensorus_certificate_expiry_timestamp_seconds") == 2000.0


def test_durations_are_counted_in_the_bucket_that_they_reach() -> None:
    timings, shown = Timings(), Exposition()
    for seconds in (0.0, BUCKETS_S[0], BUCKETS_S[1], 1e6):
        timings.observe(seconds)
    board = board_of(shown, 1)
    board.put_timings("tensorus_sync_duration_seconds", *timings.read())
    bucket = 'tensorus_sync_duration_seconds_bucket{le="%s"}'
    assert value(shown, bucket % f"{BUCKETS_S[0]:g}") == 2
    assert value(shown, bucket % f"{BUCKETS_S[1]:g}") == 3
    assert value(shown, bucket % f"{BUCKETS_S[-1]:g}") == 3
    assert value(shown, bucket % "+Inf") == 4
    assert value(shown, "tensorus_sync_duration_seconds_count") == 4
    assert value(shown, "tensorus_sync_duration_seconds_sum") == 1e6 + BUCKETS_S[0] + BUCKETS_S[1]


def test_processor_time_does_not_go_backwards_when_a_process_ends() -> None:
    shown = Exposition()
    # Twice this process, as far as the collector knows; then once.
    shown.add(os.getppid(), Board())
    before = value(shown, "process_cpu_seconds_total")
    shown.ended(os.getppid())
    after = value(shown, "process_cpu_seconds_total")
    assert before is not None
    assert after is not None
    assert 0 < before <= after


def test_every_metric_has_a_help_and_a_name_by_the_conventions() -> None:
    units = ("_bytes", "_seconds", "_total", "_info")
    plain = re.compile(
        r"tensorus_(store_\w+|streams(_max)?|open_calls|memory_waiting_streams|draining|healthy|commit_queue|postgres_\w+)"
    )
    for family in FAMILIES:
        assert family.help.endswith("."), family
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER), family
        assert family.name.endswith(units) or plain.fullmatch(family.name), family
        if family.name.removesuffix("_total").endswith("_seconds"):
            assert "econds" in family.help, family
