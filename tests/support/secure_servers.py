"""Servers that want TLS or a token: the real service behind a gRPC server of the tests' own, which notes what clients send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from support.certificates import Pair
from support.client import status_of
from tensorus_server.engine.engine import Engine
from tensorus_server.rpc.admission import Admission, AdmissionLimits
from tensorus_server.rpc.calls import Gate
from tensorus_server.rpc.service import TensorService

Refusal = tuple[grpc.StatusCode, str, dict[str, str]]
"""Code, reason and facts."""


@dataclass
class Seen:
    """What a server has seen."""

    port: int = 0
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The method's name and the metadata of each call, in their order."""
    refuse: Callable[[str, dict[str, Any]], Refusal | None] = lambda _, __: None
    """Returns how to refuse a call; None: it is let in."""
    health: health.HealthServicer = field(default_factory=health.HealthServicer)

    def of(self, name: str) -> list[str]:
        """Return the values of one key of the metadata."""
        return [metadata.get(name, "") for _, metadata in self.calls]


class _Guard(grpc.ServerInterceptor):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        name, metadata = details.method.rpartition("/")[2], dict(details.invocation_metadata)
        self._seen.calls.append((name, metadata))
        refusal = self._seen.refuse(name, metadata)
        if refusal is None:
            return continuation(details)

        def end(_: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            code, reason, facts = refusal
            status = status_of(reason, **facts).SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", status),))
            context.abort(code, "refused")
            yield b""

        return grpc.stream_stream_rpc_method_handler(end)


def wants_token(token: str) -> Callable[[str, dict[str, Any]], Refusal | None]:
    """Return a function that refuses calls without this token."""
    unknown = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", {})
    return lambda _, metadata: None if metadata.get("authorization") == f"Bearer {token}" else unknown


@contextmanager
def secure_server(
    engine: Engine, pair: Pair | None = None, *, client_ca: bytes | None = None, port: int = 0
) -> Iterator[Seen]:
    """Serve an engine on loopback.

    Args:
        pair: certificate and key; None: without TLS.
        client_ca: the authority whose clients alone may connect; None: all may.
    """
    seen = Seen()
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[_Guard(seen)], options=[("grpc.so_reuseport", 0)])
    gate = Gate(Admission(AdmissionLimits(8, 1 << 28)))
    server.add_generic_rpc_handlers((TensorService(engine, gate, store="in memory").handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(seen.health, server)
    seen.health.set("", health_pb2.HealthCheckResponse.SERVING)
    if pair is None:
        seen.port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)], client_ca, client_ca is not None)
        seen.port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield seen
    finally:
        server.stop(None).wait()
