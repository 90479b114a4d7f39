"""The chunk store on objects fills every role: with payloads in segments of their own, and with payloads in packs."""

from __future__ import annotations

import pytest

from contract.chunk_store_contract import ChunkStoreContract
from contract.chunk_store_identity import IdentityHolderContract
from contract.chunk_store_kept import KeptPayloadContract
from contract.chunk_store_leases import LeasesContract
from contract.chunk_store_listing import PayloadListingContract, QuarantineContract
from contract.chunk_store_payloads import PayloadStoreContract
from contract.chunk_store_staging import StagingContract
from server.chunk_store.objects.conftest import CommittedStore, MakeStore
from tensorus_server.chunk_store.abc import Leases

LAYOUTS = {
    "packs": {},
    "segments": {"packed_bytes_max": -1},
    "many segments": {"packed_bytes_max": -1, "segment_bytes": 7},
}


@pytest.fixture(params=LAYOUTS)
def store(request: pytest.FixtureRequest, make_store: MakeStore) -> CommittedStore:
    return make_store(**LAYOUTS[request.param])


@pytest.fixture
def leases(make_store: MakeStore) -> Leases:
    return make_store().leases


class TestObjectPayloads(PayloadStoreContract):
    """Nothing beyond the contract."""


class TestObjectStaging(StagingContract):
    """Likewise."""


class TestObjectKept(KeptPayloadContract):
    """Likewise."""


class TestObjectLeases(LeasesContract):
    """Likewise; the log decides between processes."""


class TestObjectListing(PayloadListingContract):
    """Of payloads in segments; packs are listed as packs."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> CommittedStore:
        return make_store(packed_bytes_max=-1)


class TestObjectQuarantine(QuarantineContract):
    """Likewise."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> CommittedStore:
        return make_store(packed_bytes_max=-1)


class TestObjectIdentity(IdentityHolderContract):
    """Nothing beyond the contract."""


class TestObjectChunkStore(ChunkStoreContract):
    """Likewise; what stores of a single host promise besides, it need not."""

    @pytest.fixture(params=["packs", "segments"])
    def store(self, request: pytest.FixtureRequest, make_store: MakeStore) -> CommittedStore:
        # Hundreds of payloads in many segments would take ten seconds.
        return make_store(**LAYOUTS[request.param])
