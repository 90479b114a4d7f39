"""What every catalogue promises of packs, beside `CatalogueContract`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from support.engine import Reopen, commit, create, stored_tensor
from support.packs import begin_pack, packed
from tensorus_server.catalogue.abc import Catalogue, PackContent, StoredTensor, WriterLostError, packed_key
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import StoreBusyError, StoreUnavailableError
from tensorus_server.model import Dataset, Tensor
from tensorus_server.payload_keys import PACK_PREFIX


def sharing(dataset: Dataset, tensor: Tensor, tensor_id: str) -> StoredTensor:
    """Return a tensor that shares the payload of another one."""
    stored = stored_tensor(dataset, tensor_id, source=tensor.source_checksum.value)
    return replace(stored, locator=tensor.locator, shares_payload=True)


def commit_packed(catalogue: Catalogue, dataset: Dataset, *ids: str, **fields: Any) -> tuple[str, list[Tensor]]:
    """Commit tensors whose payloads of 100 bytes each fill one pack, and return its name and them."""
    keys = packed(new_payload_key(), len(ids))
    pack = packed_key(keys[0]).pack
    begin_pack(catalogue, pack)
    new = [stored_tensor(dataset, name, key=key, **fields) for name, key in zip(ids, keys, strict=True)]
    return pack, commit(catalogue, *new)


def claimed(catalogue: Catalogue) -> dict[str, PackContent]:
    """Return the packs that are due, by name."""
    return {content.pack: content for content in catalogue.packs.claim(100)}


def copies_of(keys: Sequence[str], catalogue: Catalogue) -> tuple[str, list[tuple[str, str]]]:
    """Return a new pack, which is begun, and the keys of payloads with those of their copies in it."""
    pack = new_payload_key()
    begin_pack(catalogue, pack)
    names = [packed_key(key).payload_key for key in keys]
    return pack, list(zip(keys, packed(pack, len(keys), names), strict=True))


class CataloguePacksContract:
    """Packs are retired when nothing needs them, and payloads move with all their tensors. Fixtures: `CatalogueContract`."""

    def test_a_pack_is_known_with_its_payloads_after_the_commit(self, catalogue: Catalogue, reopen: Reopen) -> None:
        pack, tensors = commit_packed(catalogue, create(catalogue), "a", "b")
        catalogue = reopen()
        found = claimed(catalogue)[pack]
        assert [payload.key for payload in found.payloads] == sorted(tensor.locator.key for tensor in tensors)
        assert [(payload.rows, payload.is_named) for payload in found.payloads] == [(1, False)] * 2
        assert found.needed_bytes == found.object_bytes == 200

    def test_a_pack_is_claimed_once_until_it_loses_a_payload(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        pack, (first, second) = commit_packed(catalogue, create(catalogue), "a", "b")
        other, _ = commit_packed(catalogue, catalogue.datasets.get("dataset"), "c")
        assert set(claimed(catalogue)) == {pack, other}
        assert claimed(catalogue) == {}
        catalogue.tensors.delete("dataset", ["a"])
        assert catalogue.garbage.due(10) == [first.locator.key]
        catalogue.garbage.delete([first.locator.key])
        (found,) = claimed(catalogue).values()
        assert (found.pack, [payload.key for payload in found.payloads]) == (pack, [second.locator.key])
        assert claimed(catalogue) == {}

    def test_claims_are_bounded_and_can_be_given_back(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        packs = [commit_packed(catalogue, dataset, name)[0] for name in "abc"]
        first = [content.pack for content in catalogue.packs.claim(2)]
        assert first == sorted(packs)[:2]
        catalogue.packs.look_again(first[:1])
        catalogue.packs.look_again(first[:1])
        assert set(claimed(catalogue)) == {first[0], sorted(packs)[2]}

    def test_packs_that_could_not_be_given_back_are_due_again(
        self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away() -> None:
            raise StoreUnavailableError("the database is away")

        pack, _ = commit_packed(catalogue, create(catalogue), "a")
        assert set(claimed(catalogue)) == {pack}
        with monkeypatch.context() as patched:
            patched.setattr(catalogue._database, "write", away)
            with pytest.raises(StoreUnavailableError, match="away"):
                catalogue.packs.look_again([pack])
        assert set(claimed(catalogue)) == {pack}
        assert claimed(catalogue) == {}

    def test_a_payload_in_its_grace_period_keeps_its_pack_and_is_not_needed(self, catalogue: Catalogue) -> None:
        pack, (first, _) = commit_packed(catalogue, create(catalogue), "a", "b")
        catalogue.tensors.delete("dataset", ["a", "b"])
        found = claimed(catalogue)[pack]
        assert len(found.payloads) == 2
        assert found.needed == ()
        assert found.needed_bytes == 0
        assert catalogue.packs.retire([pack]) == []
        catalogue.garbage.delete([first.locator.key])
        assert catalogue.packs.retire([pack]) == []

    def test_a_pack_that_nothing_needs_is_retired_once_and_due_after_the_grace(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        pack, tensors = commit_packed(catalogue, create(catalogue), "a", "b")
        catalogue.tensors.delete("dataset", ["a", "b"])
        catalogue.garbage.delete([tensor.locator.key for tensor in tensors])
        assert claimed(catalogue)[pack].payloads == ()
        assert catalogue.packs.retire([pack, new_payload_key()]) == [pack]
        assert catalogue.packs.retire([pack]) == []
        assert claimed(catalogue) == {}
        assert catalogue.garbage.due(10) == []
        assert catalogue.garbage.due(10, in_grace=True) == [PACK_PREFIX + pack]
        # With a grace of an hour; another opening does not change when it is over.
        catalogue = reopen(delete_grace_s=0.0)
        assert catalogue.garbage.due(10) == []
        catalogue.garbage.delete([PACK_PREFIX + pack])
        assert catalogue.garbage.due(10, in_grace=True) == []
        assert catalogue.packs.totals().packs == 0

    def test_moved_payloads_have_the_same_tensors(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        old, tensors = commit_packed(catalogue, dataset, "a", "b", metadata={"x": -0.0})
        new, moves = copies_of([tensors[0].locator.key], catalogue)
        assert catalogue.packs.repoint(moves) == [moves[0][1]]
        catalogue = reopen()
        moved, other = catalogue.tensors.get("dataset", ["a", "b"])
        assert moved == replace(tensors[0], locator=replace(tensors[0].locator, key=moves[0][1]))
        assert other == tensors[1]
        found = claimed(catalogue)
        assert [payload.key for payload in found[new].payloads] == [moves[0][1]]
        assert [payload.key for payload in found[old].payloads] == [tensors[1].locator.key]

    def test_a_pack_whose_payloads_moved_is_due_and_can_be_retired(self, catalogue: Catalogue) -> None:
        old, tensors = commit_packed(catalogue, create(catalogue), "a", "b")
        claimed(catalogue)
        new, moves = copies_of([tensor.locator.key for tensor in tensors], catalogue)
        assert len(catalogue.packs.repoint(moves)) == 2
        assert set(claimed(catalogue)) == {old, new}
        assert catalogue.packs.retire([old, new]) == [old]

    def test_all_tensors_that_share_a_payload_move_together(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        catalogue.snapshots.create("dataset", "before")
        _, (first,) = commit_packed(catalogue, dataset, "a")
        commit(catalogue, *(sharing(dataset, first, name) for name in ("b", "c")))
        at = catalogue.snapshots.create("dataset", "with").generation
        catalogue.tensors.delete("dataset", ["b"])
        _, moves = copies_of([first.locator.key], catalogue)
        assert claimed(catalogue)[packed_key(first.locator.key).pack].payloads[0].rows == 3
        catalogue.packs.repoint(moves)
        rows = [*catalogue.tensors.get("dataset", ["a", "c"]), *catalogue.tensors.get("dataset", ["b"], at=at)]
        assert [isinstance(row, Tensor) and row.locator.key for row in rows] == [moves[0][1]] * 3

    def test_a_payload_that_others_name_stays(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        pack, (first, second) = commit_packed(catalogue, dataset, "a", "b")
        commit(catalogue, replace(stored_tensor(dataset, "edited"), references=(first.locator.key,)))
        commit(catalogue, replace(stored_tensor(dataset, "delta"), bases=(second.locator.key,)))
        assert [payload.is_named for payload in claimed(catalogue)[pack].payloads] == [True, True]
        _, moves = copies_of([first.locator.key, second.locator.key], catalogue)
        assert catalogue.packs.repoint(moves) == []
        assert catalogue.tensors.get("dataset", ["a", "b"]) == [first, second]
        # Also without tensors of their own.
        catalogue.tensors.delete("dataset", ["a", "b"])
        assert catalogue.packs.retire([pack]) == []

    def test_a_payload_with_a_base_moves_and_still_keeps_its_base(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (base,) = commit(catalogue, stored_tensor(dataset, "base"))
        keys = packed(new_payload_key(), 1)
        begin_pack(catalogue, packed_key(keys[0]).pack)
        commit(catalogue, replace(stored_tensor(dataset, "delta", key=keys[0]), bases=(base.locator.key,)))
        _, moves = copies_of(keys, catalogue)
        assert catalogue.packs.repoint(moves) == [moves[0][1]]
        catalogue.tensors.delete("dataset", ["base"])
        assert catalogue.garbage.due(10) == []
        catalogue.tensors.delete("dataset", ["delta"])
        assert catalogue.garbage.due(10) == [moves[0][1]]
        catalogue.garbage.delete([moves[0][1]])
        assert catalogue.garbage.due(10) == [base.locator.key]

    def test_a_payload_whose_tensor_is_gone_does_not_move(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        old, (first, second) = commit_packed(catalogue, dataset, "a", "b")
        new, moves = copies_of([first.locator.key, second.locator.key], catalogue)
        catalogue.tensors.delete("dataset", ["a"])
        assert catalogue.packs.repoint(moves) == [moves[1][1]]
        assert catalogue.tensors.get("dataset", ["a"]) == [None]
        assert [payload.key for payload in claimed(catalogue)[new].payloads] == [moves[1][1]]
        # A reader of the deleted tensor may need it.
        assert catalogue.packs.retire([old]) == []

    def test_a_second_move_finds_nothing_to_move(self, catalogue: Catalogue) -> None:
        _, (first,) = commit_packed(catalogue, create(catalogue), "a")
        _, moves = copies_of([first.locator.key], catalogue)
        late, again = copies_of([first.locator.key], catalogue)
        assert catalogue.packs.repoint(moves) == [moves[0][1]]
        assert catalogue.packs.repoint(again) == []
        assert claimed(catalogue)[late].payloads == ()
        assert catalogue.packs.retire([late]) == [late]
        assert catalogue.tensors.get("dataset", ["a"])[0] is not None

    def test_a_pack_that_was_not_begun_is_refused_and_nothing_moves(self, catalogue: Catalogue) -> None:
        _, (first, second) = commit_packed(catalogue, create(catalogue), "a", "b")
        _, begun = copies_of([first.locator.key], catalogue)
        stale = [(second.locator.key, packed(new_payload_key(), 1, [packed_key(second.locator.key).payload_key])[0])]
        with pytest.raises(WriterLostError, match=packed_key(stale[0][1]).pack):
            catalogue.packs.repoint([*begun, *stale])
        assert catalogue.tensors.get("dataset", ["a", "b"]) == [first, second]

    def test_a_pack_of_a_process_that_was_declared_dead_is_refused(self, catalogue: Catalogue, reopen: Reopen) -> None:
        _, (first,) = commit_packed(catalogue, create(catalogue), "a")
        new, moves = copies_of([first.locator.key], catalogue)
        catalogue.members.leave()
        catalogue.members.join("again", 3600.0)
        with pytest.raises(WriterLostError, match=new):
            catalogue.packs.repoint(moves)
        assert reopen().garbage.due(10, in_grace=True) == [PACK_PREFIX + new]

    def test_an_edit_of_a_payload_whose_pack_was_retired_meanwhile_is_repeated(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        old, (first,) = commit_packed(catalogue, dataset, "a")
        edit = stored_tensor(dataset, "a", if_generation_match=first.generation)
        edit = replace(edit, references=(first.locator.key,), changes=first.generation)
        _, moves = copies_of([first.locator.key], catalogue)
        catalogue.packs.repoint(moves)
        assert catalogue.packs.retire([old]) == [old]
        (outcome,) = catalogue.tensors.commit([edit])
        assert isinstance(outcome, StoreBusyError)
        assert old in str(outcome)
        commit(catalogue, replace(edit, references=(moves[0][1],)))

    def test_an_edit_that_comes_before_its_pack_is_retired_keeps_the_pack(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        old, (first,) = commit_packed(catalogue, dataset, "a")
        edit = stored_tensor(dataset, "a", if_generation_match=first.generation)
        edit = replace(edit, references=(first.locator.key,), changes=first.generation)
        _, moves = copies_of([first.locator.key], catalogue)
        catalogue.packs.repoint(moves)
        commit(catalogue, edit)
        assert catalogue.packs.retire([old]) == []
        assert [payload.is_named for payload in claimed(catalogue)[old].payloads] == [True]

    def test_no_pack_is_doubtful_that_was_claimed_just_before(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit_packed(catalogue, dataset, "a")
        commit_packed(catalogue, dataset, "b", "c")
        catalogue.tensors.delete("dataset", ["c"])
        commit(catalogue, stored_tensor(dataset, "small", inline_payload=b"x"))
        assert catalogue.packs.doubtful(catalogue.packs.claim(10)) == set()
        assert catalogue.packs.doubtful([]) == set()

    def test_a_tensor_cannot_share_a_payload_that_has_moved(self, catalogue: Catalogue) -> None:
        dataset, digest = create(catalogue), b"c" * 16
        keys = packed(new_payload_key(), 1)
        begin_pack(catalogue, packed_key(keys[0]).pack)
        commit(catalogue, replace(stored_tensor(dataset, "a", key=keys[0], source=b"s" * 16), content=digest))
        _, moves = copies_of(keys, catalogue)
        new = replace(stored_tensor(dataset, "b", source=b"s" * 16), content=digest)
        late = replace(new, equals=tuple(catalogue.tensors.equal_tensors([digest])[digest]))
        catalogue.packs.repoint(moves)
        (second,) = commit(catalogue, late)
        assert second.locator.key == late.locator.key
        # One that looks again shares the payload where it is now.
        found = catalogue.tensors.equal_tensors([digest])[digest]
        assert {equal.tensor.locator.key for equal in found} == {late.locator.key, moves[0][1]}

    def test_totals_add_up_each_payload_once(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        _, (first, *_) = commit_packed(catalogue, dataset, "a", "b", "c")
        commit_packed(catalogue, dataset, "d")
        commit(catalogue, sharing(dataset, first, "e"), stored_tensor(dataset, "other"))
        totals = catalogue.packs.totals()
        assert (totals.packs, totals.object_bytes, totals.needed_bytes) == (2, 400, 400)
        catalogue.tensors.delete("dataset", ["a", "b"])
        assert catalogue.packs.totals().needed_bytes == 300
        catalogue.tensors.delete("dataset", ["e"])
        assert catalogue.packs.totals().needed_bytes == 200

    def test_packs_that_were_found_are_added_once(self, catalogue: Catalogue) -> None:
        pack, _ = commit_packed(catalogue, create(catalogue), "a")
        found = new_payload_key()
        for _ in range(2):
            catalogue.packs.add({pack: 10**6, found: 777})
        contents = claimed(catalogue)
        assert {content.pack: content.object_bytes for content in contents.values()} == {pack: 100, found: 777}
        assert catalogue.packs.retire([pack, found]) == [found]

    def test_many_payloads_of_a_pack_are_told_from_those_of_others(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        names = [f"{number:03}" for number in range(150)]
        packs = [commit_packed(catalogue, dataset, *names[start : start + 50])[0] for start in (0, 50, 100)]
        assert {pack: len(content.payloads) for pack, content in claimed(catalogue).items()} == dict.fromkeys(packs, 50)
