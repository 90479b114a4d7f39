"""What every catalogue promises, as a class of tests. A catalogue adds a class of its own that supplies the fixtures.

Datasets and paging have classes of their own, `CatalogueDatasetsContract` and `CataloguePagingContract`, beside this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, ids_of, purge, stored_tensor
from tensorus_codecs.dtypes import opaque_dtype
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.errors import AlreadyExistsError, DatasetNotFoundError, StoredDifferentlyError, TensorNotFoundError
from tensorus_server.filter.tree import Compare, Exists, Key, Operator
from tensorus_server.model import EncodingShare, Outcome, Tensor

METADATA: list[dict[str, Any]] = [
    {},
    {"true": True, "one": 1, "float": 1.0, "false": False, "zero": 0, "minus zero": -0.0, "none": None},
    {"nan": math.nan, "infinity": math.inf, "minus": -math.inf, "tiny": 5e-324, "third": 1 / 3, "huge": 1.7e308},
    {"least": -(2**63), "most": 2**63 - 1, "odd": 2**53 + 1},
    {"text": "ä\u0301\U0001f600\u2028\ufffe", "nul": "a\0b", "quotes": "\"'`\\", "empty": "", "": "empty key"},
    {"list": [1, [2, [3, []]], {}, {"deep": [True, None, "x"]}], "map": {"a": {"b": {}}}, "dots.and@and\\": 1},
    {"long": "x" * 5000},
]

DTYPES = ["bool", "uint8", "int64", "bfloat16", "complex128", "float8_e4m3fn", opaque_dtype(777, 24)]


class CatalogueContract:
    """What every catalogue promises. A subclass supplies the fixtures `catalogue` and `reopen`.

    `reopen(delete_grace_s=3600.0)` closes the catalogue and opens the same store again.
    """

    def test_metadata_survives_a_reopening_bit_for_bit(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        names = [f"{number}" for number in range(len(METADATA))]
        new = [stored_tensor(dataset, name, metadata=found) for name, found in zip(names, METADATA, strict=True)]
        committed = commit(catalogue, *new)
        found = reopen().tensors.get("dataset", names)
        # By their notation, in which NaN, -0.0, 1, 1.0 and True are what they are, and the order of keys counts.
        assert [repr(tensor) for tensor in found] == [repr(tensor) for tensor in committed]
        assert [repr(tensor.metadata) for tensor in found] == [repr(metadata) for metadata in METADATA]

    def test_dtype_and_shape_survive_a_reopening(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        shapes: list[tuple[int, ...]] = [(), (0,), (3, 0, 2**40), (1,) * 32]
        new = {
            f"{dtype} {shape}": stored_tensor(dataset, f"{dtype} {shape}", dtype=dtype, shape=shape)
            for dtype in DTYPES
            for shape in shapes
        }
        committed = commit(catalogue, *new.values())
        found = reopen().tensors.get("dataset", list(new))
        assert found == committed
        assert [tensor.spec.shape for tensor in found] == shapes * len(DTYPES)
        assert [tensor.spec.dtype for tensor in found] == [tensor.new.spec.dtype for tensor in new.values()]

    @keeps(1)
    def test_every_field_of_a_tensor_survives_a_reopening(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        new = stored_tensor(
            dataset,
            "t",
            dtype="float32",
            shape=(2, 3),
            stored_bytes=2**40 + 1,
            lossy=True,
            quantized_bytes=2**41,
            relative_error=1 / 3,
            max_absolute_error=math.inf,
            encodings=(
                EncodingShare(({"id": "zstd", "configuration": {"level": 3}},), 2**20, 2**40, 2**39),
                EncodingShare((), 1, 7, 28),
            ),
            fallback_reason="2 of 3 chunks are lossless: \U0001f600",
            values=ValueSummary(-1e308, 1e308, 5e-324, 0.1, 3.0, 2**40, 3, 2**33),
            policy=StoragePolicy(preset="maximum", max_relative_error=0.0),
        )
        (committed,) = commit(catalogue, new)
        (found,) = reopen().tensors.get("dataset", ["t"])
        assert repr(found) == repr(committed)
        assert found == Tensor(
            dataset="dataset",
            id="t",
            generation=committed.generation,
            ordinal=1,
            spec=new.new.spec,
            metadata={},
            policy={"preset": "maximum", "max_relative_error": 0.0},
            chunk_bytes=new.chunk_bytes,
            source_checksum=new.source_checksum,
            value_checksum=new.value_checksum,
            storage=new.storage,
            values=new.values,
            created_us=committed.created_us,
            locator=new.locator,
        )

    def test_a_summary_survives_a_reopening(self, catalogue: Catalogue, reopen: Reopen) -> None:
        summaries = {
            "a dtype without": None,
            "no finite value": ValueSummary(None, None, None, None, None, 0, 7, 0),
            "moments that overflow": ValueSummary(-1.5, 2.0, 0.25, None, None, 0, 0, 0),
            "zeros with a sign": ValueSummary(-0.0, -0.0, -0.0, 0.0, 0.0, 3, 0, 0),
        }
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name, values=values) for name, values in summaries.items()))
        found = reopen().tensors.get("dataset", list(summaries))
        assert {tensor.id: tensor.values for tensor in found} == summaries

    @keeps(6)
    def test_a_group_is_committed_in_order(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        group = [stored_tensor(dataset, f"{number}") for number in range(30)]
        tensors = commit(catalogue, *group)
        assert [tensor.id for tensor in tensors] == [f"{number}" for number in range(30)]
        generations = [tensor.generation for tensor in tensors]
        assert generations == sorted(set(generations))
        assert ids_of(catalogue, "dataset") == [f"{number}" for number in range(30)]

    @keeps(3)
    def test_what_commit_returns_is_what_get_finds(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        tensors = commit(catalogue, *(stored_tensor(dataset, name) for name in ("a", "b")))
        assert catalogue.tensors.get("dataset", ["b", "a"]) == tensors[::-1]

    def test_get_returns_none_where_there_is_no_such_tensor(self, catalogue: Catalogue) -> None:
        commit(catalogue, stored_tensor(create(catalogue, "one"), "a"), stored_tensor(create(catalogue, "two"), "b"))
        found = catalogue.tensors.get("one", ["b", "a", "A", "", "a"])
        assert [tensor and tensor.id for tensor in found] == [None, "a", None, None, "a"]

    @keeps(5)
    def test_an_id_is_unique_within_its_dataset_alone(self, catalogue: Catalogue) -> None:
        tensors = commit(catalogue, *(stored_tensor(create(catalogue, name), "same") for name in ("one", "two")))
        assert [tensor.dataset for tensor in tensors] == ["one", "two"]
        assert tensors[0].generation != tensors[1].generation

    @keeps(9)
    def test_the_same_tensor_again_is_the_one_that_is_there(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        first = stored_tensor(dataset, "t", source=b"s" * 16, metadata={"a": 1})
        (committed,) = commit(catalogue, first)
        catalogue = reopen()
        again = stored_tensor(dataset, "t", source=b"s" * 16, metadata={"a": 1})
        (found,) = commit(catalogue, again)
        assert (found, committed.outcome, found.outcome) == (committed, Outcome.INSERTED, Outcome.ALREADY_STORED)
        assert catalogue.tensors.get("dataset", ["t"]) == [committed]
        assert catalogue.garbage.orphans([again.locator.key]) == {again.locator.key}

    def test_the_same_values_with_other_metadata_are_refused_and_the_others_of_the_group_committed(
        self, catalogue: Catalogue
    ) -> None:
        dataset = create(catalogue)
        (committed,) = commit(catalogue, stored_tensor(dataset, "t", source=b"s" * 16, metadata={"a": 1}))
        again = stored_tensor(dataset, "t", source=b"s" * 16, metadata={"a": 2})
        other = stored_tensor(dataset, "other")
        refused, inserted = catalogue.tensors.commit([again, other])
        assert isinstance(refused, StoredDifferentlyError)
        assert isinstance(inserted, Tensor)
        assert catalogue.tensors.get("dataset", ["t", "other"]) == [committed, inserted]

    def test_whatever_has_the_id_is_replaced_where_that_is_asked_for(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        first = stored_tensor(dataset, "t", source=b"s" * 16)
        (committed,) = commit(catalogue, first)
        other = stored_tensor(dataset, "t", metadata={"a": 2})
        other = replace(other, new=replace(other.new, replace=True))
        (replaced,) = commit(catalogue, other)
        assert (replaced.outcome, replaced.ordinal) == (Outcome.REPLACED, committed.ordinal + 1)
        assert replaced.generation > committed.generation
        (again,) = commit(catalogue, other)
        assert (again, again.outcome) == (replaced, Outcome.ALREADY_STORED)
        assert catalogue.tensors.get("dataset", ["t"]) == [replaced]
        assert catalogue.tensors.get("dataset", ["t"])[0].outcome is None  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"source": b"o" * 16}, id="other values"),
            pytest.param({"shape": (2, 2)}, id="another shape"),
            pytest.param({"dtype": "int8"}, id="another dtype"),
        ],
    )
    def test_another_tensor_cannot_have_an_id_that_is_taken(self, catalogue: Catalogue, other: dict[str, Any]) -> None:
        dataset = create(catalogue)
        (committed,) = commit(catalogue, stored_tensor(dataset, "t", source=b"s" * 16))
        (outcome,) = catalogue.tensors.commit([stored_tensor(dataset, "t", **({"source": b"s" * 16} | other))])
        assert isinstance(outcome, AlreadyExistsError)
        assert type(outcome) is AlreadyExistsError
        assert str(outcome).startswith("another tensor has this id already; ")
        assert outcome.facts["generation"] == str(committed.generation)
        assert catalogue.tensors.get("dataset", ["t"]) == [committed]

    def test_each_of_a_group_has_its_own_outcome(self, catalogue: Catalogue) -> None:
        dataset, deleted = create(catalogue), create(catalogue, "deleted")
        (there,) = commit(catalogue, stored_tensor(dataset, "there", source=b"s" * 16))
        catalogue.datasets.delete("deleted")
        outcomes = catalogue.tensors.commit(
            [
                stored_tensor(dataset, "new"),
                stored_tensor(dataset, "there"),
                stored_tensor(deleted, "late"),
                stored_tensor(dataset, "there", source=b"s" * 16),
                stored_tensor(dataset, "new"),
                stored_tensor(dataset, "last"),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [
            Tensor,
            AlreadyExistsError,
            DatasetNotFoundError,
            Tensor,
            AlreadyExistsError,
            Tensor,
        ]
        assert outcomes[3] == there
        assert str(outcomes[2]) == "the dataset was deleted during the insert [dataset=deleted, tensor=late]"
        assert ids_of(catalogue, "dataset") == ["there", "new", "last"]

    def test_a_twin_within_a_group_is_the_first_one(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        first, second = (stored_tensor(dataset, "t", source=b"s" * 16) for _ in range(2))
        tensors = commit(catalogue, first, second)
        assert tensors[0] == tensors[1]
        assert tensors[0].locator == first.locator

    def test_a_dataset_created_anew_takes_nothing_of_its_predecessors(self, catalogue: Catalogue) -> None:
        predecessor = create(catalogue, "name")
        catalogue.datasets.delete("name")
        create(catalogue, "name")
        (outcome,) = catalogue.tensors.commit([stored_tensor(predecessor, "late")])
        assert isinstance(outcome, DatasetNotFoundError)
        assert ids_of(catalogue, "name") == []

    def test_an_empty_group_commits_nothing(self, catalogue: Catalogue) -> None:
        assert catalogue.tensors.commit([]) == []

    @pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 256], ids=len)
    def test_an_inline_payload_comes_back_where_it_is_asked_for(
        self, catalogue: Catalogue, reopen: Reopen, payload: bytes
    ) -> None:
        dataset = create(catalogue)
        tensors = commit(
            catalogue, stored_tensor(dataset, "inline", inline_payload=payload), stored_tensor(dataset, "file")
        )
        tables = reopen().tensors
        generations = [tensor.generation for tensor in tensors]
        for found in (
            tables.get("dataset", ["inline", "file"], with_payloads=True),
            tables.page("dataset", PageRequest(with_payloads=True)).tensors,
            tables.by_generation("dataset", generations, with_payloads=True),
        ):
            assert [tensor and tensor.inline_payload for tensor in found] == [payload, None]
        for found in (
            tables.get("dataset", ["inline", "file"]),
            tables.page("dataset", PageRequest()).tensors,
            tables.by_generation("dataset", generations),
        ):
            assert [tensor and tensor.inline_payload for tensor in found] == [None, None]

    @keeps(6, 7)
    def test_generations_grow_and_are_never_used_again(self, catalogue: Catalogue, reopen: Reopen) -> None:
        assert catalogue.tensors.latest_generation() == 0
        dataset = create(catalogue)
        seen = [tensor.generation for tensor in commit(catalogue, *(stored_tensor(dataset, f"{i}") for i in range(3)))]
        # Not even the newest one's, of which nothing is left, comes back; nor after the whole dataset has gone.
        catalogue.tensors.delete("dataset", ["1", "2"])
        seen.append(catalogue.tensors.latest_generation())
        catalogue = reopen()
        assert catalogue.tensors.latest_generation() == seen[-1]
        seen += [tensor.generation for tensor in commit(catalogue, stored_tensor(dataset, "2"))]
        catalogue.datasets.delete("dataset")
        catalogue = reopen()
        assert catalogue.tensors.latest_generation() == seen[-1]
        seen += [tensor.generation for tensor in commit(catalogue, stored_tensor(create(catalogue), "0"))]
        assert seen == sorted(set(seen))
        assert seen[0] >= 1

    def test_tensors_are_found_by_generation_in_the_order_asked_for(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        a, b, c = commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        (other,) = commit(catalogue, stored_tensor(create(catalogue, "other"), "a"))
        catalogue.tensors.delete("dataset", ["b"])
        asked = [c.generation, b.generation, 10**9, a.generation, other.generation]
        assert catalogue.tensors.by_generation("dataset", asked) == [c, None, None, a, None]

    def test_replaced_metadata_is_returned_and_stays(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        before, other = commit(
            catalogue, *(stored_tensor(dataset, name, metadata={"a": 1, "b": 2}) for name in ("t", "other"))
        )
        for metadata in METADATA:
            updated = catalogue.tensors.replace_metadata("dataset", "t", metadata)
            assert repr(updated.metadata) == repr(metadata)
        catalogue = reopen()
        (found,) = catalogue.tensors.get("dataset", ["t"])
        assert found == updated
        # Nothing else of it changes, and nothing of any other.
        assert (found.generation, found.locator, found.created_us) == (
            before.generation,
            before.locator,
            before.created_us,
        )
        assert catalogue.tensors.get("dataset", ["other"]) == [other]

    def test_replaced_metadata_is_what_filters_see(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "t", metadata={"old": 1, "both": [1, 2]}, shape=(3, 4)))
        catalogue.tensors.replace_metadata("dataset", "t", {"new": "x", "both": [2, 3]})
        held = [
            Compare(Key("new"), Operator.EQUAL, "x"),
            Compare(Key("both"), Operator.EQUAL, 2),
            Compare(Key("both"), Operator.EQUAL, 3),
        ]
        assert [ids_of(catalogue, "dataset", filter_) for filter_ in held] == [["t"]] * 3
        gone = [Exists(Key("old")), Compare(Key("both"), Operator.EQUAL, 1)]
        assert [ids_of(catalogue, "dataset", filter_) for filter_ in gone] == [[], []]

    def test_metadata_of_a_tensor_that_is_not_there_cannot_be_replaced(self, catalogue: Catalogue) -> None:
        create(catalogue)
        with pytest.raises(TensorNotFoundError, match=r"\[dataset=dataset, tensor=t\]"):
            catalogue.tensors.replace_metadata("dataset", "t", {})

    def test_deleting_returns_the_ids_that_existed_each_once(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name, metadata={"a": 1}) for name in "abc"))
        assert catalogue.tensors.delete("dataset", ["c", "x", "a", "c", ""]) == ["c", "a"]
        assert catalogue.tensors.delete("dataset", ["c", "a"]) == []
        catalogue = reopen()
        assert ids_of(catalogue, "dataset") == ids_of(catalogue, "dataset", Exists(Key("a"))) == ["b"]

    def test_an_id_is_free_again_after_its_deletion(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "t", metadata={"a": 1}))
        catalogue.tensors.delete("dataset", ["t"])
        (again,) = commit(catalogue, stored_tensor(dataset, "t", metadata={"b": 1}))
        assert catalogue.tensors.get("dataset", ["t"]) == [again]
        assert ids_of(catalogue, "dataset", Exists(Key("a"))) == []

    @keeps(11)
    def test_the_payload_of_a_deleted_tensor_is_due_after_the_grace(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        late, soon, inline, kept = commit(
            catalogue,
            stored_tensor(dataset, "late"),
            stored_tensor(dataset, "soon"),
            stored_tensor(dataset, "inline", inline_payload=b"x"),
            stored_tensor(dataset, "kept"),
        )
        catalogue.tensors.delete("dataset", ["late"])
        catalogue = reopen(delete_grace_s=0.0)
        assert catalogue.garbage.due(10) == []
        catalogue.tensors.delete("dataset", ["soon", "inline"])
        # An inline payload went with its row.
        assert catalogue.garbage.due(10) == [soon.locator.key]
        keys = [tensor.locator.key for tensor in (late, soon, inline, kept)]
        assert catalogue.garbage.orphans(keys) == {inline.locator.key}

    def test_the_payloads_of_a_deleted_dataset_are_due_after_the_grace(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        keys = {}
        for grace_s, name in ((3600.0, "late"), (0.0, "soon")):
            catalogue = reopen(delete_grace_s=grace_s)
            dataset = create(catalogue, name)
            group = [stored_tensor(dataset, f"{number}") for number in range(3)]
            commit(catalogue, *group, stored_tensor(dataset, "inline", inline_payload=b"x"))
            keys[name] = {stored.locator.key for stored in group}
            catalogue.datasets.delete(name)
            # Nothing of it is garbage before its rows are gone.
            assert catalogue.garbage.orphans(keys[name]) == set()
            assert purge(catalogue) == 4
        assert set(catalogue.garbage.due(10)) == keys["soon"]
        assert catalogue.garbage.orphans(keys["late"] | keys["soon"]) == set()

    def test_no_more_payloads_are_due_than_asked_for(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, f"{number}") for number in range(5)))
        catalogue.tensors.delete("dataset", [f"{number}" for number in range(5)])
        assert len(catalogue.garbage.due(2)) == 2
        assert len(set(catalogue.garbage.due(100))) == 5

    @keeps(9)
    def test_a_payload_whose_tombstone_is_deleted_is_neither_due_nor_known(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        catalogue.tensors.delete("dataset", ["a", "b"])
        first, second = catalogue.garbage.due(10)
        catalogue.garbage.delete([first])
        catalogue.garbage.delete([first, "never was"])
        catalogue.garbage.delete([])
        assert reopen().garbage.due(10) == [second]
        assert reopen().garbage.orphans([first, second]) == {first}

    @keeps(12)
    def test_unknown_payloads_are_those_of_no_tensor_and_no_deletion(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        committed, deleted = commit(catalogue, stored_tensor(dataset, "a"), stored_tensor(dataset, "b"))
        catalogue.tensors.delete("dataset", ["b"])
        keys = [committed.locator.key, deleted.locator.key, "00/" + "0" * 32, "'; DROP TABLE tensor; --"]
        assert catalogue.garbage.orphans(keys) == set(keys[2:])
        assert catalogue.garbage.orphans([]) == set()

    def test_keys_of_tensors_and_of_deletions_are_known_from_their_rows(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        assert list(catalogue.garbage.known()) == []
        names = [f"{number}" for number in range(50)]
        tensors = commit(catalogue, *(stored_tensor(dataset, name) for name in names))
        catalogue.tensors.delete("dataset", names[::2])
        assert sorted(catalogue.garbage.known()) == sorted(tensor.locator.key.encode() for tensor in tensors)
        catalogue.garbage.require_intact()

    def test_payloads_in_their_grace_are_due_to_those_who_do_not_wait_for_it(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        tensors = commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        catalogue.tensors.delete("dataset", ["a", "b"])
        assert catalogue.garbage.due(10) == []
        assert set(catalogue.garbage.due(10, in_grace=True)) == {tensor.locator.key for tensor in tensors[:2]}
        assert len(catalogue.garbage.due(1, in_grace=True)) == 1

    def test_a_listing_is_claimed_once_in_its_time(self, catalogue: Catalogue, reopen: Reopen) -> None:
        assert not catalogue.garbage.claim_listing(3600.0)
        assert catalogue.garbage.claim_listing(0.0)
        assert not reopen().garbage.claim_listing(3600.0)

    @keeps(11)
    def test_a_listing_is_claimed_though_the_clock_was_set_back(
        self, catalogue: Catalogue, set_clock_back: Callable[[float], None]
    ) -> None:
        set_clock_back(1000.0)
        assert catalogue.garbage.claim_listing(3600.0)
        assert not catalogue.garbage.claim_listing(3600.0)

    def test_an_open_catalogue_is_present_and_takes_writes(self, catalogue: Catalogue) -> None:
        catalogue.check_present()
        catalogue.check_writable()

    @pytest.mark.parametrize("idle", [False, True])
    def test_maintenance_changes_nothing_that_can_be_seen(self, catalogue: Catalogue, *, idle: bool) -> None:
        tensors = commit(catalogue, stored_tensor(create(catalogue), "t", inline_payload=b"x"))
        catalogue.maintain(idle=idle)
        catalogue.maintain(idle=idle)
        assert catalogue.tensors.get("dataset", ["t"]) == tensors

    def test_a_catalogue_may_be_closed_twice(self, catalogue: Catalogue) -> None:
        catalogue.close()
        catalogue.close()
