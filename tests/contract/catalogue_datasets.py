"""What every catalogue promises of datasets and their statistics, beside `CatalogueContract`."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from contract.catalogue_promises import keeps
from support.cases import each
from support.engine import Reopen, commit, create, ids_of, listed, stored_tensor
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Catalogue, DatasetPage, PageRequest
from tensorus_server.errors import AlreadyExistsError, DataCorruptError, DatasetNotFoundError
from tensorus_server.model import Dataset, DatasetStats, DTypeShare, EncodingShare, Schema

POLICIES = [
    StoragePolicy(),
    StoragePolicy(preset="maximum", max_relative_error=0.0, chunk_bytes=4096),
    StoragePolicy(max_absolute_error=1e-300),
    StoragePolicy(
        encoding=Encoding.from_json([{"id": "int8_block", "configuration": {"block_size": 32}}, {"id": "gzip"}])
    ),
]

SCHEMAS = [
    Schema(),
    Schema(dtype="bfloat16", shape=(-1, 0, 3), metadata={"a.b": "text", "ä": "any"}),
    Schema(shape=()),
]

NAMES = ["a", "A", "with space", "../../etc/passwd", "'; DROP TABLE dataset; --", "ü\U0001f600", "%", "_", "x" * 255]


class CatalogueDatasetsContract:
    """What every catalogue promises of datasets. Fixtures as of `CatalogueContract`."""

    def test_a_dataset_comes_back_as_it_was_created(self, catalogue: Catalogue, reopen: Reopen) -> None:
        before_us = time.time_ns() // 1000
        cases = list(itertools.product(POLICIES, SCHEMAS))
        created = [catalogue.datasets.create(f"{number}", *case) for number, case in enumerate(cases)]
        for number, (dataset, case) in enumerate(zip(created, cases, strict=True)):
            assert (dataset.name, dataset.policy, dataset.schema) == (f"{number}", *case)
            assert before_us - 1_000_000 <= dataset.created_us <= time.time_ns() // 1000 + 1_000_000
            assert catalogue.datasets.get(dataset.name) == dataset
        reopened = reopen()
        assert [reopened.datasets.get(dataset.name) for dataset in created] == created

    @keeps(12)
    def test_names_are_data_and_differ_by_every_code_point(self, catalogue: Catalogue) -> None:
        created = [create(catalogue, name) for name in NAMES]
        assert listed(catalogue) == created
        assert [catalogue.datasets.get(name) for name in NAMES] == created

    @keeps(2, 5)
    def test_a_name_that_is_taken_is_refused_and_changes_nothing(self, catalogue: Catalogue) -> None:
        first = create(catalogue, "name", policy=StoragePolicy(preset="none"))
        with pytest.raises(AlreadyExistsError, match=r"exists already \[dataset=name\]"):
            create(catalogue, "name", policy=StoragePolicy(preset="fast"))
        assert listed(catalogue) == [first]

    def test_datasets_are_listed_in_order_of_creation(self, catalogue: Catalogue, reopen: Reopen) -> None:
        for name in ("c", "a", "b"):
            create(catalogue, name)
        catalogue.datasets.delete("a")
        create(catalogue, "a")
        assert [dataset.name for dataset in listed(reopen())] == ["c", "b", "a"]

    @keeps(8)
    def test_pages_of_datasets_follow_each_other(self, catalogue: Catalogue) -> None:
        for name in "abcdefg":
            create(catalogue, name)
        catalogue.datasets.delete("c")
        for size in (1, 2, 5, 6, 100):
            found: list[tuple[int, Dataset | DataCorruptError]] = []
            after: int | None = 0
            while after is not None:
                page = catalogue.datasets.page(after, size)
                assert len(page.datasets) <= size
                found += page.datasets
                after = page.next
            datasets = [dataset for _, dataset in found if isinstance(dataset, Dataset)]
            assert [dataset.name for dataset in datasets] == list("abdefg"), size
            assert [number for number, _ in found] == [dataset.number for dataset in datasets], size
            assert catalogue.datasets.page(found[-1][0], size) == DatasetPage([], None), size

    def test_a_page_of_large_schemas_is_shorter(self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tensorus_server.catalogue.sql.row_page.PAGE_READ_BYTES", 1000)
        for name in "abcde":
            create(catalogue, name, schema=Schema(metadata={"x" * 600: "any"}))
        first = catalogue.datasets.page(0, 100)
        assert [getattr(dataset, "name", "") for _, dataset in first.datasets] == ["a", "b"]
        assert first.next == first.datasets[-1][0]

    def test_a_dataset_is_found_by_its_number(self, catalogue: Catalogue) -> None:
        created = create(catalogue, "a")
        assert catalogue.datasets.find(created.number) == created
        assert catalogue.datasets.find(created.number + 1) is None

    @keeps(1)
    def test_an_update_replaces_what_is_given_and_nothing_else(self, catalogue: Catalogue, reopen: Reopen) -> None:
        policy, schema = StoragePolicy(preset="fast"), Schema(dtype="int8", shape=(3,), metadata={"a": "any"})
        created = create(catalogue, "name", policy=StoragePolicy(preset="none"), schema=schema)
        create(catalogue, "other")
        assert catalogue.datasets.update("name", None, None) == created
        with_policy = catalogue.datasets.update("name", policy, None)
        assert (with_policy.policy, with_policy.schema) == (policy, schema)
        with_both = catalogue.datasets.update("name", None, Schema())
        assert (with_both.policy, with_both.schema) == (policy, Schema())
        assert (with_both.number, with_both.created_us) == (created.number, created.created_us)
        assert reopen().datasets.get("name") == with_both
        assert reopen().datasets.get("other").policy == StoragePolicy()

    @each(
        "call",
        [
            pytest.param(lambda catalogue: catalogue.datasets.get("no"), id="get"),
            pytest.param(lambda catalogue: catalogue.datasets.update("no", None, None), id="update"),
            pytest.param(lambda catalogue: catalogue.datasets.delete("no"), id="delete"),
            pytest.param(lambda catalogue: catalogue.datasets.stats("no"), id="stats"),
            pytest.param(lambda catalogue: catalogue.tensors.get("no", ["a"]), id="tensors.get"),
            pytest.param(lambda catalogue: catalogue.tensors.get("no", []), id="tensors.get of nothing"),
            pytest.param(lambda catalogue: catalogue.tensors.page("no", PageRequest()), id="tensors.page"),
            pytest.param(lambda catalogue: catalogue.tensors.generations("no", PageRequest()), id="generations"),
            pytest.param(lambda catalogue: catalogue.tensors.by_generation("no", [1]), id="by_generation"),
            pytest.param(lambda catalogue: catalogue.tensors.replace_metadata("no", "a", {}), id="replace_metadata"),
            pytest.param(lambda catalogue: catalogue.tensors.delete("no", ["a"]), id="tensors.delete"),
        ],
    )
    def test_a_dataset_that_is_not_there_is_named(self, catalogue: Catalogue, call: Any) -> None:
        with pytest.raises(DatasetNotFoundError, match=r"no such dataset \[dataset=no\]") as caught:
            call(catalogue)
        assert caught.value.facts == {"dataset": "no"}

    def test_a_deleted_dataset_is_gone_with_its_tensors(self, catalogue: Catalogue, reopen: Reopen) -> None:
        kept, deleted = create(catalogue, "kept"), create(catalogue, "deleted")
        commit(catalogue, stored_tensor(kept, "a"), *(stored_tensor(deleted, f"{number}") for number in range(5)))
        assert catalogue.datasets.delete("deleted") == 5
        catalogue = reopen()
        assert [dataset.name for dataset in listed(catalogue)] == ["kept"]
        assert ids_of(catalogue, "kept") == ["a"]
        create(catalogue, "deleted")
        assert ids_of(catalogue, "deleted") == []

    def test_a_dataset_of_a_deleted_ones_name_is_another(self, catalogue: Catalogue, reopen: Reopen) -> None:
        first = create(catalogue, "name")
        catalogue.datasets.delete("name")
        second = create(reopen(), "name")
        assert second.number != first.number

    def test_an_empty_dataset_has_stats_of_zero(self, catalogue: Catalogue) -> None:
        create(catalogue, "name")
        assert catalogue.datasets.stats("name") == DatasetStats(0, 0, 0, 0, 0, 0.0, 0.0, (), ())

    def test_stats_are_sums_over_the_datasets_tensors(self, catalogue: Catalogue) -> None:
        dataset, other = create(catalogue, "name"), create(catalogue, "other")
        commit(
            catalogue,
            stored_tensor(dataset, "a", dtype="uint8", shape=(3,), stored_bytes=50),
            stored_tensor(
                dataset,
                "b",
                dtype="float32",
                shape=(5,),
                stored_bytes=30,
                quantized_bytes=10,
                lossy=True,
                relative_error=0.25,
                max_absolute_error=2.0,
            ),
            stored_tensor(
                dataset,
                "c",
                dtype="float32",
                shape=(),
                stored_bytes=7,
                quantized_bytes=2,
                lossy=True,
                relative_error=0.5,
                max_absolute_error=1.0,
            ),
            stored_tensor(other, "a", dtype="int64", shape=(1000,)),
        )
        assert catalogue.datasets.stats("name") == DatasetStats(
            tensors=3,
            lossy_tensors=2,
            canonical_bytes=27,
            quantized_bytes=15,
            stored_bytes=87,
            worst_relative_error=0.5,
            worst_max_absolute_error=2.0,
            dtypes=(DTypeShare("float32", 2, 24, 37), DTypeShare("uint8", 1, 3, 50)),
            encodings=(),
            unique_bytes=27,
            unique_stored_bytes=87,
        )
        catalogue.tensors.delete("name", ["b"])
        assert catalogue.datasets.stats("name").canonical_bytes == 7

    def test_stats_have_each_encoding_once_and_the_largest_first(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset, other = create(catalogue, "name"), create(catalogue, "other")
        zstd_3 = ({"id": "zstd", "configuration": {"level": 3}},)
        zstd_5 = ({"id": "zstd", "configuration": {"level": 5}},)
        chain = ({"id": "fp16", "configuration": {}}, {"id": "ä", "configuration": {"text": "\"'\\"}}, *zstd_5)
        commit(
            catalogue,
            stored_tensor(dataset, "a", encodings=(EncodingShare(zstd_3, 2, 20, 10), EncodingShare(zstd_5, 1, 9, 7))),
            stored_tensor(dataset, "b", encodings=(EncodingShare(chain, 3, 30, 17), EncodingShare((), 1, 5, 7))),
            stored_tensor(dataset, "c", encodings=(EncodingShare(zstd_3, 4, 2**60, 2**50),)),
            stored_tensor(dataset, "of no chunks", encodings=()),
            stored_tensor(other, "a", encodings=(EncodingShare(zstd_3, 100, 100, 100),)),
        )
        # Those of 7 stored bytes each are in the order of their JSON, in which `[]` is before `[{`.
        assert reopen().datasets.stats("name").encodings == (
            EncodingShare(zstd_3, 6, 2**60 + 20, 2**50 + 10),
            EncodingShare(chain, 3, 30, 17),
            EncodingShare((), 1, 5, 7),
            EncodingShare(zstd_5, 1, 9, 7),
        )

    def test_the_encodings_of_a_deleted_tensor_leave_the_stats(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, "name")
        kept, deleted = EncodingShare(({"id": "lz4"},), 1, 8, 4), EncodingShare(({"id": "zstd"},), 1, 8, 5)
        commit(
            catalogue,
            stored_tensor(dataset, "kept", encodings=(kept,)),
            stored_tensor(dataset, "deleted", encodings=(kept, deleted)),
        )
        catalogue.tensors.delete("name", ["deleted"])
        assert catalogue.datasets.stats("name").encodings == (kept,)
