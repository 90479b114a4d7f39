"""Calls without I/O: which steps they yield when all is well, when a stream breaks, and when they are ended from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import crc32c
import numpy as np
import pytest

from support.cases import each
from tensorus._arguments import sample_from, upload_of
from tensorus._backend import InsertOptions, Part
from tensorus._connection import Connection
from tensorus._grpc import calls, insert_stream, inserts, reads
from tensorus._grpc.aio_remote import AsyncRemoteBackend
from tensorus._grpc.aio_remote import _Driver as AsyncDriver
from tensorus._grpc.remote import RemoteBackend
from tensorus._grpc.remote import _Driver as SyncDriver
from tensorus._grpc.steps import Ask, AttemptFailedError, Close, Give, Open, Pause, Read, Send, Step, Steps, Work
from tensorus.errors import InternalError, TensorusError, UnavailableError
from tensorus.types import NewTensor, Progress
from tensorus_protos.framing import join, split
from tensorus_protos.v1 import tensorus_pb2 as pb

FOUR = np.arange(4, dtype=np.uint8)
MIB = 1024 * 1024


class Script:
    """Does the steps of a call by a list of replies: `Work` is called, what is given is kept, all else is answered."""

    def __init__(self, steps: Steps[Any, Any]) -> None:
        self.steps = steps
        self.given: list[Any] = []
        self.result: Any = None
        self._advance: Callable[[Any], Step[Any]] = steps.send
        self._reply: Any = None

    def next_step(self) -> Step[Any] | None:
        """Return the next step that wants a reply; None: the call has ended."""
        while True:
            try:
                step = self._advance(self._reply)
            except StopIteration as end:
                self.result = end.value
                return None
            self.reply(None)
            if isinstance(step, Give):
                self.given += step.values
            elif isinstance(step, Work):
                self.reply(step.function())
            else:
                return step

    def reply(self, reply: object) -> None:
        """Answer a step; an error is raised there."""
        self._reply = reply
        self._advance = self.steps.throw if isinstance(reply, BaseException) else self.steps.send

    def after(self, reply: object) -> Step[Any] | None:
        """Return the step that follows a reply."""
        self.reply(reply)
        return self.next_step()


def broken(reason: str = "UNAVAILABLE") -> AttemptFailedError:
    return AttemptFailedError(UnavailableError("it broke", reason=reason), OSError())


# ---- Short calls --------------------------------------------------------------------------------------------------------


def test_a_call_that_may_be_repeated_says_after_a_failure_what_is_true_then() -> None:
    call = calls.delete_tensors("d", ["a", "b"])
    script = Script(calls.short_call(call))
    assert script.next_step() == Send(call)
    failure = broken()
    assert script.after(failure) == Pause(failure.error, (0,))
    assert script.after(1) == Send(call)
    # The first attempt may have deleted both.
    assert script.after(pb.DeleteTensorsResponse(deleted=0).SerializeToString()) is None
    assert script.result == 2


def test_a_call_that_must_not_be_repeated_is_not() -> None:
    script = Script(calls.short_call(calls.create_dataset("d", None, None)))
    script.next_step()
    failure = broken()
    with pytest.raises(UnavailableError) as caught:
        script.after(failure)
    assert caught.value is failure.error
    assert isinstance(caught.value.__cause__, OSError)


def test_an_answer_that_does_not_parse_is_no_reason_to_ask_again() -> None:
    script = Script(calls.short_call(calls.get_dataset("d")))
    script.next_step()
    with pytest.raises(InternalError, match="an answer of GetDataset is no message"):
        script.after(b"\xff")


def test_an_explanation_that_breaks_begins_again() -> None:
    sample = sample_from(FOUR)
    script = Script(calls.explain(sample, []))
    for _ in range(2):
        step = script.next_step()
        assert isinstance(step, Open)
        assert len(list(step.requests)) == 2
        assert script.after(None) == Read()
        failure = broken()
        # The answer alone does not count: its status may be an error.
        assert script.after(pb.ExplainPolicyResponse().SerializeToString()) == Read()
        assert script.after(failure) == Pause(failure.error, (0,))
    script.next_step()
    script.after(None)
    script.after(pb.ExplainPolicyResponse(explanations=[pb.PolicyExplanation()]).SerializeToString())
    assert script.after(None) is None
    assert len(script.result) == 1


# ---- Inserts ------------------------------------------------------------------------------------------------------------


def insert(*arrays: np.ndarray[Any, Any], on_progress: Callable[[Progress], None] | None = None) -> Script:
    uploads = [upload_of(NewTensor(array, f"t{number}")) for number, array in enumerate(arrays)]
    return Script(inserts.insert("d", uploads, InsertOptions(), on_progress))


def stored(*items: int) -> bytes:
    tensor = pb.Tensor(generation=1, spec=pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[4]))
    return pb.InsertResponse(results=[pb.ItemStatus(item=item, tensor=tensor) for item in items]).SerializeToString()


def test_an_insert_of_one_message_is_a_call_of_one_request() -> None:
    script = insert(FOUR)
    step = script.next_step()
    assert isinstance(step, Open)
    assert isinstance(step.requests, bytes)
    assert pb.InsertRequest.FromString(split(step.requests)[0]).finish
    assert script.after(None) == Read()
    assert script.after(stored(0)) == Read()
    assert [(item, info.generation) for item, info in script.given] == [(0, 1)]
    assert script.after(None) is None


def test_an_insert_whose_stream_breaks_opens_another_one_for_what_is_left() -> None:
    heard: list[int] = []
    script = insert(FOUR, FOUR, on_progress=lambda progress: heard.append(progress.interruptions))
    script.next_step()
    script.after(None)
    assert script.after(stored(0)) == Read()
    failure = broken()
    # One tensor is further than none.
    pause = script.after(failure)
    assert pause == Pause(failure.error, (1, 0))
    step = script.after(1)
    assert heard == [1]
    assert isinstance(step, Open)
    assert isinstance(step.requests, Iterator)
    first = pb.InsertRequest.FromString(split(next(step.requests))[0])
    assert first.open.dataset == "d"
    assert not first.segments
    opened = pb.InsertResponse(opened=pb.InsertOpened(max_unacknowledged_bytes=MIB)).SerializeToString()
    script.after(None)
    assert script.after(opened) == Read()
    (message,) = step.requests
    request = pb.InsertRequest.FromString(split(message)[0])
    assert ([segment.item for segment in request.segments], request.finish) == ([1], True)
    assert script.after(stored(1)) == Read()
    assert script.after(None) is None
    assert [item for item, _ in script.given] == [0, 1]


def test_a_stream_that_the_server_ends_too_early_is_an_error() -> None:
    script = insert(np.zeros(3 * MIB, np.uint8))
    script.next_step()
    script.after(None)
    with pytest.raises(InternalError, match="before all of it was sent"):
        script.after(None)


@each("refused", [False, True])
@each("ending", [KeyboardInterrupt(), GeneratorExit(), ZeroDivisionError()])
def test_an_insert_that_is_ended_leaves_nothing_large_at_the_server(ending: BaseException, *, refused: bool) -> None:
    script = insert(np.zeros(2 * MIB, np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(insert_stream, "_KEPT_BYTES_MIN", MIB)
        step = script.next_step()
        assert isinstance(step, Open)
        assert script.after(None) == Read()
        assert script.after(ending) == Close()
        ask = script.after(None)
        assert isinstance(ask, Ask)
        assert ask.call.name == "CancelInsert"
        with pytest.raises(type(ending)) as caught:
            script.after(broken().error if refused else None)
        assert caught.value is ending
    # Beyond what had been made, no message is.
    assert len(list(step.requests)) == 1


def test_an_insert_of_small_tensors_that_is_ended_asks_for_nothing_more() -> None:
    script = insert(FOUR)
    script.next_step()
    with pytest.raises(KeyboardInterrupt):
        script.after(KeyboardInterrupt())


# ---- Reads --------------------------------------------------------------------------------------------------------------


def part_of_four(begin: int, end: int, *, item: int = 0) -> bytes:
    """Return an answer with bytes of `FOUR`, from `begin` to `end`; the first one announces it."""
    data = FOUR[begin:end].tobytes()
    segment = pb.Segment(item=item, offset=begin, decoded_length=len(data), payload_length=len(data))
    segment.crc32c = crc32c.crc32c(data)
    if begin == 0:
        spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[4])
        segment.tensor.CopyFrom(pb.Tensor(id="t", generation=7, spec=spec))
    return join(pb.GetResponse(segments=[segment]).SerializeToString(), [data])


def request_of(step: Step[Any] | None) -> pb.GetRequest:
    assert isinstance(step, Open)
    assert isinstance(step.requests, bytes)
    return pb.GetRequest.FromString(step.requests)


def test_a_get_whose_stream_breaks_goes_on_where_it_was() -> None:
    script = Script(reads.get("d", ["t", "u"], None, with_data=True))
    assert [read.id for read in request_of(script.next_step()).reads] == ["t", "u"]
    script.after(None)
    script.after(part_of_four(0, 3))
    failure = broken()
    assert script.after(failure) == Pause(failure.error, (0, 3))
    first, second = request_of(script.after(1)).reads
    assert (first.id, first.generation, first.bytes.offset) == ("t", 7, 3)
    assert (second.id, second.generation) == ("u", 0)


def test_a_get_that_breaks_after_its_last_byte_is_complete() -> None:
    script = Script(reads.get("d", ["t"], Part(), with_data=True))
    script.next_step()
    script.after(None)
    assert script.after(part_of_four(0, 4)) == Read()
    assert script.after(broken()) is None
    assert len(script.given) == 2


def test_a_read_that_nobody_wants_any_more_asks_for_nothing_more() -> None:
    script = Script(reads.get("d", ["t"], None, with_data=True))
    script.next_step()
    with pytest.raises(GeneratorExit):
        script.after(GeneratorExit())


# ---- Drivers ------------------------------------------------------------------------------------------------------------


def telling(told: list[object], ending: BaseException | None = None) -> Steps[int, str]:
    """A call that gives three numbers, and has something left to do when it is ended."""
    try:
        yield Give([1, 2])
        if ending is not None:

            def end() -> None:
                raise ending

            yield Work(end)
        yield Give([3])
    except BaseException as error:
        told.append(error)
        told.append((yield Work(lambda: "left nothing")))
        raise
    return "result"


def refused() -> Iterator[int]:
    yield 1
    raise TensorusError("the second one")


def drive(steps: Steps[Any, Any], driver: str, count: int = 9) -> tuple[list[Any], Any]:
    """Return the first `count` values of a call, and its result."""
    found: list[Any] = []
    settings = {"timeout_s": 1.0, "retry_timeout_s": 0.0}
    if driver == "synchronous":
        backend = RemoteBackend(Connection("localhost:1"), **settings)
        synchronous = SyncDriver(backend, steps)
        for value in (values := synchronous.values()):
            found.append(value)
            if len(found) == count:
                break
        values.close()  # type: ignore[attr-defined]  # it is a generator
        return found, getattr(synchronous, "result", None)

    async def run() -> tuple[list[Any], Any]:
        asynchronous = AsyncDriver(AsyncRemoteBackend(Connection("localhost:1"), **settings), steps, iter)
        async for batch in (values := asynchronous.values()):
            found.extend(batch)
            if len(found) >= count:
                break
        await values.aclose()
        return found, getattr(asynchronous, "result", None)

    return asyncio.run(run())


both_drivers = pytest.mark.parametrize("driver", ["synchronous", "asynchronous"])


@both_drivers
def test_a_driver_hands_on_what_is_given_and_what_is_returned(driver: str) -> None:
    told: list[object] = []
    assert drive(telling(told), driver) == ([1, 2, 3], "result")
    assert told == []


@both_drivers
def test_a_call_whose_caller_leaves_is_told_and_may_still_do_something(driver: str) -> None:
    told: list[object] = []
    found, result = drive(telling(told), driver, count=2)
    assert (found, result) == ([1, 2], None)
    assert [type(told[0]), *told[1:]] == [GeneratorExit, "left nothing"]


@each(
    ("driver", "ending"),
    [
        pytest.param("synchronous", ZeroDivisionError(), id="synchronous"),
        # What ends a thread's work so ends an event loop, too.
        pytest.param("synchronous", KeyboardInterrupt(), id="synchronous, Ctrl-C"),
        pytest.param("asynchronous", ZeroDivisionError(), id="asynchronous"),
    ],
)
def test_a_call_is_told_what_a_step_raised(driver: str, ending: BaseException) -> None:
    told: list[object] = []
    with pytest.raises(type(ending)) as caught:
        drive(telling(told, ending), driver)
    assert caught.value is ending
    assert told == [ending, "left nothing"]


def test_a_call_whose_task_is_cancelled_is_told_and_may_still_do_something() -> None:
    told: list[object] = []
    begun, released = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert released.wait(30)

    def steps() -> Steps[int, None]:
        try:
            yield Work(wait)
        except BaseException as error:
            told.append(type(error))
            told.append((yield Work(lambda: "left nothing")))
            raise

    async def run() -> None:
        backend = AsyncRemoteBackend(Connection("localhost:1"), timeout_s=1.0, retry_timeout_s=0.0)
        task = asyncio.create_task(backend.result(steps()))  # type: ignore[arg-type]  # it gives nothing
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()

    asyncio.run(run())
    assert told == [asyncio.CancelledError, "left nothing"]


@both_drivers
def test_what_was_given_before_an_error_counts(driver: str) -> None:
    found: list[object] = []

    def steps() -> Steps[int, None]:
        try:
            yield Give(refused())
        except TensorusError as error:
            found.append(str(error))
            yield Give([5])

    assert drive(steps(), driver) == ([1, 5], None)
    assert found == ["the second one"]
