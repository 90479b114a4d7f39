"""Roles, the patterns of datasets on which they are given, and who has which.

A principal is a text KIND:NAME; see `access.proto`. Nothing is allowed that no grant allows.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from tensorus_server.errors import InvalidNameError, InvalidRequestError, PermissionDeniedError
from tensorus_server.limits import DATASET_NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "EVERYTHING",
    "LOCAL",
    "LOCAL_CALLER",
    "PRINCIPAL_BYTES_MAX",
    "Caller",
    "Grant",
    "Rights",
    "Role",
    "Scope",
    "require_pattern",
    "require_principal",
]

LOCAL = "local:"
"""The principal of every caller of a server that authenticates nobody."""

EVERYTHING = "*"
"""The pattern of all datasets."""

PRINCIPAL_BYTES_MAX = 256
PATTERN_BYTES_MAX = DATASET_NAME_BYTES_MAX + 1
"""A dataset's name and the star."""

_PRINCIPAL = re.compile(r"(token|cert|oidc|group):(?! ).+(?<! )")


class Role(IntEnum):
    """What a caller may do; each role includes those before it. The numbers are those of the contract and the catalogue."""

    READER = 1
    """Reads tensors, listings and snapshots."""
    WRITER = 2
    """Creates datasets; inserts, edits and deletes tensors; makes snapshots."""
    ADMIN = 3
    """Deletes, renames and restores datasets, changes their settings, and grants roles on them."""

    @property
    def word(self) -> str:
        """The name for people, such as "reader"."""
        return self.name.lower()


@dataclass(frozen=True)
class Scope:
    """A role on the datasets that a pattern matches: a name, a prefix that ends with "*", or "*"."""

    role: Role
    pattern: str

    def allows(self, role: Role, dataset: str) -> bool:
        """Return whether this is enough to act as `role` on a dataset."""
        return self.role >= role and _matches(self.pattern, dataset)

    def contains(self, other: Scope) -> bool:
        """Return whether this allows everything that the other does."""
        return self.role >= other.role and _matches(self.pattern, other.pattern)

    def __str__(self) -> str:
        """Return for example "writer team/*"."""
        return f"{self.role.word} {self.pattern}"


@dataclass(frozen=True)
class Grant:
    """A scope that a principal has."""

    principal: str
    scope: Scope


@dataclass(frozen=True)
class Caller:
    """Whoever makes a call, as authentication found."""

    principal: str
    groups: tuple[str, ...] = ()
    """Further principals whose grants it has, such as "group:ml"."""
    scopes: tuple[Scope, ...] | None = None
    """What its token allows at most; None: all that its grants allow."""
    token_id: str = ""
    """Public part of the token; empty: it did not use a token of this store."""

    @property
    def is_local(self) -> bool:
        """Whether the server authenticates nobody, so that the caller may do everything."""
        return self.principal == LOCAL

    @property
    def owner(self) -> str:
        """Who owns what the caller creates; empty: nobody."""
        return "" if self.is_local else self.principal

    def session_of(self, request_id: str) -> str:
        """Return the name under which the engine knows a request of this caller, which no other caller can give.

        It is the principal, a space, and the id. If the principal has a space, or all of it is too long for a request id,
        hashes of both stand for them, which begin like no principal.
        """
        if self.is_local or not request_id:
            return request_id
        name = f"{self.principal} {request_id}"
        if " " not in self.principal and len(name.encode(errors="replace")) <= REQUEST_ID_BYTES_MAX:
            return name
        return f"{_hash(self.principal)[:32]} {_hash(request_id)}"


LOCAL_CALLER = Caller(LOCAL)


class Rights:
    """Which scopes each principal has. Immutable."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        """Take all grants of a store."""
        scopes: dict[str, list[Scope]] = {}
        for grant in grants:
            scopes.setdefault(grant.principal, []).append(grant.scope)
        self._scopes: Mapping[str, tuple[Scope, ...]] = {name: tuple(found) for name, found in scopes.items()}

    def allows(self, caller: Caller, role: Role, dataset: str) -> bool:
        """Return whether a caller may act as `role` on a dataset. `EVERYTHING` as the dataset means all of them."""
        if caller.is_local:
            return True
        if caller.scopes is not None and not any(scope.allows(role, dataset) for scope in caller.scopes):
            return False
        return any(
            scope.allows(role, dataset)
            for principal in (caller.principal, *caller.groups)
            for scope in self._scopes.get(principal, ())
        )

    def require(self, caller: Caller, role: Role, dataset: str) -> None:
        """Check that a caller may act as `role` on a dataset.

        Raises:
            PermissionDeniedError: it may not. The error is the same whether or not the dataset exists.
        """
        if not self.allows(caller, role, dataset):
            what = "all datasets" if dataset == EVERYTHING else f"dataset {dataset}"
            raise PermissionDeniedError(
                f"{caller.principal} is not {role.word} of {what}", principal=caller.principal, role=role.word
            )

    def of(self, caller: Caller) -> list[Scope]:
        """Return what a caller may do, for people: its grants, cut to what its token allows."""
        if caller.is_local:
            return [Scope(Role.ADMIN, EVERYTHING)]
        granted = [
            scope for principal in (caller.principal, *caller.groups) for scope in self._scopes.get(principal, ())
        ]
        if caller.scopes is None:
            return granted
        return [common for scope in granted for limit in caller.scopes if (common := _common(scope, limit)) is not None]


def require_principal(principal: str) -> None:
    """Refuse a text that names no principal.

    Raises:
        InvalidNameError: names the value and the rule.
    """
    is_short = len(principal.encode(errors="replace")) <= PRINCIPAL_BYTES_MAX
    # Not printable are also characters that nobody sees, or that turn a text around: two names must not look alike for that.
    if not is_short or not principal.isprintable() or not _PRINCIPAL.fullmatch(principal):
        raise InvalidNameError(
            f"principal is {principal[:300]!r}, must be token:NAME, cert:NAME, oidc:NAME or group:NAME, "
            f"of up to {PRINCIPAL_BYTES_MAX} bytes of printable characters"
        )


def require_pattern(pattern: str) -> None:
    """Refuse a text that is no pattern of datasets.

    Raises:
        InvalidRequestError: names the value and the rule.
    """
    size = len(pattern.encode(errors="replace"))
    if not pattern or size > PATTERN_BYTES_MAX or "*" in pattern[:-1] or not pattern.isprintable():
        raise InvalidRequestError(
            f"pattern is {pattern[:300]!r}, must be the name of a dataset, a prefix that ends with '*', such as 'team/*', "
            "or '*'"
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _matches(pattern: str, dataset: str) -> bool:
    """Return whether a pattern matches a dataset; a pattern as the dataset means all that it matches."""
    return dataset.startswith(pattern[:-1]) if pattern.endswith("*") else dataset == pattern


def _common(first: Scope, second: Scope) -> Scope | None:
    """Return what both scopes allow; None: nothing."""
    role = min(first.role, second.role)
    if _matches(first.pattern, second.pattern):
        return Scope(role, second.pattern)
    return Scope(role, first.pattern) if _matches(second.pattern, first.pattern) else None
