"""Messages of `access.proto` into values, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.v1 import access_pb2 as pb
from tensorus_server.access.quotas import Quota
from tensorus_server.access.rights import Grant, Role, Scope
from tensorus_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from tensorus_server.access.tokens import Token

__all__ = ["grant_from", "grant_to", "quota_from", "quota_to", "scope_from", "token_to"]


def scope_from(message: pb.Scope | pb.Grant) -> Scope:
    """Return a scope.

    Raises:
        InvalidRequestError: its role is unspecified or unknown.
    """
    try:
        role = Role(message.role)
    except ValueError as error:
        raise InvalidRequestError(f"role is {message.role}, must be reader, writer or admin") from error
    return Scope(role, message.pattern)


def grant_from(message: pb.Grant) -> Grant:
    """Return a grant; errors as for `scope_from`."""
    return Grant(message.principal, scope_from(message))


def grant_to(grant: Grant) -> pb.Grant:
    """Convert a grant."""
    return pb.Grant(principal=grant.principal, role=_role_to(grant.scope.role), pattern=grant.scope.pattern)


def token_to(token: Token) -> pb.Token:
    """Convert a token, without what proves it."""
    message = pb.Token(
        id=token.id,
        principal=token.principal,
        note=token.note,
        scopes=[pb.Scope(role=_role_to(scope.role), pattern=scope.pattern) for scope in token.scopes or ()],
    )
    _set_time(message.create_time, token.created_us)
    if token.expires_us is not None:
        _set_time(message.expire_time, token.expires_us)
    if token.revoked_us is not None:
        _set_time(message.revoke_time, token.revoked_us)
    return message


def quota_from(message: pb.Quota) -> Quota:
    """Return a quota."""
    return Quota(
        principal=message.principal,
        stored_bytes=message.stored_bytes if message.HasField("stored_bytes") else None,
        tensors=message.tensors if message.HasField("tensors") else None,
        streams=message.streams if message.HasField("streams") else None,
        calls_per_s=message.calls_per_second if message.HasField("calls_per_second") else None,
        bytes_per_s=message.bytes_per_second if message.HasField("bytes_per_second") else None,
    )


def quota_to(quota: Quota) -> pb.Quota:
    """Convert a quota."""
    return pb.Quota(
        principal=quota.principal,
        stored_bytes=quota.stored_bytes,
        tensors=quota.tensors,
        streams=quota.streams,
        calls_per_second=quota.calls_per_s,
        bytes_per_second=quota.bytes_per_s,
    )


def _role_to(role: Role) -> pb.Role:
    number: pb.Role = getattr(pb, f"ROLE_{role.name}")
    return number


def _set_time(message: Timestamp, time_us: int) -> None:
    message.FromMicroseconds(time_us)
