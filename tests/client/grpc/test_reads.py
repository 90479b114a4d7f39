"""A Get that is interrupted, at any arrivals, brings what an uninterrupted one brings, and no byte twice without need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.arrivals import info_of
from support.cases import each
from tensorus._backend import Arrival, Began, Bytes, Failed
from tensorus._grpc.reads import GetPlace, arrivals
from tensorus.errors import ChecksumMismatchError, GenerationMismatchError, TensorNotFoundError, TensorusError
from tensorus_protos.v1 import tensorus_pb2 as pb

CHUNK = 8


@dataclass
class Stored:
    """A tensor of a server that is made up: values of 2 bytes."""

    generation: int
    length: int
    order: Sequence[int] = ()
    """In which its chunks are sent, where that is not their own."""
    fails_after: int | None = None
    """Chunks after which it turns out to be damaged."""

    @property
    def data(self) -> bytes:
        return bytes((self.generation * 100 + number) % 251 for number in range(2 * self.length))


Server = dict[str, Stored]


def answers(server: Server, reads: Sequence[pb.TensorRead], *, with_data: bool = True) -> Iterator[Arrival]:
    """Yield what a server answers, as the contract says: the items of a stream count from 0, and so do a part's offsets."""
    for item, read in enumerate(reads):
        stored = server.get(read.id)
        if stored is None:
            yield Failed(item, TensorNotFoundError("none", reason="TENSOR_NOT_FOUND"))
            continue
        if read.HasField("generation") and read.generation != stored.generation:
            yield Failed(item, GenerationMismatchError("another", reason="GENERATION_MISMATCH"))
            continue
        data, shape = stored.data, (stored.length,)
        start = 0
        if read.HasField("slices"):
            # Every slice here is of the first half.
            data, shape = data[: stored.length // 2 * 2], (stored.length // 2,)
        elif read.HasField("bytes"):
            start = read.bytes.offset
            # A part by bytes is uint8.
            shape = (len(data) - start,)
        info = replace(info_of(np.frombuffer(stored.data, np.int16), read.id), generation=stored.generation)
        began = Began(item, info, shape)
        if with_data and is_whole(stored) and not (read.HasField("slices") or read.HasField("bytes")):
            yield replace(began, data=memoryview(data))
            continue
        yield began
        if with_data:
            yield from pieces(item, stored, data, start)


def is_whole(stored: Stored) -> bool:
    """Whether the tensor comes with its header: it is of one chunk, and nothing is wrong with it."""
    return 0 < 2 * stored.length <= CHUNK and stored.fails_after is None


def pieces(item: int, stored: Stored, data: bytes, start: int) -> Iterator[Arrival]:
    # An order is of 8 chunks at least, and no tensor here has more.
    chunks = [(begin, data[begin : begin + CHUNK]) for begin in range(0, len(data), CHUNK)]
    order = [number for number in stored.order if number < len(chunks)] or range(len(chunks))
    for number in order:
        begin, chunk = chunks[number]
        if stored.fails_after is not None and number >= stored.fails_after:
            yield Failed(item, TensorusError("damaged", reason="DATA_CORRUPT"))
            return
        if begin + len(chunk) > start:
            cut = chunk[max(0, start - begin) :]
            # Chunks of odd numbers come as records, whose length says nothing.
            encoded = number % 2 == 1 and len(cut) == len(chunk)
            yield Bytes(item, max(begin - start, 0), memoryview(cut), encoded, len(cut))


def read_all(
    servers: Sequence[Server], reads: Sequence[pb.TensorRead], breaks: Sequence[int], *, with_data: bool = True
) -> list[Arrival]:
    """Return the arrivals of a Get whose streams break after so many of them each, and then runs to its end.

    Args:
        servers: what each stream finds; the last one for all that follow.
    """
    place = GetPlace(reads, with_data=with_data)
    found: list[Arrival] = []
    for number in range(len(breaks) + 1):
        server = servers[min(number, len(servers) - 1)]
        stream = answers(server, place.remaining(), with_data=with_data)
        if number == len(breaks):
            found += place.passed(stream)
            break
        passed = place.passed(arrival for _, arrival in zip(range(breaks[number]), stream, strict=False))
        found += passed
        if reads and place.is_complete:
            break
    assert place.is_complete
    return found


def without_restarts(found: Sequence[Arrival]) -> list[Arrival]:
    """Return what a reader ends up with: a tensor that begins again takes the place of what had arrived of it."""
    kept: list[Arrival] = []
    for arrival in found:
        if isinstance(arrival, Began) and arrival.restarts:
            assert any(isinstance(before, Began) and before.item == arrival.item for before in kept), (
                "nothing to restart"
            )
            kept = [before for before in kept if before.item != arrival.item]
            kept.append(replace(arrival, restarts=False))
        else:
            kept.append(arrival)
    return kept


def plain(found: Sequence[Arrival]) -> list[tuple[Any, ...]]:
    """Return arrivals so that they compare quickly, errors by their reason."""
    return [_plain(arrival) for arrival in found]


def _plain(arrival: Arrival) -> tuple[Any, ...]:
    if isinstance(arrival, Failed):
        return arrival.item, arrival.error.reason
    if isinstance(arrival, Began):
        data = None if arrival.data is None else bytes(arrival.data)
        return arrival.item, arrival.info.id, arrival.info.generation, arrival.shape, arrival.restarts, data
    return arrival.item, arrival.offset, bytes(arrival.data), arrival.encoded, arrival.decoded_length


def whole(*ids: str) -> list[pb.TensorRead]:
    return [pb.TensorRead(id=tensor_id) for tensor_id in ids]


stored_tensors = st.builds(
    Stored,
    generation=st.integers(1, 3),
    length=st.integers(0, 30),
    order=st.one_of(st.just(()), st.permutations(range(8))),
    fails_after=st.one_of(st.none(), st.integers(0, 3)),
)
servers = st.dictionaries(st.sampled_from("abcd"), stored_tensors)


@st.composite
def changing_servers(draw: st.DrawFn) -> list[Server]:
    """Return a server at several times; a generation is the same tensor at all of them."""
    tensors = [replace(draw(stored_tensors), generation=generation) for generation in range(1, 5)]
    return draw(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(tensors)), min_size=1, max_size=4))


