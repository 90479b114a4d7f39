"""The calls that move no tensors: what each sends, what comes of its answer, and when it is made again.

Short calls have a request and an answer. Listings ask for page after page, and an explanation is a stream. No I/O: see
`steps.py`.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from tensorus._arrays.decode import accepted_codecs
from tensorus._grpc.convert import damage_from, precision_to, tensor_from
from tensorus._grpc.convert_dataset import dataset_from, explanation_from, policy_to, schema_to, stats_from
from tensorus._grpc.convert_history import reference_to, retention_to, state_to
from tensorus._grpc.convert_store import store_stats_from
from tensorus._grpc.convert_values import dtype_to, metadata_to
from tensorus._grpc.steps import Ask, AttemptFailedError, Call, Give, Open, Pause, Read, Send, as_answer
from tensorus.errors import InternalError
from tensorus_protos.framing import join
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import timedelta
    from typing import Never

    from google.protobuf import duration_pb2
    from google.protobuf.message import Message

    from tensorus._backend import Listing, Sample, State
    from tensorus._grpc.steps import Steps
    from tensorus.errors import DataCorruptError
    from tensorus.types import DatasetInfo, DatasetStats, Policy, PolicyExplanation, Schema, StoreStats, TensorInfo

__all__ = [
    "cancel_insert",
    "create_dataset",
    "dataset_stats",
    "delete_dataset",
    "delete_tensors",
    "explain",
    "explanations_of",
    "get_dataset",
    "list_datasets",
    "list_tensors",
    "open_explain",
    "page_of",
    "query_request",
    "read_options",
    "short_call",
    "store_stats",
    "update_dataset",
    "update_metadata",
]

T = TypeVar("T")

PAGE_SIZE = 500
"""Of a listing; the server ends a page earlier where its tensors are large."""

_BLOCK_BYTES = 1024 * 1024
"""Of a message: what moves fastest."""

_CANCEL_TIMEOUT_S = 5.0
"""For what an insert that was interrupted still tells the server: whoever interrupted it waits for that."""


def short_call(call: Call[T]) -> Steps[Never, T]:
    """Make a short call. One that may be repeated is, while the server cannot be reached."""
    interruptions = 0
    while True:
        try:
            raw = yield Send(call)
        except AttemptFailedError as failed:
            broken = failed.error
        else:
            break
        # A server that stops, or refuses for the rate of calls, has not begun with it.
        if call.repeat is None and broken.reason not in {"DRAINING", "RATE_LIMITED"}:
            raise broken
        interruptions = yield Pause(broken, (0,))
    with as_answer(call.name):
        response = call.parse(raw)
        return call.repeat(response) if interruptions and call.repeat is not None else call.value(response)


def _read_only(name: str, request: Message, parse: Callable[[bytes], Any], value: Callable[[Any], T]) -> Call[T]:
    """Return a call that changes nothing, so that it may be repeated."""
    return Call(name, request, parse, value, repeat=value)


def create_dataset(
    name: str,
    policy: Policy | None,
    schema: Schema | None,
    retention: timedelta | None = None,
    *,
    repeatable: bool = False,
) -> Call[DatasetInfo]:
    """See `Backend`."""
    request = pb.CreateDatasetRequest(
        name=name, policy=_policy(policy), schema=_schema(schema), retention=_retention(retention)
    )
    repeat = _dataset if repeatable else None
    return Call("CreateDataset", request, pb.CreateDatasetResponse.FromString, _dataset, repeat)


def get_dataset(name: str) -> Call[DatasetInfo]:
    """See `Backend`."""
    return _read_only("GetDataset", pb.GetDatasetRequest(name=name), pb.GetDatasetResponse.FromString, _dataset)


def list_datasets() -> Steps[Never, list[DatasetInfo | DataCorruptError]]:
    """See `Backend.list_datasets`."""
    found: list[DatasetInfo | DataCorruptError] = []
    token = ""
    while True:
        request = pb.ListDatasetsRequest(page_token=token, page_size=PAGE_SIZE)
        page = yield Ask(page_of("ListDatasets", request, pb.ListDatasetsResponse.FromString))
        found += chain(map(dataset_from, page.datasets), map(damage_from, page.damages))
        token = page.next_page_token
        if not token:
            return found


def update_dataset(
    name: str, policy: Policy | None, schema: Schema | None, retention: timedelta | None = None
) -> Call[DatasetInfo]:
    """See `Backend`."""
    request = pb.UpdateDatasetRequest(
        name=name, policy=_policy(policy), schema=_schema(schema), retention=_retention(retention)
    )
    return Call("UpdateDataset", request, pb.UpdateDatasetResponse.FromString, _dataset)


def delete_dataset(name: str, *, drop_snapshots: bool = False) -> Call[int]:
    """See `Backend`."""
    request = pb.DeleteDatasetRequest(name=name, drop_snapshots=drop_snapshots)
    return Call("DeleteDataset", request, pb.DeleteDatasetResponse.FromString, lambda found: found.deleted_tensors)


def dataset_stats(name: str, at: State | None = None) -> Call[DatasetStats]:
    """See `Backend`."""
    request = pb.GetDatasetStatsRequest(name=name, at=_state(at))
    return _read_only("GetDatasetStats", request, pb.GetDatasetStatsResponse.FromString, stats_from)


def store_stats() -> Call[StoreStats]:
    """See `Backend`."""
    request = pb.GetStoreStatsRequest()
    return _read_only("GetStoreStats", request, pb.GetStoreStatsResponse.FromString, store_stats_from)


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
    return Call(
        "CancelInsert", request, pb.CancelInsertResponse.FromString, lambda _: None, timeout_s_max=_CANCEL_TIMEOUT_S
    )


def list_tensors(listing: Listing) -> Steps[TensorInfo | DataCorruptError, None]:
    """See `Backend.list_tensors`."""
    token = ""
    # No page is larger than what the listing still wants. 0 would be the server's default; one tells as well whether the
    # dataset is there.
    left = listing.limit
    while True:
        request = pb.ListTensorsRequest(
            dataset=listing.dataset,
            filter_text=listing.where,
            order_by=listing.order_by,
            page_size=PAGE_SIZE if left is None else max(1, min(left, PAGE_SIZE)),
            page_token=token,
            at=_state(listing.at),
        )
        page = yield Ask(page_of("ListTensors", request, pb.ListTensorsResponse.FromString))
        yield Give(islice(chain(map(tensor_from, page.tensors), map(damage_from, page.damages)), left))
        if left is not None:
            left = max(0, left - len(page.tensors) - len(page.damages))
        token = page.next_page_token
        if not token or left == 0:
            return


def page_of(name: str, request: Message, parse: Callable[[bytes], Any]) -> Call[Any]:  # `Any`: as of `Call.parse`
    """Return the call for a page of a listing."""
    return _read_only(name, request, parse, lambda page: page)


def query_request(listing: Listing, *, with_data: bool, precision: str | None = None) -> pb.QueryRequest:
    """Return the request of a query's first stream; those of the next ones have a token to go on from."""
    return pb.QueryRequest(
        dataset=listing.dataset,
        filter_text=listing.where,
        order_by=listing.order_by,
        limit=listing.limit,
        sample=listing.sample,
        seed=listing.seed,
        options=read_options(with_data=with_data, precision=precision),
        at=_state(listing.at),
    )


