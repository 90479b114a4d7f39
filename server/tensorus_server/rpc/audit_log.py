"""Writes the audit log: who did what to which tensor, and with what outcome, as lines of JSON.

A tensor that is inserted, changed, copied or deleted has a line of its own, which is written before the client learns the
outcome. Every other call has one line at its end, and so have those calls if they fail. No line has values, metadata of
tensors, or secrets.

A text of a client that is longer than anything valid is cut, so a line is shorter than 8 KiB.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from tensorus_server.errors import reason_of
from tensorus_server.logs.formats import utc
from tensorus_server.rpc.call_log import CANCELLED
from tensorus_server.rpc.calls import OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.logs.audit_file import AuditFile
    from tensorus_server.rpc.calls import Call

__all__ = ["DETAILS", "AuditLog"]

_TENSOR_CALLS = frozenset({"Insert", "InsertKnown", "UpdateTensor", "DeleteTensors", "CopyTensors"})
"""Their tensors have lines, so the calls have one only if they fail."""

_HARMLESS = frozenset({"GetCapabilities", "GetServerStatus"})
"""They tell nothing of what is stored, so they have a line only if they fail."""

DETAILS: dict[str, tuple[str, ...]] = {
    "CopyTensors": ("source_dataset", "move"),
    "CopyDataset": ("name",),
    "RenameDataset": ("new_name",),
    "DeleteDataset": ("drop_snapshots",),
    "CreateSnapshot": ("name",),
    "DeleteSnapshot": ("name",),
    "RestoreDataset": ("at", "discard_newer"),
    "CreateToken": ("name", "lifetime", "scopes"),
    "RevokeToken": ("id",),
    "AddGrant": ("grant",),
    "RemoveGrant": ("grant",),
    "SetQuota": ("quota",),
    "SetOwner": ("dataset", "principal"),
}
"""The fields of requests that a line repeats, by method."""

_TEXT_CHARACTERS_MAX = 512
_DETAILS_CHARACTERS_MAX = 2048

_REFUSALS_MAX = 100
_REFUSALS_S = 1.0
"""Lines of callers that nobody knows, in one such time. They could fill the disk otherwise."""


class AuditLog:
    """A `CallObserver` and a `TensorObserver`; see the module's description. Thread-safe."""

    def __init__(self, file: AuditFile) -> None:
        """Write to `file`, which the caller closes."""
        self._file = file
        self._lock = threading.Lock()
        self._window_s = 0.0
        self._refusals = 0

    def began(self, call: Call) -> None:
        """Do nothing: who makes the call is not known yet."""

    def tensors(self, call: Call, outcomes: Sequence[tuple[str, str]]) -> None:
        """Write a line for each tensor."""
        entry = self._entry("tensor", call)
        # Written by hand from here on, since thousands of tensors may share the rest.
        head = json.dumps(entry)[:-1]
        details = self._details(call)
        tail = f', "details": {json.dumps(details)}}}' if details else "}"
        self._file.write(
            [
                f'{head}, "tensor": {json.dumps(_cut(tensor_id))}, "outcome": {json.dumps(outcome)}{tail}'
                for tensor_id, outcome in outcomes
            ]
        )

    def ended(self, call: Call, error: Exception | None) -> None:
        """Write a line for the call, if it has one."""
        outcome = reason_of(error) if error is not None else CANCELLED if call.is_cancelled else OK
        if outcome == OK and (call.method in _TENSOR_CALLS or call.method in _HARMLESS):
            return
        entry = self._entry("call", call)
        entry["tensors"] = call.tensors
        entry["outcome"] = outcome
        if outcome == "UNAUTHENTICATED":
            if not self._may_write_refusal():
                return
            entry["credential"] = call.credential
        if details := self._details(call):
            entry["details"] = details
        self._file.write([json.dumps(entry)])

    def _entry(self, event: str, call: Call) -> dict[str, Any]:
        """Return what all lines begin with."""
        entry: dict[str, Any] = {"time": utc(time.time()), "process": os.getpid(), "event": event}
        return entry | {name: _cut(str(value)) for name, value in call.fields().items()}

    def _details(self, call: Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if call.request is not None and call.method in DETAILS:
            names = DETAILS[call.method]
            found = {field.name: _value(value) for field, value in call.request.ListFields() if field.name in names}
        found |= call.details or {}
        text = json.dumps(found)
        return found if len(text) <= _DETAILS_CHARACTERS_MAX else {"cut": text[:_DETAILS_CHARACTERS_MAX]}

    def _may_write_refusal(self) -> bool:
        """Return whether one more caller that nobody knows may have a line; says first how many had none."""
        now_s = time.monotonic()
        with self._lock:
            suppressed = 0
            if now_s - self._window_s >= _REFUSALS_S:
                suppressed = max(self._refusals - _REFUSALS_MAX, 0)
                self._window_s, self._refusals = now_s, 0
            self._refusals += 1
            is_allowed = self._refusals <= _REFUSALS_MAX
        if suppressed:
            entry = {"time": utc(time.time()), "process": os.getpid(), "event": "suppressed", "lines": suppressed}
            self._file.write([json.dumps(entry)])
        return is_allowed


def _value(value: Any) -> Any:  # `Any`: of whatever field
    """Return the value of a request's field as JSON has it."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, (str, bool, int)):
        return _cut(value) if isinstance(value, str) else value
    return [_value(part) for part in value]


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS_MAX else f"{text[:_TEXT_CHARACTERS_MAX]}..."
