"""The catalogue on PostgreSQL keeps the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from contract.catalogue_access import CatalogueAccessContract
from contract.catalogue_bases import CatalogueBasesContract
from contract.catalogue_content import CatalogueContentContract
from contract.catalogue_contract import CatalogueContract
from contract.catalogue_copies import CatalogueCopiesContract
from contract.catalogue_datasets import CatalogueDatasetsContract
from contract.catalogue_history import CatalogueHistoryContract
from contract.catalogue_hostile import CatalogueHostileContract
from contract.catalogue_isolation import CatalogueIsolationContract
from contract.catalogue_members import CatalogueMembersContract
from contract.catalogue_ordinals import CatalogueOrdinalsContract
from contract.catalogue_packs import CataloguePacksContract
from contract.catalogue_paging import CataloguePagingContract
from contract.catalogue_promises import keeps
from contract.catalogue_purge import CataloguePurgeContract
from contract.catalogue_references import CatalogueReferencesContract
from contract.catalogue_totals import CatalogueTotalsContract
from contract.catalogue_uploads import CatalogueUploadsContract
from support.engine import Reopen
from support.postgres import empty_schema
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.catalogue.postgres.connection import PostgresConnection
from tensorus_server.catalogue.postgres.pool import CONNECTIONS_MAX


@pytest.fixture
def reopen() -> Iterator[Reopen]:
    opened: list[Catalogue] = []
    dsn = empty_schema()

    def open_again(*, delete_grace_s: float = 3600.0, upload_expiry_s: float = 3600.0) -> Catalogue:
        for catalogue in opened:
            catalogue.close()
        opened[:] = [PostgresCatalogue(dsn, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s)]
        return opened[0]

    yield open_again
    for catalogue in opened:
        catalogue.close()


@pytest.fixture
def set_clock_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the clock of the catalogue's server back, as far as the catalogue can tell."""

    def set_back(by_s: float) -> None:
        real = PostgresConnection.now_us
        monkeypatch.setattr(PostgresConnection, "now_us", lambda connection: real(connection) - int(by_s * 1e6))

    return set_back


@pytest.fixture
def catalogue(reopen: Reopen) -> Catalogue:
    return reopen()


@pytest.fixture
def pair() -> Iterator[tuple[Catalogue, Catalogue]]:
    dsn = empty_schema()
    one, two = PostgresCatalogue(dsn), PostgresCatalogue(dsn)
    yield one, two
    one.close()
    two.close()


class TestPostgresAccess(CatalogueAccessContract):
    """PostgreSQL keeps what every catalogue promises of access."""


class TestPostgresDatasets(CatalogueDatasetsContract):
    """PostgreSQL keeps what every catalogue promises of datasets."""


class TestPostgresCopies(CatalogueCopiesContract):
    """Likewise."""


class TestPostgresCatalogue(CatalogueContract):
    """What only PostgreSQL does is in the modules beside this one."""


class TestPostgresContent(CatalogueContentContract):
    """Likewise."""


class TestPostgresBases(CatalogueBasesContract):
    """Likewise."""


class TestPostgresHistory(CatalogueHistoryContract):
    """Likewise. A program of reads takes seconds, so one is enough in every run."""

    @pytest.mark.parametrize(
        ("seed", "retention_s"),
        [
            (0, 10**6),
            *(pytest.param(seed, 10**6, marks=pytest.mark.long) for seed in (1, 2)),
            *(pytest.param(seed, 0, marks=pytest.mark.long) for seed in (0, 1, 2)),
        ],
    )
    @keeps(2, 4, 6, 7, 9)
    def test_each_state_is_what_it_was_or_not_kept(
        self, catalogue: Catalogue, reopen: Reopen, seed: int, retention_s: int
    ) -> None:
        super().test_each_state_is_what_it_was_or_not_kept(catalogue, reopen, seed, retention_s)


class TestPostgresHostile(CatalogueHostileContract):
    """Hostile texts."""


class TestPostgresIsolation(CatalogueIsolationContract):
    """Likewise."""


class TestPostgresMembers(CatalogueMembersContract):
    """Likewise."""

    @pytest.fixture
    def clock(self, set_clock_back: Callable[[float], None]) -> Callable[[float], None]:
        return lambda seconds: set_clock_back(-seconds)


class TestPostgresOrdinals(CatalogueOrdinalsContract):
    """Likewise."""


class TestPostgresPacks(CataloguePacksContract):
    """Likewise."""


class TestPostgresPaging(CataloguePagingContract):
    """Likewise."""


class TestPostgresPurge(CataloguePurgeContract):
    """Likewise."""


class TestPostgresReferences(CatalogueReferencesContract):
    """Likewise."""


class TestPostgresTotals(CatalogueTotalsContract):
    """Likewise."""


class TestPostgresUploads(CatalogueUploadsContract):
    """Likewise."""


def test_connections_are_told(catalogue: Catalogue) -> None:
    assert isinstance(catalogue, PostgresCatalogue)
    found = catalogue.connections()
    assert (found.used, found.limit) == (0, CONNECTIONS_MAX)
    with catalogue._database.read():
        assert catalogue.connections().used == 1
    assert catalogue.connections().used == 0
    assert catalogue.connections().idle >= 1
