"""Packs for tests of catalogues: keys of payloads in them, and packs that are begun."""

from __future__ import annotations

from collections.abc import Sequence

from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.engine.membership import MemberWrites
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


class CatalogueLog(MemberWrites):
    """The writes of a member that nobody declares dead, and that nothing renews."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Join as a new member."""
        self._members = catalogue.members
        self._members.join("test", 3600.0)

    def require(self) -> None:
        """See `WriteLog`."""
