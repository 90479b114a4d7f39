"""Processes that share a store through its catalogue, killed or stopped at bad moments: nothing is lost, or done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from support.clocks import moved_clock
from support.engine import Reports, create, read, send
from support.interrupted import wait_until
from support.replicas import replica_on
from tensorus_server.catalogue.abc import Catalogue, NotBegunError
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.engine import membership
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.limits import MEMBER_LEASE_S, PUT_MARGIN_S, PUT_TIMEOUT_S
from tensorus_server.model import Append, Tensor

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

BEGIN = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from contract.catalogue_members import segmented
from contract.catalogue_uploads import mark, upload
from tensorus_server.catalogue.sqlite import SqliteCatalogue

catalogue = SqliteCatalogue(Path(sys.argv[1]))
members = catalogue.members
members.join("child", {MEMBER_LEASE_S})
dataset = catalogue.datasets.get("dataset")
keys = sys.argv[2:]

def say(*words):
    print(*words, flush=True)

def hear():
    return sys.stdin.readline().strip()

"""

COMMIT = """
members.begin(keys)
members.try_acquire("insert/request")
catalogue.uploads.save([mark(upload(dataset, 0, id="t", payload_key=keys[0]))])
say("begun")
hear()
for key in keys:
    (outcome,) = catalogue.tensors.commit([segmented(dataset, "t", key)])
    say(type(outcome).__name__)
(lost,) = catalogue.uploads.save([mark(upload(dataset, 1, id="u", payload_key=keys[0]))])
say(type(lost).__name__)
say(members.renew())
hear()
"""

MARK_ON_AND_ON = """
for number, key in enumerate(keys):
    members.begin([key])
    members.try_acquire(f"insert/{number}")
    say("begun", number)
    catalogue.uploads.save([mark(upload(dataset, 0, id=f"{number}", payload_key=key, request_id=f"{number}"), (1, 1), (2, 2))])
    say("marked", number)
"""

TAKE_ALL_OVER = """
from tensorus_server.catalogue.abc import NotBegunError
say("ready")
hear()
for key in keys:
    say(members.take_over(key))
hear()
"""


@contextmanager
def child(source: str, folder: Path, *keys: str) -> Iterator[subprocess.Popen[str]]:
    """Run a member in a process of its own, which is killed at the end."""
    command = [sys.executable, "-c", BEGIN + source, str(folder), *keys]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    """Return the next thing that a child says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Let a child go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    opened = SqliteCatalogue(tmp_path, delete_grace_s=0.0)
    create(opened)
    opened.members.join("test", 1e6)
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return moved_clock(monkeypatch)


def test_what_a_killed_process_had_begun_is_resumed_or_deleted(
    catalogue: Catalogue, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    keys = [new_payload_key() for _ in range(3)]
    with child(COMMIT, tmp_path, *keys) as process:
        assert heard(process) == "begun"
        assert catalogue.members.take_over(keys[0]) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert catalogue.members.reap().members == []
    clock(MEMBER_LEASE_S)
    reaped = catalogue.members.reap()
    assert (list(reaped.members), reaped.abandoned) == (["child"], 2)
    assert catalogue.members.take_over(keys[0]) == 2
    clock(PUT_TIMEOUT_S + PUT_MARGIN_S)
    due = catalogue.garbage.due(10)
    assert {key.rpartition("/")[2] for key in due} == set(keys[1:])


def test_a_process_that_slept_past_its_lease_commits_and_marks_nothing(
    catalogue: Catalogue, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    from contract.catalogue_members import segmented  # noqa: PLC0415 - its fixtures are not for this module

    keys = [new_payload_key() for _ in range(2)]
    with child(COMMIT, tmp_path, *keys) as process:
        assert heard(process) == "begun"
        process.send_signal(signal.SIGSTOP)
        clock(MEMBER_LEASE_S)
        catalogue.members.reap()
        assert catalogue.members.take_over(keys[0]) == 2
        process.send_signal(signal.SIGCONT)
        tell(process)
        # The first one is another writer's, and the second one nobody's.
        assert [heard(process) for _ in range(4)] == [
            "SessionTakenOverError",
            "WriterLostError",
            "WriterLostError",
            "False",
        ]
    dataset = catalogue.datasets.get("dataset")
    (outcome,) = catalogue.tensors.commit([segmented(dataset, "t", keys[0], 2)])
    assert isinstance(outcome, Tensor)
    assert catalogue.datasets.stats("dataset").tensors == 1
    assert [upload.item for upload in catalogue.uploads.find("request")] == [0]


def test_a_process_that_slept_and_was_not_missed_commits_what_it_had_begun(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    key = new_payload_key()
    with child(COMMIT, tmp_path, key) as process:
        assert heard(process) == "begun"
        process.send_signal(signal.SIGSTOP)
        catalogue.members.reap()
        process.send_signal(signal.SIGCONT)
        tell(process)
        assert heard(process) == "Tensor"


@pytest.mark.parametrize("words", [19, 54])
def test_a_process_that_is_killed_while_it_marks_leaves_whole_marks(
    catalogue: Catalogue, tmp_path: Path, clock: Callable[[float], None], words: int
) -> None:
    keys = [new_payload_key() for _ in range(300)]
    with child(MARK_ON_AND_ON, tmp_path, *keys) as process:
        for _ in range(words):
            last = heard(process)
    clock(MEMBER_LEASE_S)
    assert list(catalogue.members.reap().members) == ["child"]
    marked = 0
    for number, key in enumerate(keys):
        (*found,) = catalogue.uploads.find(f"{number}")
        marked += len(found)
        if found:
            index, _ = catalogue.uploads.chunks(found[0])
            assert len(index) == found[0].chunk_count
            assert catalogue.members.take_over(key) == 2
        else:
            with pytest.raises(NotBegunError):
                catalogue.members.take_over(key)
    assert marked >= int(last.split()[1])


def test_of_two_processes_that_take_payloads_over_one_gets_each(catalogue: Catalogue, tmp_path: Path) -> None:
    keys = [new_payload_key() for _ in range(40)]
    catalogue.members.begin(keys)
    for key in keys:
        catalogue.members.park(key)
    with child(TAKE_ALL_OVER, tmp_path, *keys) as one, child(TAKE_ALL_OVER, tmp_path, *keys) as two:
        for process in (one, two):
            assert heard(process) == "ready"
        for process in (one, two):
            tell(process)
        found = [(heard(one), heard(two)) for _ in keys]
    assert set(Counter(found)) <= {("2", "None"), ("None", "2")}


APPEND_ON_AND_ON = f"""
import sys
sys.path[:0] = {sys.path!r}
import numpy as np
from pathlib import Path
from support.engine import Reports, send
from support.replicas import replica_on
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.model import Append