def explain(sample: Sample, policies: Sequence[Policy]) -> Steps[Never, list[PolicyExplanation]]:
    """See `Backend`. A call that breaks begins again."""
    opening = open_explain(sample, policies)
    # No server has what it needs, so any will do.
    key = uuid.uuid4().hex
    while True:
        raw = None
        try:
            yield Open("ExplainPolicy", _explain_messages(opening, sample), key)
            while (answer := (yield Read())) is not None:
                raw = answer
        except AttemptFailedError as failed:
            broken = failed.error
        else:
            break
        yield Pause(broken, (0,))
    if raw is None:
        raise InternalError("the server ended ExplainPolicy without an answer")
    with as_answer("ExplainPolicy"):
        explanations = list(map(explanation_from, pb.ExplainPolicyResponse.FromString(raw).explanations))
    return explanations_of(sample, explanations)


def explanations_of(sample: Sample, explanations: list[PolicyExplanation]) -> list[PolicyExplanation]:
    """Return the explanations of a sample; if it has a base, the last one is marked as that of the base."""
    if sample.base is None:
        return explanations
    return [*explanations[:-1], replace(explanations[-1], has_base=True)]


def open_explain(sample: Sample, policies: Sequence[Policy]) -> pb.OpenExplain:
    """Return what the first message of an ExplainPolicy says.

    Raises:
        InvalidPolicyError: what the contract cannot carry.
    """
    spec = pb.TensorSpec(dtype=dtype_to(sample.dtype), shape=sample.shape)
    base = None if sample.base is None else reference_to(sample.base)
    return pb.OpenExplain(spec=spec, candidates=map(policy_to, policies), tensor_bytes=sample.tensor_bytes, base=base)


def _explain_messages(opening: pb.OpenExplain, sample: Sample) -> Iterator[bytes]:
    """Yield the messages of an ExplainPolicy: first the opening, then the sample, a block each."""
    yield pb.ExplainPolicyRequest(open=opening).SerializeToString()
    for block in sample.blocks(_BLOCK_BYTES):
        yield join(b"", [block])


def read_options(
    *, with_data: bool, dtype: str | None = None, precision: str | None = None, until_plan: bool = False
) -> pb.ReadOptions:
    """Return how streams that read are to answer here.

    Raises:
        UnsupportedDTypeError: nothing can be cast to that.
    """
    return pb.ReadOptions(
        accepted_codecs=accepted_codecs(),
        headers_only=not with_data,
        as_dtype=None if dtype is None else dtype_to(dtype),
        precision=precision_to(precision),
        until_plan=until_plan,
    )


def _dataset(response: Any) -> DatasetInfo:  # `Any`: each call that answers with a dataset has a message of its own
    return dataset_from(response.dataset)


def _policy(policy: Policy | None) -> pb.StoragePolicy | None:
    return None if policy is None else policy_to(policy)


def _retention(retention: timedelta | None) -> duration_pb2.Duration | None:
    return None if retention is None else retention_to(retention)


def _state(at: State | None) -> pb.At | None:
    return None if at is None else state_to(at)


def _schema(schema: Schema | None) -> pb.DatasetSchema | None:
    return None if schema is None else schema_to(schema)
