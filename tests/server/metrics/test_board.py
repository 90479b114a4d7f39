"""The values of a process survive it, and no process writes into memory of another layout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tensorus_server.metrics import board as board_module
from tensorus_server.metrics.board import PLACES, Board
from tensorus_server.metrics.families import FAMILIES, METHODS
from tensorus_server.rpc.rights import NEEDS
from tensorus_server.rpc.status import STATUS_BY_REASON

CHILD = """
import os, signal, sys
from tensorus_server.metrics.board import Board
board = Board.inherited(int(sys.argv[1]))
board.put("tensorus_inserted_bytes_total", 2.0**40 + 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_two_series_share_a_place() -> None:
    taken = [
        place.start + place.step * number + offset
        for place in PLACES.values()
        for number in range(len(place.family.values))
        for offset in range(place.step)
    ]
    assert len(taken) == len(set(taken)) == len(Board().values) - 2
    assert min(taken) == 2


def test_what_a_process_wrote_is_there_after_it_was_killed() -> None:
    board, descriptor = Board.for_worker(looks=False)
    done = subprocess.run([sys.executable, "-c", CHILD, str(descriptor)], pass_fds=[descriptor], check=False)
    os.close(descriptor)
    assert done.returncode == -signal.SIGKILL
    assert board.values[PLACES["tensorus_inserted_bytes_total"].start] == 2.0**40 + 1
    board.close()


@pytest.mark.parametrize("looks", [True, False])
def test_the_supervisor_says_who_looks_up_the_sizes(*, looks: bool) -> None:
    ours, descriptor = Board.for_worker(looks=looks)
    theirs = Board.inherited(descriptor)
    assert theirs is not None
    assert theirs.looks is looks
    theirs.close()
    ours.close()


def test_memory_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    board, descriptor = Board.for_worker(looks=True)
    monkeypatch.setattr(board_module, "_CHECKSUM", 1.0)
    assert Board.inherited(descriptor) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    board.close()


def test_every_method_and_every_reason_has_series() -> None:
    assert set(NEEDS) <= set(METHODS)
    (errors,) = [family for family in FAMILIES if family.name == "tensorus_errors_total"]
    assert {reason for _, reason in errors.values} >= set(STATUS_BY_REASON)


def test_no_label_names_what_is_stored_or_who_asks() -> None:
    assert {label for family in FAMILIES for label in family.labels} == {"method", "reason", "request"}
