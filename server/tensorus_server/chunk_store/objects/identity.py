"""The object `store`, which holds the identity of a store next to its payloads: the line of `identity_file.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import IdentityHolder, PayloadMissingError
from tensorus_server.chunk_store.identity_file import identity_line, parse_identity
from tensorus_server.chunk_store.objects.names import IDENTITY
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.chunk_store.objects.client import ObjectClient
    from tensorus_server.model import StoreIdentity

__all__ = ["IdentityObject"]


class IdentityObject(IdentityHolder):
    """The identity of one store. The only object that is ever stored again with other bytes."""

    def __init__(self, client: ObjectClient) -> None:
        """Use the store of `client`."""
        self._client = client

    def read_identity(self) -> StoreIdentity | None:
        """See `IdentityHolder`."""
        try:
            line = self._client.get_all(IDENTITY)
        except PayloadMissingError:
            return None
        identity = parse_identity(line)
        if identity is None:
            raise StoreUnavailableError(
                f"{self._client.name}: its object {IDENTITY}, which says which store the payloads are of, is damaged; put "
                "back a copy of it"
            )
        return identity

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `IdentityHolder`. A PUT replaces the object as a whole."""
        line = identity_line(identity)
        # Two stores that are made here at once are told apart by most services; nothing else relies on that.
        if self.read_identity() is None and not self._client.create(IDENTITY, line):
            found = self.read_identity()
            if found is not None and found.id != identity.id:
                raise StoreUnavailableError(
                    f"{self._client.name} already holds the payloads of another store, {found.id}"
                )
        else:
            self._client.put(IDENTITY, line)
