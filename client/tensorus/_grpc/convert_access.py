"""Messages about tokens, rights and quotas into the client's values, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from google.protobuf import duration_pb2

from tensorus._grpc.convert_values import time_from
from tensorus.access import Grant, Quota, QuotaUsage, Scope, ServerStatus, Token
from tensorus.errors import InvalidRequestError
from tensorus_protos.v1 import access_pb2 as pb

if TYPE_CHECKING:
    from datetime import timedelta

    from tensorus.access import Role
    from tensorus_protos.v1 import tensorus_pb2

__all__ = [
    "grant_from",
    "grant_to",
    "lifetime_to",
    "quota_from",
    "quota_to",
    "scope_to",
    "status_from",
    "token_from",
    "usage_from",
]


_ROLES = {"reader": pb.ROLE_READER, "writer": pb.ROLE_WRITER, "admin": pb.ROLE_ADMIN}


def lifetime_to(lifetime: timedelta | None) -> duration_pb2.Duration | None:
    """Return a lifetime; None: none."""
    if lifetime is None:
        return None
    message = duration_pb2.Duration()
    message.FromTimedelta(lifetime)
    return message


def scope_to(scope: Scope) -> pb.Scope:
    """Return a scope.

    Raises:
        InvalidRequestError: its role is none.
    """
    return pb.Scope(role=_role_to(scope.role), pattern=scope.pattern)


def token_from(message: pb.Token) -> Token:
    """Return a token."""
    return Token(
        id=message.id,
        principal=message.principal,
        note=message.note,
        created=time_from(message.create_time),
        expires=time_from(message.expire_time) if message.HasField("expire_time") else None,
        revoked=time_from(message.revoke_time) if message.HasField("revoke_time") else None,
        scopes=tuple(Scope(_role_from(scope.role), scope.pattern) for scope in message.scopes),
    )


def grant_to(grant: Grant) -> pb.Grant:
    """Return a grant; errors as for `scope_to`."""
    return pb.Grant(principal=grant.principal, role=_role_to(grant.role), pattern=grant.pattern)


def grant_from(message: pb.Grant) -> Grant:
    """Return a grant."""
    return Grant(message.principal, _role_from(message.role), message.pattern)


def quota_to(quota: Quota) -> pb.Quota:
    """Return a quota.

    Raises:
        InvalidRequestError: a limit is negative or too large.
    """
    try:
        return pb.Quota(
            principal=quota.principal,
            stored_bytes=quota.stored_bytes,
            tensors=quota.tensors,
            streams=quota.streams,
            calls_per_second=quota.calls_per_second,
            bytes_per_second=quota.bytes_per_second,
        )
    except ValueError as error:
        raise InvalidRequestError(f"a limit of the quota is not allowed: {error}", reason="INVALID_REQUEST") from error


def quota_from(message: pb.Quota) -> Quota:
    """Return a quota."""
    return Quota(
        principal=message.principal,
        stored_bytes=message.stored_bytes if message.HasField("stored_bytes") else None,
        tensors=message.tensors if message.HasField("tensors") else None,
        streams=message.streams if message.HasField("streams") else None,
        calls_per_second=message.calls_per_second if message.HasField("calls_per_second") else None,
        bytes_per_second=message.bytes_per_second if message.HasField("bytes_per_second") else None,
    )


def usage_from(message: pb.QuotaUsage) -> QuotaUsage:
    """Return a quota with what is used."""
    return QuotaUsage(quota_from(message.quota), message.stored_bytes, message.tensors, message.streams)


def status_from(message: tensorus_pb2.GetServerStatusResponse) -> ServerStatus:
    """Return the status of a server."""
    return ServerStatus(
        version=message.version,
        started=time_from(message.start_time),
        principal=message.principal,
        rights=tuple(message.rights),
        authenticates=message.authenticates,
        read_only=message.read_only,
        healthy=message.healthy,
        store=message.store,
    )


def _role_to(role: str) -> pb.Role:
    number = _ROLES.get(role)
    if number is None:
        raise InvalidRequestError(f"role is {role!r}, must be 'reader', 'writer' or 'admin'", reason="INVALID_REQUEST")
    return number


def _role_from(role: pb.Role) -> Role:
    # A role of a newer server has no name here.
    return cast("Role", pb.Role.Name(role).removeprefix("ROLE_").lower() if role in pb.Role.values() else str(role))
