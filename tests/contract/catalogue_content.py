"""What every catalogue promises of tensors with equal bytes, beside `CatalogueContract`."""

from __future__ import annotations

from dataclasses import replace

from support.engine import Reopen, commit, create, purge, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Catalogue, NotSharedError, StoredTensor
from tensorus_server.errors import AlreadyExistsError, InsertAbandonedError
from tensorus_server.model import Dataset, NewTensor, Outcome, Tensor

DIGEST = bytes(range(16))
SOURCE = b"0123456789abcdef"


def equal_to(dataset: Dataset, tensor_id: str, **fields: object) -> StoredTensor:
    """Return a tensor to commit; all of them have equal bytes, and each has a payload of its own."""
    new = fields.pop("new", None)
    stored = stored_tensor(dataset, tensor_id, source=SOURCE, if_generation_match=fields.pop("match", None))  # type: ignore[arg-type]
    if isinstance(new, NewTensor):
        stored = replace(stored, new=new)
    return replace(stored, content=DIGEST, **fields)  # type: ignore[arg-type]


def offered(catalogue: Catalogue, stored: StoredTensor) -> StoredTensor:
    """Return the tensor with the stored ones whose payloads it may share."""
    assert stored.content is not None
    return replace(stored, equals=tuple(catalogue.tensors.equal_tensors([stored.content]).get(stored.content, ())))


def insert(catalogue: Catalogue, stored: StoredTensor) -> Tensor:
    """Commit a tensor alone, as the engine does."""
    (tensor,) = commit(catalogue, offered(catalogue, stored))
    return tensor


