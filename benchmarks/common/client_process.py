"""A client process: it reads pickled commands from its standard input, and answers each run with its measurements.

The first command is a function with arguments, which creates the actions. Each further command names the action to run.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeAlias

import numpy as np

from common.peaks import Growth

__all__ = ["Action", "ClientRun", "serve"]

Action: TypeAlias = Callable[[], object]
"""What is measured. Arrays that it returns are what the client asked for, and no overhead."""


@dataclass(frozen=True)
class ClientRun:
    """The client's resource use in one run."""

    started_s: float
    """On the clock that all processes of a machine share."""
    ended_s: float
    cpu_s: float
    """Processor time of all threads."""
    grown_bytes: int
    """Peak of resident memory over what it was before the run, less the arrays that the action returned."""


def run(action: Action) -> ClientRun:
    """Run an action and measure it."""
    gc.collect()
    with Growth([os.getpid()]) as growth:
        cpu_s, started_s = time.process_time(), time.perf_counter()
        result = action()
        ended_s, cpu_s = time.perf_counter(), time.process_time() - cpu_s
    # Small arrays may lie in memory that the process has had before.
    grown_bytes = max(0, growth.peak_bytes - _array_bytes(result))
    return ClientRun(started_s, ended_s, cpu_s, grown_bytes)


def _array_bytes(result: object) -> int:
    if isinstance(result, np.ndarray):
        return result.nbytes
    return sum(map(_array_bytes, result)) if isinstance(result, list) else 0


def serve() -> None:
    """Run the requested actions until the input ends, then end the process."""
    # Whatever a library prints must not be taken for an answer.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        _serve(sys.stdin.buffer, answers)
    # Clients may have threads that wait for a server; there is nothing left to tidy up.
    sys.stderr.flush()
    os._exit(0)


def _serve(commands: IO[bytes], answers: IO[bytes]) -> None:
    make, arguments = pickle.load(commands)
    actions = make(*arguments)
    answer: object = "ready"
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            name = pickle.load(commands)
        except EOFError:
            return
        answer = run(actions[name])
