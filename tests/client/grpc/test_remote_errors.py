"""How calls fail, as the client tells it: by the reason in the trailers, by the code, and when it is tried again."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.cases import each
from support.client import Method, answering, scripted_server, status_details
from tensorus import errors
from tensorus.errors import TensorusError
from tensorus_protos.v1 import tensorus_pb2 as pb

FOUR = np.arange(4, dtype=np.uint8)

CALLS: dict[str, Callable[[tensorus.Client], Any]] = {
    "CreateDataset": lambda client: client.create_dataset("d"),
    "Get": lambda client: client.get("d", "t"),
    "Query": lambda client: list(client.query("d")),
    "Insert": lambda client: client.insert("d", FOUR),
}
"""One of every shape: a short call, streams out, and a stream both ways."""

each_call = pytest.mark.parametrize("call", CALLS)


def failing(code: grpc.StatusCode, message: str = "what is wrong", details: bytes | None = None) -> Method:
    """Return a method that ends in this status."""

    def method(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, message)
        yield b""

    return method


def raised(call: str, method: Method) -> Exception:
    """Return what the client raises where this method answers."""
    with (
        scripted_server(**{call: method}) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(Exception) as caught,
    ):
        CALLS[call](client)
    return caught.value


@each_call
def test_the_reason_in_the_trailers_decides(call: str) -> None:
    details = status_details("DATASET_NOT_FOUND", "there is no such dataset", dataset="d")
    error = raised(call, failing(grpc.StatusCode.NOT_FOUND, "text that does not count", details))
    assert type(error) is errors.DatasetNotFoundError
    assert error.facts.pop("request_id")
    assert (str(error), error.reason, error.facts) == (
        "there is no such dataset",
        "DATASET_NOT_FOUND",
        {"dataset": "d"},
    )
    assert isinstance(error.__cause__, grpc.RpcError)


def test_a_reason_from_the_future_is_a_plain_error() -> None:
    error = raised("Get", failing(grpc.StatusCode.FAILED_PRECONDITION, details=status_details("TOO_PURPLE")))
    assert type(error) is TensorusError
    assert error.reason == "TOO_PURPLE"


BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.UnavailableError,
    grpc.StatusCode.CANCELLED: errors.UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    # What is on the port is no Tensorus, or another version of it.
    grpc.StatusCode.UNIMPLEMENTED: errors.NotImplementedByServerError,
}


@each("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_without_a_reason_the_code_decides(code: grpc.StatusCode) -> None:
    error = raised("Get", failing(code, "a proxy's words"))
    assert type(error) is BY_CODE.get(code, errors.InternalError)
    assert isinstance(error, TensorusError)
    assert error.reason == code.name
    assert str(error) == f"{code.name}: a proxy's words"


@each(
    "details",
    [
        pytest.param(status_details("DATASET_NOT_FOUND", domain="example.org"), id="another domain's"),
        pytest.param(b"\xff\xff\xff", id="no status"),
        pytest.param(b"", id="empty"),
    ],
)
def test_details_that_are_not_ours_do_not_hide_the_error(details: bytes) -> None:
    error = raised("Get", failing(grpc.StatusCode.INTERNAL, "what is wrong", details))
    assert type(error) is errors.InternalError
    assert str(error) == "INTERNAL: what is wrong"


def test_a_call_without_an_answer_ends_when_its_time_is_up() -> None:
    asleep = threading.Event()

    def method(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        asleep.wait(30)
        yield b""

    with scripted_server(CreateDataset=method) as address:
        client = tensorus.connect(address, timeout_s=0.05, retry_timeout_s=0)
        with pytest.raises(errors.UnavailableError, match="DEADLINE_EXCEEDED") as caught:
            client.create_dataset("d")
        asleep.set()
        client.close()
    assert caught.value.reason == "DEADLINE_EXCEEDED"


def counting(method: Method) -> tuple[Method, list[Any]]:
    """Return the method and a list that grows with its calls."""
    calls: list[Any] = []

    def counted(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        calls.append(None)
        return method(requests, context)

    return counted, calls


def after(failures: int, code: grpc.StatusCode, answer: Callable[[bytes], Any]) -> tuple[Method, list[bytes]]:
    """Return a method that answers once, then fails so many times, then answers again; and the requests it was asked."""
    requests: list[bytes] = []

    def method(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        (request,) = messages
        requests.append(request)
        if 1 < len(requests) <= 1 + failures:
            context.abort(code, "it broke")
        yield answer(request).SerializeToString()

    return method, requests


def page(request: bytes) -> pb.ListTensorsResponse:
    number = int(pb.ListTensorsRequest.FromString(request).page_token or 0)
    tensors = [pb.Tensor(id=f"t{number}", spec=pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8))]
    return pb.ListTensorsResponse(tensors=tensors, next_page_token=str(number + 1) if number < 2 else "")


REPEATABLE: list[Any] = [
    pytest.param("GetDataset", lambda _: pb.GetDatasetResponse(), lambda client: client.dataset("d"), id="dataset"),
    pytest.param("ListDatasets", lambda _: pb.ListDatasetsResponse(), lambda client: client.datasets(), id="datasets"),
    pytest.param(
        "GetDatasetStats", lambda _: pb.GetDatasetStatsResponse(), lambda client: client.stats("d"), id="stats"
    ),
    pytest.param(
        "CreateDataset",
        lambda _: pb.CreateDatasetResponse(),
        lambda client: client.create_dataset("d", exist_ok=True),
        id="create, exist_ok",
    ),
    pytest.param(
        "DeleteTensors", lambda _: pb.DeleteTensorsResponse(), lambda client: client.delete("d", "t"), id="delete"
    ),
]
"""The short calls that may be repeated, and what makes them. Listing has a test of its own."""


@each("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
@pytest.mark.parametrize(("call", "answer", "action"), REPEATABLE)
def test_a_short_call_that_may_be_repeated_is_until_it_is_answered(
    call: str, answer: Callable[[bytes], Any], action: Callable[[tensorus.Client], Any], code: grpc.StatusCode
) -> None:
    method, requests = after(2, code, answer)
    with scripted_server(**{call: method}) as address, tensorus.connect(address) as client:
        action(client)
        action(client)
    assert len(requests) == 4


@each(("call", "answer", "action"), REPEATABLE)
def test_a_short_call_of_the_asynchronous_client_is_repeated_likewise(
    call: str, answer: Callable[[bytes], Any], action: Callable[[Any], Any]
) -> None:
    method, requests = after(2, grpc.StatusCode.UNAVAILABLE, answer)

    async def twice(address: str) -> None:
        async with tensorus.aio.connect(address) as client:
            await action(client)
            await action(client)

    with scripted_server(**{call: method}) as address:
        asyncio.run(twice(address))
    assert len(requests) == 4


def test_a_listing_goes_on_with_the_page_at_which_it_was_interrupted() -> None:
    method, requests = after(2, grpc.StatusCode.UNAVAILABLE, page)
    with scripted_server(ListTensors=method) as address, tensorus.connect(address) as client:
        assert [info.id for info in client.list("d")] == ["t0", "t1", "t2"]
    tokens = [pb.ListTensorsRequest.FromString(request).page_token for request in requests]
    assert tokens == ["", "1", "1", "1", "2"]


def test_a_repeated_delete_counts_what_is_gone() -> None:
    method, _ = after(1, grpc.StatusCode.UNAVAILABLE, lambda _: pb.DeleteTensorsResponse(deleted=0))
    with scripted_server(DeleteTensors=method) as address, tensorus.connect(address) as client:
        assert client.delete("d", ["t", "u"]) == 0
        # The lost attempt may have deleted them.
        assert client.delete("d", ["t", "u", "t"]) == 2


def test_nothing_is_tried_again_before_the_server_has_answered() -> None:
    method, calls = counting(failing(grpc.StatusCode.UNAVAILABLE))
    with (
        scripted_server(GetDataset=method) as address,
        tensorus.connect(address) as client,
        pytest.raises(errors.UnavailableError),
    ):
        client.dataset("d")
    assert len(calls) == 1


def test_a_request_that_a_proxy_refuses_for_its_size_is_not_tried_again() -> None:
    # The message is gRPC's own; nginx 1.22 with its default limit is what answers so.
    refused, calls = counting(failing(grpc.StatusCode.UNKNOWN, "Received http2 header with status: 413"))
    heard = answering(pb.ListDatasetsResponse())
    with scripted_server(Insert=refused, ListDatasets=heard) as address, tensorus.connect(address) as client:
        client.datasets()
        with pytest.raises(errors.LimitExceededError, match=r"proxy before the server.*client_max_body_size"):
            client.insert("d", FOUR)
    assert len(calls) == 1


def test_a_call_that_fails_twice_without_progress_warns_where_it_was_made(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always", errors.ConnectionLostWarning)
    method, _ = after(3, grpc.StatusCode.INTERNAL, lambda _: pb.GetDatasetResponse())
    with scripted_server(GetDataset=method) as address, tensorus.connect(address) as client:
        client.dataset("d")
        assert not recwarn.list
        client.dataset("d")
    (warned,) = recwarn.list
    assert warned.category is errors.ConnectionLostWarning
    assert warned.filename == __file__
    assert "INTERNAL: it broke" in str(warned.message)
    assert "proxy" in str(warned.message)


@each(
    ("call", "action"),
    [
        pytest.param("CreateDataset", lambda client: client.create_dataset("d"), id="create"),
        pytest.param("UpdateDataset", lambda client: client.update_dataset("d"), id="update"),
        pytest.param("DeleteDataset", lambda client: client.delete_dataset("d"), id="delete a dataset"),
        pytest.param("UpdateTensor", lambda client: client.update_metadata("d", "t", {}), id="update metadata"),
    ],
)
def test_a_write_that_must_not_be_repeated_is_tried_once(call: str, action: Callable[[tensorus.Client], Any]) -> None:
    method, calls = counting(failing(grpc.StatusCode.UNAVAILABLE))
    heard = answering(pb.ListDatasetsResponse())
    with scripted_server(**{call: method}, ListDatasets=heard) as address, tensorus.connect(address) as client:
        client.datasets()
        with pytest.raises(errors.UnavailableError):
            action(client)
    assert len(calls) == 1


def test_a_short_answer_that_does_not_parse_is_not_asked_for_again() -> None:
    method, calls = counting(answering(b"\xff\xff\xff"))
    heard = answering(pb.ListDatasetsResponse())
    with scripted_server(GetDataset=method, ListDatasets=heard) as address, tensorus.connect(address) as client:
        client.datasets()
        with pytest.raises(errors.InternalError, match="an answer of GetDataset is no message of the contract"):
            client.dataset("d")
    assert len(calls) == 1


def test_a_short_answer_that_is_none_is_an_error_of_ours() -> None:
    error = raised("CreateDataset", answering(b"\xff\xff\xff"))
    assert isinstance(error, TensorusError)
