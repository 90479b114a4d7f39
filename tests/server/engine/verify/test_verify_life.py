"""The life of a verification: what comes and goes meanwhile, where it goes on, how fast it is, and how it ends."""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.engine import engine_on, wait_for_purge
from support.verifying import IN_A_ROW, cut, flip, path_of, put_in_file, put_in_row, sql, verified
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.background import STUCK_S
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.verify.pace import Pace
from tensorus_server.engine.verify.verification import Target, Verification
from tensorus_server.errors import (
    DatasetNotFoundError,
    EngineError,
    InvalidPageTokenError,
    InvalidRequestError,
    LimitExceededError,
    StoreUnavailableError,
    TensorNotFoundError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def damaged(engine: Engine, folder: Path) -> Engine:
    """An engine with two datasets, and damage of each kind: of rows, datasets, chunks, footers and inline payloads."""
    files = [put_in_file(engine, f"file {number}") for number in range(3)]
    for number in range(70):
        put_in_row(engine, f"row {number}")
    engine.create_dataset("empty")
    for chunk in (0, 1, 3):
        flip(path_of(folder, files[1]), chunk * 65557 + 30)
    flip(path_of(folder, files[1]), -1)
    path_of(folder, files[2]).unlink()
    sql(
        engine, "UPDATE payload SET bytes = x'00' WHERE seq IN (SELECT seq FROM tensor WHERE id IN ('row 5', 'row 69'))"
    )
    sql(engine, "UPDATE tensor SET relative_error = 0.5 WHERE id IN ('row 64', 'row 65')")
    sql(engine, "UPDATE dataset SET policy = '{}' WHERE name = 'empty'")
    return engine


def named(damages: list[EngineError]) -> list[tuple[Any, ...]]:
    return [(damage.facts.get("tensor"), damage.facts.get("chunk"), str(damage)) for damage in damages]


TARGETS = [
    Target(),
    Target("d"),
    Target("d", tuple([f"file {n}" for n in (2, 0, 1)] + [f"row {n}" for n in (69, 65, 3, 5)])),
]


@pytest.mark.parametrize("target", TARGETS, ids=["store", "dataset", "ids"])
def test_a_verification_that_stops_anywhere_goes_on_and_reports_each_damage_once(
    damaged: Engine, target: Target
) -> None:
    whole = verified(damaged, target)
    assert len(whole.damages) >= 8
    steps = sum(1 for _ in damaged.verify(target))
    for stop in range(0, steps + 1, 3):
        verification = damaged.verify(target)
        before = [damage for damage in itertools.islice(verification, stop) if damage is not None]
        after = verified(damaged, target, verification.token())
        assert named(before + after.damages) == named(whole.damages)
        assert after.progress == whole.progress


@pytest.mark.parametrize("target", TARGETS, ids=["store", "dataset", "ids"])
def test_a_dataset_that_is_renamed_meanwhile_is_verified_all_the_same(damaged: Engine, target: Target) -> None:
    whole = verified(damaged, target)
    steps = sum(1 for _ in damaged.verify(target))
    for stop in range(0, steps + 1, 5):
        # Within the stream, or between it and the one that resumes it; and another dataset has the name then.
        for resumes in (False, True):
            verification = damaged.verify(target)
            found = [damage for damage in itertools.islice(verification, stop) if damage is not None]
            damaged.copies.rename_dataset("d", "renamed")
            damaged.create_dataset("d")
            if resumes:
                verification = damaged.verify(target, verification.token())
            found += [damage for damage in verification if damage is not None]
            assert [where[:2] for where in named(found)] == [where[:2] for where in named(whole.damages)]
            assert verification.progress.tensors == whole.progress.tensors
            damaged.delete_dataset("d")
            damaged.copies.rename_dataset("renamed", "d")


def test_a_verification_that_stops_at_every_step_ends(damaged: Engine) -> None:
    whole = verified(damaged, TARGETS[1])
    damages, token = [], ""
    # It cannot stop within a tensor each time, of which it begins anew.
    for steps in itertools.cycle([1, 7]):
        verification = damaged.verify(TARGETS[1], token)
        found = list(itertools.islice(verification, steps))
        damages += [damage for damage in found if damage is not None]
        token = verification.token()
        if len(found) < steps:
            break
    assert named(damages) == named(whole.damages)
    assert verification.progress == whole.progress


def test_a_verification_goes_on_after_a_restart(folder: Path) -> None:
    with engine_on(folder) as engine:
        engine.create_dataset("d", StoragePolicy(preset="none"))
        for number in range(5):
            put_in_file(engine, f"t{number}")
        flip(path_of(folder, engine.get_tensor("d", "t0")), 100)
        verification = engine.verify(Target())
        first = list(itertools.islice(verification, 8))
        token = verification.token()
    with engine_on(folder) as engine:
        rest = verified(engine, token=token)
    assert [damage.facts["tensor"] for damage in first if damage is not None] == ["t0"]
    assert rest.damages == []
    assert rest.progress is not None
    assert (rest.progress.tensors, rest.progress.damages, rest.progress.damaged_tensors) == (5, 1, 1)


def test_damage_of_a_tensor_that_took_the_place_of_a_reported_one_is_reported(engine: Engine, folder: Path) -> None:
    old = put_in_file(engine, "t")
    flip(path_of(folder, old), 30)
    verification = engine.verify(Target("d"))
    assert next(iter(verification)) is not None
    token = verification.token()
    # As if it had been committed before the verification began, since newer tensors are left out.
    fields = json.loads(base64.urlsafe_b64decode(token))
    fields[1] += 1
    token = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
    new = put_in_file(engine, "t", replace=True, metadata={"new": True})
    flip(path_of(folder, new), 30)
    assert [damage.facts["generation"] for damage in verified(engine, Target("d"), token).damages] == [
        str(new.generation)
    ]


# ---- What comes and goes meanwhile ---------------------------------------------------------------------------------------


def delete(engine: Engine, folder: Path) -> None:
    engine.delete_tensors("d", ["t2"])


def replace(engine: Engine, folder: Path) -> None:
    put_in_row(engine, "t2", IN_A_ROW + 1, replace=True)


def delete_dataset(engine: Engine, folder: Path) -> None:
    engine.delete_dataset("d")
    wait_for_purge(engine)


CHANGES: list[Callable[[Engine, Path], None]] = [delete, replace, delete_dataset]


@pytest.mark.parametrize("target", [Target(), Target("d"), Target("d", ("t0", "t1", "t2"))], ids=["store", "d", "ids"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_deleted_or_replaced_meanwhile_is_no_damage(
    engine: Engine, folder: Path, change: Callable[[Engine, Path], None], target: Target
) -> None:
    tensors = [put_in_file(engine, f"t{number}") for number in range(3)]
    verification = engine.verify(target)
    found = iter(verification)
    next(found)
    change(engine, folder)
    engine.sweep(in_grace=True)
    assert not path_of(folder, tensors[2]).exists()
    assert [damage for damage in found if damage is not None] == []
    assert verification.progress.tensors < 3


def test_a_row_that_was_damaged_and_is_gone_by_now_is_not_reported(engine: Engine) -> None:
    tensors = [put_in_row(engine, f"t{number}") for number in range(3)]
    sql(engine, "UPDATE tensor SET relative_error = 0.5 WHERE seq = ?", tensors[2].generation)
    found = iter(engine.verify(Target("d")))
    next(found)
    engine.delete_tensors("d", ["t2"])
    assert [damage for damage in found if damage is not None] == []


def test_a_chunk_that_disappears_with_its_tensor_is_not_reported(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = put_in_file(engine, "t")
    flip(path_of(folder, tensor), 30)
    verification = engine.verify(Target("d"))
    found = iter(verification)
    damage = next(found)
    assert damage is not None
    assert damage.facts["chunk"] == "0"
    engine.delete_tensors("d", ["t"])
    # What a chunk store may do to readers of a deleted payload.
    cut(path_of(folder, tensor), 0)
    assert [damage for damage in found if damage is not None] == []
    assert verification.progress.tensors == 0


def test_tensors_that_are_committed_meanwhile_are_left_out(engine: Engine) -> None:
    put_in_row(engine, "t0")
    verification = engine.verify(Target())
    found = iter(verification)
    next(found)
    put_in_row(engine, "t1")
    engine.create_dataset("later", StoragePolicy(preset="none"))
    assert list(filter(None, found)) == []
    assert verification.progress.tensors == 1


# ---- Payloads without a row ----------------------------------------------------------------------------------------------


def test_payloads_without_a_row_are_counted_in_the_whole_store_alone(engine: Engine, folder: Path) -> None:
    tensor = put_in_file(engine, "t")
    for number in range(3):
        orphan = path_of(folder, tensor).with_name(f"{number:032x}")
        orphan.write_bytes(b"x")
        # A commit may be about to make a row for a younger one.
        age_s = 0.0 if number == 2 else STUCK_S + 60
        os.utime(orphan, (time.time() - age_s,) * 2)
    found = verified(engine)
    assert found.damages == []
    assert found.progress is not None
    assert found.progress.orphans == 2
    for target in (Target("d"), Target("d", ("t",))):
        part = verified(engine, target).progress
        assert part is not None
        assert part.orphans is None


# ---- How fast it is ------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def paced(engine: Engine, clock: Clock, bytes_per_second: int | None) -> Verification:
    verification = Verification(
        engine._catalogue,
        engine._chunk_store,
        Target("d", bytes_per_second=bytes_per_second),
        "",
        closing=threading.Event(),
        uncommitted=frozenset,
        pause=clock.pause,
    )
    verification._pace = Pace(bytes_per_second, clock)
    return verification


def test_pauses_keep_it_below_the_rate(engine: Engine) -> None:
    stored_bytes = sum(put_in_file(engine, f"t{number}").storage.stored_bytes for number in range(3))
    clock = Clock()
    assert list(filter(None, paced(engine, clock, 65536))) == []
    assert sum(clock.pauses) == pytest.approx(stored_bytes / 65536, abs=0.05)
    assert max(clock.pauses) <= 0.5


def test_without_a_rate_it_never_pauses(engine: Engine) -> None:
    put_in_file(engine, "t")
    clock = Clock()
    list(paced(engine, clock, None))
    assert clock.pauses == []


def test_a_pause_is_interrupted_when_the_store_closes(engine: Engine) -> None:
    put_in_file(engine, "t")
    verification = engine.verify(Target("d", bytes_per_second=1))
    found = iter(verification)
    next(found)
    engine._closing.set()
    with pytest.raises(StoreUnavailableError, match="the store is closing"):
        next(found)
    engine._closing.clear()


class TestPace:
    """Pauses between reads."""

    def test_small_reads_share_a_pause(self) -> None:
        clock = Clock()
        pace = Pace(1_000_000, clock)
        for _ in range(3000):
            for seconds in pace.pauses(1000):
                clock.pause(seconds)
        assert sum(clock.pauses) == pytest.approx(3.0, abs=0.02)
        assert min(clock.pauses) >= 0.01

    def test_time_in_which_nothing_was_read_gives_no_more_than_a_second_of_credit(self) -> None:
        clock = Clock()
        pace = Pace(1000, clock)
        clock.now_s += 3600
        for seconds in pace.pauses(5000):
            clock.pause(seconds)
        assert sum(clock.pauses) == pytest.approx(4.0)


# ---- What is refused -----------------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Target, str, type[EngineError], str]] = {
    "a dataset that is not there": (Target("nowhere"), "", DatasetNotFoundError, "no such dataset"),
    "ids of a dataset that is not there": (Target("nowhere", ("t",)), "", DatasetNotFoundError, "no such dataset"),
    "an id that is not there": (
        Target("d", ("t", "u")),
        "",
        TensorNotFoundError,
        r"no such tensor \[dataset=d, tensor=u\]",
    ),
    "ids without a dataset": (Target("", ("t",)), "", InvalidRequestError, "ids but no dataset"),
    "no bytes": (
        Target(bytes_per_second=0),
        "",
        InvalidRequestError,
        "max_bytes_per_second is 0, must be at least 1 byte",
    ),
    "too many ids": (Target("d", ("t",) * 10_001), "", LimitExceededError, r"number of ids is 10001, limit is 10000"),
    "a token that is none": (Target(), "x", InvalidPageTokenError, "resume_token was not issued"),
    "an empty token": (Target(), "W10=", InvalidPageTokenError, "resume_token was not issued"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_verified_is_refused(engine: Engine, case: str) -> None:
    put_in_row(engine, "t")
    target, token, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        engine.verify(target, token)


def test_a_token_of_another_verification_is_refused(engine: Engine) -> None:
    put_in_row(engine, "t")
    token = engine.verify(Target()).token()
    for target in (Target("d"), Target("d", ("t",))):
        with pytest.raises(InvalidPageTokenError, match="belongs to another verification"):
            engine.verify(target, token)
    engine.verify(Target(bytes_per_second=5), token)


@pytest.mark.parametrize("forged", [None, "x", 1.5, 2**63, -2, [], True])
def test_a_forged_token_is_refused_or_harmless(engine: Engine, forged: Any) -> None:
    put_in_row(engine, "t")
    fields = json.loads(base64.urlsafe_b64decode(engine.verify(Target()).token()))
    for place in range(len(fields)):
        token = json.dumps([*fields[:place], forged, *fields[place + 1 :]]).encode()
        try:
            list(engine.verify(Target(), base64.urlsafe_b64encode(token).decode()))
        except InvalidPageTokenError:
            continue
