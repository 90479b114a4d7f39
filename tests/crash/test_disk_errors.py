"""The disk fails at every system call of every operation in turn: nothing is acknowledged that is not stored, and all goes on.

A broken disk (EIO) fails one call; a full disk (ENOSPC) fails one, or all from then on until the operation ends. After that the
disk works. strace fails the calls, in a program of its own (`support/disk_child.py`), so that SQLite's calls fail like ours.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.disk_errors import Call, DiskChild

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

EDITS = ["append", "write"]
INSERTS = ["insert small", "insert large", "insert together"]
OVERWRITES = ["overwrite small", "overwrite large"]
OPERATIONS = [*INSERTS, *OVERWRITES, *EDITS, "delete", "sweep", "checkpoint"]


class Fault(NamedTuple):
    """What goes wrong."""

    error: str
    stays: bool


BROKEN, FULL, STAYS_FULL = Fault("EIO", stays=False), Fault("ENOSPC", stays=False), Fault("ENOSPC", stays=True)

REASONS = {
    "EIO": {"STORE_UNAVAILABLE", "DATA_CORRUPT", "INSERT_ABANDONED"},
    "ENOSPC": {"STORAGE_FULL", "INSERT_ABANDONED"},
}
"""What an operation may fail with. INSERT_ABANDONED is that of tensors that were to be stored with the one that failed."""

SYNCS = {"fsync", "fdatasync"}

FAILS_QUIETLY = {"checkpoint", "sweep"}
"""Operations that may leave something to the next time and say nothing, except of a sync."""

NOT_SYNCED_AGAIN = """
from tensorus_server.chunk_store.files import Files
sync = Files.sync_data
def try_again(files, descriptor):
    try:
        sync(files, descriptor)
    except OSError:
        sync(files, descriptor)
Files.sync_data = try_again
"""

ACKNOWLEDGED_ANYWAY = """
import apsw
from tensorus_server.catalogue.sqlite.database import Database
def commit(found):
    try:
        found._writer.execute("COMMIT")
    except apsw.Error:
        found._roll_back()