reads = st.lists(
    st.builds(
        lambda tensor_id, sliced: pb.TensorRead(id=tensor_id, slices=pb.SliceSet() if sliced else None),
        st.sampled_from("abcde"),
        st.booleans(),
    ),
    max_size=5,
)
breaks = st.lists(st.integers(0, 12), max_size=8)


@given(server=servers, wanted=reads, interruptions=breaks)
def test_an_interrupted_get_brings_what_an_uninterrupted_one_brings(
    server: Server, wanted: list[pb.TensorRead], interruptions: list[int]
) -> None:
    expected = list(answers(server, wanted))
    found = read_all([server], wanted, interruptions)
    assert plain(without_restarts(found)) == plain(expected)


@given(server=servers, wanted=reads, interruptions=breaks)
def test_interrupted_headers_are_those_of_an_uninterrupted_get(
    server: Server, wanted: list[pb.TensorRead], interruptions: list[int]
) -> None:
    expected = list(answers(server, wanted, with_data=False))
    found = read_all([server], wanted, interruptions, with_data=False)
    # A header is all there is of an item: nothing ever begins again.
    assert plain(found) == plain(expected)


@given(server=servers, wanted=st.lists(st.sampled_from("abcd"), max_size=5), interruptions=breaks)
def test_no_byte_of_a_whole_tensor_in_order_comes_twice(
    server: Server, wanted: list[str], interruptions: list[int]
) -> None:
    in_order = {tensor_id: replace(stored, order=()) for tensor_id, stored in server.items()}
    found = [arrival for arrival in read_all([in_order], whole(*wanted), interruptions) if isinstance(arrival, Bytes)]
    assert len({(arrival.item, arrival.offset) for arrival in found}) == len(found)


@given(states=changing_servers(), wanted=reads, interruptions=breaks)
def test_a_tensor_that_is_replaced_meanwhile_is_never_mixed_from_two(
    states: list[Server], wanted: list[pb.TensorRead], interruptions: list[int]
) -> None:
    found = without_restarts(read_all(states, wanted, interruptions))
    for item, read in enumerate(wanted):
        of_item = [replace(arrival, item=0) for arrival in found if arrival.item == item]
        if isinstance(of_item[-1], Failed):
            # Gone, replaced or damaged: its reader hears of that.
            continue
        assert plain(of_item) in [plain(list(answers(server, [read]))) for server in states if read.id in server]


