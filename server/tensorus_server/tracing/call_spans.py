"""Spans of calls and of their stages: an observer of calls.

A call's span is a child of its client's, which the metadata name as W3C Trace Context says. Its stages are spans below it:

    wait for memory     until the memory that the stream needs was free
    receive             an item of an Insert, until all of it has come; chunks are encoded meanwhile
    seal                its last chunks are encoded, its checksum is verified, its payload is made durable
    wait for others     of an all-or-nothing insert
    commit              from the queue of the committer to the end of the commit
    read                a tensor of more than 1 MiB is read, decoded and sent

Small tensors that come together are one item here. A span has the method, the dataset, bytes, and the reason of an error; the
stages also the id of a tensor. It never has metadata of the call, messages of errors, or values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tensorus_protos.v1 import access_pb2, tensorus_pb2
from tensorus_server.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span, Tracer

    from tensorus_server.rpc.calls import Call

__all__ = ["CallSpans"]

_SERVICES = {
    method.name: service.full_name
    for contract in (tensorus_pb2, access_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

_propagator = TraceContextTextMapPropagator()


class CallSpans:
    """See the module's description. A `CallObserver`; thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        """Make spans with a tracer."""
        self._tracer = tracer

    def began(self, call: Call) -> None:
        """See `CallObserver`."""
        carrier = {name: call.header(name) for name in ("traceparent", "tracestate")}
        service = _SERVICES.get(call.method, "tensorus")
        span = self._tracer.start_span(
            f"{service}/{call.method}",
            context=_propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": call.method},
        )
        # A span that is not sampled costs nothing from here on.
        if not isinstance(span, NonRecordingSpan) and span.is_recording():
            call.trace = _CallTrace(self._tracer, span)

    def ended(self, call: Call, error: Exception | None) -> None:
        """See `CallObserver`."""
        trace, call.trace = call.trace, None
        if isinstance(trace, _CallTrace):
            trace.end(call, error)


class _CallTrace:
    """The span of one call. A `meters.Trace`."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def stage(self, name: str, begun_ns: int, ended_ns: int, about: Mapping[str, str | int | float]) -> None:
        """See `Trace`."""
        attributes = {f"tensorus.{key}": value for key, value in about.items()}
        span = self._tracer.start_span(name, context=self._context, start_time=begun_ns, attributes=attributes)
        span.end(ended_ns)

    def end(self, call: Call, error: Exception | None) -> None:
        """End the span."""
        span = self._span
        span.set_attributes(
            {
                "tensorus.dataset": call.dataset,
                "tensorus.received_bytes": call.received_bytes,
                "tensorus.sent_bytes": call.sent_bytes,
            }
        )
        if error is not None:
            reason = reason_of(error)
            span.set_attribute("tensorus.reason", reason)
            span.set_status(StatusCode.ERROR, reason)
        elif call.is_cancelled:
            span.set_attribute("tensorus.reason", "CANCELLED")
        span.end()
