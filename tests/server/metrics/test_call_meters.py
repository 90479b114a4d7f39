"""Calls are counted by method and outcome, and what they move while they go on."""

from __future__ import annotations

from typing import Any

import pytest

from tensorus_server.errors import DataCorruptError, EngineError
from tensorus_server.metrics.board import _INDEX, Board
from tensorus_server.metrics.call_meters import CallMeters
from tensorus_server.rpc.admission import Admission, AdmissionLimits
from tensorus_server.rpc.calls import Call, Gate


class Context:
    """A gRPC context, as far as calls use it."""

    def __init__(self) -> None:
        self.active = True

    def is_active(self) -> bool:
        return self.active


class Meters:
    """A gate whose calls are counted."""

    def __init__(self) -> None:
        self.board = Board()
        self.calls = CallMeters(self.board)
        self.gate = Gate(Admission(AdmissionLimits(1, 1)), observers=[self.calls])
        self.context = Context()

    def arrived(self, method: str) -> Call:
        context: Any = self.context
        return self.gate.arrived(method, context)

    def value(self, name: str, *labels: str) -> float:
        return self.board.values[_INDEX[(name, *labels)]]


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "OK"),
        (DataCorruptError("x"), "DATA_CORRUPT"),
        (KeyError("x"), "INTERNAL"),
        (type("New", (EngineError,), {"reason": "NEW"})("x"), "other"),
    ],
    ids=["none", "of the engine", "unexpected", "not in the contract"],
)
def test_a_call_is_counted_by_its_outcome(meters: Meters, error: Exception | None, reason: str) -> None:
    call = meters.arrived("Get")
    meters.calls.sample()
    assert meters.value("tensorus_open_calls", "Get") == 1
    assert meters.value("tensorus_calls_total", "Get", reason) == 0
    meters.gate.ended(call, error)
    meters.calls.sample()
    assert meters.value("tensorus_open_calls", "Get") == 0
    assert meters.value("tensorus_calls_total", "Get", reason) == 1


def test_a_client_that_went_away_is_counted_apart(meters: Meters) -> None:
    call = meters.arrived("Get")
    meters.context.active = False
    meters.gate.ended(call, None)
    assert meters.value("tensorus_calls_total", "Get", "CANCELLED") == 1
    assert meters.value("tensorus_calls_total", "Get", "OK") == 0


def test_bytes_are_counted_once_during_the_call_and_at_its_end(meters: Meters) -> None:
    call = meters.arrived("Insert")
    call.received_bytes, call.inserted_bytes = 100, 50
    meters.calls.sample()
    meters.calls.sample()
    assert meters.value("tensorus_received_bytes_total", "Insert") == 100
    assert meters.value("tensorus_inserted_bytes_total") == 50
    call.received_bytes, call.sent_bytes = 130, 7
    meters.gate.ended(call, None)
    meters.calls.sample()
    assert meters.value("tensorus_received_bytes_total", "Insert") == 130
    assert meters.value("tensorus_sent_bytes_total", "Insert") == 7
    assert meters.value("tensorus_inserted_bytes_total") == 50


def test_a_method_that_is_not_in_the_contract_is_counted_too(meters: Meters) -> None:
    meters.gate.ended(meters.arrived("Unheard"), None)
    assert meters.value("tensorus_calls_total", "other", "OK") == 1
