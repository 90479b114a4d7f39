"""How calls fail, as the client tells it: by the reason in the trailers, by the code, and when it is tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.client import Method, answering, scripted_server, status_details
from tensorus import _remote, errors
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
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    # What is on the port is no Tensorus, or another version of it.
    grpc.StatusCode.UNIMPLEMENTED: errors.NotImplementedByServerError,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_without_a_reason_the_code_decides(code: grpc.StatusCode) -> None:
    error = raised("Get", failing(code, "a proxy's words"))
    assert type(error) is BY_CODE.get(code, errors.InternalError)
    assert isinstance(error, TensorusError)
    assert error.reason == code.name
    assert str(error) == f"{code.name}: a proxy's words"


@pytest.mark.parametrize(
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


def test_a_short_read_is_tried_again_while_the_server_is_unavailable() -> None:
    method, calls = counting(failing(grpc.StatusCode.UNAVAILABLE))
    with (
        scripted_server(GetDataset=method) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(errors.UnavailableError),
    ):
        client.dataset("d")
    assert len(calls) == 4


def test_what_is_tried_again_is_every_short_call_that_changes_nothing() -> None:
    calls = pb.DESCRIPTOR.services_by_name["TensorService"].methods
    short = {call.name for call in calls if not call.client_streaming and not call.server_streaming}
    changing = {"CreateDataset", "UpdateDataset", "DeleteDataset", "UpdateTensor", "DeleteTensors", "CancelInsert"}
    # No method of the client leads to the last one.
    assert set(_remote._READ_CALLS) == short - changing - {"GetInsertStatus"}


@pytest.mark.parametrize(
    ("call", "action"),
    [
        pytest.param("CreateDataset", lambda client: client.create_dataset("d"), id="create"),
        pytest.param("UpdateDataset", lambda client: client.update_dataset("d"), id="update"),
        pytest.param("DeleteDataset", lambda client: client.delete_dataset("d"), id="delete a dataset"),
        pytest.param("UpdateTensor", lambda client: client.update_metadata("d", "t", {}), id="update metadata"),
        pytest.param("DeleteTensors", lambda client: client.delete("d", "t"), id="delete"),
        pytest.param("Insert", lambda client: client.insert("d", FOUR), id="insert"),
    ],
)
def test_a_write_is_tried_once(call: str, action: Callable[[tensorus.Client], Any]) -> None:
    method, calls = counting(failing(grpc.StatusCode.UNAVAILABLE))
    with (
        scripted_server(**{call: method}) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(errors.UnavailableError),
    ):
        action(client)
    assert len(calls) == 1


def test_a_short_answer_that_is_none_is_an_error_of_ours() -> None:
    error = raised("CreateDataset", answering(b"\xff\xff\xff"))
    assert isinstance(error, TensorusError)
