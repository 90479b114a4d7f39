"""The tables of tokens, grants, quotas and owners of datasets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from tensorus_server.access.quotas import Quota, Usage
    from tensorus_server.access.rights import Grant
    from tensorus_server.access.state import AccessState
    from tensorus_server.access.tokens import Token

__all__ = ["AccessTable"]


class AccessTable(ABC):
    """Who may do what, and who owns which dataset. The catalogue keeps this; it decides nothing by it.

    Every method that changes something raises the version in the same transaction. One that changes nothing does not.

    The owner of a dataset belongs to its number: it stays if the dataset is renamed, and goes with it.
    """

    @abstractmethod
    def version(self) -> int:
        """Return the number of changes so far. Cheap: one row is read, however much is stored.

        Datasets that are created, copied or deleted with their owners do not count.

        Raises:
            DataCorruptError: the row is damaged.
        """

    @abstractmethod
    def state(self) -> AccessState:
        """Return everything except the owners, at one moment (4).

        A damaged row is left out, and named in `AccessState.damaged`; so is a damaged row of an owner. Takes some 10
        microseconds per row.

        Raises:
            DataCorruptError: the row of the version is damaged.
        """

    @abstractmethod
    def add_token(self, token: Token) -> None:
        """Add a token.

        Raises:
            AlreadyExistsError: there is a token with this id.
            LimitExceededError: there are `TOKENS_MAX` tokens; or its note or scopes are too large.
            InvalidNameError, InvalidRequestError: its principal or a pattern has not the form of one.
        """

    @abstractmethod
    def revoke_token(self, token_id: str, at_us: int) -> Token | None:
        """Revoke a token, and return it; None: it does not exist. Succeeds on a full disk.

        A repetition changes nothing (9): the token keeps the time when it was revoked first.

        Args:
            at_us: the time, in microseconds since 1970.

        Raises:
            DataCorruptError: the token's row is damaged. It was deleted, so the token allows nothing.
        """

    @abstractmethod
    def forget_tokens(self, before_us: int) -> int:
        """Delete the tokens that were revoked or expired before a time, and return their number. Succeeds on a full disk.

        Tokens with damaged rows stay.

        Args:
            before_us: in microseconds since 1970.
        """

    @abstractmethod
    def add_grant(self, grant: Grant) -> bool:
        """Add a grant; return False if it is there already. A damaged row of the same grant is replaced.

        Raises:
            LimitExceededError: there are `GRANTS_MAX` grants.
            InvalidNameError, InvalidRequestError: its principal or pattern has not the form of one.
        """

    @abstractmethod
    def remove_grant(self, grant: Grant) -> bool:
        """Remove a grant, damaged or not; return False if there is none. Other grants stay. Succeeds on a full disk."""

    @abstractmethod
    def set_quota(self, quota: Quota) -> None:
        """Replace the limits of a principal; a quota without limits removes them.

        Raises:
            LimitExceededError: there are `QUOTAS_MAX` quotas.
            InvalidNameError: the principal has not the form of one.
            InvalidRequestError: a limit is negative, no number, or above 2**63 - 1.
        """

    @abstractmethod
    def set_owner(self, dataset: str, principal: str) -> None:
        """Make a principal the owner of a dataset, and count what the dataset holds, during which others cannot write.

        It takes about 50 ms per million tensors.

        Args:
            principal: empty: nobody owns it any more.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            DataCorruptError: the number of the dataset cannot be determined.
            InvalidNameError: the principal has not the form of one.
        """

    @abstractmethod
    def owner_of(self, dataset: str) -> str:
        """Return the owner of a dataset; empty: it has none.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            DataCorruptError: the row of the dataset or of its owner is damaged.
        """

    @abstractmethod
    def usage(self, principals: Collection[str]) -> dict[str, Usage]:
        """Return what the current tensors in the datasets of each of these owners hold, for all that are given.

        The sums are kept by every commit and deletion, so the time does not depend on the number of tensors: it is about 5 ms
        for 10,000 datasets with owners. Like `Catalogue.sizes`, it verifies no checksums: `state` reports damaged owners. A
        deleted tensor whose row was damaged may have changed the sums; `set_owner` counts anew.
        """
