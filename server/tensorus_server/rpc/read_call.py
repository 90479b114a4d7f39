"""One Get or Query call: turns tensors into response messages.

If a tensor cannot be read completely, its error is sent in band and the call continues with the next tensor, unless the caller
asked to fail fast. An error that says when to retry ends the call, too: a part of the store is away, so that the next tensors
would fail likewise, each after a long wait, and the caller can go on here later.
"""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, cast

from tensorus_codecs.dtypes import dtype_by_number
from tensorus_codecs.errors import UnsupportedDTypeError
from tensorus_server.engine.read.inline import read_inline
from tensorus_server.engine.read.reader import ReadPlan, coarse_error
from tensorus_server.errors import InvalidRequestError
from tensorus_server.limits import PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, READ_STREAM_BYTES, SMALL_READ_BYTES
from tensorus_server.rpc.convert_read import precision_from
from tensorus_server.rpc.framing import ResponsePacker
from tensorus_server.rpc.status import retry_delay_s, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import TypeAlias

    from tensorus_protos.v1 import tensorus_pb2 as pb
    from tensorus_server.engine.query import Place, Selection
    from tensorus_server.engine.read.plans import Plans
    from tensorus_server.engine.read.reader import Piece, TensorReader
    from tensorus_server.meters import Trace
    from tensorus_server.model import Part, Tensor
    from tensorus_server.rpc.calls import Call

    _Placed: TypeAlias = tuple[Tensor | Exception, Part, Place | None]

__all__ = ["ReadCall"]

_TRACED_BYTES_MIN = 1024 * 1024
"""Tensors above this size have a stage of their own in a trace."""


