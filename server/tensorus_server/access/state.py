"""All that a store knows of access at one moment."""

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
    """Tokens, grants and quotas of one store."""

    version: int
    """Rises with every change."""
    tokens: tuple[Token, ...]
    grants: tuple[Grant, ...]
    quotas: tuple[Quota, ...]
    damaged: tuple[str, ...] = ()
    """Rows that are left out because their checksum does not match, in words."""
