"""The tables of access: tokens, grants, quotas, and owners of datasets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tensorus_server.access.quotas import Quota, Usage
    from tensorus_server.access.rights import Grant
    from tensorus_server.access.state import AccessState
    from tensorus_server.access.tokens import Token

__all__ = ["AccessTable"]


class AccessTable(ABC):
    """Who may do what. Values are checked by the caller. Every change raises the version, in the same transaction.

    A damaged row allows nothing: it is left out of the state, and named in it.
    """

    @abstractmethod
    def version(self) -> int:
        """Return the number of changes so far. Cheap: every process asks for it once a second."""

    @abstractmethod
    def state(self) -> AccessState:
        """Return all tokens, grants and quotas, in one state of the catalogue."""

    @abstractmethod
    def add_token(self, token: Token) -> None:
        """Add a token.

        Raises:
            LimitExceededError: there are `TOKENS_MAX` already.
            AlreadyExistsError: its id is taken.
        """

    @abstractmethod
    def revoke_token(self, token_id: str, revoked_us: int) -> Token | None:
        """Mark a token as revoked and return it; one that was revoked before keeps its time. None: there is none."""

    @abstractmethod
    def forget_tokens(self, before_us: int) -> int:
        """Delete the tokens that expired or were revoked before a time, and return their number."""

    @abstractmethod
    def add_grant(self, grant: Grant) -> bool:
        """Add a grant; return False if it is there already.

        Raises:
            LimitExceededError: there are `GRANTS_MAX` already.
        """

    @abstractmethod
    def remove_grant(self, grant: Grant) -> bool:
        """Delete a grant; return False if there is none."""

    @abstractmethod
    def set_quota(self, quota: Quota) -> None:
        """Replace the quota of a principal; one without limits deletes it."""

    @abstractmethod
    def set_owner(self, dataset: str, principal: str) -> None:
        """Set the owner of a dataset; an empty principal: it has none. The owner stays over renames.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """

    @abstractmethod
    def owner_of(self, dataset: str) -> str:
        """Return the owner of a dataset; empty: it has none, its row is damaged, or there is no such dataset."""

    @abstractmethod
    def usage(self, principals: Sequence[str]) -> Mapping[str, Usage]:
        """Return what the current tensors in the datasets of owners take, for those that own any.

        The cost is that of an index scan over these tensors.
        """
