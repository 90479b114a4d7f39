"""What the client makes of a server's answers: of lies, of fragments, and of answers from the future."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import crc32c
import grpc
import numpy as np
import pytest

import tensorus
from support.cases import each
from support.client import Method, answering, scripted_server, status_of
from tensorus import errors
from tensorus._arrays.decode import accepted_codecs
from tensorus.errors import TensorusError
from tensorus_protos.framing import join
from tensorus_protos.v1 import tensorus_pb2 as pb

FOUR = np.arange(4, dtype=np.uint8)

# ---- Answers of reads ---------------------------------------------------------------------------------------------------


def tensor(array: np.ndarray[Any, Any] = FOUR, tensor_id: str = "t", **fields: Any) -> pb.Tensor:
    number = pb.DataType.Value(f"DATA_TYPE_{array.dtype.name.upper()}")
    return pb.Tensor(id=tensor_id, spec=pb.TensorSpec(dtype=number, shape=array.shape), **fields)


def segment(data: bytes = FOUR.tobytes(), **fields: Any) -> pb.Segment:
    filled = {"decoded_length": len(data), "payload_length": len(data), "crc32c": crc32c.crc32c(data), **fields}
    return pb.Segment(**{name: value for name, value in filled.items() if value is not None})


def response(*segments: pb.Segment, payload: bytes = FOUR.tobytes(), **fields: Any) -> bytes:
    return join(pb.GetResponse(segments=segments, **fields).SerializeToString(), [payload])


WHOLE = response(segment(tensor=tensor(), last=True))


@pytest.fixture(params=["Get", "Query"])
def read(request: pytest.FixtureRequest) -> Callable[..., list[tensorus.Record]]:
    """Both ways to read many; what comes back is read alike."""
    call = request.param

    def read(*responses: bytes) -> list[tensorus.Record]:
        with (
            scripted_server(**{call: answering(*responses)}) as address,
            tensorus.connect(address, retry_timeout_s=0) as client,
        ):
            found = client.get_many("d", ["t", "u"]) if call == "Get" else client.query("d")
            return list(found)

    return read


def test_a_tensor_is_read(read: Callable[..., list[tensorus.Record]]) -> None:
    (record,) = read(WHOLE)
    assert record.info.id == "t"
    assert record.tensor.tolist() == [0, 1, 2, 3]


def test_a_tensor_may_come_in_several_messages(read: Callable[..., list[tensorus.Record]]) -> None:
    (record,) = read(
        response(segment(b"", tensor=tensor(), crc32c=None), payload=b""),
        response(segment(b"\x00\x01"), payload=b"\x00\x01"),
        response(segment(b"\x02\x03", offset=2), payload=b"\x02\x03"),
    )
    assert record.tensor.tolist() == [0, 1, 2, 3]


def test_several_tensors_may_come_in_one_message(read: Callable[..., list[tensorus.Record]]) -> None:
    found = read(
        response(
            segment(b"\x05\x06\x07\x08", tensor=tensor()),
            segment(b"", item=1, tensor=tensor(np.empty(0, np.uint8), "e")),
            segment(b"\x09", item=2, tensor=tensor(FOUR[:1], "u")),
            payload=b"\x05\x06\x07\x08\x09",
        )
    )
    assert [(record.info.id, record.tensor.tolist()) for record in found] == [
        ("t", [5, 6, 7, 8]),
        ("e", []),
        ("u", [9]),
    ]


def test_a_segment_without_a_checksum_is_taken(read: Callable[..., list[tensorus.Record]]) -> None:
    (record,) = read(response(segment(crc32c=None, tensor=tensor())))
    assert record.tensor.tolist() == [0, 1, 2, 3]


def test_bytes_that_were_damaged_on_their_way_are_found(read: Callable[..., list[tensorus.Record]]) -> None:
    with pytest.raises(
        errors.ChecksumMismatchError,
        match=r"^CRC32C of the bytes at offset 0 is 0x[0-9a-f]{8}, expected 0x[0-9a-f]{8}$",
    ) as caught:
        read(response(segment(tensor=tensor()), payload=b"\x00\x01\x02\x04"))
    assert caught.value.reason == "CHECKSUM_MISMATCH"


def test_a_checksum_of_zero_is_a_checksum(read: Callable[..., list[tensorus.Record]]) -> None:
    with pytest.raises(errors.ChecksumMismatchError, match="expected 0x00000000"):
        read(response(segment(crc32c=0, tensor=tensor())))


def test_a_tensor_of_a_dtype_from_the_future_cannot_be_read(read: Callable[..., list[tensorus.Record]]) -> None:
    future = pb.Tensor.FromString(pb.Tensor(id="t", spec={"dtype": 77, "shape": [4]}).SerializeToString())  # type: ignore[arg-type]
    with pytest.raises(errors.UnsupportedDTypeError, match="dtype 'dtype_77' is not known to this version"):
        read(response(segment(tensor=future)))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x7a\x05a", id="a payload that is cut"),
        pytest.param(b"\xff\xff\xff", id="no message"),
        pytest.param(b"\x0a\x01\xff", id="a head that does not parse"),
        pytest.param(
            pb.GetResponse(
                segments=[pb.Segment(tensor=pb.Tensor(metadata={"k": pb.Value.FromString(b"\xa2\x06\x01x")}))]
            ).SerializeToString(),
            id="metadata of a kind from the future",
        ),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_ours(read: Callable[..., list[tensorus.Record]], raw: bytes) -> None:
    with pytest.raises(TensorusError):
        read(raw)


@pytest.mark.parametrize(
    "responses",
    [
        pytest.param([response(segment(b"\x00\x01", tensor=tensor()), payload=b"\x00\x01")], id="in its middle"),
        pytest.param(
            [response(segment(crc32c=None, tensor=tensor()), payload=b"\x00\x01")], id="in the middle of a segment"
        ),
        pytest.param(
            [response(segment(b"\x00\x01", tensor=tensor()), payload=b"\x00\x01"), WHOLE], id="where the next begins"
        ),
    ],
)
def test_a_tensor_that_breaks_off_is_not_passed_over(
    read: Callable[..., list[tensorus.Record]], responses: list[bytes]
) -> None:
    with pytest.raises(TensorusError):
        read(*responses)


def test_a_tensor_that_failed_is_raised_at_its_place(read: Callable[..., list[tensorus.Record]]) -> None:
    failure = pb.ItemStatus(item=1, status=status_of("DATA_CORRUPT", "chunk 0 is damaged", tensor="u"))
    with pytest.raises(errors.DataCorruptError, match=r"^chunk 0 is damaged; the stored data is damaged") as caught:
        read(response(segment(tensor=tensor()), statuses=[failure]))
    assert caught.value.facts == {"tensor": "u"}


def test_a_tensor_that_failed_without_a_reason_is_an_internal_error(read: Callable[..., list[tensorus.Record]]) -> None:
    failure = pb.ItemStatus(item=0, status={"code": 13, "message": "no words"})  # type: ignore[arg-type]
    with pytest.raises(errors.InternalError, match=r"^no words$"):
        read(response(payload=b"", statuses=[failure]))


@pytest.mark.parametrize(
    ("call", "action"),
    [
        pytest.param("Get", lambda client: client.get("d", "t"), id="get"),
        pytest.param("Get", lambda client: client.info("d", "t"), id="info"),
    ],
)
def test_a_read_of_one_tensor_that_ends_without_it_is_an_error(
    call: str, action: Callable[[tensorus.Client], Any]
) -> None:
    with (
        scripted_server(**{call: answering()}) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(TensorusError, match="the read ended without a result"),
    ):
        action(client)


# ---- Answers of inserts -------------------------------------------------------------------------------------------------

OPENED = pb.InsertResponse(opened=pb.InsertOpened(max_unacknowledged_bytes=2**24))


def committed(item: int, tensor_id: str) -> pb.InsertResponse:
    return pb.InsertResponse(results=[pb.ItemStatus(item=item, tensor=tensor(tensor_id=tensor_id))])


def test_an_insert_that_ends_without_a_result_is_an_error() -> None:
    with (
        scripted_server(Insert=answering(OPENED)) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(TensorusError, match="the insert ended without a result"),
    ):
        client.insert("d", FOUR)


def test_an_insert_that_the_server_ends_early_is_an_error() -> None:
    def method(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield OPENED.SerializeToString()

    # Endless: whatever the server has read of it, there is more.
    endless = (FOUR for _ in itertools.count())
    with (
        scripted_server(Insert=method) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(TensorusError, match="ended the insert before all of it was sent"),
    ):
        client.insert_many("d", endless)


def test_tensors_of_which_nothing_is_known_do_not_count_as_stored() -> None:
    # What returns without an error is durable: nobody would insert the missing ones again.
    with (
        scripted_server(Insert=answering(OPENED, committed(0, "a"), committed(2, "c"))) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(TensorusError),
    ):
        client.insert_many("d", {"a": FOUR, "b": FOUR, "c": FOUR}.items())


def test_results_come_in_the_order_of_the_input() -> None:
    answers = [OPENED, committed(2, "c"), committed(0, "a"), committed(1, "b")]
    with scripted_server(Insert=answering(*answers)) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        found = client.insert_many("d", {"a": FOUR, "b": FOUR, "c": FOUR}.items())
    assert [info.id for info in found] == ["a", "b", "c"]


def test_what_failed_is_named_in_the_order_of_the_input() -> None:
    answers = [
        OPENED,
        pb.InsertResponse(results=[pb.ItemStatus(item=3, status=status_of("INVALID_NAME", "third"))]),
        committed(1, "b"),
        pb.InsertResponse(results=[pb.ItemStatus(item=2, status=status_of("ALREADY_EXISTS", "second"))]),
    ]
    uploads = [
        tensorus.NewTensor(FOUR, "a", {"k": object()}),
        *(tensorus.NewTensor(FOUR, name) for name in "bcd"),
    ]
    with (
        scripted_server(Insert=answering(*answers)) as address,
        tensorus.connect(address, retry_timeout_s=0) as client,
        pytest.raises(errors.InsertManyError) as caught,
    ):
        client.insert_many("d", uploads)
    assert [(position, error.reason) for position, error in caught.value.failed] == [
        (0, "INVALID_METADATA"),
        (2, "ALREADY_EXISTS"),
        (3, "INVALID_NAME"),
    ]
    assert [info.id for info in caught.value.inserted] == ["b"]


def test_progress_is_what_the_server_has_acknowledged() -> None:
    answers = [
        OPENED,
        *(pb.InsertResponse(progress=pb.InsertProgress(acknowledged_payload_bytes=count)) for count in (1, 3, 9)),
        committed(0, "a"),
    ]
    reported: list[tensorus.Progress] = []
    with scripted_server(Insert=answering(*answers)) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        client.insert("d", FOUR, id="a", on_progress=reported.append)
        # A server may count more than there is; a bar must not pass its end.
        assert reported == [tensorus.Progress("a", count, 4) for count in (1, 3, 4, 4)]


# ---- Requests -----------------------------------------------------------------------------------------------------------


def recording(request_type: Any, answer: Callable[[Any], bytes]) -> tuple[Method, list[Any]]:
    """Return a method that keeps its requests, and the list of them."""
    requests: list[Any] = []

    def method(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        requests.extend(map(request_type.FromString, raw))
        yield answer(requests[-1])

    return method, requests


def empty_tensors(request: pb.GetRequest) -> bytes:
    """Answer a Get with a tensor without bytes for every read."""
    nothing = np.empty(0, np.uint8)
    segments = [
        pb.Segment(item=item, tensor=tensor(nothing, read.id), last=True) for item, read in enumerate(request.reads)
    ]
    return pb.GetResponse(segments=segments).SerializeToString()


def test_a_read_says_what_can_be_decoded_here() -> None:
    method, requests = recording(pb.GetRequest, empty_tensors)
    with scripted_server(Get=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        client.get("d", "t", index=(slice(1, 2), ..., slice(-1, None)), as_="numpy")
        client.info("d", "t")
    reading, heading = requests
    assert tuple(reading.options.accepted_codecs) == accepted_codecs()
    assert not reading.options.headers_only
    assert not reading.options.omit_crc
    assert reading.reads[0] == pb.TensorRead(
        id="t", slices=pb.SliceSet(axes=[pb.Slice(start=1, stop=2)], trailing_axes=[pb.Slice(start=-1)])
    )
    assert heading.options.headers_only
    assert heading.reads[0] == pb.TensorRead(id="t")


def test_a_query_says_all_that_was_asked_for() -> None:
    method, requests = recording(pb.QueryRequest, lambda _: b"")
    with scripted_server(Query=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        list(client.query("d", {"k": 1}, order_by="id desc", limit=0, with_data=False))
        list(client.query("d", sample=0, seed=0))
    ordered, sampled = requests
    assert (ordered.dataset, ordered.filter_text, ordered.order_by, ordered.limit) == ("d", "`k` = 1", "id desc", 0)
    assert ordered.options.headers_only
    assert not ordered.HasField("sample")
    assert (sampled.HasField("sample"), sampled.HasField("seed"), sampled.HasField("limit")) == (True, True, False)
    assert tuple(sampled.options.accepted_codecs) == accepted_codecs()
    assert not sampled.options.headers_only


@each(("count", "calls"), [(1, [1]), (4000, [4000]), (4001, [4000, 1]), (9000, [4000, 4000, 1000])])
def test_many_ids_are_read_in_several_calls_as_if_in_one(count: int, calls: list[int]) -> None:
    method, requests = recording(pb.GetRequest, empty_tensors)
    ids = [f"t{number}" for number in range(count)]
    with scripted_server(Get=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        assert [record.info.id for record in client.get_many("d", ids, as_="numpy")] == ids
    assert [len(request.reads) for request in requests] == calls


def test_many_ids_are_deleted_in_several_calls_as_if_in_one() -> None:
    method, requests = recording(
        pb.DeleteTensorsRequest,
        lambda request: pb.DeleteTensorsResponse(deleted=len(request.ids) // 2).SerializeToString(),
    )
    ids = [f"t{number}" for number in range(2500)]
    with scripted_server(DeleteTensors=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        assert client.delete("d", ids) == 1250
    assert [len(request.ids) for request in requests] == [1000, 1000, 500]
    assert [tensor_id for request in requests for tensor_id in request.ids] == ids


def pages(request: pb.ListTensorsRequest) -> bytes:
    """Answer with pages of two tensors, four of them."""
    number = int(request.page_token or 0)
    page = pb.ListTensorsResponse(
        tensors=[tensor(tensor_id=f"t{2 * number}"), tensor(tensor_id=f"t{2 * number + 1}")],
        next_page_token=str(number + 1) if number < 3 else "",
    )
    return page.SerializeToString()


@each(
    ("limit", "count", "sizes"),
    [
        pytest.param(None, 8, [500, 500, 500, 500], id="all"),
        pytest.param(3, 3, [3, 1], id="up to the middle of a page"),
        pytest.param(2, 2, [2], id="up to the end of a page"),
        pytest.param(1, 1, [1], id="one"),
        pytest.param(0, 0, [1], id="none"),
        pytest.param(100, 8, [100, 98, 96, 94], id="more than there are"),
        pytest.param(505, 8, [500, 500, 500, 499], id="more than a page"),
    ],
)
def test_a_list_asks_for_pages_as_far_as_it_is_read(limit: int | None, count: int, sizes: list[int]) -> None:
    method, requests = recording(pb.ListTensorsRequest, pages)
    with scripted_server(ListTensors=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        found = [info.id for info in client.list("d", "k EXISTS", order_by="id", limit=limit)]
    assert found == [f"t{number}" for number in range(count)]
    assert [request.page_token for request in requests] == ["", "1", "2", "3"][: len(sizes)]
    assert [request.page_size for request in requests] == sizes
    assert {(request.dataset, request.filter_text, request.order_by) for request in requests} == {
        ("d", "k EXISTS", "id")
    }


def test_all_datasets_are_listed_page_by_page() -> None:
    def answer(request: pb.ListDatasetsRequest) -> bytes:
        number = int(request.page_token or 0)
        page = pb.ListDatasetsResponse(
            datasets=[pb.Dataset(name=f"d{number}")], next_page_token=str(number + 1) if number < 3 else ""
        )
        return page.SerializeToString()

    method, requests = recording(pb.ListDatasetsRequest, answer)
    with scripted_server(ListDatasets=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        assert [info.name for info in client.datasets()] == ["d0", "d1", "d2", "d3"]
    assert [request.page_token for request in requests] == ["", "1", "2", "3"]


def test_a_list_of_which_nothing_is_read_asks_for_nothing() -> None:
    method, requests = recording(pb.ListTensorsRequest, pages)
    with scripted_server(ListTensors=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        listing = client.list("d")
        assert requests == []
        assert next(iter(listing)).id == "t0"
        assert len(requests) == 1


def test_an_update_sends_only_what_is_given() -> None:
    method, requests = recording(pb.UpdateDatasetRequest, lambda _: b"")
    with scripted_server(UpdateDataset=method) as address, tensorus.connect(address, retry_timeout_s=0) as client:
        client.update_dataset("d", preset="fast")
        client.update_dataset("d", schema=tensorus.Schema())
    assert [(request.HasField("policy"), request.HasField("schema")) for request in requests] == [
        (True, False),
        (False, True),
    ]
