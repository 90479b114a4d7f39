"""Requests that are no messages, for every call, and what they leave in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.servers import ServerProcess
from support.wire import call_error
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.processes.server import Server
from tensorus_server.rpc import log_rate
from tensorus_server.rpc.log_rate import LogRate
from tensorus_server.rpc.service import UNIMPLEMENTED

pytestmark = pytest.mark.timeout(120)

SERVICE = "/tensorus.v1.TensorService/"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["TensorService"].methods]
HOSTILE = {
    "a field without an end": b"\x0a\xff\xff\xff\x7f",
    "text that is not UTF-8": b"\x0a\x02\xff\xfe",
    "a tag that is no tag": b"\x07",
    "nothing but 0xff": b"\xff" * 64,
}
EMPTY_REQUESTS = {"GetCapabilities", "GetServerStatus", "GetStoreStats", "ListDatasets"}
"""Their messages have no field of text, so that what is no text is an unknown field."""


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def call_raw(channel: grpc.Channel, method: str, *requests: bytes) -> grpc.RpcError:
    """Send raw requests as any call, and return how it failed."""
    # On the wire every call is a stream both ways.
    call: Any = channel.stream_stream(SERVICE + method)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter(requests), timeout=30))
    return caught.value


@pytest.mark.parametrize("method", [name for name in METHODS if name not in UNIMPLEMENTED])
@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_a_request_that_is_no_message_is_invalid(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture, method: str, raw: bytes
) -> None:
    if method in EMPTY_REQUESTS and raw == HOSTILE["text that is not UTF-8"]:
        raw = HOSTILE["a field without an end"]
    error = call_error(call_raw(channel, method, raw))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert "message is not a" in error.message
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_a_later_message_of_an_explanation_that_does_not_parse_is_invalid_too(channel: grpc.Channel) -> None:
    spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[8])
    opening = pb.ExplainPolicyRequest(open=pb.OpenExplain(spec=spec)).SerializeToString()
    error = call_error(call_raw(channel, "ExplainPolicy", opening, HOSTILE["nothing but 0xff"]))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


def test_hostile_messages_do_not_fill_the_log(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    try:
        with grpc.insecure_channel(server.address) as channel:
            method: Any = channel.unary_unary(SERVICE + "GetDataset")
            for _ in range(2):
                calls = [method.future(HOSTILE["nothing but 0xff"], timeout=60) for _ in range(500)]
                assert {call.code() for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
    finally:
        server.process.terminate()
        _, said = server.process.communicate(timeout=60)
    assert len(said) < 20 * 1024
    assert "more like these within 10 s are not logged" in said


class TestLogRate:
    """Lines of one kind, up to a rate."""

    @pytest.fixture
    def now_s(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now_s = [1000.0]
        monkeypatch.setattr(log_rate.time, "monotonic", lambda: now_s[0])
        return now_s

    @pytest.fixture
    def rate(self, caplog: pytest.LogCaptureFixture) -> LogRate:
        logger = logging.getLogger("tensorus_server.test_of_rate")
        caplog.set_level(logging.INFO, logger.name)
        return LogRate(logger)

    def test_what_comes_seldom_is_logged(
        self, rate: LogRate, now_s: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(100):
            rate.log(logging.INFO, "KIND", "line %d", number)
            now_s[0] += 1.0
        assert [record.getMessage() for record in caplog.records] == [f"line {number}" for number in range(100)]

    def test_what_comes_often_is_counted_and_the_count_is_logged(
        self, rate: LogRate, now_s: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(1000):
            rate.log(logging.INFO, "KIND", "line %d", number)
        rate.log(logging.INFO, "OTHER", "another kind")
        now_s[0] += 10.0
        rate.log(logging.INFO, "KIND", "line %d", 1000)
        assert [record.getMessage() for record in caplog.records] == [
            *(f"line {number}" for number in range(20)),
            "KIND: more like these within 10 s are not logged",
            "another kind",
            "KIND: 980 more like these were not logged",
            "line 1000",
        ]

    def test_whoever_wants_everything_gets_it(
        self, rate: LogRate, now_s: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "tensorus_server.test_of_rate")
        for number in range(100):
            rate.log(logging.INFO, "KIND", "line %d", number)
        assert len(caplog.records) == 100
