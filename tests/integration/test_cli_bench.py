"""tensorus bench: what it says, and that it leaves nothing behind, however it ends. No test looks at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tensorus
from support.arrays import normal
from support.client import PROCESS_TIMEOUT_S, Ran, run_command
from support.interrupted import wait_until
from support.servers import running_server
from tensorus.cli import _bench
from tensorus.cli._bench import Plan
from tensorus.errors import StorageFullError, UnavailableError

MIB = 1024 * 1024

QUICK = ["--size", "1MiB", "--repeats", "2", "--small-count", "3", "--calls", "2"]

FEW = [*QUICK, "--preset", "none", "--preset", "int8_only"]

DEFAULT_PRESETS = ["none", "fast", "lossless", "balanced", "fp16_only", "int8_only"]


@pytest.fixture
def unchanged(remote: tensorus.Client, dataset: str) -> Iterator[None]:
    """Fails unless the test leaves the datasets of the shared server as they were, and the tensor of one of them."""
    remote.create_dataset(dataset)
    remote.insert(dataset, np.arange(10), id="mine")
    before = remote.datasets(), remote.stats(dataset)
    yield
    assert (remote.datasets(), remote.stats(dataset)) == before


def measured(*arguments: object) -> Any:
    """Return what the command says as JSON."""
    ran = run_command("bench", *arguments, "--json")
    assert (ran.exit_code, ran.errors) == (0, ""), ran
    return json.loads(ran.output)


def blocks_of(ran: Ran) -> list[list[list[str]]]:
    """Return the cells of what the command says, block by block and line by line."""
    assert (ran.exit_code, ran.errors) == (0, ""), ran
    return [[re.split(" {2,}", line) for line in block.splitlines()] for block in ran.output.split("\n\n")]


def bench_datasets(client: tensorus.Client) -> list[str]:
    return [info.name for info in client.datasets() if info.name.startswith("tensorus-bench-")]


# ---- What it says -------------------------------------------------------------------------------------------------------


def test_tables_say_what_was_measured_and_a_sentence_what_follows(place: list[str], unchanged: None) -> None:
    head, presets, small, calls, advice = blocks_of(run_command("bench", *QUICK, *place))
    fields = dict(head)
    assert re.fullmatch(rf"{place[1]}, round trip [\d.]+ ms", fields["server"])
    assert fields["values"] == "1.0 MiB of float32, N(0, 0.02), generated from a fixed seed"
    assert fields["figures"] == "median and range of 2 repeats, in turn, after one to warm up"
    assert presets[0] == ["preset", "insert MB/s", "range", "get MB/s", "range", "ratio", "on disk", "error"]
    assert [line[0] for line in presets[1:]] == DEFAULT_PRESETS
    assert [line[-1] for line in presets[1:4]] == ["exact"] * 3
    assert all(re.fullmatch(r"\d\.\de-0\d", line[-1]) for line in presets[4:])
    assert [line[0] for line in small] == ["3 tensors of 4.0 KiB", "insert_many", "get_many"]
    assert calls[0] == ["2 single calls", "median ms", "p95 ms", "max ms"]
    assert [line[0] for line in calls[1:]] == [
        "dataset, the round trip",
        "info of a tensor",
        "insert of 4.0 KiB",
        "get of 4.0 KiB",
        "get of a slice of 64.0 KiB",
        "get of a slice of 1.0 MiB",
    ]
    fastest, smallest, left = ("  ".join(line) for line in advice)
    assert re.match(rf"Fastest to read here: ({'|'.join(DEFAULT_PRESETS)}), [\d,.]+ MB/s", fastest)
    assert re.fullmatch(
        r"Smallest on disk: int8_only, ratio 3\.\d\d, error \d\.\de-03; smallest exact: lossless, ratio 1\.\d\d\.",
        smallest,
    )
    assert re.fullmatch(r"[\d.]+ MiB were stored in total; the store frees this space in about an hour\.", left)


def test_json_says_the_same_in_one_document(place: list[str], unchanged: None) -> None:
    found = measured(*FEW, *place)
    assert (found["server"], found["store"], found["client_version"]) == (place[1], None, tensorus.__version__)
    assert (found["dtype"], found["size_bytes"], found["repeats"]) == ("float32", MIB, 2)
    none, int8 = found["presets"]
    assert (none["preset"], none["lossy"], none["relative_error"]) == ("none", False, 0)
    assert (int8["preset"], int8["lossy"]) == ("int8_only", True)
    assert 0.001 < int8["relative_error"] < 0.01
    assert int8["ratio"] == int8["canonical_bytes"] / int8["stored_bytes"] > 3.8
    assert none["canonical_bytes"] == int8["canonical_bytes"] == MIB
    small = found["small"]
    assert (small["tensors"], small["tensor_bytes"]) == (3, 4096)
    rates = [preset[f"{way}_bytes_per_second"] for preset in found["presets"] for way in ("insert", "get")]
    rates += [small[f"{way}_tensors_per_second"] for way in ("insert", "get")]
    assert all(0 < rate["smallest"] <= rate["median"] <= rate["largest"] for rate in rates)
    assert [(latency["call"], latency["canonical_bytes"]) for latency in found["latencies"]] == [
        ("dataset", 0),
        ("info", 0),
        ("insert", 4096),
        ("get", 4096),
        ("get_slice", 65536),
        ("get_slice", MIB),
    ]
    assert all(
        latency["calls"] == 2 and 0 < latency["median_ms"] <= latency["p95_ms"] <= latency["max_ms"]
        for latency in found["latencies"]
    )
    assert found["fastest_get"] in {"none", "int8_only"}
    assert (found["smallest"], found["smallest_exact"]) == ("int8_only", "none")
    # Three passes, the first of which warms up, and the tensor that slices are read from.
    assert found["total_stored_bytes"] > 3 * (none["stored_bytes"] + int8["stored_bytes"]) + MIB / 2


def test_a_folder_is_measured_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    found = measured(*FEW, "--store", tmp_path / "store")
    assert (found["server"], found["store"]) == (None, str(tmp_path / "store"))
    with tensorus.open(tmp_path / "store") as client:
        assert client.datasets() == []


def test_a_preset_alone_needs_no_advice(place: list[str]) -> None:
    *_, last = blocks_of(run_command("bench", *QUICK, "--preset", "none", "--preset", "none", *place))
    assert len(last) == 1


def test_where_no_preset_is_exact_none_is_recommended_as_such(place: list[str]) -> None:
    found = measured(*QUICK, "--preset", "int8_only", *place)
    assert (found["smallest"], found["smallest_exact"]) == ("int8_only", None)


def test_bfloat16_is_made_when_asked_for(place: list[str]) -> None:
    found = measured(*QUICK, "--preset", "lossless", "--dtype", "bfloat16", *place)
    assert (found["dtype"], found["size_bytes"]) == ("bfloat16", MIB)
    assert found["presets"][0]["ratio"] > 1.4


# ---- The values of a file -----------------------------------------------------------------------------------------------


def test_a_file_lends_its_values(place: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {"a": normal((70, 100)).astype(ml_dtypes.bfloat16), "b": np.zeros((30, 100), ml_dtypes.bfloat16)}
    save_file(arrays | {"ids": np.arange(10)}, path)
    found = measured(*FEW, "--file", path, *place)
    assert (found["dtype"], found["size_bytes"]) == ("bfloat16", 20_000)
    assert found["values"] == "from model.safetensors, all of its 2 tensors of this dtype"
    assert found["presets"][0]["canonical_bytes"] == 20_000
    # A slice that is longer than the tensor is none.
    assert [latency["call"] for latency in found["latencies"]] == ["dataset", "info", "insert", "get"]


def test_of_a_large_file_no_more_than_the_size_is_taken(place: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.zeros((3, MIB), np.uint8))
    found = measured(*FEW, "--file", tmp_path / "large.npy", *place)
    assert (found["dtype"], found["size_bytes"]) == ("uint8", MIB)
    assert found["values"] == "from large.npy, evenly spread over 3.0 MiB of its 1 tensor of this dtype"
    assert (found["presets"][1]["lossy"], found["smallest_exact"]) == (False, found["smallest"])


def test_a_file_of_a_single_small_tensor_is_enough(place: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.float64(7))
    found = measured(*FEW, "--file", tmp_path / "one.npy", *place)
    assert (found["size_bytes"], found["small"]["tensor_bytes"]) == (8, 8)


# ---- How it measures ----------------------------------------------------------------------------------------------------


class Recorder:
    """Stands in for a client: notes which presets are inserted, and whether an array that was read is alive when another is."""

    def __init__(self, client: tensorus.Client) -> None:
        self._client = client
        self.inserted: list[str] = []
        self.large_at_once = 0

    def insert(self, dataset: str, tensor: Any, **options: Any) -> Any:
        if "preset" in options:
            self.inserted.append(options["preset"])
        return self._client.insert(dataset, tensor, **options)

    def delete(self, dataset: str, ids: Any) -> int:
        deleted = self._client.delete(dataset, ids)
        self.large_at_once = max(self.large_at_once, self._client.stats(dataset).tensors)
        return deleted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_presets_take_turns_and_what_was_measured_is_deleted_at_once(remote: tensorus.Client, dataset: str) -> None:
    remote.create_dataset(dataset)
    recorder = Recorder(remote)
    shown: list[tuple[str, int]] = []
    plan = Plan(normal((1000,)), ["none", "fast"], repeats=3, small_count=2, calls=1)
    _bench.measure(recorder, dataset, plan, lambda *at: shown.append(at), lambda: None)  # type: ignore[arg-type]
    assert recorder.inserted == ["fast", "none", "none", "fast", "fast", "none", "none", "fast"]
    assert recorder.large_at_once == 0
    assert [moved_bytes for _, moved_bytes in shown] == sorted(moved_bytes for _, moved_bytes in shown)
    assert shown[0] == ("fast, insert, warming up", 0)
    assert shown[-1] == ("single calls, 1 of 1", plan.moved_bytes)


# ---- However it ends, nothing is left -----------------------------------------------------------------------------------


def failing(error: BaseException, at: int) -> Callable[..., Any]:
    """Return a method of a client that gets, and fails at the `at`th call."""
    calls: list[None] = []
    get = tensorus.Client.get

    def fail(self: tensorus.Client, *arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == at:
            raise error
        return get(self, *arguments, **options)

    return fail


ENDS = [
    pytest.param(KeyboardInterrupt(), (1, "Aborted!"), id="Ctrl-C"),
    pytest.param(StorageFullError("no space is left"), (1, "tensorus: no space is left"), id="a full disk"),
    pytest.param(UnavailableError("gone"), (4, "tensorus: no server can be reached at"), id="a server that goes"),
]


@pytest.mark.parametrize("at", [1, 4], ids=["while it warms up", "later"])
@pytest.mark.parametrize(("error", "expected"), ENDS)
@pytest.mark.usefixtures("unchanged")
def test_whatever_happens_the_dataset_is_removed(
    place: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: tuple[int, str], at: int
) -> None:
    monkeypatch.setattr(tensorus.Client, "get", failing(error, at))
    ran = run_command("bench", *FEW, *place)
    exit_code, message = expected
    assert (ran.exit_code, ran.output) == (exit_code, "")
    assert ran.errors.strip().startswith(message)
    assert "tensorus-bench-" not in ran.errors


def test_a_disk_without_room_is_said_as_the_server_says_it(tmp_path: Path) -> None:
    with running_server(tmp_path / "store", reserve_bytes=2**60) as server:
        ran = run_command("bench", *FEW, "--server", server.address)
        assert (ran.exit_code, ran.output) == (1, "")
        assert re.fullmatch(r"tensorus: .*reserve.*\n", ran.errors)
        with tensorus.connect(server.address) as client:
            assert client.datasets() == []


SIGNALS = [
    pytest.param(signal.SIGINT, 1, "insert", id="Ctrl-C"),
    pytest.param(signal.SIGTERM, 143, "get", id="SIGTERM"),
    pytest.param(signal.SIGHUP, 129, "get", id="SIGHUP"),
]


@pytest.fixture
def harmless_signals() -> Iterator[None]:
    """Signals that the command does not take care of do nothing; fails unless it leaves that as it was."""
    before = {number: signal.signal(number, nothing) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
        assert [signal.getsignal(number) for number in before] == [nothing] * 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def nothing(*_: Any) -> None:
    """Stands in for a handler."""


@pytest.mark.parametrize(("number", "exit_code", "method"), SIGNALS)
@pytest.mark.usefixtures("unchanged", "harmless_signals")
def test_a_signal_ends_it_in_the_midst_of_a_transfer_but_not_of_a_call_of_grpc(
    place: list[str], monkeypatch: pytest.MonkeyPatch, method: str, number: int, exit_code: int
) -> None:
    reached: list[str] = []

    def signalled(*_: Any, on_progress: Callable[[Any], None], **__: Any) -> None:
        os.kill(os.getpid(), number)
        reached.append("the signal was put off")
        on_progress(None)
        reached.append("it was not raised")

    monkeypatch.setattr(tensorus.Client, method, signalled)
    ran = run_command("bench", *FEW, *place)
    assert (ran.exit_code, ran.output, ran.errors.strip()) == (exit_code, "", "Aborted!" if exit_code == 1 else "")
    assert reached == ["the signal was put off"]


@pytest.mark.usefixtures("unchanged", "harmless_signals")
def test_a_signal_is_obeyed_between_measurements(place: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def signalled(*_: Any) -> None:
        numbers.append(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(tensorus.Client, "delete", signalled)
    assert run_command("bench", *FEW, *place).exit_code == 1
    assert len(numbers) == 1


@pytest.mark.usefixtures("unchanged", "harmless_signals")
def test_a_second_signal_ends_it_at_once(place: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    def signalled(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("it was not raised")

    monkeypatch.setattr(tensorus.Client, "get", signalled)
    assert run_command("bench", *FEW, *place).exit_code == 143
    assert reached == []


@pytest.mark.usefixtures("harmless_signals")
def test_a_signal_that_is_ignored_stays_ignored(place: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(tensorus.Client, "delete", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        assert run_command("bench", *FEW, *place).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, mine)


def test_ctrl_c_ends_a_process_in_order(place: list[str], remote: tensorus.Client, unchanged: None) -> None:
    command = [sys.executable, "-m", "tensorus", "bench", *FEW, "--repeats", "1000", *place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: bool(bench_datasets(remote)))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PROCESS_TIMEOUT_S)
    assert (process.returncode, output, errors.strip()) == (1, "", "Aborted!")


NOT_REMOVED = [
    pytest.param(UnavailableError("gone"), "gone", id="a server that goes"),
    pytest.param(KeyboardInterrupt(), "interrupted", id="Ctrl-C"),
]


@pytest.mark.parametrize(("error", "why"), NOT_REMOVED)
def test_a_dataset_that_could_not_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, why: str
) -> None:
    def fail(*_: Any) -> int:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(tensorus.Client, "delete_dataset", fail)
        ran = run_command("bench", *FEW, "--store", tmp_path)
    # What was measured is not lost.
    assert ran.output.startswith("store ")
    assert ran.exit_code == 1
    with tensorus.open(tmp_path) as client:
        (name,) = bench_datasets(client)
    assert ran.errors == (
        f"tensorus: the temporary dataset '{name}' could not be removed ({why}); "
        f"`tensorus rm {name} --dataset --store {tmp_path}` removes it\n"
    )


def test_a_dataset_that_could_not_be_removed_is_named_beside_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise UnavailableError("gone")

    monkeypatch.setattr(tensorus.Client, "get", failing(StorageFullError("no space is left"), 1))
    monkeypatch.setattr(tensorus.Client, "delete_dataset", fail)
    ran = run_command("bench", *FEW, "--store", tmp_path)
    assert (ran.exit_code, ran.output) == (1, "")
    left, wrong = ran.errors.splitlines()
    assert re.match(r"tensorus: the temporary dataset 'tensorus-bench-[0-9a-f]{32}' could not be removed", left)
    assert wrong == "tensorus: no space is left"


# ---- What is refused ----------------------------------------------------------------------------------------------------

WRONG_USAGE = [
    pytest.param(["--size", "0"], "must be from 1MiB to 4GiB", id="a size of 0"),
    pytest.param(["--size", "-1MiB"], "'-1MiB' is not a size", id="a negative size"),
    pytest.param(["--size", "64"], "must be from 1MiB to 4GiB", id="a size without a unit"),
    pytest.param(["--size", "5GiB"], "must be from 1MiB to 4GiB", id="a size that is too large"),
    pytest.param(["--repeats", "0"], "0 is not in the range", id="no repeats"),
    pytest.param(["--small-count", "0"], "0 is not in the range", id="no small tensors"),
    pytest.param(["--calls", "0"], "0 is not in the range", id="no calls"),
    pytest.param(["--dtype", "int8"], "'int8' is not one of", id="a dtype"),
    pytest.param(["--file", "missing.npy"], "'missing.npy' does not exist", id="a missing file"),
    pytest.param(["--dtype", "float32", "--file", __file__], "--file and --dtype cannot be combined", id="two sources"),
]


@pytest.mark.parametrize(("options", "part"), WRONG_USAGE)
def test_wrong_usage_is_exit_code_2(place: list[str], options: list[str], part: str) -> None:
    ran = run_command("bench", *options, *place)
    assert (ran.exit_code, ran.output) == (2, "")
    assert part in ran.errors


def test_an_unknown_preset_is_refused_before_anything_is_made(
    place: list[str], unchanged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(tensorus.Client, "create_dataset", lambda *arguments: made.append(arguments))
    ran = run_command("bench", *FEW, "--preset", "zip", *place)
    assert (ran.exit_code, ran.output) == (1, "")
    assert ran.errors.startswith("tensorus: preset 'zip' is not one of none, ")
    assert made == []


def test_a_server_that_is_not_there_is_exit_code_4() -> None:
    ran = run_command("bench", *FEW, "--server", "127.0.0.1:1")
    assert (ran.exit_code, ran.output) == (4, "")
    assert ran.errors.startswith("tensorus: no server can be reached at '127.0.0.1:1'; start one with `tensorus serve`")
    assert ran.errors.count("\n") == 1


def test_a_file_without_values_is_exit_code_1(place: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", np.empty((0, 3)))
    ran = run_command("bench", *FEW, "--file", tmp_path / "empty.npy", *place)
    assert (ran.exit_code, ran.errors) == (1, f"tensorus: {tmp_path / 'empty.npy'} has no values\n")
