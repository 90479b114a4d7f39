"""The calls of `tensorus.v1.AccessService` on one store, messages in and messages out. An embedded store makes them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tensorus_protos.v1 import access_pb2 as pb
from tensorus_server.engine.paging import checked_page_size, decode_token, encode_token
from tensorus_server.errors import InvalidPageTokenError
from tensorus_server.rpc.convert_access import grant_from, grant_to, quota_from, quota_to, scope_from, token_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.access.rights import Grant
    from tensorus_server.engine.access import Access

__all__ = ["AccessCalls"]

T = TypeVar("T")


class AccessCalls:
    """See the module's description. Who may make them is not decided here."""

    def __init__(self, access: Access, streams_of: Callable[[str], int] = lambda _: 0) -> None:
        """Serve `access`.

        Args:
            streams_of: returns how many streams of a principal are open in this process.
        """
        self._access = access
        self._streams_of = streams_of

    def create_token(self, request: pb.CreateTokenRequest) -> pb.CreateTokenResponse:
        """Create a token."""
        token, secret = self._access.create_token(
            request.name,
            note=request.note,
            lifetime_s=request.lifetime.ToNanoseconds() / 1e9 if request.HasField("lifetime") else None,
            scopes=[scope_from(scope) for scope in request.scopes],
        )
        return pb.CreateTokenResponse(token=token_to(token), secret=secret)

    def list_tokens(self, request: pb.ListTokensRequest) -> pb.ListTokensResponse:
        """Return a page of tokens."""
        page, token = _page(self._access.tokens(), lambda one: [one.created_us, one.id], request, "tokens")
        return pb.ListTokensResponse(tokens=map(token_to, page), next_page_token=token)

    def revoke_token(self, request: pb.RevokeTokenRequest) -> pb.RevokeTokenResponse:
        """Revoke a token."""
        return pb.RevokeTokenResponse(token=token_to(self._access.revoke_token(request.id)))

    def add_grant(self, request: pb.AddGrantRequest) -> pb.AddGrantResponse:
        """Give a principal a role."""
        return pb.AddGrantResponse(added=self._access.add_grant(grant_from(request.grant)))

    def remove_grant(self, request: pb.RemoveGrantRequest) -> pb.RemoveGrantResponse:
        """Take a role from a principal."""
        return pb.RemoveGrantResponse(removed=self._access.remove_grant(grant_from(request.grant)))

    def list_grants(
        self, request: pb.ListGrantsRequest, sees: Callable[[Grant], bool] = lambda _: True
    ) -> pb.ListGrantsResponse:
        """Return a page of the grants that the caller sees."""
        shown = [grant for grant in self._access.grants() if request.principal in {"", grant.principal} and sees(grant)]
        page, token = _page(shown, _place_of_grant, request, "grants")
        return pb.ListGrantsResponse(grants=map(grant_to, page), next_page_token=token)

    def set_quota(self, request: pb.SetQuotaRequest) -> pb.SetQuotaResponse:
        """Replace the limits of a principal."""
        quota = quota_from(request.quota)
        self._access.set_quota(quota)
        return pb.SetQuotaResponse(quota=quota_to(quota))

    def list_quotas(self, request: pb.ListQuotasRequest) -> pb.ListQuotasResponse:
        """Return a page of quotas with what their principals use."""
        page, token = _page(self._access.quotas(), lambda one: [one.principal], request, "quotas")
        usage = self._access.usage([quota.principal for quota in page])
        response = pb.ListQuotasResponse(next_page_token=token)
        for quota in page:
            entry = response.quotas.add(quota=quota_to(quota), streams=self._streams_of(quota.principal))
            if quota.principal in usage:
                entry.stored_bytes = usage[quota.principal].stored_bytes
                entry.tensors = usage[quota.principal].tensors
        return response

    def set_owner(self, request: pb.SetOwnerRequest) -> pb.SetOwnerResponse:
        """Make a principal the owner of a dataset."""
        self._access.set_owner(request.dataset, request.principal)
        return pb.SetOwnerResponse()


def _place_of_grant(grant: Grant) -> list[Any]:
    return [grant.principal, grant.scope.pattern, int(grant.scope.role)]


def _page(entries: Sequence[T], place: Callable[[T], list[Any]], request: Any, listing: str) -> tuple[Sequence[T], str]:
    """Return a page of entries that are in the order of their places, and the token of the next page.

    Args:
        place: of an entry, as values of JSON; `Any`: texts and numbers.
        request: has a page's size and token. `Any`: of any of the listings.
    """
    size = checked_page_size(request.page_size, listing)
    if request.page_token:
        name, *after = decode_token(request.page_token, "page_token")
        try:
            entries = [entry for entry in entries if place(entry) > after]
        except TypeError as error:
            raise InvalidPageTokenError("page_token was not issued by this server") from error
        if name != listing:
            raise InvalidPageTokenError("page_token belongs to another listing")
    page = entries[:size]
    return page, encode_token([listing, *place(page[-1])]) if len(entries) > size else ""
