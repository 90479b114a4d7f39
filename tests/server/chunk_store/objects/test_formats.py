"""The bytes of packs and segment directories, and the names of objects, which stores that exist rely on."""

from __future__ import annotations

import pytest

from support.cases import each
from tensorus_server.chunk_store.objects.names import Segment, pack_name, parse_pack
from tensorus_server.chunk_store.objects.packs import PackError, directory_bytes, pack_bytes, parse_directory
from tensorus_server.chunk_store.objects.segments import (
    DirectoryError,
    pack_directory,
    segments_before,
)
from tensorus_server.chunk_store.objects.segments import directory_bytes as segments_bytes
from tensorus_server.chunk_store.objects.segments import parse_directory as parse_segments

KEY = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2
PACK = "ab" * 16

# Written by hand after docs/FORMAT.md; the CRCs by another implementation of CRC32C.
GOLDEN_PACK = (
    b"payload one" b"two"
    b"0123456789abcdef0123456789abcdef"
    b"\x00\x00\x00\x00\x00\x00\x00\x00" b"\x0b\x00\x00\x00\x00\x00\x00\x00" b"CRC1" b"\x00\x00\x00\x00\x00\x00\x00\x00"
    b"fedcba9876543210fedcba9876543210"
    b"\x0b\x00\x00\x00\x00\x00\x00\x00" b"\x03\x00\x00\x00\x00\x00\x00\x00" b"CRC2" b"\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x78\x00\x00\x00\x00\x00\x00\x00" b"\x01\x00\x00\x00" b"CRC3" b"tensopak"
)  # fmt: skip
GOLDEN_DIRECTORY = (
    b"\x01\x00\x00\x00" b"\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x02\x00\x00\x00" b"\x00\x00\x80\x00\x00\x00\x00\x00"
    b"\x05\x00\x80\x00\x00\x00\x00\x00" b"\x02\x00\x00\x00" b"CRC1" b"tensoseg"
)  # fmt: skip


def slow_crc32c(data: bytes) -> bytes:
    """Return the CRC32C of `data`, bit by bit, as four bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def golden_pack() -> bytes:
    pack = GOLDEN_PACK.replace(b"CRC1", slow_crc32c(b"payload one")).replace(b"CRC2", slow_crc32c(b"two"))
    directory, _, _ = pack[14:].partition(b"CRC3")
    return pack.replace(b"CRC3", slow_crc32c(directory))


def golden_directory() -> bytes:
    checked, _, _ = GOLDEN_DIRECTORY.partition(b"CRC1")
    return GOLDEN_DIRECTORY.replace(b"CRC1", slow_crc32c(checked))


def test_the_bytes_of_a_pack_are_as_documented() -> None:
    data, parts = pack_bytes(PACK, [(KEY, b"payload one"), (OTHER, b"two")])
    assert data == golden_pack()
    assert [part.key for part in parts] == [f"p{PACK}-0-11/{KEY}", f"p{PACK}-11-3/{OTHER}"]
    length = directory_bytes(data[-24:])
    assert parse_directory(PACK, data[-length:], len(data)) == parts


def test_the_bytes_of_a_segment_directory_are_as_documented() -> None:
    segments = [Segment(KEY, 1, 0), Segment(KEY, 2, 8 * 1024 * 1024, is_end=True)]
    data = pack_directory(segments, 8 * 1024 * 1024 + 5)
    assert data == golden_directory()
    assert segments_bytes(data[-24:]) == len(data)
    assert parse_segments(KEY, data) == (segments, 8 * 1024 * 1024 + 5)


def test_every_flipped_bit_of_a_pack_s_directory_is_found() -> None:
    data = golden_pack()
    for place in range(14, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(PackError):
            parse_directory(PACK, bytes(damaged[-directory_bytes(damaged[-24:]) :]), len(damaged))


def test_every_flipped_bit_of_a_segment_directory_is_found() -> None:
    data = golden_directory()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(DirectoryError):
            parse_segments(KEY, bytes(damaged[-segments_bytes(damaged[-24:]) :]))


def test_a_pack_of_a_newer_version_is_refused() -> None:
    data = bytearray(golden_pack())
    data[-16] = 2
    with pytest.raises(PackError, match="the pack has version 2, this version of Tensorus knows 1"):
        directory_bytes(data[-24:])


NAMES = {
    "a segment": (Segment(KEY, 3, 17), f"t/01/{KEY}/3-0000000000000017"),
    "the last one": (Segment(KEY, 12, 0, is_end=True), f"t/01/{KEY}/12-0000000000000000-end"),
}


@pytest.mark.parametrize(("segment", "name"), NAMES.values(), ids=NAMES)
def test_names_of_segments(segment: Segment, name: str) -> None:
    assert segment.name == name
    assert Segment.parse(name) == segment


@pytest.mark.parametrize(
    "name",
    [
        f"t/02/{KEY}/1-0000000000000000",
        f"t/01/{KEY}/1-0",
        f"t/01/{KEY}/1-0000000000000000-End",
        f"t/01/{KEY}/-1-0000000000000000",
        f"x/t/01/{KEY}/1-0000000000000000",
        f"t/01/{KEY[:-1]}/1-0000000000000000",
    ],
)
def test_other_names_are_not_those_of_segments(name: str) -> None:
    assert Segment.parse(name) is None


def test_names_of_packs() -> None:
    assert pack_name(PACK) == f"p/ab/{PACK}"
    assert parse_pack(f"p/ab/{PACK}") == PACK
    assert parse_pack(f"p/aa/{PACK}") is None


def seg(generation: int, offset: int, *, end: bool = False) -> Segment:
    return Segment(KEY, generation, offset, is_end=end)


CHAINS = {
    "nothing is stored": ([], 10, [], 0),
    "nothing is wanted": ([(seg(1, 0), 10)], 0, [], 0),
    "one segment": ([(seg(1, 0), 10)], 10, ["1-0"], 10),
    "in any order": ([(seg(1, 10), 5), (seg(1, 0), 10)], 15, ["1-0", "1-10"], 15),
    "the second is missing": ([(seg(1, 0), 10), (seg(1, 20), 10)], 30, ["1-0"], 10),
    "a later writer's counts": ([(seg(1, 0), 10), (seg(1, 10), 7), (seg(2, 10), 9)], 19, ["1-0", "2-10"], 19),
    "what an earlier writer stored after it does not": (
        [(seg(1, 0), 10), (seg(2, 10), 5), (seg(1, 15), 5)], 20, ["1-0", "2-10"], 15,
    ),
    "not if the later one starts over": ([(seg(1, 0), 10), (seg(1, 10), 5), (seg(2, 0), 4)], 15, ["2-0"], 4),
    "three writers": (
        [(seg(1, 0), 10), (seg(1, 10), 10), (seg(2, 10), 5), (seg(2, 15), 5), (seg(3, 15), 1), (seg(1, 16), 9)],
        16, ["1-0", "2-10", "3-15"], 16,
    ),
    "the end of a payload does not": ([(seg(1, 0), 10), (seg(1, 10, end=True), 99)], 10, ["1-0"], 10),
    "what is wanted ends before": ([(seg(1, 0), 10), (seg(1, 10), 10)], 10, ["1-0"], 10),
}  # fmt: skip


@each(("stored", "length", "expected", "end"), CHAINS.values(), CHAINS)
def test_which_segments_hold_a_payload_s_first_bytes(
    stored: list[tuple[Segment, int]], length: int, expected: list[str], end: int
) -> None:
    segments, found = segments_before(stored, length)
    assert ([f"{segment.generation}-{segment.offset}" for segment in segments], found) == (expected, end)
