"""Admission: so many streams at once, memory in turn, silent streams that make room, and nobody once the server drains."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

import pytest

from tensorus_server.errors import DrainingError, StreamStalledError, TooManyStreamsError
from tensorus_server.rpc import admission as admission_module
from tensorus_server.rpc.admission import Admission, AdmissionLimits, Place

BUDGET_BYTES = 100


def admission_of(streams_max: int, budget_bytes: int = BUDGET_BYTES, **limits: float) -> Admission:
    return Admission(AdmissionLimits(streams_max, budget_bytes, **limits))


def admit(admission: Admission, *, stream: bool = True) -> AbstractContextManager[Place | None]:
    """Let one call in for as long as the block runs."""
    return admission.stream(lambda _: None) if stream else admission.short_call()


def let_in(admission: Admission, *, stream: bool = True) -> None:
    """Let one call in, and out again."""
    with admit(admission, stream=stream):
        pass


def test_as_many_streams_as_allowed_are_admitted_and_no_more() -> None:
    admission = admission_of(2)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(admit(admission, stream=True))
        for _ in range(3):
            # A refusal takes no place, and gives none back.
            with pytest.raises(TooManyStreamsError, match=r"2 streams are open, limit is 2 \(streams_max\)") as caught:
                let_in(admission)
            assert caught.value.facts == {"limit": "2", "retry_after_s": "1.0"}
    let_in(admission)


def test_short_calls_are_admitted_however_many_streams_there_are() -> None:
    admission = admission_of(1)
    with admit(admission, stream=True), admit(admission, stream=False), admit(admission, stream=False):
        let_in(admission, stream=False)
        with pytest.raises(TooManyStreamsError):
            let_in(admission)


def test_short_calls_take_no_place_of_a_stream() -> None:
    admission = admission_of(1)
    with admit(admission, stream=False):
        let_in(admission)


def fail_inside(admission: Admission) -> None:
    """Let a stream in that fails."""
    with admit(admission, stream=True):
        raise KeyError


def test_a_place_comes_back_when_its_call_fails() -> None:
    admission = admission_of(1)
    for _ in range(5):
        with pytest.raises(KeyError):
            fail_inside(admission)
    let_in(admission)
    assert admission.drain(0.0)


def test_racing_streams_never_get_more_places_than_there_are() -> None:
    admission = admission_of(3)
    together, inside = (threading.Barrier(12, timeout=30) for _ in range(2))

    def take(_: int) -> bool:
        together.wait()
        try:
            with admit(admission, stream=True):
                inside.wait()
        except TooManyStreamsError:
            inside.wait()
            return False
        return True

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(take, range(12))) == 3


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "short call"])
def test_nobody_is_admitted_once_it_drains(*, stream: bool) -> None:
    admission = admission_of(5)
    assert admission.drain(0.0)
    with pytest.raises(DrainingError, match="the server is about to stop"):
        let_in(admission, stream=stream)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "short call"])
def test_draining_says_who_is_still_inside(*, stream: bool) -> None:
    admission = admission_of(5)
    with admit(admission, stream=stream):
        assert not admission.drain(0.0)
    assert admission.drain(0.0)


def test_draining_ends_when_the_last_one_leaves() -> None:
    admission = admission_of(5)
    may_leave = threading.Event()
    inside = threading.Event()

    def stay() -> None:
        with admit(admission, stream=True):
            inside.set()
            assert may_leave.wait(30)

    guest = threading.Thread(target=stay)
    guest.start()
    assert inside.wait(30)
    left = []
    drain = threading.Thread(target=lambda: left.append(admission.drain(30.0)))
    drain.start()
    may_leave.set()
    drain.join()
    guest.join()
    assert left == [True]


def borrow(admission: Admission, memory_bytes: int, inside: threading.Event, may_leave: threading.Event) -> None:
    """Be a stream that stays for a while."""
    with admission.stream(lambda _: None) as place:
        place.borrow(memory_bytes)
        inside.set()
        assert may_leave.wait(30)


class Stream:
    """A stream on a thread of its own."""

    def __init__(self, admission: Admission, memory_bytes: int) -> None:
        self.inside, self.may_leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=borrow, args=(admission, memory_bytes, self.inside, self.may_leave), daemon=True
        )
        self._thread.start()

    def leave(self) -> None:
        self.may_leave.set()
        self._thread.join(30)


def wait_for_queue(admission: Admission, length: int) -> None:
    """Wait until so many streams wait for memory."""
    with admission._changed:
        assert admission._changed.wait_for(lambda: len(admission._waiting) == length, 30)


class TestMemory:
    """Streams wait for memory in the order in which they came."""

    def test_streams_wait_until_others_give_back(self) -> None:
        admission = admission_of(5)
        first, second = Stream(admission, 60), Stream(admission, 40)
        assert first.inside.wait(30)
        assert second.inside.wait(30)
        third = Stream(admission, 50)
        wait_for_queue(admission, 1)
        second.leave()
        assert not third.inside.is_set()
        first.leave()
        assert third.inside.wait(30)
        third.leave()
        assert admission._borrowed_bytes == 0

    def test_a_small_one_does_not_overtake_a_large_one(self) -> None:
        admission = admission_of(5)
        first = Stream(admission, 60)
        assert first.inside.wait(30)
        large = Stream(admission, 90)
        wait_for_queue(admission, 1)
        small = Stream(admission, 10)
        wait_for_queue(admission, 2)
        assert not small.inside.is_set()
        first.leave()
        assert large.inside.wait(30)
        assert small.inside.wait(30)
        for stream in (large, small):
            stream.leave()

    def test_one_that_needs_more_than_there_is_has_it_all(self) -> None:
        admission = admission_of(5)
        with admission.stream(lambda _: None) as place:
            place.borrow(1000)
            assert admission._borrowed_bytes == 100
            # Asked again, it has it already.
            place.borrow(1000)
        assert admission._borrowed_bytes == 0

    def test_short_calls_do_not_wait(self) -> None:
        admission = admission_of(5)
        with admission.stream(lambda _: None) as place:
            place.borrow(100)
            let_in(admission, stream=False)

    def test_waiting_streams_count_as_open(self) -> None:
        admission = admission_of(2)
        first = Stream(admission, 100)
        assert first.inside.wait(30)
        second = Stream(admission, 100)
        wait_for_queue(admission, 1)
        with pytest.raises(TooManyStreamsError):
            let_in(admission)
        first.leave()
        second.leave()

    def test_one_whose_caller_has_gone_gives_up_its_place(self) -> None:
        admission = admission_of(5)
        with admission.stream(lambda _: None) as place:
            place.borrow(100)
            with (
                admission.stream(lambda _: None, is_active=lambda: False) as gone,
                pytest.raises(TooManyStreamsError, match="the caller has gone"),
            ):
                gone.borrow(1)
            assert not admission._waiting
        let_in(admission)

    def test_those_who_wait_are_refused_once_it_drains(self) -> None:
        admission = admission_of(5)
        found: list[Exception] = []

        def wait() -> None:
            with admission.stream(lambda _: None) as place:
                try:
                    place.borrow(100)
                except DrainingError as error:
                    found.append(error)

        with admission.stream(lambda _: None) as holder:
            holder.borrow(100)
            waiting = threading.Thread(target=wait)
            waiting.start()
            wait_for_queue(admission, 1)
            admission.drain(0.0)
            waiting.join(30)
        assert len(found) == 1

    def test_the_time_that_is_left_is_known_once_it_drains(self) -> None:
        admission = admission_of(5)
        assert admission.draining_s is None
        admission.drain(0.0)
        assert admission.draining_s == 0.0

    def test_whoever_waits_for_too_long_is_told_when_to_come_again(self) -> None:
        admission = admission_of(5, memory_wait_s=0.05)
        with admission.stream(lambda _: None) as holder, admission.stream(lambda _: None) as other:
            holder.borrow(90)
            with pytest.raises(TooManyStreamsError, match=r"20 bytes .* within 0\.05 s .*: 90 of 100 bytes") as caught:
                other.borrow(20)
            assert caught.value.facts == {"limit": "100", "retry_after_s": "1.0"}
            # Who gave up waits no more, and what there is can be had.
            assert not admission._waiting
            other.borrow(10)


class Clock:
    """Time that passes when a test says so."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(admission_module, "time", found)
    return found


