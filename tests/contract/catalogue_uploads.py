"""What every catalogue promises of uploads, and of commits that complete, replace, or stand together; a class as the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, stored_tensor
from tensorus_codecs.dtypes import opaque_dtype
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.pipeline import EncodedChunk
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Catalogue, Mark, PageRequest, Upload
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InsertAbandonedError,
)
from tensorus_server.filter.tree import Exists, Key
from tensorus_server.model import Checksum, Dataset, NewTensor, Outcome, Tensor, TensorSpec

SOURCE = b"s" * 16
SPEC = TensorSpec(opaque_dtype(777, 24), (2**40, 3))
STATE: dict[str, Any] = {"source_crc32c": 2**32 - 1, "totals": {"error": [0.1, 5e-324, 1 / 3], "summary": None}}


def upload(dataset: Dataset, item: int = 0, *, request_id: str = "request", **fields: Any) -> Upload:
    """Return an upload of which two chunks are durable."""
    filled: dict[str, Any] = {
        "id": f"t{item}",
        "spec": SPEC,
        "policy": StoragePolicy(preset="fast", chunk_bytes=8192),
        "payload_key": new_payload_key(),
        "committed_bytes": 2**41,
        "stored_bytes": 2**40 + 1,
        "chunk_count": 2,
        "state": STATE,
    }
    return Upload(request_id, item, dataset.number, **(filled | fields))


def mark(marked: Upload, *entries: tuple[int, int]) -> Mark:
    """Return a mark of an upload, with these chunks and some details of them."""
    details = ChunkDetails()
    for stored_bytes, seeded_crc32c in entries:
        digest = seeded_crc32c.to_bytes(16, "big")
        details.append(EncodedChunk((), stored_bytes, 0, Encoding(), stored_bytes, None, None, None, ""), digest)
    return Mark(marked, ChunkIndex.of(entries), details)


def chunks(catalogue: Catalogue, of: Upload) -> list[tuple[int, int]]:
    """Return the chunks of an upload, whose details must be those that `mark` gave them."""
    index, details = catalogue.uploads.chunks(of)
    assert details.packed() == mark(of, *index).new_details.packed()
    return list(index)


def save(catalogue: Catalogue, *uploads: Upload) -> None:
    """Save the first mark of each."""
    catalogue.uploads.save([mark(each, *((number, number) for number in range(each.chunk_count))) for each in uploads])


def ids_of(catalogue: Catalogue) -> list[str]:
    return [tensor.id for tensor in catalogue.tensors.page("dataset", PageRequest()).tensors]


class CatalogueUploadsContract:
    """What every catalogue promises. A subclass supplies the fixtures `catalogue` and `reopen`.

    `reopen(upload_expiry_s=3600.0)` closes the catalogue and opens the same store again.
    """

    @keeps(1)
    def test_an_upload_comes_back_as_it_was_saved(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        chain = Encoding.from_json([{"id": "int8_block", "configuration": {"block_size": 32}}, {"id": "gzip"}])
        saved = [
            upload(dataset, 0, id="'; DROP TABLE upload; --"),
            upload(dataset, 2**32 - 1, policy=StoragePolicy(encoding=chain), state={}),
            upload(dataset, 1, announced=NewTensor("t1", SPEC, {})),
            upload(
                dataset,
                2,
                announced=NewTensor(
                    "t2",
                    SPEC,
                    {"a": [1, 1.0, True, None, "x"]},
                    StoragePolicy(encoding=chain),
                    Checksum("xxh3_128", b"\0" * 16),
                    if_generation_match=0,
                    replace=True,
                ),
            ),
        ]
        saved.sort(key=lambda each: each.item)
        save(catalogue, *saved)
        assert catalogue.uploads.find("request") == saved
        assert reopen().uploads.find("request") == saved

    def test_uploads_are_found_by_their_request_in_order_of_items(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        save(catalogue, *(upload(dataset, item) for item in (7, 0, 3)), upload(dataset, 1, request_id="other"))
        assert [found.item for found in catalogue.uploads.find("request")] == [0, 3, 7]
        assert [found.item for found in catalogue.uploads.find("other")] == [1]
        assert catalogue.uploads.find("Request") == []

    def test_a_later_mark_replaces_the_one_before_and_adds_its_chunks(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        first = upload(create(catalogue), state={"first": 1})
        catalogue.uploads.save([mark(first, (10, 2**32 - 1), (2**21, 0))])
        second = replace(first, committed_bytes=2**41 + 9, stored_bytes=2**40 + 5, chunk_count=3, state={"second": 2})
        catalogue.uploads.save([mark(second, (30, 3))])
        third = replace(second, chunk_count=5)
        catalogue.uploads.save([mark(third, (40, 4), (50, 5))])
        catalogue = reopen()
        assert catalogue.uploads.find("request") == [third]
        assert chunks(catalogue, third) == [(10, 2**32 - 1), (2**21, 0), (30, 3), (40, 4), (50, 5)]

    def test_chunks_are_those_of_the_upload_alone(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        uploads = [upload(dataset, 0), upload(dataset, 1), upload(dataset, 0, request_id="other")]
        catalogue.uploads.save([mark(each, (number, 0), (number, 1)) for number, each in enumerate(uploads)])
        assert [chunks(catalogue, each) for each in uploads] == [[(n, 0), (n, 1)] for n in range(3)]

    def test_saving_no_marks_changes_nothing(self, catalogue: Catalogue) -> None:
        save(catalogue, kept := upload(create(catalogue)))
        catalogue.uploads.save([])
        assert catalogue.uploads.find("request") == [kept]

    @keeps(9)
    def test_a_dropped_upload_is_forgotten_with_its_chunks(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        dropped, kept = upload(dataset, 0), upload(dataset, 1)
        save(catalogue, dropped, kept)
        assert catalogue.uploads.drop("request", 0) == [dropped.payload_key]
        assert catalogue.uploads.drop("request", 0) == []
        catalogue = reopen()
        assert catalogue.uploads.find("request") == [kept]
        assert chunks(catalogue, dropped) == []
        assert len(chunks(catalogue, kept)) == 2
        # Begun again, it has nothing of the one before.
        again = upload(dataset, 0, chunk_count=1)
        save(catalogue, again)
        assert chunks(catalogue, again) == [(0, 0)]

    def test_a_request_is_dropped_with_all_its_items_and_no_others(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        dropped = [upload(dataset, item) for item in range(3)]
        kept = upload(dataset, 0, request_id="other")
        save(catalogue, *dropped, kept)
        assert sorted(catalogue.uploads.drop("request")) == sorted(each.payload_key for each in dropped)
        assert catalogue.uploads.find("request") == []
        assert catalogue.uploads.find("other") == [kept]
        assert catalogue.uploads.drop("request") == []

    @keeps(11)
    def test_uploads_expire_after_their_last_mark_and_not_before(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        late, marked_again = upload(dataset, 0), upload(dataset, 1)
        save(catalogue, late)
        catalogue = reopen(upload_expiry_s=0.0)
        soon = [marked_again, *(upload(dataset, item) for item in range(2, 6))]
        save(catalogue, *soon)
        assert sorted(found.item for found in catalogue.uploads.expired(100)) == [1, 2, 3, 4, 5]
        assert len(catalogue.uploads.expired(2)) == 2
        catalogue = reopen()
        catalogue.uploads.save([mark(replace(marked_again, chunk_count=3), (9, 9))])
        assert sorted(found.item for found in catalogue.uploads.expired(100)) == [2, 3, 4, 5]
        assert catalogue.uploads.expired(100)[0] in soon

    def test_unknown_payloads_are_those_of_no_upload(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        known, dropped, complete = (upload(dataset, item) for item in range(3))
        save(catalogue, known, dropped, complete)
        catalogue.uploads.drop("request", 1)
        commit(catalogue, stored_tensor(dataset, "t2", upload=("request", 2)))
        names = [known.payload_key, dropped.payload_key, complete.payload_key, "'; DROP TABLE upload; --"]
        keys = [f"uploads/{name}" for name in names]
        assert catalogue.garbage.orphans(keys) == {keys[1], keys[3]}
        found = set(catalogue.garbage.known())
        assert {keys[0].encode(), keys[2].encode()} <= found
        assert keys[1].encode() not in found

    # ---- Completion -----------------------------------------------------------------------------------------------------

    def test_a_commit_completes_its_upload_and_no_other(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        completed, other = upload(dataset, 0), upload(dataset, 1)
        save(catalogue, completed, other)
        tensor, plain = commit(
            catalogue, stored_tensor(dataset, "t0", upload=("request", 0)), stored_tensor(dataset, "plain")
        )
        catalogue = reopen()
        found = catalogue.uploads.find("request")
        assert [each.generation for each in found] == [tensor.generation, None]
        assert [each.outcome for each in found] == [Outcome.INSERTED, None]
        assert (found[0].id, found[0].spec) == (completed.id, completed.spec)
        assert chunks(catalogue, completed) == []
        assert len(chunks(catalogue, other)) == 2
        # Its payload is the tensor's now.
        assert catalogue.uploads.drop("request") == [other.payload_key]
        assert catalogue.tensors.get("dataset", ["t0", "plain"]) == [tensor, plain]

    def test_an_upload_of_a_tensor_that_is_there_already_is_complete(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (there,) = commit(catalogue, stored_tensor(dataset, "t", source=SOURCE))
        save(catalogue, upload(dataset))
        assert commit(catalogue, stored_tensor(dataset, "t", source=SOURCE, upload=("request", 0))) == [there]
        (found,) = catalogue.uploads.find("request")
        assert (found.generation, found.outcome) == (there.generation, Outcome.ALREADY_STORED)

    def test_an_upload_whose_commit_is_refused_is_not_complete(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "t"))
        save(catalogue, kept := upload(dataset))
        (outcome,) = catalogue.tensors.commit([stored_tensor(dataset, "t", upload=("request", 0))])
        assert isinstance(outcome, AlreadyExistsError)
        assert catalogue.uploads.find("request") == [kept]

    def test_a_complete_upload_may_begin_again(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        save(catalogue, upload(dataset))
        commit(catalogue, stored_tensor(dataset, "t0", upload=("request", 0)))
        again = upload(dataset)
        save(catalogue, again)
        assert catalogue.uploads.find("request") == [again]
        assert len(chunks(catalogue, again)) == 2

    # ---- Together -------------------------------------------------------------------------------------------------------

    def test_a_group_that_stands_together_is_committed_as_a_whole(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        (there,) = commit(catalogue, stored_tensor(dataset, "there", source=SOURCE))
        save(catalogue, upload(dataset))
        outcomes = catalogue.tensors.commit(
            [
                stored_tensor(dataset, "new", upload=("request", 0)),
                stored_tensor(dataset, "inline", inline_payload=b"x"),
                stored_tensor(dataset, "there", source=SOURCE),
            ],
            together=True,
        )
        assert [outcome.id for outcome in outcomes if isinstance(outcome, Tensor)] == ["new", "inline", "there"]
        assert outcomes[2] == there
        catalogue = reopen()
        assert ids_of(catalogue) == ["there", "new", "inline"]
        assert catalogue.uploads.find("request")[0].generation is not None

    @keeps(2)
    @pytest.mark.parametrize("position", [0, 1, 3])
    def test_where_one_cannot_be_committed_nothing_of_the_group_is(
        self, catalogue: Catalogue, reopen: Reopen, position: int
    ) -> None:
        dataset = create(catalogue)
        there, replaced = commit(catalogue, stored_tensor(dataset, "there"), stored_tensor(dataset, "replaced"))
        save(catalogue, kept := upload(dataset))
        group = [
            stored_tensor(dataset, "new", metadata={"a": 1}, upload=("request", 0)),
            stored_tensor(dataset, "inline", inline_payload=b"x"),
            stored_tensor(dataset, "replaced", if_generation_match=replaced.generation),
        ]
        group.insert(position, stored_tensor(dataset, "there"))
        outcomes = catalogue.tensors.commit(group, together=True)
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, AlreadyExistsError if number == position else InsertAbandonedError)
            assert f"[dataset=dataset, tensor={group[number].new.id}]" in str(outcome)
        catalogue = reopen()
        assert catalogue.tensors.page("dataset", PageRequest()).tensors == [there, replaced]
        assert catalogue.tensors.page("dataset", PageRequest(Exists(Key("a")))).tensors == []
        assert catalogue.uploads.find("request") == [kept]
        keys = {stored.locator.key for stored in group}
        assert catalogue.garbage.orphans(keys | {replaced.locator.key}) == keys

    def test_a_group_that_stands_together_fails_with_its_dataset(self, catalogue: Catalogue) -> None:
        dataset, deleted = create(catalogue), create(catalogue, "deleted")
        catalogue.datasets.delete("deleted")
        outcomes = catalogue.tensors.commit([stored_tensor(dataset, "a"), stored_tensor(deleted, "b")], together=True)
        assert [type(outcome) for outcome in outcomes] == [InsertAbandonedError, DatasetNotFoundError]
        assert ids_of(catalogue) == []

    def test_an_empty_group_stands_together(self, catalogue: Catalogue) -> None:
        assert catalogue.tensors.commit([], together=True) == []

    # ---- Replacement ----------------------------------------------------------------------------------------------------

    def test_a_replacement_takes_the_place_of_its_generation(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (old,) = commit(catalogue, stored_tensor(dataset, "t", metadata={"old": 1}))
        new = stored_tensor(dataset, "t", shape=(2, 2), metadata={"new": 1}, if_generation_match=old.generation)
        (found,) = commit(catalogue, new)
        assert found.generation > old.generation
        assert (found.spec.shape, found.metadata, found.locator) == ((2, 2), {"new": 1}, new.locator)
        catalogue = reopen(delete_grace_s=0.0)
        assert catalogue.tensors.page("dataset", PageRequest()).tensors == [found]
        assert catalogue.tensors.page("dataset", PageRequest(Exists(Key("old")))).tensors == []
        assert catalogue.tensors.by_generation("dataset", [old.generation]) == [None]
        assert catalogue.garbage.due(10) == [old.locator.key]

    def test_a_repeated_replacement_is_the_one_that_was_done(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (old,) = commit(catalogue, stored_tensor(dataset, "t"))
        new = [stored_tensor(dataset, "t", source=SOURCE, if_generation_match=old.generation) for _ in range(2)]
        (found,) = commit(catalogue, new[0])
        assert commit(catalogue, new[1]) == [found]
        assert catalogue.tensors.get("dataset", ["t"]) == [found]

    @pytest.mark.parametrize("change", [{}, {"source": SOURCE, "metadata": {"a": 2}}], ids=["values", "metadata"])
    def test_a_replacement_of_a_generation_that_is_gone_is_refused(
        self, catalogue: Catalogue, change: dict[str, Any]
    ) -> None:
        dataset = create(catalogue)
        (old,) = commit(catalogue, stored_tensor(dataset, "t"))
        (found,) = commit(
            catalogue,
            stored_tensor(dataset, "t", source=SOURCE, metadata={"a": 1}, if_generation_match=old.generation),
        )
        (outcome,) = catalogue.tensors.commit(
            [stored_tensor(dataset, "t", **change, if_generation_match=old.generation)]
        )
        assert isinstance(outcome, GenerationMismatchError)
        assert outcome.facts["generation"] == str(found.generation)
        assert catalogue.tensors.get("dataset", ["t"]) == [found]

    def test_what_is_not_there_cannot_be_replaced(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (outcome,) = catalogue.tensors.commit([stored_tensor(dataset, "t", if_generation_match=1)])
        assert isinstance(outcome, GenerationMismatchError)
        assert ids_of(catalogue) == []

    def test_a_tensor_of_which_only_a_crc_is_known_is_known_by_it(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        for resumed_first in (False, True):
            tensor_id = f"resumed first: {resumed_first}"
            digest, crc = (stored_tensor(dataset, tensor_id, source_crc32c=7) for _ in range(2))
            crc = replace(crc, source_checksum=Checksum("crc32c", (7).to_bytes(4, "big")))
            first, second = (crc, digest) if resumed_first else (digest, crc)
            (there,) = commit(catalogue, first)
            catalogue = reopen()
            assert commit(catalogue, second) == [there]
            (outcome,) = catalogue.tensors.commit([replace(second, source_crc32c=8)])
            assert isinstance(outcome, AlreadyExistsError)
