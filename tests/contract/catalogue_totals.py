"""What every catalogue promises of its sums; a class as the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contract.catalogue_promises import keeps
from contract.catalogue_uploads import save, upload
from support.engine import Reopen, commit, create, purge, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, SharedSizes, Sizes
from tensorus_server.errors import DatasetNotFoundError
from tensorus_server.model import Dataset


def fill(catalogue: Catalogue, dataset: Dataset, count: int) -> None:
    """Commit tensors of 4 bytes each, stored in 40."""
    for start in range(0, count, 512):
        commit(catalogue, *(stored_tensor(dataset, f"t{n}") for n in range(start, min(start + 512, count))))


class CatalogueTotalsContract:
    """What every catalogue promises. A subclass supplies the fixtures `catalogue` and `reopen`."""

    def test_an_empty_catalogue_has_nothing_to_add_up(self, catalogue: Catalogue) -> None:
        totals = catalogue.totals()
        assert totals.sizes == Sizes(0, 0, 0)
        assert (totals.datasets, totals.garbage_payloads, totals.garbage_until_us, totals.uploads) == (0, 0, None, 0)
        assert totals.catalogue_bytes > 0

    @keeps(3)
    def test_sizes_are_those_of_a_dataset_or_of_all(self, catalogue: Catalogue) -> None:
        for name, count in {"a": 3, "b": 5, "empty": 0}.items():
            fill(catalogue, create(catalogue, name), count)
        assert catalogue.sizes("a") == Sizes(3, 12, 120)
        assert catalogue.sizes("empty") == Sizes(0, 0, 0)
        assert catalogue.sizes() == Sizes(8, 32, 320)
        assert (catalogue.totals().datasets, catalogue.totals().sizes) == (3, catalogue.sizes())

    def test_sizes_of_many_tensors_are_added_up_in_steps(self, catalogue: Catalogue) -> None:
        fill(catalogue, create(catalogue, "a"), 10_240)
        fill(catalogue, create(catalogue, "b"), 700)
        assert catalogue.sizes("a") == Sizes(10_240, 40_960, 409_600)
        assert catalogue.sizes() == Sizes(10_940, 43_760, 437_600)

    def test_tensors_that_share_a_payload_are_counted_once(self, catalogue: Catalogue) -> None:
        dataset, other = create(catalogue, "a"), create(catalogue, "b")
        fill(catalogue, dataset, 10_100)
        first, alone = stored_tensor(dataset, "first", stored_bytes=1000), stored_tensor(dataset, "alone")
        commit(catalogue, first, alone)
        for name, ds in (("second", dataset), ("third", other), ("fourth", other)):
            new = stored_tensor(ds, name, stored_bytes=1000, key=first.locator.key)
            commit(catalogue, replace(new, shares_payload=True))
        # An inline payload is in each of its rows, also where it has the same key.
        for name in ("inline", "inline too"):
            commit(catalogue, stored_tensor(other, name, stored_bytes=7, inline_payload=b"payload", key="0" * 32))
        totals = catalogue.totals()
        assert totals.sizes == Sizes(10_107, 40_428, 408_054)
        assert totals.shared == SharedSizes(40_416, 405_054, 0, 0)
        assert (totals.snapshots, totals.datasets) == (0, 2)
        of_dataset = {name: catalogue.datasets.stats(name) for name in "ab"}
        assert [(stats.canonical_bytes, stats.unique_bytes) for stats in of_dataset.values()] == [
            (40_412, 40_408),
            (16, 12),
        ]
        assert [(stats.stored_bytes, stats.unique_stored_bytes) for stats in of_dataset.values()] == [
            (406_040, 405_040),
            (2014, 1014),
        ]
        # What is left of the tensors of a deleted dataset counts for nothing.
        catalogue.datasets.delete("a")
        assert catalogue.totals().sizes == Sizes(4, 16, 2014)
        assert catalogue.totals().shared == SharedSizes(12, 1014, 0, 0)

    def test_sizes_of_a_dataset_that_is_not_there_are_refused(self, catalogue: Catalogue) -> None:
        with pytest.raises(DatasetNotFoundError):
            catalogue.sizes("nowhere")

    @keeps(3)
    def test_a_deleted_dataset_counts_no_more_and_its_payloads_are_garbage_once_purged(
        self, catalogue: Catalogue
    ) -> None:
        fill(catalogue, create(catalogue, "a"), 3)
        fill(catalogue, create(catalogue, "b"), 1)
        catalogue.datasets.delete("a")
        assert (catalogue.totals().datasets, catalogue.sizes()) == (1, Sizes(1, 4, 40))
        purge(catalogue)
        assert catalogue.totals().garbage_payloads == 3

    def test_garbage_waits_until_the_last_grace_is_over(self, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=1000.0)
        dataset = create(catalogue)
        first, second, _ = commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        catalogue.tensors.delete("dataset", ["a"])
        catalogue = reopen(delete_grace_s=2000.0)
        catalogue.tensors.delete("dataset", ["b"])
        totals = catalogue.totals()
        assert totals.garbage_payloads == 2
        assert totals.garbage_until_us is not None
        # A grace of 2,000 s that began after the tensors were committed.
        assert totals.garbage_until_us >= second.created_us + 2_000_000_000
        catalogue.garbage.delete([first.locator.key, second.locator.key])
        assert (catalogue.totals().garbage_payloads, catalogue.totals().garbage_until_us) == (0, None)

    def test_uploads_count_until_they_are_complete_or_dropped(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        save(catalogue, upload(dataset, 0, stored_bytes=100), upload(dataset, 1, stored_bytes=23))
        assert (catalogue.totals().uploads, catalogue.totals().upload_bytes) == (2, 123)
        commit(catalogue, replace(stored_tensor(dataset, "t1"), upload=("request", 1)))
        assert (catalogue.totals().uploads, catalogue.totals().upload_bytes) == (1, 100)
        catalogue.uploads.drop("request")
        assert (catalogue.totals().uploads, catalogue.totals().upload_bytes) == (0, 0)
