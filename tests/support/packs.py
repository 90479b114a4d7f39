"""Packs for tests of catalogues: keys of payloads in them, and packs that are begun."""

from __future__ import annotations

from collections.abc import Sequence

from tensorus_server.catalogue.abc import Catalogue, NotBegunError
from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import PayloadBusyError, PayloadMissingError, new_payload_key
from tensorus_server.payload_keys import PACK_PREFIX, PackedKey


def packed(pack: str, count: int, names: Sequence[str] | None = None) -> list[str]:
    """Return the keys of payloads of 100 bytes each, one after the other in a pack; `names` are theirs."""
    names = [new_payload_key() for _ in range(count)] if names is None else names
    return [str(PackedKey(pack, 100 * number, 100, name)) for number, name in enumerate(names)]


def begin_pack(catalogue: Catalogue, pack: str) -> None:
    """Note that a pack is being written, as whoever stores one does first."""
    if catalogue.members.number is None:
        catalogue.members.join("test", 3600.0)
    catalogue.members.begin([PACK_PREFIX + pack])


def raw_tensors(catalogue: Catalogue) -> int:
    """Return how many rows of tensors have their payload in the chunk store."""
    assert isinstance(catalogue, (SqliteCatalogue, PostgresCatalogue))
    with catalogue._database.read() as connection:
        ((count,),) = select(connection, "SELECT count(*) FROM tensor WHERE inline = 0")
    return int(count)


class CatalogueLog:
    """A `WriteLog` in a catalogue, of the member that it has become."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Join as a new member."""
        self._members = catalogue.members
        self._members.join("test", 3600.0)

    @property
    def number(self) -> int | None:
        """See `WriteLog`."""
        return self._members.number

    def require(self) -> None:
        """See `WriteLog`: nobody declares this member dead."""

    def begin(self, keys: Sequence[str]) -> None:
        """See `WriteLog`."""
        self._members.begin(keys)

    def take_over(self, payload_key: str) -> int:
        """See `WriteLog`."""
        try:
            generation = self._members.take_over(payload_key)
        except NotBegunError as error:
            raise PayloadMissingError(f"nobody writes the payload {payload_key}") from error
        if generation is None:
            raise PayloadBusyError(f"another writer has the payload {payload_key}")
        return generation

    def park(self, payload_key: str) -> None:
        """See `WriteLog`."""
        self._members.park(payload_key)

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """See `WriteLog`."""
        return self._members.abandon(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """See `WriteLog`."""
        self._members.forget(keys)