Database._commit = commit
"""

MUTANTS = {
    "a failed sync is tried again": (NOT_SYNCED_AGAIN, "insert large"),
    "acknowledged after a failed commit": (ACKNOWLEDGED_ANYWAY, "insert small"),
}


class Trial:
    """Operations on one store, each with one fault."""

    def __init__(self, folder: Path, patch: str = "pass") -> None:
        self.child = DiskChild(folder, patch)
        self.violations: list[str] = []
        self.injected: Counter[str] = Counter()
        self.missed = self.restarts = self._count = 0
        self._warm_up()
        for kind in ("small", "large"):
            self._run_well(f"insert {kind}", f"bystander {kind}")

    def calls(self, operation: str) -> list[Call]:
        """Return the calls of an operation."""
        name = self._name(operation)
        found = self.child.calls(operation, name)
        assert found
        return found

    def fail(self, operation: str, call: Call, fault: Fault) -> None:
        """Do an operation with a fault, and note what is wrong with what it says, and with what is stored then."""
        name = self._name(operation)
        self.child.ask("prepare", operation, name)
        old = self.child.ask("versions", operation, name)
        came, outcome = self.child.fails_at(call, fault.error, operation, name, stays=fault.stays)
        if not came:
            # How often SQLite reads and writes depends on what was before.
            self.missed += 1
        self.injected[fault.error] += came
        new = [_new(operation)] * len(old)
        wrong = self._wrong(operation, name, outcome, old, new)
        if came:
            wrong += _wrongly_said(operation, call, fault, outcome)
        wrong += self._not_recovered(operation, name, call, fault, new)
        self.violations += [f"{operation}, {call}, {fault}: {one}" for one in wrong]

    def check_files(self) -> None:
        """Note files that no tensor needs, or that are missing."""
        if stray := self.child.ask("stray"):
            self.violations.append(f"stray or missing files: {stray}")

    def _wrong(self, operation: str, name: str, outcome: str, old: list[Any], new: list[Any]) -> list[str]:
        """Return what is wrong with the tensors after the operation."""
        found = self.child.ask("versions", operation, name)
        wrong = [] if found in (old, new) else [f"{found} is neither {old} nor {new}: {outcome}"]
        if outcome == "ok" and found != new:
            wrong.append(f"acknowledged, and {found} is not {new}")
        reads = [self.child.ask("versions", f"insert {kind}", f"bystander {kind}") for kind in ("small", "large")]
        return wrong if reads == [[2], [2]] else [*wrong, f"the other tensors read {reads}"]

    def _not_recovered(self, operation: str, name: str, call: Call, fault: Fault, new: list[Any]) -> list[str]:
        """Do the operation again, if it was not done, and something else; return what is wrong."""
        wrong = []
        outcome = self._again(operation, name, new)
        if "until a restart" in outcome:
            if fault.error == "ENOSPC" and call.name not in SYNCS:
                wrong.append(f"needs a restart: {outcome}")
            self._restart()
            outcome = self._again(operation, name, new)
        return wrong if outcome == "ok" else [*wrong, f"does not recover: {outcome}"]

    def _again(self, operation: str, name: str, new: list[Any]) -> str:
        if self.child.ask("versions", operation, name) != new or operation in FAILS_QUIETLY:
            outcome = self.child.outcome("run", operation, name)
            if outcome != "ok":
                return outcome
        if (found := self.child.ask("versions", operation, name)) != new:
            return f"{found} is not {new}"
        return self.child.outcome("run", "insert small", self._name("probe"))

    def _restart(self) -> None:
        self.child.kill()
        self.child.start()
        self.restarts += 1
        self._warm_up()
        # What a failed commit had published is not to add up to so much that it is left for an operator to look at.
        self.check_files()

    def _warm_up(self) -> None:
        """Let every thread begin."""
        for operation in ("insert large", "write"):
            self._run_well(operation, self._name("warm"))

    def _run_well(self, operation: str, name: str) -> None:
        self.child.ask("prepare", operation, name)
        self.child.ask("run", operation, name)

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what} {self._count}"


def _new(operation: str) -> int:
    """Return the version that an operation makes."""
    return {"delete": 0, "sweep": 0, "checkpoint": 1}.get(operation, 2)


def _wrongly_said(operation: str, call: Call, fault: Fault, outcome: str) -> list[str]:
    """Return what is wrong with what an operation said, in which a call failed."""
    if outcome == "ok":
        is_false = call.name in SYNCS and not (operation == "delete" and fault == FULL)
        return ["says nothing of a failed sync"] if is_false else []
    # Whoever is told that a sync has failed does not know what is stored, whatever the error.
    reasons = REASONS[fault.error] | ({"STORE_UNAVAILABLE"} if call.name in SYNCS else set())
    return [] if outcome.partition(":")[0] in reasons else [f"fails with {outcome}"]


def faults_of(call: Call) -> list[Fault]:
    """Return what can happen to a call."""
    if not call.takes_space:
        return [BROKEN]
    # Of the later calls of openat, most create no file, which strace does not tell apart.
    return [BROKEN, FULL] if call.name == "openat" else [BROKEN, FULL, STAYS_FULL]


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    made = Trial(tmp_path)
    yield made
    made.child.kill()


def check(trial: Trial, operation: str, faults: Sequence[tuple[Call, Fault]]) -> None:
    for call, fault in faults:
        trial.fail(operation, call, fault)
    trial.check_files()


def report(trial: Trial, what: str) -> None:
    _log.info(
        "%s: %s calls failed, %d did not come, %d restarts", what, dict(trial.injected), trial.missed, trial.restarts
    )
    assert trial.violations == []
    assert sum(trial.injected.values()) > trial.missed


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whichever_call_fails_nothing_is_lost_and_all_goes_on(trial: Trial, operation: str) -> None:
    faults = [(call, fault) for call in trial.calls(operation) for fault in faults_of(call)]
    check(trial, operation, faults)
    report(trial, f"{operation}, {len(faults)} faults")


def test_a_few_calls_fail_nothing_is_lost_and_all_goes_on(trial: Trial) -> None:
    source = random.Random(16)
    for operation in OPERATIONS:
        kinds = {(call.thread, call.name): call for call in trial.calls(operation)}
        faults = [
            (call, fault) for call in kinds.values() for fault in faults_of(call) if not _fails_store(call, fault)
        ]
        check(trial, operation, [source.choice(faults)])
    commit = next(call for call in trial.calls("append") if call.name == "fdatasync")
    check(trial, "append", [(commit, BROKEN)])
    report(trial, "a few")


def _fails_store(call: Call, fault: Fault) -> bool:
    """Return whether the program has to start again afterwards, which takes long."""
    return call.name in SYNCS or (call.name == "pwrite64" and fault == BROKEN)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_program_that_goes_on_after_a_failure_is_found_out(tmp_path: Path, mutant: str) -> None:
    patch, operation = MUTANTS[mutant]
    trial = Trial(tmp_path, patch)
    try:
        for call in trial.calls(operation):
            if call.name in SYNCS | {"pwrite64"} and not trial.violations:
                trial.fail(operation, call, BROKEN)
    finally:
        trial.child.kill()
    assert any("acknowledged" in one or "failed sync" in one for one in trial.violations)