class ReadCall:
    """See the module's description."""

    def __init__(
        self,
        call: Call,
        reader: TensorReader,
        response_type: type[pb.GetResponse | pb.QueryResponse],
        options: pb.ReadOptions,
        *,
        borrow: Callable[[int], None],
        fail_fast: bool,
    ) -> None:
        """Check the options.

        Args:
            call: counts the tensors that are read.
            borrow: reserves at least so many bytes of the memory budget; blocks until they are free.

        Raises:
            UnsupportedDTypeError: this version does not know the dtype to cast to.
            InvalidRequestError: the client asks for smaller messages than the server sends, or for an unknown precision.
        """
        payload_bytes_max = options.max_payload_bytes if options.HasField("max_payload_bytes") else PAYLOAD_BYTES_MAX
        if payload_bytes_max < PAYLOAD_BYTES_MIN:
            raise InvalidRequestError(
                f"max_payload_bytes is {payload_bytes_max}, must be at least {PAYLOAD_BYTES_MIN} bytes (payload_bytes_min)",
                limit=PAYLOAD_BYTES_MIN,
            )
        self._call = call
        self._borrow = borrow
        self._bytes_left_small = SMALL_READ_BYTES
        self._as_dtype = dtype_by_number(options.as_dtype) if options.as_dtype else None
        if options.as_dtype and self._as_dtype is None:
            raise UnsupportedDTypeError(f"as_dtype is {options.as_dtype}, which this server does not know")
        self._precision = precision_from(options.precision)
        self._reader = reader
        self._headers_only = options.headers_only
        self._fail_fast = fail_fast
        self._accepted_codecs = frozenset(options.accepted_codecs)
        self._plans: Plans | None = None
        self._payload_bytes_max = min(payload_bytes_max, PAYLOAD_BYTES_MAX)
        self._packer = ResponsePacker(
            response_type, payload_bytes_max=self._payload_bytes_max, omit_crc=options.omit_crc
        )

    def end_at_plan(self, plans: Plans) -> None:
        """End the call at the first tensor that may have a plan, after its header. Call it before `responses`."""
        if self._as_dtype is None and not self._headers_only:
            self._plans = plans

    def report_state(self, generation: int) -> None:
        """Say in the first response which state of the dataset is read. Call it before `responses`."""
        self._packer.report_state(generation)

    def responses(
        self, wanted: Iterable[tuple[Tensor | Exception, Part]], selection: Selection | None = None
    ) -> Iterator[bytes]:
        """Yield the call's responses; items are numbered in the order of `wanted`.

        Args:
            selection: the source of `wanted`, where the call can be resumed: a message that ends with a complete item then
                carries a token to resume after it.
        """
        # With each tensor the place after it, since some are taken ahead.
        placed = ((found, part, None if selection is None else selection.place) for found, part in wanted)
        with closing(self._announced(placed)) as announced:
            yield from self._responses(announced, selection)
        yield from self._packer.flush()

    def _responses(self, placed: Iterable[_Placed], selection: Selection | None) -> Iterator[bytes]:
        for item, (found, part, place) in enumerate(placed):
            if self._has_plan(found, part):
                yield from self._packer.add_planned(item, cast("Tensor", found))
                break
            if not (self._headers_only or isinstance(found, Exception)):
                self._borrow_for(found)
            try:
                if isinstance(found, Exception):
                    raise found
                whole = self._inline(found, part)
                if whole is None:
                    yield from self._read(item, found, part)
                else:
                    yield from self._packer.add_tensor(item, found, None, last=False)
                    self._call.count_read(whole.decoded_length)
                    yield from self._packer.add_piece(item, whole, last=True)
                self._call.tensors += 1
            except Exception as error:
                if self._fail_fast or retry_delay_s(error) is not None:
                    raise
                yield from self._packer.add_failure(item, status_of(error, call=self._call))
            if selection is not None and place is not None:
                self._packer.complete(partial(selection.token, place))

    def _announced(self, placed: Iterator[_Placed]) -> Generator[_Placed, None, None]:
        """Yield what is read, after the next payloads were announced, if any are read."""
        if self._headers_only:
            yield from placed
        else:
            yield from self._reader.announced(placed, _tensor_of)

    def _has_plan(self, found: Tensor | Exception, part: Part) -> bool:
        return (
            self._plans is not None
            and not isinstance(found, Exception)
            and part is None
            and not coarse_error(found, self._precision)
            and self._plans.may_have(found, self._accepted_codecs)
        )

    def _borrow_for(self, tensor: Tensor) -> None:
        """Reserve memory once the call has read more than `SMALL_READ_BYTES`."""
        if self._bytes_left_small >= 0:
            self._bytes_left_small -= tensor.spec.canonical_bytes
            if self._bytes_left_small < 0:
                self._borrow(READ_STREAM_BYTES)

    def _inline(self, tensor: Tensor, part: Part) -> Piece | None:
        """Return the whole tensor if it is stored inline and requested whole and as stored; None otherwise. See `inline.py`."""
        if (
            part is not None
            or self._as_dtype is not None
            or self._headers_only
            or coarse_error(tensor, self._precision)
        ):
            return None
        return read_inline(tensor, self._accepted_codecs, record_bytes_max=self._payload_bytes_max)

    def _read(self, item: int, tensor: Tensor, part: Part) -> Iterator[bytes]:
        plan = ReadPlan(tensor, part, self._as_dtype, self._precision)
        remaining = 0 if self._headers_only else plan.result.canonical_bytes
        result = None if plan.result == tensor.spec and part is None else plan.result
        yield from self._packer.add_tensor(item, tensor, result, last=remaining == 0, coarse_error=plan.coarse_error)
        if remaining == 0:
            return
        pieces = self._reader.read(tensor, plan, self._accepted_codecs, record_bytes_max=self._payload_bytes_max)
        trace = self._call.trace
        if trace is not None and remaining > _TRACED_BYTES_MIN:
            pieces = _traced(pieces, trace, {"item": item, "tensor": tensor.id, "bytes": remaining})
        for piece in pieces:
            remaining -= piece.decoded_length
            self._call.count_read(piece.decoded_length)
            yield from self._packer.add_piece(item, piece, last=remaining == 0)


def _traced(pieces: Iterator[Piece], trace: Trace, about: dict[str, str | int | float]) -> Iterator[Piece]:
    """Yield the pieces of a tensor, and tell how long that took, and how much of it was reading and decoding."""
    begun_ns, reading_s = time.time_ns(), 0.0
    try:
        while True:
            asked_s = time.perf_counter()
            piece = next(pieces, None)
            reading_s += time.perf_counter() - asked_s
            if piece is None:
                return
            yield piece
    finally:
        trace.stage("read", begun_ns, time.time_ns(), {**about, "reading_seconds": reading_s})


def _tensor_of(placed: _Placed) -> Tensor | None:
    found, *_ = placed
    return None if isinstance(found, Exception) else found