def test_a_tensor_goes_on_at_the_byte_where_it_broke_off() -> None:
    place = GetPlace(whole("a", "b"), with_data=True)
    server = {"a": Stored(7, 20), "b": Stored(8, 1)}
    arrived = [arrival for _, arrival in zip(range(3), answers(server, place.remaining()), strict=False)]
    assert len(list(place.passed(arrived))) == 3
    expected = pb.TensorRead(id="a", generation=7)
    expected.bytes.offset = 2 * CHUNK
    assert list(place.remaining()) == [expected, pb.TensorRead(id="b")]


def test_a_tensor_of_which_only_its_header_arrived_is_read_anew_in_its_generation() -> None:
    # As a part by bytes it would have another shape, and its reader begin a tensor of that.
    place = GetPlace(whole("a"), with_data=True)
    server = {"a": Stored(7, 20)}
    (began, *_) = answers(server, place.remaining())
    assert list(place.passed([began])) == [began]
    assert list(place.remaining()) == [pb.TensorRead(id="a", generation=7)]
    again = list(place.passed(answers(server, place.remaining())))
    assert isinstance(began, Began)
    assert again[0] == replace(began, restarts=True)
    assert place.is_complete


def test_a_slice_is_read_anew_in_its_generation() -> None:
    reads = [pb.TensorRead(id="a", slices=pb.SliceSet())]
    place = GetPlace(reads, with_data=True)
    server = {"a": Stored(7, 20)}
    list(place.passed([arrival for _, arrival in zip(range(2), answers(server, reads), strict=False)]))
    assert list(place.remaining()) == [pb.TensorRead(id="a", slices=pb.SliceSet(), generation=7)]


def test_a_coarse_read_begins_again_because_byte_ranges_are_of_stored_values() -> None:
    place = GetPlace(whole("a"), with_data=True, by_bytes=False)
    server = {"a": Stored(7, 20)}
    list(place.passed([arrival for _, arrival in zip(range(3), answers(server, place.remaining()), strict=False)]))
    assert list(place.remaining()) == [pb.TensorRead(id="a", generation=7)]


def test_what_has_its_end_is_not_asked_for_again() -> None:
    place = GetPlace(whole("a", "none", "empty", "b"), with_data=True)
    server = {"a": Stored(7, 3), "empty": Stored(8, 0), "b": Stored(9, 3)}
    arrived = [arrival for _, arrival in zip(range(3), answers(server, place.remaining()), strict=False)]
    list(place.passed(arrived))
    assert not place.is_complete
    assert list(place.remaining()) == whole("b")
    list(place.passed(answers(server, place.remaining())))
    assert place.is_complete


# ---- What one answer brings ---------------------------------------------------------------------------------------------

FOUR_BYTES = b"abcd"


def answer(**fields: Any) -> pb.GetResponse:
    """Return an answer with the header of a tensor of two int16 and all of its bytes; other `fields` of the segment win."""
    spec = pb.TensorSpec(dtype=pb.DATA_TYPE_INT16, element_bits=16, shape=[2])
    tensor = pb.Tensor(dataset="d", id="t", spec=spec, generation=1)
    segment = {"tensor": tensor, "payload_length": 4, "decoded_length": 4, "last": True, **fields}
    return pb.GetResponse(segments=[pb.Segment(**segment)])


def test_a_tensor_whose_bytes_come_with_its_header_is_one_arrival() -> None:
    (began,) = arrivals(answer(crc32c=crc32c.crc32c(FOUR_BYTES)), memoryview(FOUR_BYTES))
    assert isinstance(began, Began)
    assert (began.info.id, began.shape, began.data) == ("t", (2,), FOUR_BYTES)


@each(
    "fields",
    [
        {"last": False},
        {"encoding": 1},
        {"offset": 4},
        {"part": pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, element_bits=8, shape=[4])},
    ],
    ids=["more follows", "a record", "not the beginning", "a part"],
)
def test_anything_else_is_a_header_and_bytes(fields: dict[str, Any]) -> None:
    began, found = arrivals(answer(**fields), memoryview(FOUR_BYTES))
    assert isinstance(began, Began)
    assert began.data is None
    assert found == Bytes(0, fields.get("offset", 0), memoryview(FOUR_BYTES), "encoding" in fields, 4)


def test_a_header_alone_brings_no_bytes() -> None:
    (began,) = arrivals(answer(payload_length=0, decoded_length=0), memoryview(b""))
    assert isinstance(began, Began)
    assert began.data is None


def test_damaged_bytes_do_not_arrive() -> None:
    with pytest.raises(ChecksumMismatchError):
        list(arrivals(answer(crc32c=1), memoryview(FOUR_BYTES)))
