"""All that a store's catalogue says about access, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus_server.access.quotas import Quota
    from tensorus_server.access.rights import Grant
    from tensorus_server.access.tokens import Token

__all__ = ["AccessState"]


@dataclass(frozen=True)
class AccessState:
    """Tokens, grants and quotas. Damaged ones are left out, so that they allow nothing; a damaged quota limits nothing."""

    version: int
    """Another one after every change."""
    tokens: tuple[Token, ...] = ()
    """Also revoked and expired ones, until they are forgotten; in the order of their creation."""
    grants: tuple[Grant, ...] = ()
    """Sorted by principal, pattern and role."""
    quotas: tuple[Quota, ...] = ()
    """Sorted by principal."""
    damaged: tuple[str, ...] = ()
    """What is damaged, for people: one text for each row, or for a table that cannot be read."""
