"""GetServerStatus: what a server process is, and who the caller is to it."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.access.rights import EVERYTHING, Role
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.access.rights import Caller, Rights
    from tensorus_server.engine.engine import Engine

__all__ = ["server_status"]


def server_status(
    engine: Engine, rights: Rights, caller: Caller, *, started_s: float, store: str
) -> pb.GetServerStatusResponse:
    """Answer a call.

    Args:
        rights: that hold now.
        caller: who asks.
        started_s: when the process began to serve, in seconds since 1970.
        store: where the store is, without passwords.
    """
    is_admin = rights.allows(caller, Role.ADMIN, EVERYTHING)
    status = pb.GetServerStatusResponse(
        version=version("tensorus"),
        principal=caller.principal,
        rights=sorted({str(scope) for scope in rights.of(caller)}),
        authenticates=not caller.is_local,
        read_only=engine.read_only,
        healthy=_is_healthy(engine),
        store=store if is_admin else "",
    )
    status.start_time.FromSeconds(int(started_s))
    return status


def _is_healthy(engine: Engine) -> bool:
    try:
        engine.check_writable()
    except StoreUnavailableError:
        return False
    return True
