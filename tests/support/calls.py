"""Calls for tests of what needs one, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorus_server.rpc.admission import Admission, AdmissionLimits
from tensorus_server.rpc.calls import Call, Gate

__all__ = ["a_call"]


class _Context:
    """What a call asks of gRPC's context."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata

    def peer(self) -> str:
        return "ipv6:%5B::1%5D:40312"

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def is_active(self) -> bool:
        return True


def a_call(method: str = "Get", metadata: Sequence[tuple[str, str]] = ()) -> Call:
    """Return a call of a client that sent this metadata, which passes a gate without observers."""
    # `Any`: only what a call asks of it is there.
    context: Any = _Context(metadata)
    return Call(method, Gate(Admission(AdmissionLimits(streams_max=1, memory_budget_bytes=1 << 20))), context)
