"""The line of a call at its end, and the id under which its client finds it."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from support.calls import a_call
from support.cases import each
from tensorus_server.errors import DatasetNotFoundError, InvalidNameError
from tensorus_server.rpc.call_log import CallLog
from tensorus_server.rpc.status import status_of, status_of_call

MADE = "[0-9a-f]{12}"
ERROR = InvalidNameError("the name is wrong", dataset="d")


@pytest.fixture(autouse=True)
def _informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tensorus_server.calls")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.__dict__["fields"]
    return found


def test_a_call_that_succeeds_has_a_line_only_if_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    CallLog(every_call=False).ended(a_call(), None)
    assert caplog.records == []
    call = a_call("Insert")
    call.dataset, call.tensors, call.received_bytes, call.sent_bytes = "d", 3, 1000, 10
    CallLog(every_call=True).ended(call, None)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "Insert: OK")
    found = fields_of(record)
    assert found.pop("duration_ms") >= 0
    assert found == {
        "method": "Insert",
        "peer": "[::1]:40312",
        "principal": "local:",
        "request_id": call.call_id,
        "dataset": "d",
        "code": "OK",
        "tensors": 3,
        "received_bytes": 1000,
        "sent_bytes": 10,
    }


def test_a_call_that_fails_has_one_line_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    call = a_call()
    status_of_call(ERROR, call=call)
    CallLog(every_call=False).ended(call, ERROR)
    (record,) = caplog.records
    assert record.getMessage() == "Get: INVALID_NAME: the name is wrong [dataset=d]"
    assert fields_of(record).items() >= {"code": "INVALID_ARGUMENT", "reason": "INVALID_NAME"}.items()


def test_with_all_calls_no_failure_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        CallLog(every_call=True).ended(a_call(), ERROR)
        # Without it, this is logged at a lower level.
        CallLog(every_call=True).ended(a_call(), DatasetNotFoundError("there is none", dataset="d"))
    assert len(caplog.records) == 200


def test_an_item_that_fails_names_its_call(caplog: pytest.LogCaptureFixture) -> None:
    call = a_call("Insert")
    status_of(ERROR, call=call)
    (record,) = caplog.records
    assert fields_of(record).items() >= {"request_id": call.call_id, "reason": "INVALID_NAME"}.items()
    assert "code" not in fields_of(record)


@each(
    ("given", "pattern"),
    [
        ("job 7/step 3", "job 7/step 3"),
        ("x" * 128, "x{128}"),
        ("x" * 129, MADE),
        ("", MADE),
        ("a\nb", MADE),
        ("a\x7fb", MADE),
        ("é", MADE),
    ],
)
def test_the_id_of_a_call_is_the_client_s_if_it_is_allowed(given: str, pattern: str) -> None:
    call = a_call(metadata=[("user-agent", "x"), ("x-request-id", given)])
    first = call.call_id
    assert re.fullmatch(pattern, first)
    assert call.call_id == first


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    found = {a_call().call_id for _ in range(100)}
    assert len(found) == 100
    assert all(re.fullmatch(MADE, call_id) for call_id in found)
