"""The calls about tokens, rights and quotas, and about the server itself. See `calls.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tensorus._grpc.convert_access import (
    grant_from,
    grant_to,
    lifetime_to,
    quota_from,
    quota_to,
    scope_to,
    status_from,
    token_from,
    usage_from,
)
from tensorus._grpc.steps import Call
from tensorus.access import NewToken
from tensorus_protos.v1 import access_pb2, tensorus_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from google.protobuf.message import Message

    from tensorus.access import Grant, Quota, QuotaUsage, Scope, ServerStatus, Token

__all__ = [
    "Page",
    "add_grant",
    "create_token",
    "list_grants",
    "list_quotas",
    "list_tokens",
    "remove_grant",
    "revoke_token",
    "server_status",
    "set_owner",
    "set_quota",
]

T = TypeVar("T")

Page: TypeAlias = tuple[list[T], str]
"""Entries, and the token of the next page; empty: there is none."""

_SERVICE = "AccessService"


def create_token(name: str, note: str, lifetime: timedelta | None, scopes: Sequence[Scope]) -> Call[NewToken]:
    """Create a token. It is not repeated: of two tokens, one would be unknown to everybody."""
    return Call(
        "CreateToken",
        access_pb2.CreateTokenRequest(
            name=name, note=note, lifetime=lifetime_to(lifetime), scopes=[scope_to(scope) for scope in scopes]
        ),
        access_pb2.CreateTokenResponse.FromString,
        lambda response: NewToken(token_from(response.token), response.secret),
        service=_SERVICE,
    )


def list_tokens(page_token: str) -> Call[Page[Token]]:
    """Return a page of tokens."""
    return _repeatable(
        "ListTokens",
        access_pb2.ListTokensRequest(page_token=page_token),
        access_pb2.ListTokensResponse.FromString,
        lambda response: ([token_from(token) for token in response.tokens], response.next_page_token),
    )


def revoke_token(token_id: str) -> Call[Token]:
    """Revoke a token."""
    return _repeatable(
        "RevokeToken",
        access_pb2.RevokeTokenRequest(id=token_id),
        access_pb2.RevokeTokenResponse.FromString,
        lambda response: token_from(response.token),
    )


def add_grant(grant: Grant) -> Call[bool]:
    """Give a principal a role; whether it was new."""
    return _repeatable(
        "AddGrant",
        access_pb2.AddGrantRequest(grant=grant_to(grant)),
        access_pb2.AddGrantResponse.FromString,
        lambda response: bool(response.added),
    )


def remove_grant(grant: Grant) -> Call[bool]:
    """Take a role from a principal; whether it had it."""
    return _repeatable(
        "RemoveGrant",
        access_pb2.RemoveGrantRequest(grant=grant_to(grant)),
        access_pb2.RemoveGrantResponse.FromString,
        lambda response: bool(response.removed),
    )


def list_grants(principal: str, page_token: str) -> Call[Page[Grant]]:
    """Return a page of grants."""
    return _repeatable(
        "ListGrants",
        access_pb2.ListGrantsRequest(principal=principal, page_token=page_token),
        access_pb2.ListGrantsResponse.FromString,
        lambda response: ([grant_from(grant) for grant in response.grants], response.next_page_token),
    )


def set_quota(quota: Quota) -> Call[Quota]:
    """Replace the limits of a principal."""
    return _repeatable(
        "SetQuota",
        access_pb2.SetQuotaRequest(quota=quota_to(quota)),
        access_pb2.SetQuotaResponse.FromString,
        lambda response: quota_from(response.quota),
    )


def list_quotas(page_token: str) -> Call[Page[QuotaUsage]]:
    """Return a page of quotas with what is used."""
    return _repeatable(
        "ListQuotas",
        access_pb2.ListQuotasRequest(page_token=page_token),
        access_pb2.ListQuotasResponse.FromString,
        lambda response: ([usage_from(usage) for usage in response.quotas], response.next_page_token),
    )


def set_owner(dataset: str, principal: str) -> Call[None]:
    """Make a principal the owner of a dataset."""
    return _repeatable(
        "SetOwner",
        access_pb2.SetOwnerRequest(dataset=dataset, principal=principal),
        access_pb2.SetOwnerResponse.FromString,
        lambda _: None,
    )


def server_status() -> Call[ServerStatus]:
    """Return what the server is, and who the caller is to it."""
    response = tensorus_pb2.GetServerStatusResponse.FromString
    return Call("GetServerStatus", tensorus_pb2.GetServerStatusRequest(), response, status_from, repeat=status_from)


def _repeatable(
    name: str,
    request: Message,
    parse: Callable[[bytes], Any],
    value: Callable[[Any], T],  # `Any`: a message of the type that it takes
) -> Call[T]:
    """Return a call of the service that may be made again: the second time it changes nothing."""
    return Call(name, request, parse, value, repeat=value, service=_SERVICE)
