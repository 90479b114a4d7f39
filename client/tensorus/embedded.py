"""The backend that is an engine in this process. Only this module and `_embedded_store.py` use the engine.

What a user says goes through the same messages as to a server, so that both take the same, and refuse it alike; but for what
messages are known to bring back as it was.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tensorus._backend import Backend, Began, Bytes, Failed
from tensorus._grpc.calls import explanations_of, open_explain
from tensorus._grpc.convert import precision_to, upload_to
from tensorus._grpc.convert_values import dtype_to, plain_metadata
from tensorus._grpc.patience import Patience
from tensorus._grpc.tensor_info import checksum_fields
from tensorus._missing import engine_missing
from tensorus.errors import DataCorruptError, TensorusError
from tensorus.types import Progress
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.dtypes import dtype_by_name, dtype_by_number
from tensorus_codecs.errors import CodecError

try:
    from tensorus._embedded_store import EmbeddedStore, as_tensorus_errors, engine_state, error_of_ours
    from tensorus._from_engine import explanation_info, tensor_info
    from tensorus_server import model
    from tensorus_server.engine.explain import Explainer, explainer
    from tensorus_server.engine.insert.stream import InsertOptions as EngineInsertOptions
    from tensorus_server.engine.insert.stream import ItemResult
    from tensorus_server.engine.query import Query, parse_order
    from tensorus_server.engine.read.inline import read_inline
    from tensorus_server.engine.read.reader import ReadPlan, coarse_error
    from tensorus_server.engine.validate import checked_spec
    from tensorus_server.errors import EngineError
    from tensorus_server.filter.text import parse_filter
    from tensorus_server.limits import EDIT_TIMEOUT_S, INLINE_BYTES_MAX
    from tensorus_server.rpc.convert import explain_from, new_tensor_from
    from tensorus_server.rpc.convert_history import reference_from
    from tensorus_server.rpc.convert_read import precision_from
except ImportError as error:
    raise engine_missing(error) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._backend import Arrival, InsertOptions, Known, Listing, Part, Sample, State, Upload
    from tensorus.types import Policy, PolicyExplanation, TensorInfo
    from tensorus_codecs.dtypes import DType
    from tensorus_server.engine.insert.stream import InsertStream, ItemProgress

__all__ = ["EmbeddedBackend", "explain_here"]

_BLOCK_BYTES = 1024 * 1024
"""What is handed to the engine at once: a chunk of the default size, which it takes without copying."""


class EmbeddedBackend(EmbeddedStore, Backend):
    """One engine on one folder."""

    def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """See `Backend`."""
        if isinstance(uploads, list) and len(uploads) == 1:
            if uploads[0].edit is not None or uploads[0].base is not None:
                yield 0, self._insert_while_busy(dataset, uploads, options, on_progress)
                return
            if on_progress is None and not options.validate_only:
                inserted = self._insert_one(dataset, uploads[0])
                if inserted is not None:
                    yield 0, inserted
                    return
        yield from self._insert_all(dataset, uploads, options, on_progress)

    def insert_known(self, dataset: str, announced: Sequence[Known]) -> Mapping[int, TensorInfo | TensorusError]:
        """See `Backend`."""
        outcomes: dict[int, TensorInfo | TensorusError] = {}
        news: dict[int, model.NewTensor] = {}
        for place, (upload, checksum) in enumerate(announced):
            # What cannot be announced is left to the insert, which says why.
            with suppress(TensorusError, EngineError, CodecError):
                source = model.Checksum(TensorDigest.ALGORITHM, checksum)
                news[place] = replace(_new_tensor(upload, dataset), source_checksum=source)
        with as_tensorus_errors():
            found = self._engine.insert_known(dataset, list(news.values()))
            for place, outcome in zip(news, found, strict=True):
                if outcome is not None:
                    outcomes[place] = error_of_ours(outcome) if isinstance(outcome, Exception) else tensor_info(outcome)
        return outcomes

    def _insert_while_busy(
        self,
        dataset: str,
        uploads: list[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> TensorInfo | TensorusError:
        """Return what became of an edit, or of an insert with a base.

        It is repeated, as by a remote client, if another edit changed the same chunks, or the base was deleted or replaced.
        """
        patience = Patience(EDIT_TIMEOUT_S, lambda _: None, reasons=frozenset({"STORE_BUSY"}))
        while True:
            ((_, outcome),) = self._insert_all(dataset, uploads, options, on_progress)
            if not isinstance(outcome, TensorusError):
                return outcome
            try:
                patience.wait(outcome, (0,))
            except TensorusError:
                return outcome

    def _insert_all(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """Do `insert` with one stream."""
        results: queue.SimpleQueue[Sequence[ItemResult | ItemProgress]] = queue.SimpleQueue()
        with as_tensorus_errors():
            stream = self._engine.open_insert(
                dataset,
                results.put,
                EngineInsertOptions(all_or_nothing=options.all_or_nothing, validate_only=options.validate_only),
            )
        done_bytes = 0
        try:
            for item, upload in enumerate(uploads):
                try:
                    new = _new_tensor(upload, dataset)
                except (TensorusError, EngineError, CodecError) as error:
                    refusal = error if isinstance(error, TensorusError) else error_of_ours(error)
                    if options.all_or_nothing:
                        raise refusal from error
                    yield item, refusal
                    continue
                for length in _feed(stream, item, upload, new):
                    done_bytes += length
                    if on_progress is not None:
                        on_progress(Progress(None, done_bytes, None))
                # The next one may be long in coming.
                stream.flush()
                yield from _outcomes(results)
                if stream.is_lost:
                    break
            stream.finish()
            yield from _outcomes(results)
        finally:
            stream.abort()

    def get(
        self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool, at: State | None = None
    ) -> Iterator[Arrival]:
        """See `Backend`."""
        slices = None if part is None or part.is_whole else model.SliceSet(part.axes, part.trailing_axes)
        # By way of the contract, so that both clients refuse alike.
        as_dtype = None if part is None or part.dtype is None else dtype_by_number(dtype_to(part.dtype))
        precision = None if part is None else precision_from(precision_to(part.precision))
        reads = [model.Read(tensor_id, slices) for tensor_id in ids]
        with as_tensorus_errors():
            tensors = self._engine.find(dataset, reads, with_payloads=with_data, at=engine_state(at, dataset))
            for item, found in enumerate(tensors):
                if isinstance(found, Exception):
                    yield Failed(item, error_of_ours(found))
                else:
                    yield from self._read(item, found, slices, as_dtype, precision, with_data=with_data)

    def query(self, listing: Listing, *, with_data: bool, precision: str | None = None) -> Iterator[Arrival]:
        """See `Backend`."""
        wanted = precision_from(precision_to(precision))
        with as_tensorus_errors():
            query = Query(
                dataset=listing.dataset,
                filter=parse_filter(listing.where) if listing.where else None,
                order=parse_order(listing.order_by) if listing.order_by else None,
                limit=listing.limit,
                sample=listing.sample,
                seed=listing.seed,
                at=engine_state(listing.at, listing.dataset),
            )
            for item, found in enumerate(self._engine.select(query, with_payloads=with_data)):
                if isinstance(found, Exception):
                    yield Failed(item, error_of_ours(found))
                else:
                    yield from self._read(item, found, None, None, wanted, with_data=with_data)

    def list_tensors(self, listing: Listing) -> Iterator[TensorInfo | DataCorruptError]:
        """See `Backend`."""
        for arrival in self.query(listing, with_data=False):
            if isinstance(arrival, Began):
                yield arrival.info
            elif isinstance(arrival, Failed) and isinstance(arrival.error, DataCorruptError):
                yield arrival.error

    def update_metadata(self, dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> TensorInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            return tensor_info(self._engine.update_metadata(dataset, tensor_id, plain_metadata(metadata)))

    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> int:
        """See `Backend`."""
        with as_tensorus_errors():
            return len(self._engine.delete_tensors(dataset, ids))

    def explain(self, sample: Sample, policies: Sequence[Policy]) -> list[PolicyExplanation]:
        """See `Backend`."""
        with as_tensorus_errors():
            opening = open_explain(sample, policies)
            base = reference_from(opening.base, dataset="") if opening.HasField("base") else None
            with explainer(self._engine, *explain_from(opening), base) as opened:
                return explanations_of(sample, list(_explanations(opened, sample)))

    def _insert_one(self, dataset: str, upload: Upload) -> TensorInfo | None:
        """Store a small tensor on the engine's short way; None where a stream is to be asked."""
        if not 0 < upload.canonical_bytes <= INLINE_BYTES_MAX:
            return None
        block = next(upload.blocks(_BLOCK_BYTES))
        if block.nbytes != upload.canonical_bytes:
            return None
        with as_tensorus_errors():
            tensor = self._engine.insert_one(dataset, _new_tensor(upload, dataset), block)
            return None if tensor is None else tensor_info(tensor)

    def _read(
        self,
        item: int,
        tensor: model.Tensor,
        slices: model.SliceSet | None,
        as_dtype: DType | None,
        precision: model.Precision | None,
        *,
        with_data: bool,
    ) -> Iterator[Arrival]:
        if with_data and slices is None and as_dtype is None and not coarse_error(tensor, precision):
            piece = read_inline(tensor, frozenset(), record_bytes_max=0)
            if piece is not None:
                data = memoryview(piece.data)
                yield Began(item, tensor_info(tensor), tensor.spec.shape, data=data, **_checksum_fields(tensor))
                return
        try:
            plan = ReadPlan(tensor, slices, as_dtype, precision)
            whole = plan.cast is None and slices is None and not plan.coarse_error
            yield Began(
                item,
                tensor_info(tensor, coarse_error=plan.coarse_error),
                plan.result.shape,
                plan.result.dtype.name,
                **(_checksum_fields(tensor) if whole else {}),
            )
            if with_data:
                for piece in self._engine.reader.read(tensor, plan):
                    yield Bytes(
                        item,
                        piece.offset,
                        memoryview(piece.data).cast("B"),
                        encoded=False,
                        decoded_length=piece.decoded_length,
                    )
        except (EngineError, CodecError) as error:
            yield Failed(item, error_of_ours(error))


