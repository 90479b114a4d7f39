"""Tokens: what clients prove with who they are.

    tns_  16 characters  _  43 characters
          public id         secret, 256 random bits

Only the SHA-256 of the whole text is stored. The secret is random, so a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus_server.access.rights import Scope

__all__ = ["NewToken", "Token", "id_of", "is_secret_of", "new_token"]

_FORM = re.compile(r"tns_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Token:
    """A token as it is stored, without its secret. Times are microseconds since 1970."""

    id: str
    """The public part."""
    principal: str
    """token:NAME."""
    note: str
    digest: bytes
    """SHA-256 of the whole token."""
    created_us: int
    expires_us: int | None
    """None: never."""
    revoked_us: int | None = None
    """None: it is not revoked."""
    scopes: tuple[Scope, ...] | None = None
    """What it allows at most; None: all that its principal may do."""

    def is_valid(self, now_us: int) -> bool:
        """Return whether it is neither revoked nor expired."""
        return self.revoked_us is None and (self.expires_us is None or now_us < self.expires_us)


@dataclass(frozen=True)
class NewToken:
    """The parts of a token that has just been made."""

    id: str
    secret: str
    """The whole token, which clients send. It is shown once."""
    digest: bytes


def new_token() -> NewToken:
    """Return a new random token."""
    token_id = secrets.token_hex(8)
    secret = f"tns_{token_id}_{secrets.token_urlsafe(32)}"
    return NewToken(token_id, secret, hashlib.sha256(secret.encode()).digest())


def id_of(secret: str) -> str | None:
    """Return the public part of a token that a client sent; None: it has not the form of one."""
    found = _FORM.fullmatch(secret)
    return None if found is None else found[1]


def is_secret_of(token: Token, secret: str) -> bool:
    """Return whether the client's text is this token. Takes the same time whatever the text is."""
    return hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), token.digest)
