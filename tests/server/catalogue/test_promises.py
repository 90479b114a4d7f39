"""Every promise that the catalogue's interface lists has tests that show it."""

from __future__ import annotations

from contract.catalogue_access import CatalogueAccessContract
from contract.catalogue_contract import CatalogueContract
from contract.catalogue_datasets import CatalogueDatasetsContract
from contract.catalogue_history import CatalogueHistoryContract
from contract.catalogue_isolation import CatalogueIsolationContract
from contract.catalogue_ordinals import CatalogueOrdinalsContract
from contract.catalogue_paging import CataloguePagingContract
from contract.catalogue_promises import promised, shown
from contract.catalogue_purge import CataloguePurgeContract
from contract.catalogue_uploads import CatalogueUploadsContract

CONTRACTS = (
    CatalogueAccessContract,
    CatalogueContract,
    CatalogueDatasetsContract,
    CatalogueHistoryContract,
    CatalogueIsolationContract,
    CatalogueOrdinalsContract,
    CataloguePagingContract,
    CataloguePurgeContract,
    CatalogueUploadsContract,
)


def test_promises_are_numbered_from_1() -> None:
    assert list(promised()) == list(range(1, len(promised()) + 1))
    assert len(promised()) >= 12


def test_every_promise_is_shown_by_a_test_and_no_other_is() -> None:
    assert sorted(shown(CONTRACTS)) == sorted(promised())
