"""What a client does with tokens, rights and quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tensorus._grpc import calls_access
from tensorus.access import Grant

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from tensorus._backend import Backend
    from tensorus._grpc.calls_access import Page
    from tensorus._grpc.steps import Call
    from tensorus.access import NewToken, Quota, QuotaUsage, Role, Scope, Token

__all__ = ["Access"]

T = TypeVar("T")


class Access:
    """Changes and lists who may do what at a server, or in a store that is open in this process. Thread-safe.

    Changes take effect at once in the process that made them, and within 2 seconds in every other one. At a server, all but
    `grant`, `revoke_grant` and `grants` need the role admin on "*"; a store in this process needs nothing.
    """

    def __init__(self, backend: Backend) -> None:
        """Use a client's backend."""
        self._backend = backend

    def create_token(
        self, name: str, *, note: str = "", lifetime: timedelta | None = None, scopes: Sequence[Scope] = ()
    ) -> NewToken:
        """Create a token, which stands for the principal "token:NAME". Several tokens may stand for the same principal.

        Args:
            name: 1 to 250 bytes, without spaces.
            note: up to 256 bytes, for people.
            lifetime: how long it is valid; None: for ever.
            scopes: what it allows at most, up to 32; none: all that its principal may do.

        Raises:
            PermissionDeniedError: the caller lacks the right.
            InvalidRequestError: an argument is not allowed.
            LimitExceededError: the store has too many tokens.
        """
        return self._backend.ask_access(calls_access.create_token(name, note, lifetime, scopes))

    def tokens(self) -> builtins.list[Token]:
        """Return all tokens, oldest first. Expired and revoked ones are listed for 30 days."""
        return _all_pages(self._backend, calls_access.list_tokens)

    def revoke_token(self, id: str) -> Token:  # noqa: A002 - the field's word
        """Revoke a token. Calls that are in progress go on, but for inserts, which end at their next message.

        Args:
            id: the public part: `Token.id`.

        Raises:
            TokenNotFoundError: there is no such token.
        """
        return self._backend.ask_access(calls_access.revoke_token(id))

    def grant(self, principal: str, role: Role, pattern: str) -> bool:
        """Give a principal a role on datasets; return False if it has that grant already.

        Args:
            principal: for example "token:trainer".
            role: "reader", "writer" or "admin".
            pattern: the name of a dataset, a prefix that ends with "*", or "*" for all. The datasets need not exist.

        Raises:
            PermissionDeniedError: the caller is not admin of everything that the pattern matches.
            InvalidRequestError: an argument is not allowed.
        """
        return self._backend.ask_access(calls_access.add_grant(Grant(principal, role, pattern)))

    def revoke_grant(self, principal: str, role: Role, pattern: str) -> bool:
        """Take back exactly this grant; return False if there is none. Other grants of the principal stay.

        Raises:
            PermissionDeniedError: the caller is not admin of everything that the pattern matches.
        """
        return self._backend.ask_access(calls_access.remove_grant(Grant(principal, role, pattern)))

    def grants(self, principal: str = "") -> builtins.list[Grant]:
        """Return the grants that the caller has or administers.

        Args:
            principal: only its grants; empty: those of all.
        """
        return _all_pages(self._backend, lambda token: calls_access.list_grants(principal, token))

    def set_quota(self, quota: Quota) -> Quota:
        """Replace the limits of a principal; a quota without limits removes them.

        Raises:
            InvalidRequestError: a limit is not allowed.
        """
        return self._backend.ask_access(calls_access.set_quota(quota))

    def quotas(self) -> builtins.list[QuotaUsage]:
        """Return all quotas with what their principals use."""
        return _all_pages(self._backend, calls_access.list_quotas)

    def set_owner(self, dataset: str, principal: str) -> None:
        """Make a principal the owner of a dataset, so that its tensors count against that principal's quota.

        Args:
            dataset: its name.
            principal: empty: nobody.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """
        self._backend.ask_access(calls_access.set_owner(dataset, principal))


def _all_pages(backend: Backend, page_call: Callable[[str], Call[Page[T]]]) -> list[T]:
    """Return the entries of all pages.

    Args:
        page_call: returns the call for the page of a token.
    """
    found: list[T] = []
    token = ""
    while True:
        entries, token = backend.ask_access(page_call(token))
        found += entries
        if not token:
            return found
