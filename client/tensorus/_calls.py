"""The short calls of the contract: what each sends, and what comes of its answer. Both ways to make them share these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tensorus._convert import (
    damage_from,
    dataset_from,
    dtype_to,
    explanation_from,
    metadata_to,
    policy_to,
    schema_to,
    stats_from,
    tensor_from,
)
from tensorus._decode import accepted_codecs
from tensorus_protos.framing import join
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from tensorus._backend import Listing, Sample
    from tensorus.errors import DataCorruptError
    from tensorus.types import DatasetInfo, DatasetStats, Policy, PolicyExplanation, Schema, TensorInfo

__all__ = [
    "Call",
    "cancel_insert",
    "create_dataset",
    "dataset_stats",
    "delete_dataset",
    "delete_tensors",
    "explain_messages",
    "explanations",
    "get_dataset",
    "list_datasets",
    "list_page",
    "list_request",
    "open_explain",
    "query_request",
    "read_options",
    "update_dataset",
    "update_metadata",
]

T = TypeVar("T")

PAGE_SIZE = 500
"""Of a listing; the server ends a page earlier where its tensors are large."""

_BLOCK_BYTES = 1024 * 1024
"""Of a message: what moves fastest."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One short call: a request, and one answer."""

    name: str
    request: Message
    parse: Callable[[bytes], Any]
    """The answer from its bytes. `Any`: a message of the type that `value` takes."""
    value: Callable[[Any], T]
    """What the answer says."""
    repeat: Callable[[Any], T] | None = None
    """What the answer to another attempt says, after one whose outcome is unknown; None: the call must not be repeated."""


def _read_only(name: str, request: Message, parse: Callable[[bytes], Any], value: Callable[[Any], T]) -> Call[T]:
    """Return a call that changes nothing, so that it may be repeated."""
    return Call(name, request, parse, value, repeat=value)


def create_dataset(
    name: str, policy: Policy | None, schema: Schema | None, *, repeatable: bool = False
) -> Call[DatasetInfo]:
    """See `Backend`."""
    request = pb.CreateDatasetRequest(name=name, policy=_policy(policy), schema=_schema(schema))
    repeat = _dataset if repeatable else None
    return Call("CreateDataset", request, pb.CreateDatasetResponse.FromString, _dataset, repeat)


def get_dataset(name: str) -> Call[DatasetInfo]:
    """See `Backend`."""
    return _read_only("GetDataset", pb.GetDatasetRequest(name=name), pb.GetDatasetResponse.FromString, _dataset)


def list_datasets(page_token: str) -> Call[tuple[list[DatasetInfo | DataCorruptError], str]]:
    """Return one page of datasets, those that are damaged as errors at its end, and the token of the next page."""
    return _read_only(
        "ListDatasets",
        pb.ListDatasetsRequest(page_token=page_token, page_size=PAGE_SIZE),
        pb.ListDatasetsResponse.FromString,
        lambda response: (
            [*map(dataset_from, response.datasets), *map(damage_from, response.damages)],
            response.next_page_token,
        ),
    )


def update_dataset(name: str, policy: Policy | None, schema: Schema | None) -> Call[DatasetInfo]:
    """See `Backend`."""
    request = pb.UpdateDatasetRequest(name=name, policy=_policy(policy), schema=_schema(schema))
    return Call("UpdateDataset", request, pb.UpdateDatasetResponse.FromString, _dataset)


def delete_dataset(name: str) -> Call[int]:
    """See `Backend`."""
    request = pb.DeleteDatasetRequest(name=name)
    return Call("DeleteDataset", request, pb.DeleteDatasetResponse.FromString, lambda found: found.deleted_tensors)


def dataset_stats(name: str) -> Call[DatasetStats]:
    """See `Backend`."""
    request = pb.GetDatasetStatsRequest(name=name)
    return _read_only("GetDatasetStats", request, pb.GetDatasetStatsResponse.FromString, stats_from)


