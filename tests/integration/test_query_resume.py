"""Queries that are interrupted on the wire: the token of any message leads to what comes after it."""

from __future__ import annotations

import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from tensorus._grpc.steps import AttemptFailedError
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub

SIZES = [3, 70_000, 1, 0, 300_000, 5, 65_536, 2, 2, 2]


@pytest.fixture
def filled(remote: tensorus.Client, dataset: str) -> str:
    remote.create_dataset(dataset, preset="none")
    arrays = (random_bits("uint8", (size,), seed=number) for number, size in enumerate(SIZES))
    remote.insert_many(dataset, ((f"t{number}", array) for number, array in enumerate(arrays)))
    return dataset


def query(stub: TensorServiceStub, dataset: str, token: str = "") -> list[pb.QueryResponse]:
    options = pb.ReadOptions(max_payload_bytes=65_536)
    return list(stub.Query(pb.QueryRequest(dataset=dataset, resume_token=token, options=options), timeout=30))


def bytes_by_id(responses: list[pb.QueryResponse]) -> dict[str, bytes]:
    """Return the bytes of each tensor, in the order of their headers."""
    ids: dict[int, str] = {}
    found: dict[str, bytes] = {}
    for response in responses:
        position = 0
        for segment in response.segments:
            if segment.HasField("tensor"):
                ids[segment.item] = segment.tensor.id
                found[segment.tensor.id] = b""
            found[ids[segment.item]] += response.payload[position : position + segment.payload_length]
            position += segment.payload_length
    return found


def test_every_token_leads_to_what_comes_after_its_message(stub: TensorServiceStub, filled: str) -> None:
    responses = query(stub, filled)
    whole = bytes_by_id(responses)
    assert sorted(map(len, whole.values())) == sorted(SIZES)
    tokens = [(number, response.resume_token) for number, response in enumerate(responses, 1) if response.resume_token]
    assert tokens[-1][0] == len(responses)
    for number, token in tokens:
        before, after = bytes_by_id(responses[:number]), bytes_by_id(query(stub, filled, token))
        assert {**before, **after} == whole
        assert not before.keys() & after.keys()


def test_a_message_that_ends_within_a_tensor_has_none(stub: TensorServiceStub, filled: str) -> None:
    for response in query(stub, filled):
        assert bool(response.resume_token) == response.segments[-1].last


def test_a_client_whose_stream_breaks_yields_every_record_once(
    remote: tensorus.Client, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorus._grpc import reads  # noqa: PLC0415 - its requests are made small
    from tensorus._grpc.remote import _Driver  # noqa: PLC0415 - its reading is what breaks

    whole = {record.info.id: record.tensor for record in remote.query(filled, as_="numpy")}
    read, open_stream = _Driver._read, _Driver._open
    broken: list[int] = []
    answers = 0

    def small(*arguments, **named):  # type: ignore[no-untyped-def]
        request = query_request(*arguments, **named)
        request.options.max_payload_bytes = 65_536
        return request

    def opening(self, step):  # type: ignore[no-untyped-def]
        nonlocal answers
        answers = 0
        return open_stream(self, step)

    def breaking(self):  # type: ignore[no-untyped-def]
        nonlocal answers
        answers += 1
        if len(broken) < 5 and answers - 2 == len(broken) % 3:
            broken.append(answers)
            raise AttemptFailedError(tensorus.errors.UnavailableError("broke", reason="UNAVAILABLE"), OSError())
        return read(self)

    query_request = reads.query_request
    monkeypatch.setattr(reads, "query_request", small)
    monkeypatch.setattr(_Driver, "_open", opening)
    monkeypatch.setattr(_Driver, "_read", breaking)
    records = list(remote.query(filled, as_="numpy"))
    assert len(broken) == 5
    assert [record.info.id for record in records] == list(whole)
    for record in records:
        np.testing.assert_array_equal(record.tensor, whole[record.info.id])
