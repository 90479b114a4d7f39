"""Who makes a call: by a token of the store, a token of an identity provider, or a client certificate, in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.access.rights import Caller
from tensorus_server.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from tensorus_server.engine.access import Access

__all__ = ["Authenticator"]

_HEADER = "authorization"
_BEARER = "bearer "
_TOKEN_PREFIX = "tns_"  # noqa: S105 - the beginning of every token
_TOKEN_CHARACTERS_MAX = 8192
"""Tokens of identity providers have up to a few thousand."""


class Authenticator:
    """See the module's description. Thread-safe."""

    def __init__(
        self,
        access: Access,
        *,
        certificate: Callable[[grpc.ServicerContext], str | None] = lambda _: None,
        provider: Callable[[str], Caller] | None = None,
    ) -> None:
        """Authenticate every call.

        Args:
            access: knows the store's tokens.
            certificate: returns the principal of a call's client certificate; None: it has none.
            provider: returns who a token of the identity provider stands for, or raises `UnauthenticatedError`; None: there
                is no provider.
        """
        self._access = access
        self._certificate = certificate
        self._provider = provider

    def __call__(self, context: grpc.ServicerContext) -> Caller:
        """Return who makes a call.

        Raises:
            UnauthenticatedError: there is no proof, or it does not hold. A token that does not hold is refused even if a
                certificate would do: whoever sent it expects its rights.
        """
        shown = [value for name, value in context.invocation_metadata() if name == _HEADER]
        if len(shown) > 1:
            # A proxy in front may have looked at another one.
            raise UnauthenticatedError("the metadata has several `authorization`, must have one")
        if shown:
            return self._caller_of(shown[0])
        principal = self._certificate(context)
        if principal is None:
            raise UnauthenticatedError("the call has neither a token nor a client certificate")
        return Caller(principal)

    def _caller_of(self, header: str | bytes) -> Caller:
        if not isinstance(header, str) or header[: len(_BEARER)].lower() != _BEARER:
            raise UnauthenticatedError("the metadata `authorization` must be Bearer and a token")
        secret = header[len(_BEARER) :].strip()
        if len(secret) > _TOKEN_CHARACTERS_MAX:
            raise UnauthenticatedError(
                f"the token has {len(secret)} characters, limit is {_TOKEN_CHARACTERS_MAX} characters"
            )
        if secret.startswith(_TOKEN_PREFIX) or self._provider is None:
            return self._access.caller_of(secret)
        return self._provider(secret)
