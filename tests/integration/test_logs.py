"""The log and the audit log of a server: every line is whole, every call and every tensor has one, and no secret is in them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.client import run_command
from support.interrupted import wait_until
from support.leaks import assert_in_no_file
from support.servers import running_server
from tensorus import errors
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1 import tensorus_pb2_grpc
from tensorus_server.config import LogConfig
from tensorus_server.processes.server import Server

FORGED = "t\n2026-01-01T00:00:00.000Z CRITICAL tensorus_server: \x1b[2J\u2028forged"
SECRET = "tns_0123456789abcdef_a-secret-that-nobody-may-write-down"
KEYS = {"time", "level", "logger", "process", "message"}
CALL_KEYS = {"method", "peer", "principal", "request_id"}
END_KEYS = {"code", "tensors", "duration_ms", "received_bytes", "sent_bytes"}
AUDIT_KEYS = {"time", "process", "event", *CALL_KEYS, "outcome"}


@contextmanager
def json_server(folder: Path, *options: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a server that logs JSON; yield its address, and its lines, which are complete when the block has ended."""
    command = [sys.executable, "-m", "tensorus", "serve", "--data-dir", str(folder), "--listen", "127.0.0.1:0"]
    log = folder.with_suffix(".log")
    # Not a pipe: nobody reads while the server is busy.
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--reserve-bytes", "0", "--log-format", "json", *options], stdout=subprocess.PIPE, stderr=stream
        )
    lines: list[dict[str, Any]] = []
    try:
        wait_until(lambda: '"address"' in log.read_text() or process.poll() is not None)
        yield json.loads(log.read_text().splitlines()[-1])["address"], lines
    finally:
        process.terminate()
        printed, _ = process.communicate(timeout=60)
    assert printed == b""
    lines.extend(map(json.loads, log.read_text().splitlines()))


def audited(path: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(entry) >= AUDIT_KEYS for entry in entries)
    return entries


def be_busy(address: str, dataset: str, failures: list[errors.TensorusError]) -> None:
    """Make 25 calls that succeed and 20 that fail, with what a hostile client sends."""
    with tensorus.connect(address) as client:
        client.create_dataset(dataset)
        for number in range(20):
            client.insert(dataset, np.arange(number), id=f"t{number}", metadata={"key": SECRET})
            try:
                client.dataset(f"{dataset} {FORGED}")
            except errors.TensorusError as error:
                failures.append(error)
        client.snapshot(dataset, "s")
        client.insert_many(dataset, [(f"m{number}", np.arange(3)) for number in range(5)])
        client.delete(dataset, ["t0", "missing"])
        client.update_metadata(dataset, "t1", {"key": SECRET})