def explain_here(sample: Sample, policies: Sequence[Policy]) -> Iterator[PolicyExplanation]:
    """Yield what each policy would do to a sample, as it is known, without a store. Arguments as of `Backend.explain`."""
    with as_tensorus_errors():
        yield from _explanations(Explainer(*explain_from(open_explain(sample, policies))), sample)


def _explanations(opened: Explainer, sample: Sample) -> Iterator[PolicyExplanation]:
    for block in sample.blocks(_BLOCK_BYTES):
        opened.write(block)
    for explanation in opened.explanations():
        yield explanation_info(explanation)


def _new_tensor(upload: Upload, dataset: str) -> model.NewTensor:
    """Return how an upload is announced; by way of the contract where anything is unusual, so that both clients refuse alike.

    Raises:
        TensorusError, EngineError, CodecError: what cannot be announced.
    """
    spec = _spec(upload.dtype, upload.shape)
    is_usual = (
        upload.edit is None
        and upload.base is None
        and upload.policy is None
        and upload.if_generation_match is None
        and upload.id.isascii()
    )
    if spec is None or not is_usual:
        return new_tensor_from(upload_to(upload), dataset=dataset)
    return model.NewTensor(upload.id, spec, plain_metadata(upload.metadata), replace=upload.replace)


@lru_cache(maxsize=1024)
def _spec(dtype: str, shape: tuple[int, ...]) -> model.TensorSpec | None:
    """Return the spec; None where something is wrong with it. Tensors that come one after the other often have the same."""
    try:
        return checked_spec(dtype_by_name(dtype), shape)
    except (CodecError, EngineError):
        return None


def _feed(stream: InsertStream, item: int, upload: Upload, new: model.NewTensor) -> Iterator[int]:
    """Hand an upload to the engine, and yield the bytes of each block that it has taken."""
    offset = 0
    announced: model.NewTensor | None = new
    for block in upload.blocks(_BLOCK_BYTES):
        last = offset + block.nbytes >= upload.canonical_bytes
        stream.receive(model.Segment(item, offset, block.nbytes, last, announced), block)
        announced = None
        offset += block.nbytes
        yield block.nbytes
    if announced is not None:
        stream.receive(model.Segment(item, 0, 0, last=True, tensor=announced), memoryview(b""))


def _outcomes(
    results: queue.SimpleQueue[Sequence[ItemResult | ItemProgress]],
) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
    """Yield what has been reported so far."""
    while not results.empty():
        for result in results.get():
            assert isinstance(result, ItemResult), "progress is of inserts that can be resumed"
            outcome = result.outcome
            yield result.item, error_of_ours(outcome) if isinstance(outcome, Exception) else tensor_info(outcome)


def _checksum_fields(tensor: model.Tensor) -> dict[str, Any]:
    dtype = tensor.spec.dtype
    return checksum_fields(tensor, dtype.number, 8 * dtype.element_bytes)
