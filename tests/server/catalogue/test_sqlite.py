"""The catalogue on SQLite keeps the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

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
from contract.catalogue_purge import CataloguePurgeContract
from contract.catalogue_references import CatalogueReferencesContract
from contract.catalogue_totals import CatalogueTotalsContract
from contract.catalogue_uploads import CatalogueUploadsContract
from support.clocks import moved_clock
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.sqlite import SqliteCatalogue


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Catalogue, Catalogue]]:
    one, two = SqliteCatalogue(tmp_path), SqliteCatalogue(tmp_path)
    yield one, two
    one.close()
    two.close()


class TestSqliteAccess(CatalogueAccessContract):
    """SQLite keeps what every catalogue promises of access."""


class TestSqliteDatasets(CatalogueDatasetsContract):
    """SQLite keeps what every catalogue promises of datasets."""


class TestSqliteCopies(CatalogueCopiesContract):
    """Likewise."""


class TestSqliteCatalogue(CatalogueContract):
    """What only SQLite does is in the modules beside this one."""


class TestSqliteContent(CatalogueContentContract):
    """Likewise."""


class TestSqliteBases(CatalogueBasesContract):
    """Likewise."""


class TestSqliteHistory(CatalogueHistoryContract):
    """Likewise."""


class TestSqliteHostile(CatalogueHostileContract):
    """Hostile texts."""


class TestSqliteIsolation(CatalogueIsolationContract):
    """Likewise."""


class TestSqliteMembers(CatalogueMembersContract):
    """Likewise."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        return moved_clock(monkeypatch)


class TestSqliteOrdinals(CatalogueOrdinalsContract):
    """Likewise."""


class TestSqlitePacks(CataloguePacksContract):
    """A catalogue in a file: packs."""


class TestSqlitePaging(CataloguePagingContract):
    """Likewise."""


class TestSqlitePurge(CataloguePurgeContract):
    """Likewise."""


class TestSqliteReferences(CatalogueReferencesContract):
    """Likewise."""


class TestSqliteTotals(CatalogueTotalsContract):
    """Likewise."""


class TestSqliteUploads(CatalogueUploadsContract):
    """Likewise."""