def test_a_busy_server_of_two_workers_has_whole_lines_one_for_each_call_and_each_change(tmp_path: Path) -> None:
    failures: list[errors.TensorusError] = []
    options = ("--workers", "2", "--access-log", "--audit-log", str(tmp_path / "audit.log"))
    with json_server(tmp_path / "store", *options) as (address, lines):
        clients = [Thread(target=be_busy, args=(address, f"d{number}", failures)) for number in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
    assert all(set(line) >= KEYS for line in lines)
    require_a_line_per_call(lines)
    require_failures_by_id(lines, failures)
    require_each_change_once(audited(tmp_path / "audit.log"))
    assert_in_no_file(SECRET, [tmp_path / "audit.log"], json.dumps(lines))


def require_a_line_per_call(lines: list[dict[str, Any]]) -> None:
    of_calls = [line for line in lines if line["logger"] == "tensorus_server.calls"]
    assert all(set(line) >= CALL_KEYS | END_KEYS for line in of_calls)
    counted = Counter(line["method"] for line in of_calls)
    expected = {"CreateDataset": 4, "Insert": 84, "GetDataset": 80, "CreateSnapshot": 4, "DeleteTensors": 4}
    assert counted.items() >= expected.items()
    assert sum(line["tensors"] for line in of_calls if line["method"] == "Insert") == 100


def require_failures_by_id(lines: list[dict[str, Any]], failures: list[errors.TensorusError]) -> None:
    assert len(failures) == 80
    by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    for error in failures:
        line = by_id[error.facts["request_id"]]
        assert (line["method"], line["reason"]) == ("GetDataset", error.reason)
        assert FORGED in line["dataset"]


def require_each_change_once(entries: list[dict[str, Any]]) -> None:
    of_tensors = [entry for entry in entries if entry["event"] == "tensor"]
    counted = Counter((entry["method"], entry["outcome"], entry["tensor"]) for entry in of_tensors)
    inserted = [*(f"t{number}" for number in range(20)), *(f"m{number}" for number in range(5))]
    assert counted == {
        **{("Insert", "OK", name): 4 for name in inserted},
        ("DeleteTensors", "OK", "t0"): 4,
        ("DeleteTensors", "TENSOR_NOT_FOUND", "missing"): 4,
        ("UpdateTensor", "OK", "t1"): 4,
    }
    calls = Counter((entry["method"], entry["outcome"]) for entry in entries if entry["event"] == "call")
    assert calls["CreateDataset", "OK"] == calls["CreateSnapshot", "OK"] == 4
    assert not [method for method, _ in calls if method in {"Insert", "DeleteTensors", "UpdateTensor"}]


def test_a_server_that_cannot_start_says_so_as_an_object(tmp_path: Path, server: Server) -> None:
    command = [sys.executable, "-m", "tensorus", "serve", "--data-dir", str(tmp_path), "--log-format", "json"]
    ran = subprocess.run(
        [*command, "--listen", server.address], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (4, "")
    (line,) = map(json.loads, ran.stderr.splitlines())
    assert (line["level"], line["message"]) == (
        "CRITICAL",
        f"cannot listen on {server.address}: is another server there?",
    )


def test_an_audit_log_that_cannot_be_opened_is_exit_code_4(tmp_path: Path) -> None:
    command = ["serve", "--data-dir", str(tmp_path / "store"), "--listen", "127.0.0.1:0", "--audit-log"]
    ran = run_command(*command, str(tmp_path / "missing" / "file"))
    assert ran.exit_code == 4
    assert "cannot open the audit log" in ran.errors


@pytest.fixture
def audit_path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def audited_server(tmp_path: Path, audit_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "store", logs=LogConfig(audit_file=audit_path)) as server:
        yield server


class TestCalls:
    """What is said of single calls, in this process."""

    def test_the_client_s_id_of_a_request_is_in_the_log_the_error_and_the_audit_log(
        self, audited_server: Server, audit_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "tensorus_server.calls")
        with grpc.insecure_channel(audited_server.address) as channel:
            stub = tensorus_pb2_grpc.TensorServiceStub(channel)
            metadata = (("x-request-id", "job 7/step 3"), ("authorization", f"Bearer {SECRET}"))
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetDataset(pb.GetDatasetRequest(name="missing"), metadata=metadata)
        details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        assert b"job 7/step 3" in details
        (record,) = [found for found in caplog.records if found.name == "tensorus_server.calls"]
        fields: Any = record.__dict__["fields"]
        assert (
            fields.items()
            >= {"request_id": "job 7/step 3", "principal": "local:", "reason": "DATASET_NOT_FOUND"}.items()
        )
        (entry,) = audited(audit_path)
        assert (entry["request_id"], entry["outcome"]) == ("job 7/step 3", "DATASET_NOT_FOUND")
        assert_in_no_file(SECRET, [audit_path], caplog.text, str(fields))

    def test_an_unexpected_error_is_one_line_with_its_number(
        self, audited_server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("a secret")

        monkeypatch.setattr(audited_server._engine, "store_stats", fail)
        with tensorus.connect(audited_server.address) as client, pytest.raises(errors.TensorusError) as caught:
            client.store_stats()
        (record,) = [found for found in caplog.records if found.name == "tensorus_server.calls"]
        number = caught.value.facts["number"]
        assert (record.levelname, number in record.getMessage()) == ("ERROR", True)
        assert record.__dict__["fields"]["number"] == number
        assert record.__dict__["fields"]["request_id"] == caught.value.facts["request_id"]
        assert record.exc_info is not None

    def test_each_change_of_a_tensor_has_one_line(self, audited_server: Server, audit_path: Path) -> None:
        with tensorus.connect(audited_server.address) as client:
            client.create_dataset("d")
            client.insert("d", np.arange(4), id="a")
            client.insert("d", np.arange(5), id="a", on_conflict="replace")
            client.insert("d", random_bits("float32", (20_000,), seed=1), id="large")
            client.insert("d", random_bits("float32", (20_000,), seed=1), id="known", ask_first=True)
            with pytest.raises(errors.AlreadyExistsError):
                client.insert("d", np.arange(6), id="a")
            client.append("d", "a", np.arange(2))
            client.write("d", "a", slice(0, 1), np.arange(1))
            client.copy("d", "a", new_id="copy")
            client.rename("d", "a", "moved")
            client.delete("d", ["copy"])
            named = client.insert("d", np.arange(4)).id
            client.get("d", "moved")
            client.rename_dataset("d", "e")
            client.delete_dataset("e")
        entries = audited(audit_path)
        changes = [(e["method"], e["tensor"], e["outcome"]) for e in entries if e["event"] == "tensor"]
        assert changes == [
            ("Insert", "a", "OK"),
            ("Insert", "a", "OK"),
            ("Insert", "large", "OK"),
            ("InsertKnown", "known", "OK"),
            ("Insert", "a", "ALREADY_EXISTS"),
            ("Insert", "a", "OK"),
            ("Insert", "a", "OK"),
            ("CopyTensors", "copy", "OK"),
            ("CopyTensors", "moved", "OK"),
            ("DeleteTensors", "copy", "OK"),
            ("Insert", named, "OK"),
        ]
        details = {e["method"]: e.get("details") for e in entries if "details" in e}
        assert details["CopyTensors"] == {"source_dataset": "d", "move": True}
        assert details["RenameDataset"] == {"new_name": "e"}
        reads = [(e["dataset"], e["tensors"]) for e in entries if e["method"] == "Get"]
        # A write asks for the shape first.
        assert reads == [("d", 1), ("d", 1)]

    def test_what_was_only_tried_is_no_change(self, audited_server: Server, audit_path: Path) -> None:
        with tensorus.connect(audited_server.address) as client:
            client.create_dataset("d")
            client.insert_many("d", [("a", np.arange(4))], validate_only=True)
        assert {entry["event"] for entry in audited(audit_path)} == {"call"}

    def test_every_tensor_of_a_large_insert_has_one_line(self, audited_server: Server, audit_path: Path) -> None:
        with tensorus.connect(audited_server.address) as client:
            client.create_dataset("d")
            client.insert("d", np.arange(1), id="t7")
            tensors = [(f"t{number}", np.full(50, number)) for number in range(2000)]
            with pytest.raises(errors.TensorusError):
                client.insert_many("d", tensors)
        counted = Counter(e["tensor"] for e in audited(audit_path) if e["event"] == "tensor")
        assert set(counted) == {name for name, _ in tensors}
        assert counted.pop("t7") == 2
        assert set(counted.values()) == {1}
