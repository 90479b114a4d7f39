"""Earlier states and retentions on their way from a client to the engine, and back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2, timestamp_pb2

from support.cases import each
from tensorus._backend import State
from tensorus._grpc.convert_dataset import dataset_from
from tensorus._grpc.convert_history import restored_from, snapshot_from, state_to
from tensorus._grpc.convert_history import retention_to as duration_of
from tensorus.types import RestoreReport
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.errors import InvalidRequestError
from tensorus_server.model import At, Dataset, Restored, Schema, Snapshot
from tensorus_server.rpc.convert import dataset_to
from tensorus_server.rpc.convert_history import at_from, restored_to, retention_from, snapshot_to

END_US = 253_402_300_799_999_999

STATES: list[State] = [
    State(snapshot="before"),
    State(snapshot=""),
    State(generation=0),
    State(generation=2**63 - 1),
    State(time_us=0),
    State(time_us=-1),
    State(time_us=1_769_860_800_250_001),
    State(time_us=-62_135_596_800_000_000),
    State(time_us=END_US),
]


@each("state", STATES)
def test_a_state_arrives_as_it_was_sent(state: State) -> None:
    arrived = pb.At.FromString(state_to(state).SerializeToString())
    assert at_from(arrived, dataset="d") == At(state.snapshot, state.generation, state.time_us)


def test_a_generation_that_no_store_can_have_is_one_that_none_has_reached() -> None:
    assert at_from(pb.At(generation=2**64 - 1), dataset="d") == At(generation=2**63 - 1)


def test_nanoseconds_are_rounded_down() -> None:
    assert at_from(pb.At(time=timestamp_pb2.Timestamp(seconds=-1, nanos=1999)), dataset="d") == At(time_us=-999_999)


REFUSED: dict[str, tuple[pb.At, str]] = {
    "nothing": (pb.At(), "`at` has no kind that this server knows"),
    "a kind of the future": (pb.At.FromString(b"\x52\x01x"), "`at` has no kind that this server knows"),
    "a time after the year 9999": (
        pb.At(time=timestamp_pb2.Timestamp(seconds=2**62)),
        "must be in the years 1 to 9999",
    ),
    "a time before the year 1": (
        pb.At(time=timestamp_pb2.Timestamp(seconds=-(2**62))),
        "must be in the years 1 to 9999",
    ),
    "too many nanoseconds": (pb.At(time=timestamp_pb2.Timestamp(nanos=10**9)), "must be in the years 1 to 9999"),
    "negative nanoseconds": (pb.At(time=timestamp_pb2.Timestamp(nanos=-1)), "must be in the years 1 to 9999"),
}


@each("name", REFUSED)
def test_a_state_that_is_none_is_refused(name: str) -> None:
    message, text = REFUSED[name]
    with pytest.raises(InvalidRequestError, match=text) as caught:
        at_from(message, dataset="d")
    assert caught.value.facts["dataset"] == "d"


def test_a_retention_is_whole_seconds() -> None:
    assert retention_from(duration_of(timedelta(days=7)), dataset="d") == 7 * 86_400
    # The engine refuses it: here it is only converted.
    assert retention_from(duration_of(timedelta(seconds=-1)), dataset="d") == -1
    for duration in (timedelta(milliseconds=1), timedelta(milliseconds=-1)):
        with pytest.raises(InvalidRequestError, match="must be whole seconds"):
            retention_from(duration_of(duration), dataset="d")


def test_a_dataset_says_how_long_it_keeps() -> None:
    for seconds in (0, 1, 10**9):
        dataset = Dataset(1, "d", StoragePolicy(), Schema(), created_us=0, retention_s=seconds)
        message = dataset_to(dataset)
        assert message.HasField("retention") == bool(seconds)
        assert message.retention == duration_pb2.Duration(seconds=seconds)
        assert dataset_from(message).retention == timedelta(seconds=seconds)


def test_a_snapshot_and_a_restore_arrive_as_they_are() -> None:
    found: Any = snapshot_from(snapshot_to(Snapshot("d", "before", 17, 1_769_860_800_250_001)))
    assert (found.dataset, found.name, found.generation) == ("d", "before", 17)
    assert found.created.isoformat() == "2026-01-31T12:00:00.250001+00:00"
    assert restored_from(restored_to(Restored(17, 1, 2, 3))) == RestoreReport(1, 2, 3, 17)
