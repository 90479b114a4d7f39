"""Tokens, rights and quotas of a server: what `Client.access` takes and returns.

    with tensorus.connect("grpcs://gpu-store:7733", token=admin) as client:
        made = client.access.create_token("trainer", lifetime=timedelta(days=90))
        client.access.grant("token:trainer", "writer", "team/*")
        print(made.secret)  # shown once

A principal is whoever makes a call: "token:NAME", "cert:NAME" for client certificates, "oidc:NAME" for users of an identity
provider, or "group:NAME" for its groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Grant", "NewToken", "Quota", "QuotaUsage", "Role", "Scope", "ServerStatus", "Token"]

Role: TypeAlias = Literal["reader", "writer", "admin"]
"""What a principal may do; each includes those before it."""


@dataclass(frozen=True)
class Scope:
    """A role on datasets, as the most that a token allows."""

    role: Role
    pattern: str
    """The name of a dataset, a prefix that ends with "*", such as "team/*", or "*" for all."""


@dataclass(frozen=True)
class Token:
    """A token, without its secret."""

    id: str
    """Its public part, by which it is revoked."""
    principal: str
    """Whom it stands for: "token:NAME"."""
    note: str
    """For people."""
    created: datetime
    """UTC."""
    expires: datetime | None
    """UTC; None: never."""
    revoked: datetime | None
    """UTC; None: it was not revoked."""
    scopes: tuple[Scope, ...]
    """What it allows at most; empty: all that its principal may do."""


@dataclass(frozen=True)
class NewToken:
    """A token that was just made."""

    token: Token
    secret: str = field(repr=False)
    """What clients pass as `token`. It cannot be read again."""


@dataclass(frozen=True)
class Grant:
    """A role that a principal has on datasets."""

    principal: str
    role: Role
    pattern: str
    """As in `Scope`."""


@dataclass(frozen=True)
class Quota:
    """The limits of a principal. None: no limit. Rates and streams count in each process that serves."""

    principal: str
    stored_bytes: int | None = None
    """In the datasets that the principal owns: those that it created, or was given."""
    tensors: int | None = None
    """Likewise."""
    streams: int | None = None
    """Transfers that are open at the same time."""
    calls_per_second: float | None = None
    bytes_per_second: int | None = None
    """Received and sent."""


@dataclass(frozen=True)
class QuotaUsage:
    """A quota, and what its principal uses."""

    quota: Quota
    stored_bytes: int
    tensors: int
    streams: int
    """Open in the process that answered."""


@dataclass(frozen=True)
class ServerStatus:
    """What a server process is, and who the caller is to it."""

    version: str
    """Of the server."""
    started: datetime
    """Of the process, UTC."""
    principal: str
    """Of the caller; "local:" where nobody is authenticated."""
    rights: tuple[str, ...]
    """Of the caller, for people, such as "writer team/*"."""
    authenticates: bool
    """Whether callers must say who they are."""
    read_only: bool
    healthy: bool
    """Whether the store takes writes, or serves reads if it is read-only."""
    store: str
    """Where the store is; empty unless the caller is admin of everything."""