class TestSilence:
    """Streams whose clients do not move make room: the longest silent first."""

    def test_a_stream_is_silent_while_it_waits_for_its_client_and_never_else(self, clock: Clock) -> None:
        with admission_of(1).stream(lambda _: None) as place:

            def silent_s() -> float:
                clock.now_s += 5
                return place.silent_s(clock.now_s)

            assert silent_s() == 0
            place.begin_receiving()
            assert (silent_s(), silent_s()) == (5, 10)
            place.owes = lambda: True
            assert silent_s() == 0
            place.begin_sending()
            assert silent_s() == 5
            place.end_sending()
            # The answer that went out is a movement, too.
            place.owes = lambda: False
            assert (silent_s(), silent_s()) == (5, 10)
            place.touch()
            assert silent_s() == 5
            place.end_receiving()
            assert silent_s() == 0

    def test_streams_that_are_silent_for_too_long_are_dismissed_and_the_others_stay(self, clock: Clock) -> None:
        admission = admission_of(3, stall_timeout_s=60)
        ended: list[str] = []
        with ExitStack() as inside:
            places = [inside.enter_context(admission.stream(lambda error: ended.append(str(error)))) for _ in range(3)]
            places[0].begin_receiving()
            places[1].begin_sending()
            places[0].borrow(70)
            clock.now_s += 59
            admission.dismiss_stalled()
            assert ended == []
            clock.now_s += 1
            admission.dismiss_stalled()
            assert ended == ["nothing moved on the stream for 60.0 s, limit is 60 s (stall_timeout_s)"] * 2
            # Place and memory are there for others at once, though the streams have not ended yet.
            assert admission._places == {places[2]}
            assert admission._borrowed_bytes == 0
            with pytest.raises(StreamStalledError):
                places[0].borrow(1)
        assert admission.drain(0.0)

    def test_one_that_begins_to_send_as_it_is_dismissed_is_told_again(self, clock: Clock) -> None:
        admission = admission_of(1, stall_timeout_s=60)
        ended: list[StreamStalledError] = []
        with admission.stream(ended.append) as place:
            place.begin_receiving()
            clock.now_s += 60
            admission.dismiss_stalled()
            place.begin_sending()
            clock.now_s += 60
            admission.dismiss_stalled()
        assert len(ended) == 2

    def test_where_every_place_is_taken_the_longest_silent_stream_gives_way(self, clock: Clock) -> None:
        admission = admission_of(2)
        ended: list[str] = []
        with ExitStack() as inside:
            for name in ("first", "second"):
                place = inside.enter_context(admission.stream(lambda _, name=name: ended.append(name)))
                place.begin_receiving()
                clock.now_s += 2
            # The second one has been silent for 2 s.
            let_in(admission)
            assert ended == ["first"]
            inside.enter_context(admission.stream(lambda _: None))
            with pytest.raises(TooManyStreamsError, match="2 streams are open"):
                let_in(admission)
            clock.now_s += 1
            let_in(admission)
            assert ended == ["first", "second"]

    def test_a_silent_stream_gives_memory_back_to_whoever_waits_for_it(self, clock: Clock) -> None:
        admission = admission_of(3)
        with ExitStack() as inside:
            silent, reader, other = (inside.enter_context(admission.stream(lambda _: None)) for _ in range(3))
            silent.gives_back = True
            silent.borrow(60)
            reader.borrow(40)
            silent.begin_receiving()
            reader.begin_sending()
            clock.now_s += 1
            other.borrow(50)
            assert [place.borrowed_bytes for place in (silent, reader, other)] == [0, 40, 50]
            assert silent.dismissed is None

    def test_memory_that_only_silent_streams_hold_is_taken_by_dismissing_one(self, clock: Clock) -> None:
        admission = admission_of(3)
        ended: list[StreamStalledError] = []
        with ExitStack() as inside:
            readers = [inside.enter_context(admission.stream(ended.append)) for _ in range(2)]
            for reader in readers:
                reader.borrow(50)
                reader.begin_sending()
                clock.now_s += 3
            inside.enter_context(admission.stream(ended.append)).borrow(50)
            assert [reader.dismissed is None for reader in readers] == [False, True]
            assert len(ended) == 1

    def test_a_message_borrows_again_what_was_taken_back(self) -> None:
        admission = admission_of(1)
        with admission.stream(lambda _: None) as place:
            requests = place.requests(iter([b"one", b"two"]), 30)
            assert next(requests) == b"one"
            assert admission._borrowed_bytes == 30
            with admission._changed:
                admission._take_back(place)
            assert admission._borrowed_bytes == 0
            assert next(requests) == b"two"
            assert admission._borrowed_bytes == 30
            assert list(requests) == []

    def test_the_watcher_goes_on_whatever_happens_and_ends_when_it_is_closed(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        admission = admission_of(1, stall_timeout_s=0.01)
        looked = threading.Semaphore(0)

        def fail() -> None:
            looked.release()
            raise KeyError("what nobody foresaw")

        monkeypatch.setattr(admission, "dismiss_stalled", fail)
        admission.watch()
        for _ in range(3):
            assert looked.acquire(timeout=30)
        admission.close()
        admission.close()
        assert "the check for stalled streams failed" in caplog.text
