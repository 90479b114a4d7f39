"""One Insert call without a network: messages in, messages out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.calls import a_call
from support.wire import announced, insert_message, open_insert
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertStream
from tensorus_server.errors import InvalidRequestError
from tensorus_server.rpc.admission import Admission, AdmissionLimits, Place
from tensorus_server.rpc.insert_call import InsertCall

WAIT_S = 30.0
DATA = b"\1\2\3\4"


def call(engine: Engine, *messages: pb.InsertRequest) -> InsertCall:
    sent: Iterator[bytes] = (message.SerializeToString() for message in messages)
    admission = Admission(AdmissionLimits(streams_max=1, memory_budget_bytes=1 << 20))
    place = Place(admission, lambda _: None, lambda: True)
    return InsertCall(engine, sent, place, a_call("Insert"), lambda: None)


def test_a_message_after_finish_ends_the_call_and_what_was_complete_stays(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = insert_message(DATA, item=1, tensor=announced("late"))
    first = insert_message(DATA, tensor=announced("first"))
    made = call(engine, open_insert("d", request_id=""), first, pb.InsertRequest(finish=True), late)
    finish = InsertStream.finish

    def finish_after_the_late_one(stream: InsertStream) -> tuple[int, int]:
        with made._outbox._changed:
            assert made._outbox._changed.wait_for(lambda: made._outbox._closed, WAIT_S)
        return finish(stream)

    monkeypatch.setattr(InsertStream, "finish", finish_after_the_late_one)
    with pytest.raises(InvalidRequestError, match=r"a message follows the one that says finish \[dataset=d\]"):
        list(made.responses())
    assert [tensor and tensor.id for tensor in engine._catalogue.tensors.get("d", ["first", "late"])] == ["first", None]


def test_a_client_that_ends_its_side_after_finish_has_its_results(engine: Engine) -> None:
    first = insert_message(DATA, tensor=announced("first"))
    made = call(engine, open_insert("d", request_id=""), first, pb.InsertRequest(finish=True))
    responses = [pb.InsertResponse.FromString(raw) for raw in made.responses()]
    assert [result.item for response in responses for result in response.results] == [0]
    assert responses[-1].finished.succeeded == 1


def test_a_trial_remembers_no_ids_since_nothing_becomes_of_its_tensors(engine: Engine) -> None:
    first = insert_message(DATA, tensor=announced("first"))
    made = call(engine, open_insert("d", request_id="", validate_only=True), first, pb.InsertRequest(finish=True))
    made._ids = {}
    list(made.responses())
    assert not made._ids
