"""Who may do what, as it holds now: tokens, grants and quotas of a store, and their changes.

Every process that serves a store keeps all of it in memory. Once a second a call looks whether the catalogue has a newer
version, and reads it then. The other calls go on meanwhile with what was known, which is never older than `_STALE_S`: after
that, every call waits for the look. So a change takes effect within that time everywhere, and at once where it was made.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensorus_server.access.rights import (
    Caller,
    Rights,
    require_pattern,
    require_principal,
)
from tensorus_server.access.tokens import Token, id_of, is_secret_of, new_token
from tensorus_server.engine.validate import require_dataset_name
from tensorus_server.errors import (
    DataCorruptError,
    DatasetNotFoundError,
    InvalidRequestError,
    TokenNotFoundError,
    UnauthenticatedError,
)
from tensorus_server.limits import TOKEN_NOTE_BYTES_MAX, TOKEN_SCOPES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tensorus_server.access.quotas import Quota, Usage
    from tensorus_server.access.rights import (
        Grant,
        Scope,
    )
    from tensorus_server.access.state import AccessState
    from tensorus_server.catalogue.abc import AccessTable

__all__ = ["Access"]

_LOOK_S = 1.0
"""How often the catalogue is asked for a newer version, at most."""

_STALE_S = 2.0
"""What is known is used for this long without asking."""

_FORGET_AFTER_US = 30 * 86400 * 1_000_000
"""How long tokens are listed after they expired or were revoked."""

_LIMIT_MAX = 2**62


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    """What is known of the catalogue's state, arranged for lookups."""

    version: int
    tokens: Mapping[str, Token]
    callers: Mapping[str, Caller]
    """Whom the tokens stand for."""
    grants: tuple[Grant, ...]
    quotas: Mapping[str, Quota]
    rights: Rights
    limits_storage: bool
    looked_s: float


