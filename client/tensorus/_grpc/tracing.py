"""A span for each call to a server, if the program traces itself with OpenTelemetry; otherwise one look-up in a dict.

This package does not depend on OpenTelemetry. A program that has set a tracer provider has imported it.

The span is a child of whatever span the program is in. It covers all attempts of a call. Each attempt carries it to the server
as W3C Trace Context (`traceparent`, `tracestate`), so that the server's spans are below it. Nothing else of the program's
context, such as baggage, leaves the process.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tensorus._grpc.servers import Server
    from tensorus.errors import TensorusError

__all__ = ["CallSpan", "begin", "current"]


class CallSpan:
    """The span of one call."""

    # `Any`: OpenTelemetry's own types, which need not be installed.
    def __init__(self, api: Any, span: Any) -> None:
        """Cover a call by a span of `api`, the module opentelemetry.trace."""
        self._api = api
        self._span = span
        self.metadata: tuple[tuple[str, str], ...] = _metadata(api, span)
        """What each attempt carries."""

    def sent_to(self, server: Server) -> None:
        """Note where an attempt goes."""
        self._span.set_attribute("server.address", server.target)

    def attempt_failed(self, error: TensorusError) -> None:
        """Note that an attempt failed, after which there may be another."""
        self._span.add_event("attempt failed", {"tensorus.reason": error.reason})

    def current(self) -> AbstractContextManager[object]:
        """Return a context manager in which other calls are below this one."""
        return self._api.use_span(self._span, end_on_exit=False, record_exception=False)  # type: ignore[no-any-return]  # untyped

    def end(self, error: BaseException | None) -> None:
        """End the span; an error that ended the call is noted by its reason, without its text."""
        if error is not None and not isinstance(error, (StopIteration, GeneratorExit)):
            reason = str(getattr(error, "reason", type(error).__name__))
            self._span.set_attribute("tensorus.reason", reason)
            self._span.set_status(self._api.StatusCode.ERROR, reason)
        self._span.end()


def begin(path: str) -> CallSpan | None:
    """Begin the span of a call that begins with an attempt of a method; None: nobody traces.

    Args:
        path: of the method: "/SERVICE/METHOD".
    """
    # `Any`: see `CallSpan`.
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
        return None
    _, service, method = path.split("/")
    span = provider.get_tracer("tensorus").start_span(
        f"tensorus {method}",
        kind=api.SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
    )
    return CallSpan(api, span)


def current(span: CallSpan | None) -> AbstractContextManager[object]:
    """Return a context manager in which other calls are below `span`, if there is one."""
    return nullcontext() if span is None else span.current()


# `Any`: see `CallSpan`.
def _metadata(api: Any, span: Any) -> tuple[tuple[str, str], ...]:
    context = span.get_span_context()
    if not context.is_valid:
        return ()
    parent = (
        f"00-{api.format_trace_id(context.trace_id)}-{api.format_span_id(context.span_id)}-{context.trace_flags:02x}"
    )
    state = context.trace_state.to_header()
    return (("traceparent", parent), ("tracestate", state)) if state else (("traceparent", parent),)
