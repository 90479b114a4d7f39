"""Tokens of an identity provider: JWTs that an OpenID Connect issuer signed.

The issuer's metadata and keys are fetched when the first token arrives, and again when a token names an unknown key, at most
every `_FETCH_AGAIN_S`: otherwise anybody could make this server ask the issuer as often as they like. Keys are used for
`_KEYS_S`, so one that the issuer has withdrawn is accepted for that long at most.

Source: OpenID Connect Discovery 1.0, section 4; RFC 7519, section 4.1; RFC 8725 for what is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt

from tensorus_server.access.rights import Caller, require_principal
from tensorus_server.errors import InvalidNameError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IdentityProvider"]

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Only asymmetric ones: with a symmetric one, the public key would be taken for a secret."""

_FETCH_AGAIN_S = 10.0
_KEYS_S = 300.0
_FETCH_TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 1024 * 1024
_LEEWAY_S = 30.0
"""By which the clocks of the issuer and of this server may differ."""

_VERIFIED_MAX = 10_000
"""Tokens that are remembered until they expire, so that their signature is verified once."""

_GROUPS_MAX = 64

_log = logging.getLogger(__name__)


class IdentityProvider:
    """Says who the tokens of one issuer stand for. Thread-safe."""

    def __init__(self, issuer: str, audience: str, *, name_claim: str = "sub", groups_claim: str = "groups") -> None:
        """Fetch nothing yet.

        Args:
            issuer: URL of the issuer, as its tokens have it in `iss`; HTTPS, or HTTP on this machine.
            audience: what its tokens must have in `aud`.
            name_claim: the claim with the name of the principal oidc:NAME.
            groups_claim: the claim with a list of names of groups, group:NAME.

        Raises:
            ValueError: the issuer is not allowed.
        """
        _require_safe(issuer)
        self._issuer = issuer
        self._audience = audience
        self._name_claim = name_claim
        self._groups_claim = groups_claim
        self._fetching = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_s = -_KEYS_S
        self._tried_s = -_FETCH_AGAIN_S
        self._verified: OrderedDict[bytes, tuple[Caller, float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, token: str) -> Caller:
        """Return who a token stands for.

        Raises:
            UnauthenticatedError: it does not hold. The message does not repeat it.
        """
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            known = self._verified.get(digest)
        if known is not None and time.time() < known[1] and time.monotonic() < known[2]:
            return known[0]
        claims = self._verified_claims(token)
        caller = self._caller_of(claims)
        with self._lock:
            self._verified[digest] = (caller, float(claims["exp"]) + _LEEWAY_S, time.monotonic() + _KEYS_S)
            self._verified.move_to_end(digest)
            if len(self._verified) > _VERIFIED_MAX:
                self._verified.popitem(last=False)
        return caller

    def _verified_claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key = self._key_of(header.get("kid"))
            return jwt.decode(
                token,
                key.key,
                algorithms=[name for name in _ALGORITHMS if name == header.get("alg")],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", self._name_claim]},
            )
        except jwt.ExpiredSignatureError as error:
            raise UnauthenticatedError("the token of the identity provider has expired") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            # PyJWT's texts name claims and keys, never the token.
            raise UnauthenticatedError(f"the token is not one of {self._issuer}: {error}") from error

    def _caller_of(self, claims: Mapping[str, Any]) -> Caller:
        principal = f"oidc:{claims[self._name_claim]}"
        groups = claims.get(self._groups_claim, [])
        named = groups if isinstance(groups, list) else [groups]
        if len(named) > _GROUPS_MAX:
            raise UnauthenticatedError(f"the token names {len(named)} groups, limit is {_GROUPS_MAX}")
        found = tuple(f"group:{name}" for name in named if isinstance(name, str) and name)
        try:
            for one in (principal, *found):
                require_principal(one)
        except InvalidNameError as error:
            raise UnauthenticatedError(f"the token names somebody who cannot be a principal: {error}") from error
        return Caller(principal, found)

    def _key_of(self, key_id: object) -> jwt.PyJWK:
        """Return the issuer's key with an id; fetch the keys if they are old or do not have it.

        Raises:
            UnauthenticatedError: it has no such key, or cannot be reached.
        """
        if not isinstance(key_id, str):
            raise UnauthenticatedError("the token does not name the key that signed it (kid)")
        if key_id not in self._keys or time.monotonic() - self._fetched_s >= _KEYS_S:
            # Others wait here for the one that fetches, for up to twice its timeout.
            with self._fetching:
                is_old = time.monotonic() - self._fetched_s >= _KEYS_S
                if (is_old or key_id not in self._keys) and time.monotonic() - self._tried_s >= _FETCH_AGAIN_S:
                    self._fetch()
        if time.monotonic() - self._fetched_s >= 2 * _KEYS_S:
            raise UnauthenticatedError("the keys of the identity provider cannot be fetched")
        key = self._keys.get(key_id)
        if key is None:
            raise UnauthenticatedError("the identity provider has no such key")
        return key

    def _fetch(self) -> None:
        """Fetch the keys; the lock is held. A failure is logged, and the keys of before stay."""
        self._tried_s = time.monotonic()
        try:
            metadata = _json_of(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if metadata.get("issuer") != self._issuer:
                raise ValueError(f"it calls itself {metadata.get('issuer')!r}")
            keys_url = metadata.get("jwks_uri")
            if not isinstance(keys_url, str):
                raise ValueError("its metadata have no jwks_uri")  # noqa: TRY004 - as above
            _require_safe(keys_url)
            keys = jwt.PyJWKSet.from_dict(_json_of(keys_url)).keys
        except (OSError, ValueError, jwt.PyJWTError) as error:
            _log.warning("the keys of the identity provider %s cannot be fetched: %s", self._issuer, error)
            return
        self._keys = {key.key_id: key for key in keys if key.key_id}
        self._fetched_s = time.monotonic()


def _require_safe(url: str) -> None:
    parts = urlsplit(url)
    is_here = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_here)):
        raise ValueError(f"URL of an identity provider is {url!r}, must begin with https://")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An issuer is where it says it is. A redirection could lead to plain HTTP, or into the private network."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _json_of(url: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(url, timeout=_FETCH_TIMEOUT_S) as answer:
        raw = answer.read(_ANSWER_BYTES_MAX + 1)
    if len(raw) > _ANSWER_BYTES_MAX:
        raise ValueError(f"{url} answers with more than {_ANSWER_BYTES_MAX} bytes")
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError(f"{url} answers with something other than an object")  # noqa: TRY004 - an answer, no argument
    return found
