"""Sessions of inserts as a stranger sees them: one stream at a time, a status, and an end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from support.interrupted import KIB, MIB, WAIT_S, assert_settled, leftovers
from support.wire import announced, bytes_of, call_error, insert_message, item_error, open_insert, read_all
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.processes.server import Server


class RawInsert:
    """An Insert stream whose messages are sent one by one."""

    def __init__(self, stub: TensorServiceStub, dataset: str, request_id: str) -> None:
        self._more = threading.Condition()
        self._messages: list[pb.InsertRequest | None] = [open_insert(dataset, request_id=request_id)]
        self.call = stub.Insert(self._requests(), timeout=WAIT_S)
        # However the call ends, nobody waits for another message.
        self.call.add_callback(lambda: self.send(None))

    def send(self, message: pb.InsertRequest | None) -> None:
        """Send a message, or, with None, no more of them."""
        with self._more:
            self._messages.append(message)
            self._more.notify()

    def opened(self) -> pb.InsertOpened:
        """Return what the server had; skips nothing, since it answers with that first."""
        response = next(self.call)
        assert response.HasField("opened")
        return response.opened

    def wait_committed(self, item: int, wanted: int) -> int:
        """Read answers until so much of an item is durable."""
        for response in self.call:
            for status in response.progress.items:
                if status.item == item and status.committed_bytes >= wanted:
                    return status.committed_bytes
        raise AssertionError(f"the stream ended before {wanted} bytes were durable")

    def _requests(self) -> Iterator[pb.InsertRequest]:
        while True:
            with self._more:
                assert self._more.wait_for(lambda: self._messages, WAIT_S)
                message = self._messages.pop(0)
            if message is None:
                return
            yield message


DATA = bytes_of(MIB, seed=1)
PIECE = 64 * KIB


def begin_item(stream: RawInsert, item: int, tensor_id: str, sent: int, **fields: Any) -> None:
    """Send the first bytes of a tensor of a megabyte."""
    for offset in range(0, sent, PIECE):
        new = {"tensor": announced(tensor_id, (MIB,), **fields)} if offset == 0 else {}
        stream.send(insert_message(DATA[offset : offset + PIECE], item=item, offset=offset, last=False, **new))


@pytest.fixture
def raw(fresh_server: Server) -> Iterator[TensorServiceStub]:
    with grpc.insecure_channel(fresh_server.address) as channel:
        yield TensorServiceStub(channel)


_requests = itertools.count()


@pytest.fixture
def request_id() -> str:
    return f"request-{next(_requests)}"


@pytest.mark.usefixtures("small_limits", "direct")
class TestSession:
    def test_a_newer_stream_takes_over(self, fresh_server: Server, raw: TensorServiceStub, request_id: str) -> None:
        older = RawInsert(raw, "none", request_id)
        assert list(older.opened().items) == []
        begin_item(older, 7, "t", 512 * KIB)
        durable = older.wait_committed(7, 256 * KIB)
        newer = RawInsert(raw, "none", request_id)
        (left,) = newer.opened().items
        assert (left.item, left.tensor.id) == (7, "t")
        assert durable <= left.committed_bytes <= 512 * KIB
        with pytest.raises(grpc.RpcError) as caught:
            list(older.call)
        error = call_error(caught.value)
        assert (error.code, error.reason) == ("ABORTED", "SESSION_TAKEN_OVER")
        committed = left.committed_bytes
        newer.send(insert_message(DATA[committed:], item=7, offset=committed, tensor=announced("t", (MIB,)), last=True))
        newer.send(pb.InsertRequest(finish=True))
        newer.send(None)
        (result,) = [result for response in newer.call for result in response.results]
        assert (result.item, result.status.code, result.committed_bytes) == (7, 0, MIB)
        assert read_all(raw, "none", "t") == DATA
        assert_settled(fresh_server)

    def test_a_client_that_ends_its_side_too_early_hears_of_it_and_can_go_on(
        self, fresh_server: Server, raw: TensorServiceStub, request_id: str
    ) -> None:
        first = RawInsert(raw, "none", request_id)
        begin_item(first, 7, "t", 512 * KIB, metadata={"layer": pb.Value(integer=3)})
        durable = first.wait_committed(7, 256 * KIB)
        first.send(None)
        with pytest.raises(grpc.RpcError) as caught:
            list(first.call)
        error = call_error(caught.value)
        assert (error.code, error.reason, error.facts["item"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST", "7")
        second = RawInsert(raw, "none", request_id)
        (left,) = second.opened().items
        assert durable <= left.committed_bytes <= 512 * KIB
        committed = left.committed_bytes
        # Id and shape suffice: what the first stream announced besides holds.
        second.send(insert_message(DATA[committed:], item=7, offset=committed, tensor=announced("t", (MIB,))))
        second.send(pb.InsertRequest(finish=True))
        second.send(None)
        (result,) = [result for response in second.call for result in response.results]
        assert (result.status.code, result.outcome) == (0, pb.INSERT_OUTCOME_INSERTED)
        assert dict(result.tensor.metadata) == {"layer": pb.Value(integer=3)}
        assert read_all(raw, "none", "t") == DATA
        assert_settled(fresh_server)

    def test_the_newest_of_many_streams_wins(
        self, fresh_server: Server, raw: TensorServiceStub, request_id: str
    ) -> None:
        streams = [RawInsert(raw, "none", request_id) for _ in range(8)]
        ended = []
        for stream in streams:
            stream.send(pb.InsertRequest(finish=True))
            stream.send(None)
            try:
                list(stream.call)
                ended.append("")
            except grpc.RpcError as error:
                ended.append(call_error(error).reason)
        assert set(ended) <= {"", "SESSION_TAKEN_OVER"}
        assert "" in ended
        assert_settled(fresh_server)

    def test_the_status_is_told_without_a_stream(
        self, fresh_server: Server, raw: TensorServiceStub, request_id: str
    ) -> None:
        wanted = pb.GetInsertStatusRequest(request_id=request_id)
        with pytest.raises(grpc.RpcError) as caught:
            raw.GetInsertStatus(wanted, timeout=WAIT_S)
        assert call_error(caught.value).reason == "SESSION_EXPIRED"
        stream = RawInsert(raw, "none", request_id)
        begin_item(stream, 3, "t", 512 * KIB)
        durable = stream.wait_committed(3, 256 * KIB)
        found = raw.GetInsertStatus(wanted, timeout=WAIT_S)
        (item,) = found.items
        assert (item.item, item.tensor.id, found.finished) == (3, "t", False)
        assert durable <= item.committed_bytes <= 512 * KIB
        stream.send(insert_message(DATA[512 * KIB :], item=3, offset=512 * KIB, last=True))
        stream.send(pb.InsertRequest(finish=True))
        stream.send(None)
        list(stream.call)
        assert_settled(fresh_server)
        found = raw.GetInsertStatus(wanted, timeout=WAIT_S)
        (item,) = found.items
        assert (item.committed_bytes, found.finished) == (MIB, True)
        assert item.tensor.generation

    def test_a_cancelled_insert_ends_and_leaves_nothing(
        self, fresh_server: Server, raw: TensorServiceStub, request_id: str
    ) -> None:
        stream = RawInsert(raw, "none", request_id)
        begin_item(stream, 0, "t", 512 * KIB)
        stream.wait_committed(0, 256 * KIB)
        assert leftovers(fresh_server) != []
        raw.CancelInsert(pb.CancelInsertRequest(request_id=request_id), timeout=WAIT_S)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream.call)
        assert call_error(caught.value).code == "ABORTED"
        assert_settled(fresh_server)
        again = RawInsert(raw, "none", request_id)
        assert list(again.opened().items) == []
        again.call.cancel()
        # Idempotent, and of an insert that never was.
        raw.CancelInsert(pb.CancelInsertRequest(request_id=request_id), timeout=WAIT_S)
        assert_settled(fresh_server)

    def test_what_is_kept_of_another_tensor_is_not_taken_for_this_one(
        self, raw: TensorServiceStub, request_id: str
    ) -> None:
        stream = RawInsert(raw, "none", request_id)
        begin_item(stream, 0, "t", 512 * KIB)
        stream.wait_committed(0, 256 * KIB)
        stream.call.cancel()
        other = RawInsert(raw, "none", request_id)
        other.opened()
        other.send(insert_message(b"1234", item=0, tensor=announced("another")))
        other.send(pb.InsertRequest(finish=True))
        other.send(None)
        (result,) = [result for response in other.call for result in response.results]
        assert item_error(result).reason == "INVALID_REQUEST"
