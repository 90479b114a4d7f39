"""Every answer of a unary call fits what a gRPC client accepts by default, whatever the store holds.

The client here is the generated stub on a channel without options: it refuses any message above 4 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.engine import commit, stored_tensor
from support.servers import running_server
from support.wire import call_error, open_insert
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.catalogue.abc import Catalogue, Mark, Upload
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.limits import (
    ANSWER_BYTES_MAX,
    DATASET_NAME_BYTES_MAX,
    ID_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAGE_SIZE_MAX,
)
from tensorus_server.model import EncodingShare, Schema, Tensor
from tensorus_server.processes.server import Server

TENSORS = 64

REQUEST = "an insert that left much"

FLOATS = {"floats": [1.0] * ((METADATA_BYTES_MAX - 100) // 4)}
"""As large as metadata may be; a float takes 4 bytes as JSON, by which it is limited, and 11 on the wire."""

TEXT = {"text": "x" * (METADATA_BYTES_MAX - 100)}
"""Likewise, and quickly made."""

LARGEST_POLICY = StoragePolicy(
    encoding=Encoding.from_json(
        [
            {"id": "int8_block", "configuration": {"block_size": 32}},
            {"id": "planes", "configuration": {}},
            {"id": "zstd", "configuration": {"level": 19}},
        ]
    ),
    max_relative_error=0.1,
    max_absolute_error=0.1,
    chunk_bytes=4096,
)


def long_id(number: int) -> str:
    """Return one of many ids of the largest size."""
    return f"{number:06}".ljust(ID_BYTES_MAX, "x")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these tests: others list all that is on the shared one."""
    with running_server(tmp_path_factory.mktemp("store") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def remote(server: Server) -> Iterator[tensorus.Client]:
    with tensorus.connect(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def catalogue(server: Server) -> Catalogue:
    """The server's catalogue; what the tests commit to it has no payloads."""
    return server._engine._catalogue


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[TensorServiceStub]:
    """A client with gRPC's defaults."""
    with grpc.insecure_channel(server.address) as channel:
        yield TensorServiceStub(channel)


@pytest.fixture(scope="module")
def tensors(catalogue: Catalogue) -> list[Tensor]:
    """Return the tensors of a dataset in which every one is as large as it may be."""
    name = "largest".ljust(DATASET_NAME_BYTES_MAX, "x")
    dataset = catalogue.datasets.create(name, StoragePolicy(), schema_of(0))
    return commit(
        catalogue,
        *(
            stored_tensor(
                dataset,
                long_id(number),
                metadata=TEXT if number % 8 else FLOATS,
                policy=LARGEST_POLICY,
                shape=(1,) * 32,
            )
            for number in range(TENSORS)
        ),
    )


@pytest.fixture(scope="module")
def names(catalogue: Catalogue) -> list[str]:
    """Return the names of datasets that are as large as they may be."""
    names = [f"schema {number}".ljust(DATASET_NAME_BYTES_MAX, "x") for number in range(80)]
    for number, name in enumerate(names):
        catalogue.datasets.create(name, LARGEST_POLICY, schema_of(number))
    return names


@pytest.fixture(scope="module")
def left(catalogue: Catalogue, tensors: list[Tensor]) -> list[str]:
    """Return the ids of what an insert left: complete tensors, and one in the middle that is not."""
    dataset = catalogue.datasets.get(tensors[0].dataset)
    uploads = [
        Upload(
            REQUEST,
            item,
            dataset.number,
            tensor.id,
            tensor.spec,
            StoragePolicy(),
            new_payload_key(),
            0,
            0,
            0,
            {},
            generation=None if item == 30 else tensor.generation,
        )
        for item, tensor in enumerate(tensors)
    ]
    catalogue.uploads.save([Mark(upload, ChunkIndex(), ChunkDetails()) for upload in uploads])
    return [tensor.id for tensor in tensors]


def schema_of(number: int) -> Schema:
    """Return a schema as large as it may be."""
    keys = {f"{number:06}{key:06}".ljust(1000, "x"): "integer" for key in range(METADATA_BYTES_MAX // 1000)}
    return Schema(dtype="uint8", shape=(-1,) * 32, metadata=keys)


def pages(call: Any, request: Any) -> Iterator[Any]:
    """Yield every page of a listing; only the last may be empty."""
    while True:
        page = call(request, timeout=60)
        assert page.ByteSize() <= ANSWER_BYTES_MAX + METADATA_BYTES_MAX
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


class TestListTensors:
    """Metadata of 64 KiB are three times as much on the wire where they are floats."""

    @pytest.mark.parametrize("page_size", [0, 7])
    def test_every_tensor_is_on_one_page(self, stub: TensorServiceStub, tensors: list[Tensor], page_size: int) -> None:
        request = pb.ListTensorsRequest(dataset=tensors[0].dataset, page_size=page_size)
        found = [list(page.tensors) for page in pages(stub.ListTensors, request)]
        assert [tensor.id for page in found for tensor in page] == [tensor.id for tensor in tensors]
        assert all(found)
        assert len(found) > 2

    def test_the_client_lists_them_all(self, remote: tensorus.Client, tensors: list[Tensor]) -> None:
        assert [info.id for info in remote.list(tensors[0].dataset)] == [tensor.id for tensor in tensors]

    def test_a_limit_asks_for_no_more(
        self, server: Server, tensors: list[Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        plain = type(server._engine).list_tensors

        def listing(*arguments: Any, page_size: int, **named: Any) -> Any:
            asked.append(page_size)
            return plain(*arguments, page_size=page_size, **named)

        monkeypatch.setattr(type(server._engine), "list_tensors", listing)
        with tensorus.connect(server.address) as client:
            assert len(list(client.list(tensors[0].dataset, limit=1))) == 1
            assert asked == [1]
            asked.clear()
            assert len(list(client.list(tensors[0].dataset, limit=20))) == 20
            # The second page is as long as what is still wanted.
            assert asked[0] == 20
            assert sum(asked) < 40
            assert list(client.list(tensors[0].dataset, limit=0)) == []

    def test_a_query_of_headers_shows_them_all(self, stub: TensorServiceStub, tensors: list[Tensor]) -> None:
        request = pb.QueryRequest(dataset=tensors[0].dataset, options=pb.ReadOptions(headers_only=True))
        found = [segment.tensor.id for response in stub.Query(request) for segment in response.segments]
        assert found == [tensor.id for tensor in tensors]


class TestListDatasets:
    """A schema has as many keys as fit into 64 KiB."""

    @pytest.mark.parametrize("page_size", [0, 7])
    def test_every_dataset_is_on_one_page(self, stub: TensorServiceStub, names: list[str], page_size: int) -> None:
        found = [list(page.datasets) for page in pages(stub.ListDatasets, pb.ListDatasetsRequest(page_size=page_size))]
        listed = [dataset.name for page in found for dataset in page]
        assert [name for name in listed if name.startswith("schema ")] == names
        assert len(listed) == len(set(listed))
        assert all(found)
        assert len(found) > 1

    def test_the_client_shows_them_all(self, remote: tensorus.Client, names: list[str]) -> None:
        found = [info.name for info in remote.datasets()]
        assert [name for name in found if name.startswith("schema ")] == names

    def test_a_page_has_a_limit(self, stub: TensorServiceStub) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListDatasets(pb.ListDatasetsRequest(page_size=PAGE_SIZE_MAX + 1))
        error = call_error(caught.value)
        assert error.reason == "LIMIT_EXCEEDED"
        assert "page_size is 1001, limit is 1000 datasets (page_size_max)" in error.message

    @pytest.mark.parametrize("token", ["x", "WyJpbnNlcnQiLCAxXQ==", "WyJkYXRhc2V0cyIsIDEuNV0=", "W10="])
    def test_a_token_of_another_listing_is_refused(self, stub: TensorServiceStub, token: str) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListDatasets(pb.ListDatasetsRequest(page_token=token))
        assert call_error(caught.value).reason == "INVALID_PAGE_TOKEN"

    def test_a_schema_that_is_too_large_is_refused(self, stub: TensorServiceStub) -> None:
        keys = {f"{number:06}".ljust(1000, "x"): pb.METADATA_TYPE_TEXT for number in range(66)}
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreateDataset(pb.CreateDatasetRequest(name="too large", schema=pb.DatasetSchema(metadata=keys)))
        error = call_error(caught.value)
        assert error.reason == "LIMIT_EXCEEDED"
        assert "keys of the schema are 66000 bytes, limit is 65536 bytes" in error.message


class TestInsertsThatLeftMuch:
    """What an insert left is told page by page, or over several messages."""

    def test_its_status_has_every_item_on_one_page(self, stub: TensorServiceStub, left: list[str]) -> None:
        found = list(pages(stub.GetInsertStatus, pb.GetInsertStatusRequest(request_id=REQUEST)))
        items = [item for page in found for item in page.items]
        assert [(item.item, item.tensor.id) for item in items] == list(enumerate(left))
        assert [item.item for item in items if not item.tensor.generation] == [30]
        assert {page.finished for page in found} == {False}
        assert len(found) > 2

    def test_a_stream_that_resumes_it_is_told_all_of_it_before_it_may_go_on(
        self, stub: TensorServiceStub, tensors: list[Tensor], left: list[str]
    ) -> None:
        messages = [open_insert(tensors[0].dataset, request_id=REQUEST), pb.InsertRequest(finish=True)]
        opened = [answer.opened for answer in stub.Insert(iter(messages)) if answer.HasField("opened")]
        assert [item.tensor.id for part in opened for item in part.items] == left
        assert [part.more for part in opened] == [True] * (len(opened) - 1) + [False]
        assert {part.max_unacknowledged_bytes for part in opened} == {16 * 1024 * 1024}
        assert len(opened) > 2


def test_an_answer_that_names_only_the_first_tensors_is_asked_for_the_others(
    stub: TensorServiceStub, catalogue: Catalogue, dataset: str
) -> None:
    made = catalogue.datasets.create(dataset, StoragePolicy(), Schema())
    tensors = commit(catalogue, *(stored_tensor(made, f"t{number}", metadata=TEXT) for number in range(TENSORS)))
    rest = [
        pb.Tensor(
            id=tensor.id,
            spec=pb.TensorSpec(dtype=tensor.spec.dtype.number, shape=tensor.spec.shape),
            source_checksum=pb.Checksum(algorithm="xxh3_128", value=tensor.source_checksum.value),
        )
        for tensor in tensors
    ]
    rest.insert(40, pb.Tensor(id="missing", spec=rest[0].spec, source_checksum=rest[0].source_checksum))
    found: list[str] = []
    answers = 0
    while rest:
        answer = stub.InsertKnown(pb.InsertKnownRequest(dataset=dataset, tensors=rest))
        named = sorted([*(result.item for result in answer.results), *answer.missing])
        assert named == list(range(len(named)))
        assert all(result.outcome == pb.INSERT_OUTCOME_ALREADY_STORED for result in answer.results)
        found += [result.tensor.id for result in answer.results]
        del rest[: len(named)]
        answers += 1
    assert found == [tensor.id for tensor in tensors]
    assert answers > 1


class TestDeleteTensors:
    """An answer may name every id of the request."""

    def test_a_request_that_is_answered_with_all_its_ids_fits(self, stub: TensorServiceStub, dataset: str) -> None:
        stub.CreateDataset(pb.CreateDatasetRequest(name=dataset))
        ids = [long_id(number) for number in range((4 * 1024 * 1024 - 300) // (ID_BYTES_MAX + 3))]
        answer = stub.DeleteTensors(pb.DeleteTensorsRequest(dataset=dataset, ids=ids))
        assert (answer.deleted, list(answer.missing_ids)) == (0, ids)

    def test_one_whose_answer_might_not_fit_is_refused_before_anything_is_deleted(
        self, server: Server, remote: tensorus.Client, dataset: str
    ) -> None:
        remote.create_dataset(dataset)
        remote.insert(dataset, np.zeros(4), id="there")
        ids = ["there", *(long_id(number) for number in range(9999))]
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            TensorServiceStub(channel).DeleteTensors(pb.DeleteTensorsRequest(dataset=dataset, ids=ids))
        error = call_error(caught.value)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE")
        assert "limit is 4194304 bytes (message_bytes_max)" in error.message
        assert [info.id for info in remote.list(dataset)] == ["there"]
        assert remote.delete(dataset, ids) == 1


def test_statistics_have_the_encodings_with_the_largest_shares(
    stub: TensorServiceStub, catalogue: Catalogue, dataset: str
) -> None:
    made = catalogue.datasets.create(dataset, StoragePolicy(), schema_of(1))
    # Of a codec of somebody else's, whose settings are long, and different in every tensor.
    shares = [
        EncodingShare(({"id": "theirs", "configuration": {"text": f"{number:06}".ljust(6000, "x")}},), 1, 10, number)
        for number in range(1200)
    ]
    commit(catalogue, *(stored_tensor(made, f"{n}", encodings=(share,)) for n, share in enumerate(shares)))
    answer = stub.GetDatasetStats(pb.GetDatasetStatsRequest(name=dataset))
    assert answer.tensors == 1200
    assert [share.stored_bytes for share in answer.encodings] == list(range(1199, 1199 - len(answer.encodings), -1))
    assert 300 < len(answer.encodings) <= 1000
