"""What the asynchronous client does with tokens, rights and quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tensorus._grpc import calls_access
from tensorus.access import Grant

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from tensorus._grpc.aio_remote import AsyncRemoteBackend
    from tensorus._grpc.calls_access import Page
    from tensorus._grpc.steps import Call
    from tensorus.access import NewToken, Quota, QuotaUsage, Role, Scope, Token

__all__ = ["AsyncAccess"]

T = TypeVar("T")


class AsyncAccess:
    """As `tensorus.Client.access`, for an event loop."""

    def __init__(self, backend: AsyncRemoteBackend) -> None:
        """Use a client's backend."""
        self._backend = backend

    async def create_token(
        self, name: str, *, note: str = "", lifetime: timedelta | None = None, scopes: Sequence[Scope] = ()
    ) -> NewToken:
        """Create a token. See `tensorus.Client.access`."""
        return await self._backend.call(calls_access.create_token(name, note, lifetime, scopes))

    async def tokens(self) -> builtins.list[Token]:
        """Return all tokens, oldest first. See `tensorus.Client.access`."""
        return await _all_pages(self._backend, calls_access.list_tokens)

    async def revoke_token(self, id: str) -> Token:  # noqa: A002 - the field's word
        """Revoke a token. See `tensorus.Client.access`."""
        return await self._backend.call(calls_access.revoke_token(id))

    async def grant(self, principal: str, role: Role, pattern: str) -> bool:
        """Give a principal a role on datasets. See `tensorus.Client.access`."""
        return await self._backend.call(calls_access.add_grant(Grant(principal, role, pattern)))

    async def revoke_grant(self, principal: str, role: Role, pattern: str) -> bool:
        """Take back exactly this grant. See `tensorus.Client.access`."""
        return await self._backend.call(calls_access.remove_grant(Grant(principal, role, pattern)))

    async def grants(self, principal: str = "") -> builtins.list[Grant]:
        """Return the grants that the caller has or administers. See `tensorus.Client.access`."""
        return await _all_pages(self._backend, lambda token: calls_access.list_grants(principal, token))

    async def set_quota(self, quota: Quota) -> Quota:
        """Replace the limits of a principal; a quota without limits removes them. See `tensorus.Client.access`."""
        return await self._backend.call(calls_access.set_quota(quota))

    async def quotas(self) -> builtins.list[QuotaUsage]:
        """Return all quotas with what their principals use. See `tensorus.Client.access`."""
        return await _all_pages(self._backend, calls_access.list_quotas)

    async def set_owner(self, dataset: str, principal: str) -> None:
        """Make a principal the owner of a dataset. See `tensorus.Client.access`."""
        await self._backend.call(calls_access.set_owner(dataset, principal))


async def _all_pages(backend: AsyncRemoteBackend, page_call: Callable[[str], Call[Page[T]]]) -> list[T]:
    found: list[T] = []
    token = ""
    while True:
        entries, token = await backend.call(page_call(token))
        found += entries
        if not token:
            return found
