"""Health checks and reflection: the services that need no authentication.

Anybody who can connect may call them, so they have threads of their own: whoever occupies these does not stop the calls of
others. No call occupies one for long without sending anything, and nothing is kept of what callers send.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus_server.errors import StreamStalledError
    from tensorus_server.rpc.arrivals import Arrivals

__all__ = ["OpenServices"]

_HEALTH_THREADS = 16
_REFLECTION_THREADS = 2

_HEALTH_ARRIVES_S = 1.0
"""How long the request of a health check may take. It is a name, so it is in one packet with the headers."""


class OpenServices:
    """See the module's description."""

    def __init__(self, checks: health.HealthServicer, names: Sequence[str], arrivals: Arrivals) -> None:
        """Serve nothing yet.

        Args:
            checks: knows the state of each service.
            names: of all services.
            arrivals: ends calls whose messages do not arrive.
        """
        self._checks = checks
        self._names = frozenset(names) | {health.OVERALL_HEALTH}
        self._reflection = reflection.ReflectionServicer(names)
        self._arrivals = arrivals
        self._health_threads = ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="tensorus-health")
        self._reflection_threads = ThreadPoolExecutor(_REFLECTION_THREADS, thread_name_prefix="tensorus-reflection")

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the handlers that a gRPC server dispatches the calls to."""
        check, watch, reflect = _Behavior(self._check), _Behavior(self._watch), _Behavior(self._reflect)
        check.experimental_thread_pool = watch.experimental_thread_pool = self._health_threads
        watch.experimental_non_blocking = True
        reflect.experimental_thread_pool = self._reflection_threads
        answer = health_pb2.HealthCheckResponse.SerializeToString
        # `Any`: the library's handlers have no types.
        checks: dict[str, Any] = {
            "Check": grpc.stream_unary_rpc_method_handler(check, response_serializer=answer),
            "Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=answer),
        }
        reflections: dict[str, Any] = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                reflect,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        }
        return (
            grpc.method_handlers_generic_handler(health.SERVICE_NAME, checks),
            grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, reflections),
        )

    def close(self) -> None:
        """Start no more calls, and wait for none."""
        for threads in (self._health_threads, self._reflection_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        request = self._request(messages, context)
        return self._checks.Check(request, context)

    def _watch(
        self,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        send: Callable[[health_pb2.HealthCheckResponse | None], None],
    ) -> None:
        request = self._request(messages, context)
        if request.service in self._names:
            self._checks.Watch(request, context, send)
        else:
            # The library would keep the name for good. It never becomes known, so there is nothing to watch.
            send(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))

    def _request(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> health_pb2.HealthCheckRequest:
        raw = self._arrivals.next(messages, _cancelling(context), limit_s=_HEALTH_ARRIVES_S)
        try:
            return health_pb2.HealthCheckRequest.FromString(raw or b"")
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "message is not a HealthCheckRequest")
            raise  # `abort` has raised already.

    def _reflect(
        self, messages: Iterator[reflection_pb2.ServerReflectionRequest], context: grpc.ServicerContext
    ) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        def arrived() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            while (message := self._arrivals.next(messages, _cancelling(context))) is not None:
                yield message

        yield from self._reflection.ServerReflectionInfo(arrived(), context)


def _cancelling(context: grpc.ServicerContext) -> Callable[[StreamStalledError], None]:
    def cancel(_: StreamStalledError) -> None:
        context.cancel()

    return cancel


class _Behavior:
    """A function with the attributes that gRPC looks for: the threads on which it is called, and how it answers."""

    def __init__(self, function: Callable[..., Any]) -> None:  # `Any`: as gRPC calls them
        self._function = function
        self.experimental_thread_pool: ThreadPoolExecutor | None = None
        self.experimental_non_blocking = False

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)
