"""What a server says about itself, and how long it takes to say it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc

from tensorus._grpc.calls import store_stats
from tensorus._grpc.rpc_errors import rpc_error
from tensorus._request_ids import current_id
from tensorus.errors import NotImplementedByServerError, PermissionDeniedError, UnavailableError

if TYPE_CHECKING:
    from tensorus._grpc.remote import RemoteBackend
    from tensorus.types import StoreStats

__all__ = ["ServerReport", "server_report"]

_HEALTH_TIMEOUT_S = 10.0

_HEALTH = {b"": "UNKNOWN", b"\x08\x00": "UNKNOWN", b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}
"""The answers of grpc.health.v1.Health/Check, whose only field is the status. Only the server has the library for it."""

_ROUND_TRIPS = 3
"""The fastest of so many small calls is the latency. The call before them has opened the connection."""


@dataclass(frozen=True)
class ServerReport:
    """What `tensorus status` shows. None: the server does not say, or the caller may not know."""

    address: str
    tls: bool
    version: str
    health: str
    """SERVING or NOT_SERVING; UNKNOWN: the server does not say."""
    latency_s: float
    """Of a small call: the way there and back, and the server's part."""
    principal: str
    """Who the server takes the caller for, such as "token:trainer"."""
    rights: tuple[str, ...]
    """What that may do, such as "writer team/*"."""
    authenticates: bool
    """Whether callers must say who they are."""
    read_only: bool
    start: datetime
    """Of the server's process, in UTC."""
    uptime_s: float
    """By this machine's clock."""
    store: str | None = None
    """Where the store is."""
    space: StoreStats | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the server says that its store can be used."""
        return self.health == "SERVING"


def server_report(backend: RemoteBackend) -> ServerReport:
    """Ask a server about itself.

    Raises:
        UnavailableError: it cannot be reached.
        UnauthenticatedError: it does not accept the caller.
        NotImplementedByServerError: it is older than this question.
    """
    found = backend.server_status()
    latencies_s = []
    for _ in range(_ROUND_TRIPS):
        began_s = time.perf_counter()
        backend.server_status()
        latencies_s.append(time.perf_counter() - began_s)
    return ServerReport(
        address=str(backend.connection),
        tls=backend.connection.tls is not None,
        version=found.version,
        health=_health(backend) if found.healthy else "NOT_SERVING",
        latency_s=min(latencies_s),
        principal=found.principal,
        rights=found.rights,
        authenticates=found.authenticates,
        read_only=found.read_only,
        start=found.started,
        uptime_s=max((datetime.now(UTC) - found.started).total_seconds(), 0.0),
        store=found.store or None,
        space=_space(backend),
    )


def _space(backend: RemoteBackend) -> StoreStats | None:
    try:
        return backend.call(store_stats())
    except (PermissionDeniedError, UnavailableError):
        # Not for this caller; or the store cannot be used, which the health says: the server itself has just answered.
        return None


def _health(backend: RemoteBackend) -> str:
    """Return what the health check says."""
    method: Any = backend.channel(backend.servers.pick("")).unary_unary("/grpc.health.v1.Health/Check")
    try:
        raw = method(b"", timeout=_HEALTH_TIMEOUT_S, metadata=backend.connection.metadata(current_id()))
    except grpc.RpcError as error:
        found = rpc_error(error)
        if isinstance(found, (NotImplementedByServerError, PermissionDeniedError)):
            return "UNKNOWN"
        raise found from error
    return _HEALTH.get(raw, "UNKNOWN")
