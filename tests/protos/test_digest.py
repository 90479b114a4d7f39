"""The tensor digest is what FORMAT.md says, however the bytes arrive."""

from __future__ import annotations

import itertools
import struct

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tensorus_protos.digest import DIGEST_BYTES, ChunkedDigest, tensor_digest

DATA = bytes(range(256)) * 3

KNOWN = [
    ((1, 32, (), 4096), b"", "2d0a84cb06d6b1a07409f03622d9e342"),
    ((1, 32, (0, 3), 4096), b"", "3019c8f1a46e155557f5be6aa5743861"),
    ((2, 8, (768,), 256), DATA, "63779dccd5c7da346c21a2d9405a0313"),
    ((2, 8, (768,), 1000), DATA, "e1aa4de0e989f32a4449e87b1b22c761"),
    ((2, 8, (3, 256), 256), DATA, "d1f093ca0c146a18f4b2e5b54166a162"),
    ((3, 8, (768,), 256), DATA, "2b68d6874202c232a89b9e59f1265dd4"),
]
"""What it is of, the bytes, and the digest."""


def digest_of(of: tuple[int, int, tuple[int, ...], int], *pieces: bytes) -> bytes:
    digest = ChunkedDigest(*of)
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


@pytest.mark.parametrize(("of", "data", "expected"), KNOWN)
def test_it_has_known_values(of: tuple[int, int, tuple[int, ...], int], data: bytes, expected: str) -> None:
    assert digest_of(of, data).hex() == expected


def test_it_is_the_digest_of_a_head_and_of_the_chunks_digests() -> None:
    head = struct.pack("<IIQIQQ", 2, 8, 256, 2, 3, 256)
    chunks = b"".join(xxhash.xxh3_128_digest(DATA[at : at + 256]) for at in range(0, 768, 256))
    expected = xxhash.xxh3_128_digest(head + chunks)
    assert tensor_digest(2, 8, (3, 256), 256, chunks) == digest_of((2, 8, (3, 256), 256), DATA) == expected
    assert len(expected) == DIGEST_BYTES


def test_what_it_is_of_counts() -> None:
    assert len({expected for _, _, expected in KNOWN}) == len(KNOWN)


@given(st.binary(max_size=500), st.integers(1, 70), st.lists(st.integers(0, 500), max_size=8))
def test_pieces_of_any_size_give_the_digest_of_all_at_once(data: bytes, chunk_bytes: int, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(bounds)]
    of = (2, 8, (len(data),), chunk_bytes)
    assert digest_of(of, *pieces) == digest_of(of, data)


def test_it_takes_buffers_of_any_element_size() -> None:
    words = memoryview(DATA).cast("Q")
    digest = ChunkedDigest(2, 8, (768,), 100)
    digest.update(words)
    assert digest.digest() == digest_of((2, 8, (768,), 100), DATA)