class CatalogueContentContract:
    """Equal bytes are stored once. Fixtures as of `CatalogueContract`."""

    def test_an_equal_tensor_gets_the_payload_that_is_there(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset, other = create(catalogue), create(catalogue, "other")
        first = insert(catalogue, equal_to(dataset, "a"))
        catalogue = reopen(delete_grace_s=0.0)
        for name, ds in (("b", dataset), ("a", other)):
            again = insert(catalogue, equal_to(ds, name))
            assert again.locator == first.locator
            assert again.outcome is Outcome.INSERTED
            assert catalogue.tensors.get(ds.name, [name]) == [replace(again, outcome=None)]
        # It is garbage when the last of them is gone, whichever that is.
        catalogue.tensors.delete("dataset", ["a"])
        catalogue.datasets.delete("other")
        purge(catalogue)
        assert catalogue.garbage.due(10) == []
        assert insert(catalogue, equal_to(dataset, "c")).locator == first.locator
        catalogue.tensors.delete("dataset", ["b", "c"])
        assert catalogue.garbage.due(10) == [first.locator.key]
        # Then nothing lists it any more: it may be swept at any moment.
        assert catalogue.tensors.equal_tensors([DIGEST]) == {}
        assert insert(catalogue, equal_to(dataset, "d")).locator != first.locator

    def test_tensors_of_a_group_share_the_payload_of_the_first(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        group = [equal_to(dataset, name) for name in "abc"]
        others = [
            stored_tensor(dataset, "x", source=SOURCE),
            replace(equal_to(dataset, "y"), content=b"other digest 123"),
        ]
        tensors = commit(catalogue, *group[:2], *others, group[2])
        keys = [tensor.locator.key for tensor in tensors]
        assert [keys.index(key) for key in keys] == [0, 0, 2, 3, 0]
        found = catalogue.tensors.equal_tensors([DIGEST, b"other digest 123", b"unknown digest12"])
        assert [equal.tensor.id for equal in found[DIGEST]] == ["c", "b", "a"]
        assert list(found) == [DIGEST, b"other digest 123"]

    def test_a_tensor_that_differs_in_anything_keeps_its_payload(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        first = insert(catalogue, equal_to(dataset, "a"))
        base = equal_to(dataset, "b")
        different = [
            replace(base, source_crc32c=base.source_crc32c + 1),
            replace(base, value_checksum=replace(base.value_checksum, value=b"another checksum")),
            replace(base, source_checksum=replace(base.source_checksum, value=b"another checksum")),
            replace(base, chunk_bytes=4096),
            replace(base, storage=replace(base.storage, stored_bytes=base.storage.stored_bytes + 1)),
            replace(base, new=replace(base.new, spec=replace(base.new.spec, shape=(1, *base.new.spec.shape)))),
        ]
        for number, stored in enumerate(different):
            tensor = insert(catalogue, replace(stored, new=replace(stored.new, id=f"t{number}")))
            assert tensor.locator.key == stored.locator.key != first.locator.key, number

    def test_a_replaced_tensor_gives_its_payload_to_nobody(self, catalogue: Catalogue, reopen: Reopen) -> None:
        """Who replaces a tensor by the same bytes may do so because its payload is damaged."""
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        first, second = insert(catalogue, equal_to(dataset, "a")), insert(catalogue, equal_to(dataset, "b"))
        mended = insert(catalogue, equal_to(dataset, "a", match=first.generation))
        assert mended.outcome is Outcome.REPLACED
        assert mended.locator.key != first.locator.key == second.locator.key
        assert catalogue.garbage.due(10) == []
        # The others are mended by the payload that is known to be another one.
        assert insert(catalogue, equal_to(dataset, "b", match=second.generation)).locator == mended.locator
        assert catalogue.garbage.due(10) == [first.locator.key]

    def test_a_replaced_tensor_is_not_mended_with_a_payload_that_needs_one_of_its_own(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        """A base of its payload may be what is damaged."""
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (base,) = commit(catalogue, stored_tensor(dataset, "base"))
        for common, may_share in (("the payload", False), ("a base", False), ("nothing", True)):
            first = insert(catalogue, equal_to(dataset, "a", bases=(base.locator.key,)))
            needs = {"the payload": (first.locator.key,), "a base": (base.locator.key,), "nothing": ()}[common]
            # Stored in another way, so that it does not share the payload.
            other = insert(catalogue, equal_to(dataset, "b", bases=needs, source_crc32c=9))
            assert other.locator != first.locator
            # Other values are no repair.
            (different,) = commit(catalogue, stored_tensor(dataset, "c"))
            replacing = equal_to(dataset, "c", match=different.generation, source_crc32c=9)
            assert insert(catalogue, replacing).locator == other.locator, common
            mended = insert(catalogue, equal_to(dataset, "a", match=first.generation, source_crc32c=9))
            assert (mended.locator == other.locator) is may_share, common
            catalogue.tensors.delete("dataset", ["a", "b", "c"])

    def test_a_tensor_that_is_replaced_in_the_same_group_can_be_shared(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        first = insert(catalogue, equal_to(dataset, "a"))
        other = stored_tensor(dataset, "a", if_generation_match=first.generation)
        _, shares = commit(catalogue, other, offered(catalogue, equal_to(dataset, "b")))
        # The row that it was to share with was deleted just before.
        assert shares.locator != first.locator
        assert catalogue.garbage.due(10) == [first.locator.key]
        tensors = commit(
            catalogue,
            offered(catalogue, equal_to(dataset, "c")),
            stored_tensor(dataset, "c", if_generation_match=shares.generation + 1),
            offered(catalogue, equal_to(dataset, "d")),
        )
        assert tensors[2].locator == tensors[0].locator
        assert tensors[2].locator.key not in catalogue.garbage.due(10)

    def test_what_was_found_may_be_gone_when_it_is_committed(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        first = insert(catalogue, equal_to(dataset, "a"))
        late = offered(catalogue, equal_to(dataset, "b"))
        catalogue.tensors.delete("dataset", ["a"])
        (tensor,) = commit(catalogue, late)
        assert tensor.locator.key == late.locator.key
        assert catalogue.garbage.due(10) == [first.locator.key]

    def test_a_tensor_without_a_payload_is_committed_only_if_it_can_share_one(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        first = insert(catalogue, equal_to(dataset, "a"))

        def known(tensor_id: str, **fields: object) -> StoredTensor:
            return replace(offered(catalogue, equal_to(dataset, tensor_id, **fields)), has_payload=False)

        assert insert(catalogue, known("b")).locator == first.locator
        other = stored_tensor(dataset, "other")
        commit(catalogue, other)
        outcomes = catalogue.tensors.commit(
            [
                known("c"),
                known("b"),
                known("other"),
                known("a", match=first.generation),
                known("d"),
            ]
        )
        assert [type(found) for found in catalogue.tensors.commit([replace(known("e"), equals=())])] == [NotSharedError]
        assert isinstance(outcomes[0], Tensor)
        assert isinstance(outcomes[1], Tensor)
        assert outcomes[1].outcome is Outcome.ALREADY_STORED
        assert [type(outcome) for outcome in outcomes[2:]] == [
            AlreadyExistsError,
            NotSharedError,
            Tensor,
        ]
        late = known("e")
        catalogue.tensors.delete("dataset", ["a", "b", "c", "d"])
        assert [type(outcome) for outcome in catalogue.tensors.commit([late])] == [NotSharedError]
        assert [type(outcome) for outcome in catalogue.tensors.commit([late, late])] == [NotSharedError] * 2

    def test_equal_tensors_come_without_their_metadata_the_latest_first(self, catalogue: Catalogue) -> None:
        """So many metadata as a request may find would take gigabytes."""
        dataset = create(catalogue)
        first = equal_to(dataset, "a")
        tensors = [
            insert(catalogue, replace(first, new=replace(first.new, id=name, metadata={"n": [1, 2]}))) for name in "abc"
        ]
        (found,) = catalogue.tensors.equal_tensors([DIGEST]).values()
        assert [equal.tensor for equal in found] == [
            replace(tensor, metadata={}, outcome=None) for tensor in reversed(tensors)
        ]

    def test_a_group_that_is_undone_lists_nothing(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (taken,) = commit(catalogue, stored_tensor(dataset, "taken"))
        group = [equal_to(dataset, "a"), equal_to(dataset, "b"), stored_tensor(dataset, "taken")]
        outcomes = catalogue.tensors.commit(group, together=True)
        assert [type(outcome) for outcome in outcomes] == [InsertAbandonedError] * 2 + [AlreadyExistsError]
        assert catalogue.tensors.equal_tensors([DIGEST]) == {}
        assert catalogue.tensors.get("dataset", ["a", "taken"]) == [None, replace(taken, outcome=None)]

    def test_a_policy_of_its_own_does_not_part_equal_payloads(self, catalogue: Catalogue) -> None:
        """The digest tells policies apart; here it is the same, as for a tensor and the dataset with that policy."""
        dataset = create(catalogue)
        first = insert(catalogue, equal_to(dataset, "a"))
        stored = equal_to(dataset, "b")
        own = replace(stored, new=replace(stored.new, policy=StoragePolicy("lossless"), metadata={"own": 1}))
        tensor = insert(catalogue, own)
        assert (tensor.locator, tensor.metadata, tensor.policy) == (first.locator, {"own": 1}, {"preset": "lossless"})
