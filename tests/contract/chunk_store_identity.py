"""What the role `IdentityHolder` promises."""

from __future__ import annotations

from tensorus_server.chunk_store.abc import IdentityHolder
from tensorus_server.model import StoreIdentity

IDENTITIES = [
    StoreIdentity("0123456789abcdef" * 2, 1),
    StoreIdentity("0123456789abcdef" * 2, 2),
    StoreIdentity("0123456789abcdef" * 2, 3),
    # Two at once: where a process was killed in between.
    StoreIdentity("0123456789abcdef" * 2, 5),
    StoreIdentity("fedcba9876543210" * 2, 4),
]


class IdentityHolderContract:
    """What the role `IdentityHolder` promises. A subclass supplies the fixture `store`."""

    def test_a_new_store_has_no_identity(self, store: IdentityHolder) -> None:
        assert store.read_identity() is None

    def test_the_identity_is_what_was_written_last(self, store: IdentityHolder) -> None:
        for identity in IDENTITIES:
            store.write_identity(identity)
            assert store.read_identity() == identity