def update_metadata(dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> Call[TensorInfo]:
    """See `Backend`."""
    request = pb.UpdateTensorRequest(dataset=dataset, id=tensor_id, metadata=metadata_to(metadata))
    return Call(
        "UpdateTensor", request, pb.UpdateTensorResponse.FromString, lambda response: tensor_from(response.tensor)
    )


def delete_tensors(dataset: str, ids: Sequence[str]) -> Call[int]:
    """See `Backend`. An attempt whose answer was lost may have deleted what the next one misses, so that counts as deleted."""
    request = pb.DeleteTensorsRequest(dataset=dataset, ids=ids)
    return Call(
        "DeleteTensors",
        request,
        pb.DeleteTensorsResponse.FromString,
        lambda response: response.deleted,
        repeat=lambda _: len(set(ids)),
    )


def cancel_insert(request_id: str) -> Call[None]:
    """Drop what an insert left that is not complete."""
    request = pb.CancelInsertRequest(request_id=request_id)
    return Call("CancelInsert", request, pb.CancelInsertResponse.FromString, lambda _: None)


def list_request(listing: Listing, page_token: str, count: int) -> pb.ListTensorsRequest:
    """Return the request of the page after `count` tensors: of no more than the listing still wants.

    Args:
        page_token: of the page before; empty: none.
    """
    left = PAGE_SIZE if listing.limit is None else min(listing.limit - count, PAGE_SIZE)
    # 0 would be the server's default; one tells as well whether the dataset is there.
    return pb.ListTensorsRequest(
        dataset=listing.dataset,
        filter_text=listing.where,
        order_by=listing.order_by,
        page_size=max(left, 1),
        page_token=page_token,
    )


def list_page(request: pb.ListTensorsRequest) -> Call[pb.ListTensorsResponse]:
    """Return one page."""
    return _read_only("ListTensors", request, pb.ListTensorsResponse.FromString, lambda response: response)


def query_request(listing: Listing, *, with_data: bool) -> pb.QueryRequest:
    """Return the request of a query's first stream; those of the next ones have a token to go on from."""
    return pb.QueryRequest(
        dataset=listing.dataset,
        filter_text=listing.where,
        order_by=listing.order_by,
        limit=listing.limit,
        sample=listing.sample,
        seed=listing.seed,
        options=read_options(with_data=with_data),
    )


def open_explain(sample: Sample, policies: Sequence[Policy]) -> pb.OpenExplain:
    """Return what the first message of an ExplainPolicy says.

    Raises:
        InvalidPolicyError: what the contract cannot carry.
    """
    spec = pb.TensorSpec(dtype=dtype_to(sample.dtype), shape=sample.shape)
    return pb.OpenExplain(spec=spec, candidates=map(policy_to, policies), tensor_bytes=sample.tensor_bytes)


def explain_messages(opening: pb.OpenExplain, sample: Sample) -> Iterator[bytes]:
    """Yield the messages of an ExplainPolicy: first the opening, then the sample, a block each."""
    yield pb.ExplainPolicyRequest(open=opening).SerializeToString()
    for block in sample.blocks(_BLOCK_BYTES):
        yield join(b"", [block])


def explanations(answer: bytes) -> list[PolicyExplanation]:
    """Return what the answer of an ExplainPolicy says."""
    return list(map(explanation_from, pb.ExplainPolicyResponse.FromString(answer).explanations))


def read_options(*, with_data: bool, dtype: str | None = None) -> pb.ReadOptions:
    """Return how streams that read are to answer here.

    Raises:
        UnsupportedDTypeError: nothing can be cast to that.
    """
    as_dtype = None if dtype is None else dtype_to(dtype)
    return pb.ReadOptions(accepted_codecs=accepted_codecs(), headers_only=not with_data, as_dtype=as_dtype)


def _dataset(response: Any) -> DatasetInfo:  # `Any`: each call that answers with a dataset has a message of its own
    return dataset_from(response.dataset)


def _policy(policy: Policy | None) -> pb.StoragePolicy | None:
    return None if policy is None else policy_to(policy)


def _schema(schema: Schema | None) -> pb.DatasetSchema | None:
    return None if schema is None else schema_to(schema)
