"""The lines of the audit log: who did what to which tensor, and never a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from support.calls import a_call
from support.cases import each
from tensorus_protos.v1 import access_pb2, tensorus_pb2
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.access.tokens import new_token
from tensorus_server.errors import PermissionDeniedError, UnauthenticatedError
from tensorus_server.logs.audit_file import AuditFile
from tensorus_server.rpc import audit_log
from tensorus_server.rpc.audit_log import DETAILS, AuditLog

SECRET = new_token().secret


class Written:
    """An audit log, and what is in its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = AuditFile(path)
        self.log = AuditLog(self.file)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    made = Written(tmp_path / "audit.log")
    yield made
    made.file.close()


def requests_of(method: str) -> Descriptor:
    services = [tensorus_pb2.DESCRIPTOR.services_by_name, access_pb2.DESCRIPTOR.services_by_name]
    (found,) = [
        service.methods_by_name[method].input_type
        for named in services
        for service in named.values()
        if method in service.methods_by_name
    ]
    return found


def test_tensors_have_lines_with_their_outcomes(written: Written) -> None:
    call = a_call("Insert")
    call.dataset = "d"
    written.log.tensors(call, [("a\n\x1b", "OK"), ("b", "ALREADY_EXISTS")])
    first, second = written.entries
    assert first.pop("time") == second["time"]
    assert first.pop("process") > 0
    assert first == {
        "event": "tensor",
        "method": "Insert",
        "peer": "[::1]:40312",
        "principal": "local:",
        "request_id": call.call_id,
        "dataset": "d",
        "tensor": "a\n\x1b",
        "outcome": "OK",
    }
    assert (second["tensor"], second["outcome"]) == ("b", "ALREADY_EXISTS")


def test_calls_have_a_line_unless_their_tensors_had_one_or_they_tell_nothing(written: Written) -> None:
    for method in ("Insert", "DeleteTensors", "GetCapabilities", "Get", "ListDatasets"):
        written.log.ended(a_call(method), None)
    assert [entry["method"] for entry in written.entries] == ["Get", "ListDatasets"]


def test_what_was_refused_has_a_line_always(written: Written) -> None:
    error = PermissionDeniedError("no", principal="token:x", role="writer")
    for method in ("Insert", "GetCapabilities", "Get"):
        written.log.ended(a_call(method), error)
    assert [entry["outcome"] for entry in written.entries] == ["PERMISSION_DENIED"] * 3


@each(
    ("shown", "kind"),
    [
        (None, "none"),
        (f"Bearer {SECRET}", "token"),
        ("bearer eyJhbGciOiJub25lIn0.e30.c2VjcmV0", "JWT"),
        ("Basic dXNlcjpwYXNz", "other"),
        ("Bearer x", "other"),
        ("", "none"),
    ],
)
def test_a_refused_credential_is_named_by_its_kind_alone(written: Written, shown: str | None, kind: str) -> None:
    metadata = [] if shown is None else [("authorization", shown)]
    written.log.ended(a_call(metadata=metadata), UnauthenticatedError("who are you?"))
    entry = written.entries[-1]
    assert (entry["outcome"], entry["credential"]) == ("UNAUTHENTICATED", kind)
    value = (shown or "").partition(" ")[2]
    assert not value or value not in written.path.read_text()


def test_changes_of_access_say_what_they_changed(written: Written) -> None:
    call = a_call("AddGrant")
    grant = access_pb2.Grant(principal="token:x", role=access_pb2.ROLE_WRITER, pattern="team/*")
    call.request = access_pb2.AddGrantRequest(grant=grant)
    written.log.ended(call, None)
    call = a_call("CreateToken")
    call.request = access_pb2.CreateTokenRequest(name="x", scopes=[access_pb2.Scope(role=1, pattern="*")])
    call.details = {"token_id": "0123456789abcdef"}
    written.log.ended(call, None)
    assert [entry["details"] for entry in written.entries] == [
        {"grant": {"principal": "token:x", "role": "ROLE_WRITER", "pattern": "team/*"}},
        {"name": "x", "scopes": [{"role": "ROLE_READER", "pattern": "*"}], "token_id": "0123456789abcdef"},
    ]


def test_the_fields_that_are_repeated_are_those_of_the_requests() -> None:
    for method, names in DETAILS.items():
        assert set(names) <= set(requests_of(method).fields_by_name), method


def test_every_change_of_access_has_details() -> None:
    methods = access_pb2.DESCRIPTOR.services_by_name["AccessService"].methods_by_name
    assert {name for name in methods if not name.startswith("List")} <= set(DETAILS)


def test_a_line_is_bounded_whatever_a_client_sends(written: Written) -> None:
    call = a_call("CreateSnapshot")
    call.dataset = "\0" * 1_000_000
    call.request = pb.CreateSnapshotRequest(dataset=call.dataset, name="\x1b" * 1_000_000)
    written.log.tensors(call, [("\x1b" * 1_000_000, "INVALID_NAME")])
    written.log.ended(call, PermissionDeniedError("no", principal="token:x", role="writer"))
    assert len(written.entries) == 2
    assert max(map(len, written.path.read_text().splitlines())) < 16 * 1024


def test_callers_that_nobody_knows_cannot_fill_the_disk(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(audit_log.time, "monotonic", lambda: now_s[0])
    for _ in range(250):
        written.log.ended(a_call(), UnauthenticatedError("who are you?"))
    assert len(written.entries) == 100
    now_s[0] += 1.0
    written.log.ended(a_call(), UnauthenticatedError("who are you?"))
    gap, last = written.entries[100:]
    assert (gap["event"], gap["lines"], last["outcome"]) == ("suppressed", 150, "UNAUTHENTICATED")
