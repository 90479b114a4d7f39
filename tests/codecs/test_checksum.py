"""Checksums against published vectors, and combining them against computing them."""

from __future__ import annotations

import itertools

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from support.cases import each
from tensorus_codecs.checksum import TensorDigest, chunk_seed, combine_crc32c, crc32c

VECTORS = {
    "nothing": (b"", 0),
    "the check value": (b"123456789", 0xE3069283),
    # The other four: RFC 3720, appendix B.4.
    "32 zeros": (bytes(32), 0x8A9136AA),
    "32 ones": (b"\xff" * 32, 0x62A8AB43),
    "ascending": (bytes(range(32)), 0x46DD794E),
    "descending": (bytes(range(31, -1, -1)), 0x113FDB5C),
}


@each(("data", "expected"), VECTORS.values(), ids=VECTORS)
def test_crc32c_is_castagnolis(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@each("cut", range(10))
def test_crc32c_continues(cut: int) -> None:
    data = b"123456789"
    assert crc32c(data[cut:], crc32c(data[:cut])) == 0xE3069283


@given(first=st.binary(max_size=100), second=st.binary(max_size=3000))
def test_combining_two_checksums_is_the_checksum_of_both(first: bytes, second: bytes) -> None:
    assert combine_crc32c(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)


@each("size", [0, 1, 4096, 2**20, 2**21, 2**21 + 1])
def test_combining_holds_for_whole_chunks(size: int) -> None:
    first, second = b"first", bytes(size)
    assert combine_crc32c(crc32c(first), crc32c(second), size) == crc32c(first + second)


def test_a_chunks_seed_is_the_checksum_of_key_and_number() -> None:
    assert chunk_seed("payload", 0x0102) == crc32c(b"payload\x02\x01\0\0\0\0\0\0")


def test_every_key_and_number_has_a_seed_of_its_own() -> None:
    keys = ["", "a", "b", "ab", "ba", "payload-1", "payload-2"]
    numbers = [0, 1, 2, 255, 256, 2**32, 2**63]
    seeds = {chunk_seed(key, number) for key, number in itertools.product(keys, numbers)}
    assert len(seeds) == len(keys) * len(numbers)


def test_an_intact_chunk_in_another_place_does_not_match() -> None:
    record = b"a record"
    stored = crc32c(record) ^ chunk_seed("payload", 3)
    assert crc32c(record) ^ chunk_seed("payload", 4) != stored
    assert crc32c(record) ^ chunk_seed("elsewhere", 3) != stored
    assert crc32c(record) ^ chunk_seed("payload", 3) == stored


def test_a_key_outside_ascii_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        chunk_seed("schlüssel", 0)


class TestTensorDigest:
    """XXH3-128 of a whole tensor, piece by piece."""

    def test_its_name_is_the_algorithms(self) -> None:
        assert TensorDigest.ALGORITHM == "xxh3_128"

    def test_no_bytes_have_the_published_digest(self) -> None:
        # Source: the xxHash project's own test vectors, XXH3-128 of the empty input with seed 0.
        assert TensorDigest().digest().hex() == "99aa06d3014798d86001c324468d497f"

    @given(pieces=st.lists(st.binary(max_size=400), max_size=6))
    def test_pieces_count_as_the_bytes_one_after_the_other(self, pieces: list[bytes]) -> None:
        digest = TensorDigest()
        for piece in pieces:
            digest.update(piece)
        assert digest.digest() == xxhash.xxh3_128(b"".join(pieces), seed=0).intdigest().to_bytes(16, "big")
        assert digest.digest() == TensorDigest.of(memoryview(b"".join(pieces)))

    def test_asking_does_not_end_it(self) -> None:
        digest = TensorDigest()
        digest.update(b"first")
        assert digest.digest() == digest.digest()
        digest.update(memoryview(b"second"))
        assert digest.digest() == xxhash.xxh3_128_digest(b"firstsecond")