class Access:
    """See the module's description. Thread-safe."""

    def __init__(self, table: AccessTable, *, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        """Read nothing yet.

        Args:
            now_us: returns the time in microseconds since 1970, by which tokens expire.
        """
        self._table = table
        self._now_us = now_us
        self._looking = threading.Lock()
        self._known: _Known | None = None

    def rights(self) -> Rights:
        """Return the rights that hold now."""
        return self._current().rights

    def quota_of(self, principal: str) -> Quota | None:
        """Return the quota of a principal that holds now."""
        return self._current().quotas.get(principal)

    def limits_storage(self) -> bool:
        """Return whether any principal has a limit of what it may store."""
        return self._current().limits_storage

    def owner_of(self, dataset: str) -> str:
        """Return the principal that owns a dataset; empty: nobody, or there is no such dataset."""
        try:
            return self._table.owner_of(dataset)
        except (DatasetNotFoundError, DataCorruptError):
            # Whatever is done with the dataset says so.
            return ""

    def quotas(self) -> list[Quota]:
        """Return all quotas, by principal."""
        return sorted(self._current().quotas.values(), key=lambda quota: quota.principal)

    def usage(self, principals: Sequence[str]) -> Mapping[str, Usage]:
        """Return what the datasets of owners hold."""
        return self._table.usage(principals)

    def caller_of(self, secret: str) -> Caller:
        """Return who a token of this store stands for.

        Raises:
            UnauthenticatedError: it is unknown, revoked or expired. The message does not repeat it.
        """
        token_id = id_of(secret)
        known = self._current()
        token = None if token_id is None else known.tokens.get(token_id)
        if token is None or not is_secret_of(token, secret):
            raise UnauthenticatedError("the token is unknown")
        if token.revoked_us is not None:
            raise UnauthenticatedError("the token was revoked", token=token.id)
        if not token.is_valid(self._now_us()):
            raise UnauthenticatedError("the token has expired", token=token.id)
        return known.callers[token.id]

    def tokens(self) -> list[Token]:
        """Return all tokens, in order of creation; those that no longer count are kept for 30 days."""
        return sorted(self._current().tokens.values(), key=lambda token: (token.created_us, token.id))

    def create_token(
        self, name: str, *, note: str = "", lifetime_s: float | None = None, scopes: Sequence[Scope] = ()
    ) -> tuple[Token, str]:
        """Create a token, and return it with its secret, which cannot be read again.

        Args:
            name: of its principal, without token:.
            note: up to 256 bytes, for people.
            lifetime_s: above 0; None: it never expires.
            scopes: what it allows at most; empty: all that its principal may do.

        Raises:
            InvalidNameError: the name is not allowed.
            InvalidRequestError: another argument is not.
            LimitExceededError: the store has too many tokens.
        """
        principal = f"token:{name}"
        require_principal(principal)
        if len(note.encode(errors="replace")) > TOKEN_NOTE_BYTES_MAX or not note.isprintable():
            raise InvalidRequestError(f"note must be printable and have up to {TOKEN_NOTE_BYTES_MAX} bytes")
        if lifetime_s is not None and not 0 < lifetime_s < 1e10:
            raise InvalidRequestError(f"lifetime is {lifetime_s:g} s, must be above 0 s and below 300 years")
        if len(scopes) > TOKEN_SCOPES_MAX:
            raise InvalidRequestError(f"number of scopes is {len(scopes)}, limit is {TOKEN_SCOPES_MAX}")
        for scope in scopes:
            require_pattern(scope.pattern)
        now_us, made = self._now_us(), new_token()
        token = Token(
            id=made.id,
            principal=principal,
            note=note,
            digest=made.digest,
            created_us=now_us,
            expires_us=None if lifetime_s is None else now_us + int(lifetime_s * 1e6),
            scopes=tuple(scopes) or None,
        )
        self._table.forget_tokens(now_us - _FORGET_AFTER_US)
        self._table.add_token(token)
        self._look()
        return token, made.secret

    def revoke_token(self, token_id: str) -> Token:
        """Revoke a token; repeating it changes nothing.

        Raises:
            TokenNotFoundError: there is no such token.
        """
        token = self._table.revoke_token(token_id, self._now_us())
        if token is None:
            raise TokenNotFoundError(f"there is no token with the id {token_id[:64]!r}")
        self._look()
        return token

    def grants(self) -> list[Grant]:
        """Return all grants, by principal."""
        return sorted(
            self._current().grants, key=lambda grant: (grant.principal, grant.scope.pattern, grant.scope.role)
        )

    def add_grant(self, grant: Grant) -> bool:
        """Give a principal a role; return False if it has it already.

        Raises:
            InvalidNameError: it is no principal.
            InvalidRequestError: it is no pattern.
            LimitExceededError: the store has too many grants.
        """
        require_principal(grant.principal)
        require_pattern(grant.scope.pattern)
        added = self._table.add_grant(grant)
        self._look()
        return added

    def remove_grant(self, grant: Grant) -> bool:
        """Take a role from a principal; return False if there was no such grant."""
        removed = self._table.remove_grant(grant)
        self._look()
        return removed

    def set_quota(self, quota: Quota) -> None:
        """Replace the limits of a principal; a quota without limits removes them.

        Raises:
            InvalidNameError: it is no principal.
            InvalidRequestError: a rate is not above 0.
        """
        require_principal(quota.principal)
        for name in ("stored_bytes", "tensors", "streams", "calls_per_s", "bytes_per_s"):
            limit = getattr(quota, name)
            is_rate = name.endswith("_per_s")
            if (limit is not None and not (limit > 0 if is_rate else limit >= 0)) or (limit or 0) >= _LIMIT_MAX:
                raise InvalidRequestError(
                    f"{name} is {limit:g}, must be {'above 0' if is_rate else 'at least 0'} and below 2**62"
                )
        self._table.set_quota(quota)
        self._look()

    def set_owner(self, dataset: str, principal: str) -> None:
        """Make a principal the owner of a dataset; an empty one: nobody.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidNameError: it is no principal.
        """
        require_dataset_name(dataset)
        if principal:
            require_principal(principal)
        self._table.set_owner(dataset, principal)

    def _current(self) -> _Known:
        """Return what holds now: see the module's description."""
        known = self._known
        age_s = _STALE_S if known is None else time.monotonic() - known.looked_s
        if known is not None and age_s < _LOOK_S:
            return known
        if known is None or age_s >= _STALE_S:
            with self._looking:
                return self._looked(time.monotonic() - _LOOK_S)
        if not self._looking.acquire(blocking=False):
            return known
        try:
            return self._looked(time.monotonic() - _LOOK_S)
        finally:
            self._looking.release()

    def _look(self) -> None:
        """Read what this process has just changed."""
        begun_s = time.monotonic()
        with self._looking:
            self._looked(begun_s)

    def _looked(self, since_s: float) -> _Known:
        """Look unless another thread has done so since `since_s`. The lock is held."""
        known = self._known
        if known is not None and known.looked_s >= since_s:
            return known
        looked_s = time.monotonic()
        if known is None or self._table.version() != known.version:
            self._known = _arranged(self._table.state(), looked_s)
        else:
            self._known = replace(known, looked_s=looked_s)
        return self._known


def _arranged(state: AccessState, looked_s: float) -> _Known:
    for what in state.damaged:
        _log.error("the catalogue is damaged: %s is ignored", what)
    return _Known(
        version=state.version,
        tokens={token.id: token for token in state.tokens},
        callers={token.id: Caller(token.principal, scopes=token.scopes, token_id=token.id) for token in state.tokens},
        grants=state.grants,
        quotas={quota.principal: quota for quota in state.quotas},
        rights=Rights(state.grants),
        limits_storage=any(quota.stored_bytes is not None or quota.tensors is not None for quota in state.quotas),
        looked_s=looked_s,
    )
