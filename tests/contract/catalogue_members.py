"""What every catalogue promises of members, their leases, what they have begun, and the fence at commits and marks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from contract.catalogue_uploads import mark, upload
from support.engine import create, stored_tensor
from tensorus_server.catalogue.abc import (
    Catalogue,
    LeaseLostError,
    MemberTable,
    NotBegunError,
    StoredTensor,
    WriterLostError,
)
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import SessionTakenOverError, StoreUnavailableError
from tensorus_server.limits import PUT_MARGIN_S, PUT_TIMEOUT_S
from tensorus_server.model import Dataset, Tensor
from tensorus_server.payload_keys import PackedKey, SegmentedKey

LEASE_S = 15.0

LATE_S = PUT_TIMEOUT_S + PUT_MARGIN_S + 0.001
"""After this time, no PUT of a dead member is under way."""


def segmented(dataset: Dataset, tensor_id: str, payload_key: str, generation: int = 1) -> StoredTensor:
    """Return a tensor whose payload this process has written in segments of its own."""
    return stored_tensor(dataset, tensor_id, key=str(SegmentedKey(generation, 0, 40, payload_key)))


def packed(dataset: Dataset, tensor_id: str, pack: str, offset: int = 0) -> StoredTensor:
    """Return a tensor whose payload is a part of a pack."""
    return stored_tensor(dataset, tensor_id, key=str(PackedKey(pack, offset, 40, new_payload_key())))


def outcome(catalogue: Catalogue, stored: StoredTensor) -> Tensor | Exception:
    """Commit one tensor."""
    (found,) = catalogue.tensors.commit([stored])
    return found


class CatalogueMembersContract:
    """What every catalogue promises. A subclass supplies these fixtures.

    `pair` is two catalogues on the same store, as two processes have them. `clock(seconds)` sets the clock of the catalogue
    forward.
    """

    @pytest.fixture
    def one(self, pair: tuple[Catalogue, Catalogue]) -> MemberTable:
        pair[0].members.join("one", LEASE_S)
        return pair[0].members

    @pytest.fixture
    def two(self, pair: tuple[Catalogue, Catalogue], one: MemberTable) -> MemberTable:
        assert pair[1].members.join("two", LEASE_S) != one.number
        return pair[1].members

    def test_who_is_no_member_gets_nothing(self, pair: tuple[Catalogue, Catalogue]) -> None:
        members = pair[0].members
        assert members.number is None
        calls: list[Callable[[], object]] = [
            members.renew,
            lambda: members.try_acquire("sweep"),
            lambda: members.ask("sweep"),
            lambda: members.take("sweep", 1),
            lambda: members.release(["sweep"]),
            lambda: members.begin(["0" * 32]),
            lambda: members.take_over("0" * 32),
            lambda: members.abandon(["0" * 32]),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError, match="this process is not a member of the store"):
                call()
        members.leave()

    def test_a_member_that_renews_lives_on(
        self, one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        ticket = one.try_acquire("sweep")
        for _ in range(5):
            clock(LEASE_S - 1)
            assert one.renew()
            two.reap()
        assert one.holder("sweep") == one.number
        assert two.try_acquire("sweep") is None
        assert one.newest(["sweep"]) == {"sweep": ticket}

    def test_a_member_that_does_not_renew_is_declared_dead_once_and_joins_under_another_number(
        self, one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        clock(LEASE_S - 1)
        assert two.renew()
        assert list(two.reap().members) == []
        clock(1)
        assert list(two.reap().members) == ["one"]
        assert list(two.reap().members) == []
        assert not one.renew()
        before = one.number
        assert one.join("one", LEASE_S) > max(before or 0, two.number or 0)
        assert one.renew()
        assert list(two.reap().members) == []

    def test_a_member_that_is_late_but_not_declared_dead_keeps_what_it_has(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, clock: Callable[[float], None]
    ) -> None:
        dataset, key = create(pair[0]), new_payload_key()
        one.begin([key])
        clock(10 * LEASE_S)
        assert one.renew()
        assert list(one.reap().members) == []
        assert isinstance(outcome(pair[0], segmented(dataset, "t", key)), Tensor)

    def test_numbers_are_not_used_again(self, one: MemberTable, two: MemberTable) -> None:
        numbers = [one.number, two.number]
        for _ in range(3):
            two.leave()
            numbers.append(two.join("two", LEASE_S))
        assert numbers == sorted(set(numbers), key=lambda number: number or 0)

    def test_one_member_has_a_lease(self, one: MemberTable, two: MemberTable) -> None:
        assert one.holder("edit/x") is None
        ticket = one.try_acquire("edit/x")
        assert ticket is not None
        assert one.try_acquire("edit/x") is None
        assert two.try_acquire("edit/x") is None
        assert two.try_acquire("edit/y") is not None
        assert (one.holder("edit/x"), two.holder("edit/y")) == (one.number, two.number)
        two.release(["edit/x"])
        assert one.holder("edit/x") == one.number
        one.release(["edit/x"])
        one.release(["edit/x"])
        assert two.holder("edit/x") is None
        assert (two.try_acquire("edit/x") or 0) > ticket
        one.release(["edit/x"])
        assert one.holder("edit/x") == two.number

    def test_many_leases_are_given_back_at_once(self, one: MemberTable, two: MemberTable) -> None:
        tickets = {f"insert/{number}": one.try_acquire(f"insert/{number}") or 0 for number in range(1203)}
        kept = tickets.pop("insert/7")
        one.release(tickets)
        assert one.newest(["insert/7", *tickets]) == {"insert/7": kept}

    def test_a_lease_of_a_member_that_expired_is_free_before_anybody_reaps(
        self, one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        ticket = one.try_acquire("sweep") or 0
        clock(LEASE_S - 1)
        assert two.renew()
        assert two.try_acquire("sweep") is None
        clock(1)
        assert two.holder("sweep") is None
        assert (two.try_acquire("sweep") or 0) > ticket
        # The one that was late does not take it back by renewing, or by giving it back.
        assert one.renew()
        one.release(["sweep"])
        assert one.holder("sweep") == two.number

    def test_who_leaves_gives_everything_back_at_once(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable
    ) -> None:
        dataset, (marked, unmarked) = create(pair[0]), (new_payload_key(), new_payload_key())
        one.try_acquire("sweep")
        one.try_acquire("insert/request")
        one.begin([marked, unmarked])
        assert pair[0].uploads.save([mark(upload(dataset, payload_key=marked))]) == [None]
        one.leave()
        one.leave()
        assert two.try_acquire("sweep") is not None
        assert two.take_over(marked) == 2
        with pytest.raises(NotBegunError):
            two.take_over(unmarked)

    def test_the_newest_of_those_who_ask_gets_the_lease(self, one: MemberTable, two: MemberTable) -> None:
        held = one.try_acquire("insert/r") or 0
        older = two.ask("insert/r")
        assert one.newest(["insert/r"]) == {"insert/r": older}
        assert not two.take("insert/r", older)
        newer = two.ask("insert/r")
        assert held < older < newer
        with pytest.raises(LeaseLostError):
            two.take("insert/r", older)
        assert two.holder("insert/r") == one.number
        one.release(["insert/r"])
        # It is not free to whoever comes first: it was asked for.
        assert one.try_acquire("insert/r") is None
        assert two.holder("insert/r") is None
        assert two.take("insert/r", newer)
        assert one.holder("insert/r") == two.number
        two.release(["insert/r"])
        assert one.newest(["insert/r"]) == {}

    def test_a_lease_that_a_dead_member_has_or_asked_for_is_free(
        self, one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        held = two.try_acquire("insert/r") or 0
        one.ask("insert/r")
        clock(LEASE_S - 1)
        assert two.renew()
        clock(1)
        assert two.newest(["insert/r"])["insert/r"] > held
        two.release(["insert/r"])
        assert two.try_acquire("insert/r") is not None
        ticket = two.ask("insert/x")
        assert two.take("insert/x", ticket)
        two.reap()
        assert set(two.newest(["insert/r", "insert/x"])) == {"insert/r", "insert/x"}

    def test_who_asks_no_more_leaves_nothing(self, one: MemberTable, two: MemberTable) -> None:
        one.try_acquire("insert/r")
        ticket = two.ask("insert/r")
        two.withdraw(ticket)
        two.withdraw(ticket)
        assert two.holder("insert/r") == one.number
        one.release(["insert/r"])
        assert one.newest(["insert/r"]) == {}
        one.try_acquire("insert/r")
        ticket = two.ask("insert/r")
        one.release(["insert/r"])
        two.withdraw(ticket)
        assert one.newest(["insert/r"]) == {}

    def test_a_lease_may_be_taken_unless_somebody_has_another_one(self, one: MemberTable, two: MemberTable) -> None:
        one.try_acquire("edit/gate")
        assert two.try_acquire("edit/x", unless="edit/gate") is None
        one.release(["edit/gate"])
        assert two.try_acquire("edit/x", unless="edit/gate") is not None
        assert one.try_acquire("edit/x", unless="edit/gate") is None

    def test_by_force_a_lease_is_taken_from_a_living_member(self, one: MemberTable, two: MemberTable) -> None:
        one.try_acquire("insert/r")
        ticket = two.ask("insert/r")
        assert not two.take("insert/r", ticket)
        assert two.take("insert/r", ticket, force=True)
        assert one.holder("insert/r") == two.number
        with pytest.raises(LeaseLostError):
            two.take("insert/r", ticket - 1, force=True)

    def test_a_payload_has_one_writer(
        self, one: MemberTable, two: MemberTable, clock: Callable[[float], None], pair: tuple[Catalogue, Catalogue]
    ) -> None:
        key = new_payload_key()
        with pytest.raises(NotBegunError):
            one.take_over(key)
        one.begin([key])
        one.begin([key])
        assert two.take_over(key) is None
        two.park(key)
        assert two.take_over(key) is None
        assert one.take_over(key) == 2
        one.park(key)
        assert two.take_over(key) == 3
        assert one.take_over(key) is None
        clock(LEASE_S)
        assert one.renew()
        assert one.take_over(key) == 4

    def test_others_are_the_living_members_but_this_one(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        assert one.others() == ["two"]
        assert two.others() == ["one"]
        clock(LEASE_S + 1)
        assert two.renew()
        assert one.others() == ["two"]
        assert two.others() == []

    def test_of_many_who_take_a_payload_over_one_succeeds(self, one: MemberTable, two: MemberTable) -> None:
        keys = [new_payload_key() for _ in range(20)]
        one.begin(keys)
        for key in keys:
            one.park(key)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda members: [members.take_over(key) for key in keys], (one, two)))
        assert all(sorted(pair, key=str) == [2, None] for pair in zip(*found, strict=True))

    def test_what_a_dead_member_had_begun_waits_or_becomes_garbage(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        dataset = create(pair[0])
        marked, unmarked, pack = new_payload_key(), new_payload_key(), new_payload_key()
        one.try_acquire("insert/request")
        one.begin([marked, unmarked, f"pack/{pack}"])
        assert pair[0].uploads.save([mark(upload(dataset, payload_key=marked))]) == [None]
        clock(LEASE_S - 1)
        two.renew()
        clock(1)
        reaped = two.reap()
        assert (list(reaped.members), reaped.abandoned) == (["one"], 2)
        assert pair[1].garbage.due(10) == []
        clock(LATE_S)
        two.renew()
        due = [str(SegmentedKey(0, 0, 0, unmarked)), f"pack/{pack}"]
        assert sorted(pair[1].garbage.due(10)) == sorted(due)
        assert two.take_over(marked) == 2
        pair[1].garbage.delete(due)
        assert pair[1].garbage.due(10) == []
        assert two.reap().abandoned == 0

    def test_a_parked_payload_whose_upload_was_dropped_becomes_garbage(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, clock: Callable[[float], None]
    ) -> None:
        dataset, key = create(pair[0]), new_payload_key()
        one.try_acquire("insert/request")
        one.begin([key])
        pair[0].uploads.save([mark(upload(dataset, payload_key=key))])
        one.park(key)
        assert one.reap().abandoned == 0
        pair[0].uploads.drop("request")
        assert one.reap().abandoned == 1
        clock(LATE_S)
        assert pair[0].garbage.due(10) == [str(SegmentedKey(0, 0, 0, key))]

    def test_more_than_a_transaction_holds_becomes_garbage(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        one.begin([new_payload_key() for _ in range(1203)])
        clock(LEASE_S)
        two.renew()
        assert two.reap().abandoned == 1203
        clock(LATE_S)
        assert len(pair[1].garbage.due(2000)) == 1203

    def test_who_writes_an_object_may_give_it_up_or_forget_it_and_nobody_else(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        given_up, forgotten = new_payload_key(), new_payload_key()
        one.begin([given_up, forgotten])
        assert two.abandon([given_up, forgotten]) == []
        two.forget([given_up, forgotten])
        assert one.take_over(forgotten) == 2
        assert one.abandon([given_up]) == [given_up]
        assert one.abandon([given_up]) == []
        one.forget([forgotten])
        one.forget([forgotten, given_up])
        clock(LATE_S)
        assert pair[0].garbage.due(10) == [str(SegmentedKey(0, 0, 0, given_up))]

    def test_a_tensor_is_committed_by_the_writer_of_its_payload(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable
    ) -> None:
        dataset, keys, pack = create(pair[0]), [new_payload_key() for _ in range(3)], new_payload_key()
        one.begin([*keys, f"pack/{pack}"])
        group = [
            segmented(dataset, "a", keys[0]),
            packed(dataset, "b", pack),
            packed(dataset, "c", pack, 40),
            stored_tensor(dataset, "inline", inline_payload=b"x"),
            stored_tensor(dataset, "file"),
        ]
        assert all(isinstance(found, Tensor) for found in pair[0].tensors.commit(group))
        # Their tensors tell of them now; the others are still begun.
        assert sorted(one.abandon([*keys, f"pack/{pack}"])) == sorted(keys[1:])
        # A pack that is known takes more.
        assert isinstance(outcome(pair[0], packed(dataset, "d", pack, 80)), Tensor)

    @pytest.mark.parametrize("alone", [True, False])
    def test_what_was_never_begun_is_not_committed(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, *, alone: bool
    ) -> None:
        dataset, key = create(pair[0]), new_payload_key()
        wrong = [segmented(dataset, "a", key), packed(dataset, "b", new_payload_key())]
        right = [] if alone else [stored_tensor(dataset, "right")]
        for stored in wrong:
            found = pair[0].tensors.commit([stored, *right])
            assert isinstance(found[0], WriterLostError)
            assert all(isinstance(each, Tensor) for each in found[1:])
        one.begin([key])
        assert isinstance(outcome(pair[0], wrong[0]), Tensor)

    def test_who_is_no_member_commits_nothing_to_an_object_store(
        self, pair: tuple[Catalogue, Catalogue], two: MemberTable
    ) -> None:
        dataset, (parked, begun), pack = create(pair[0]), (new_payload_key(), new_payload_key()), new_payload_key()
        pair[0].members.leave()
        two.begin([parked, begun])
        two.park(parked)
        group = [segmented(dataset, "a", parked), segmented(dataset, "b", begun), packed(dataset, "c", pack)]
        group += [stored_tensor(dataset, "file"), stored_tensor(dataset, "inline", inline_payload=b"x")]
        found = pair[0].tensors.commit(group)
        assert [isinstance(each, Tensor) for each in found] == [False, False, False, True, True]
        assert two.take_over(parked) == 2

    def test_a_payload_that_was_taken_over_is_committed_by_the_new_writer_alone(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable
    ) -> None:
        dataset, key = create(pair[0]), new_payload_key()
        one.begin([key])
        one.park(key)
        assert two.take_over(key) == 2
        lost = outcome(pair[0], segmented(dataset, "t", key))
        assert isinstance(lost, SessionTakenOverError)
        assert f"another writer goes on with payload {key}" in str(lost)
        # Nor does an older stream of the same process.
        assert isinstance(outcome(pair[1], segmented(dataset, "t", key)), SessionTakenOverError)
        assert isinstance(outcome(pair[1], segmented(dataset, "t", key, 2)), Tensor)
        with pytest.raises(NotBegunError):
            two.take_over(key)

    def test_all_or_nothing_is_nothing_if_one_payload_was_taken_over(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable
    ) -> None:
        dataset, keys = create(pair[0]), [new_payload_key(), new_payload_key()]
        one.begin(keys)
        one.park(keys[1])
        two.take_over(keys[1])
        group = [segmented(dataset, name, key) for name, key in zip("ab", keys, strict=True)]
        assert not any(isinstance(found, Tensor) for found in pair[0].tensors.commit(group, together=True))
        # What it has begun is still known as such.
        assert one.take_over(keys[0]) == 2

    def test_who_was_declared_dead_commits_and_marks_nothing_of_before(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable, clock: Callable[[float], None]
    ) -> None:
        dataset, keys, pack = create(pair[0]), [new_payload_key(), new_payload_key()], new_payload_key()
        one.try_acquire("insert/request")
        one.begin([*keys, f"pack/{pack}"])
        saved = mark(upload(dataset, payload_key=keys[0]))
        assert pair[0].uploads.save([saved]) == [None]
        clock(LEASE_S)
        two.renew()
        two.reap()
        group = [
            segmented(dataset, "a", keys[0]),
            segmented(dataset, "b", keys[1]),
            packed(dataset, "c", pack),
            replace(stored_tensor(dataset, "d", inline_payload=b"x"), session="request"),
        ]
        for _ in range(2):
            assert all(isinstance(found, WriterLostError) for found in pair[0].tensors.commit(group))
            (lost,) = pair[0].uploads.save([saved])
            assert isinstance(lost, WriterLostError)
            one.join("one", LEASE_S)
        assert two.take_over(keys[0]) == 2
        assert isinstance(outcome(pair[1], segmented(dataset, "a", keys[0], 2)), Tensor)

    def test_an_insert_that_was_taken_over_commits_and_marks_nothing_more(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable, two: MemberTable
    ) -> None:
        dataset, key = create(pair[0]), new_payload_key()
        one.try_acquire("insert/request")
        one.begin([key])
        saved = mark(upload(dataset, payload_key=key))
        small = [replace(stored_tensor(dataset, name, inline_payload=b"x"), session="request") for name in "ab"]
        assert pair[0].uploads.save([saved]) == [None]
        assert isinstance(outcome(pair[0], small[0]), Tensor)
        ticket = two.ask("insert/request")
        # Asking takes nothing: the older stream comes to an end.
        assert pair[0].uploads.save([mark(upload(dataset, 1))]) == [None]
        assert two.take_over(key) is None
        assert two.take("insert/request", ticket, force=True)
        assert isinstance(outcome(pair[0], small[1]), SessionTakenOverError)
        large = replace(segmented(dataset, "t", key), session="request")
        assert isinstance(outcome(pair[0], large), SessionTakenOverError)
        assert isinstance(outcome(pair[0], replace(large, session=None)), WriterLostError)
        others = mark(replace(upload(dataset, 2), request_id="other"))
        one.try_acquire("insert/other")
        lost = pair[0].uploads.save([mark(upload(dataset, 3)), others])
        assert [type(found) for found in lost] == [SessionTakenOverError, type(None)]
        assert [found.item for found in pair[1].uploads.find("request")] == [0, 1]
        # The new stream goes on where the mark is.
        assert two.take_over(key) == 2
        assert isinstance(outcome(pair[1], small[1]), Tensor)
        assert isinstance(outcome(pair[1], segmented(dataset, "t", key, 2)), Tensor)

    def test_a_repeated_commit_is_answered_though_its_session_is_gone(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable
    ) -> None:
        dataset = create(pair[0])
        small = replace(stored_tensor(dataset, "a", inline_payload=b"x"), session="request")
        one.try_acquire("insert/request")
        first = outcome(pair[0], small)
        one.release(["insert/request"])
        again = outcome(pair[0], small)
        assert isinstance(first, Tensor)
        assert isinstance(again, Tensor)
        assert again.generation == first.generation

    def test_objects_that_are_being_written_are_no_orphans(
        self, pair: tuple[Catalogue, Catalogue], one: MemberTable
    ) -> None:
        dataset, (key, other), pack = create(pair[0]), (new_payload_key(), new_payload_key()), new_payload_key()
        one.begin([key, f"pack/{pack}"])
        stored = [f"s1-0-40/{key}", f"pack/{pack}", f"s1-0-40/{other}", f"pack/{other}"]
        assert pair[0].garbage.orphans(stored) == set(stored[2:])
        assert {key.encode(), f"pack/{pack}".encode()} <= set(pair[0].garbage.known())
        outcomes = pair[0].tensors.commit([segmented(dataset, "a", key), packed(dataset, "b", pack)])
        assert all(isinstance(found, Tensor) for found in outcomes)
        assert pair[0].garbage.orphans([str(SegmentedKey(1, 0, 40, key)), f"pack/{pack}"]) == set()
        pair[0].garbage.require_intact()