with replica_on(Path(sys.argv[1]), "child") as engine:
    for number in range(10**6):
        request_id = f"{{sys.argv[2]}}-{{number}}"
        with engine.sessions.held(request_id, lambda: None):
            reports = Reports()
            stream = engine.open_insert("d", reports, InsertOptions(request_id))
            send(stream, 0, "t", np.full(4, 1000 * int(sys.argv[2]) + number, np.float32), edit=Append(0))
            print("begun", number, flush=True)
            stream.finish()
            reports.tensor(0)
        print("done", number, flush=True)
"""


def test_appends_of_a_killed_replica_are_repeated_at_another_one_and_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "LOOK_S", 0.05)
    expected: list[float] = []
    with replica_on(tmp_path, "test") as engine:
        engine.create_dataset("d")
        stream = engine.open_insert("d", Reports())
        send(stream, 0, "t", np.zeros(4, np.float32))
        stream.finish()
        move = moved_clock(monkeypatch)
        for run in range(1, 4):
            with subprocess.Popen(
                [sys.executable, "-c", APPEND_ON_AND_ON, str(tmp_path), str(run)], stdout=subprocess.PIPE, text=True
            ) as process:
                for _ in range(9 + run):
                    words = heard(process).split()
                process.kill()
                rest = process.communicate()[0].split()
            last = int((rest or words)[-1])
            # The client repeats what it has no answer to, at the other replica, as soon as the lease of the dead one is over.
            move(MEMBER_LEASE_S)
            members = engine._catalogue.members
            wait_until(lambda members=members: members.renew())  # type: ignore[misc] - bound at once
            for number in (last, last + 1):
                request_id = f"{run}-{number}"
                with engine.sessions.held(request_id, lambda: None):
                    reports = Reports()
                    stream = engine.open_insert("d", reports, InsertOptions(request_id))
                    if not stream.resumable:
                        send(stream, 0, "t", np.full(4, 1000 * run + number, np.float32), edit=Append(0))
                    stream.finish()
            expected += [float(1000 * run + number) for number in range(last + 2) for _ in range(4)]
            assert read(engine, "d", "t")[4:].tolist() == expected
