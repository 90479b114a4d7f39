"""What every compressor promises: the same bytes back, and nothing worse than `CorruptChunkError` for any others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from contract.codec_contract import CodecContract, each_codec, in_threads
from contract.codec_memory import allocating_at_most
from support.cases import each
from tensorus_codecs.abc import Codec, Compressor
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.errors import CorruptChunkError

_RANDOM = np.random.default_rng(0)

DATA = {
    "one byte": b"\x2a",
    "two bytes": b"\x00\xff",
    "zeros": bytes(1000),
    "a ramp": bytes(range(256)) * 3,
    "text": b"the same words over and over again, " * 50,
    "weights": (_RANDOM.standard_normal(3001) * 0.02).astype(np.float32).tobytes(),
    "exponents": np.abs(_RANDOM.standard_normal(9001) * 8).astype(np.uint8).tobytes(),
    "noise": _RANDOM.bytes(5003),
    "more than a window of gzip": bytes(40_000) + _RANDOM.bytes(33) * 2000,
}

SAMPLE = DATA["text"]
"""What the tests of damage encode: it compresses with every setting."""

_GARBAGE_COUNT = 50

_BOMB_BYTES = 16 * 1024 * 1024
_DECLARED_BYTES = 1000
_OVERHEAD_BYTES = 64 * 1024
"""Of a decoder's own state and the exception; far below the bomb."""


def encoded_sample(codec: Compressor) -> bytes:
    """Return SAMPLE as `codec` encodes it."""
    encoded = codec.encode(SAMPLE)
    assert encoded is not None
    assert len(encoded) < len(SAMPLE)
    return encoded


class CompressorContract(CodecContract):
    """What every compressor promises."""

    kind: ClassVar[type[Codec]] = Compressor
    codec_type: ClassVar[type[Compressor]]

    def bomb(self) -> bytes:
        """Return a small stream that decodes to 16 MiB."""
        encoded = self.codec_type().encode(bytes(_BOMB_BYTES))
        assert encoded is not None
        assert len(encoded) < _BOMB_BYTES // 200
        return encoded

    @each_codec
    @each("data", DATA.values(), ids=DATA)
    def test_what_it_encodes_comes_back(self, codec: Compressor, data: bytes) -> None:
        encoded = codec.encode(data)
        assert encoded is None or bytes(self.codec_type.decode(encoded, len(data))) == data

    @pytest.mark.slow
    def test_the_largest_chunk_comes_back(self) -> None:
        # The second half repeats the first, as far apart as a chunk allows.
        data = np.random.default_rng(1).bytes(CANONICAL_BYTES_MAX // 2) * 2
        encoded = self.codec_type().encode(data)
        assert encoded is not None
        assert bytes(self.codec_type.decode(encoded, len(data))) == data

    @each_codec
    def test_every_buffer_encodes_like_the_same_bytes(self, codec: Compressor) -> None:
        expected = codec.encode(SAMPLE)
        assert codec.encode(bytearray(SAMPLE)) == expected
        assert codec.encode(memoryview(b"x" + SAMPLE)[1:]) == expected
        assert codec.encode(memoryview(np.frombuffer(SAMPLE, np.uint8))) == expected

    @each_codec
    def test_a_view_into_a_record_decodes(self, codec: Compressor) -> None:
        encoded = encoded_sample(codec)
        view = memoryview(b"before" + encoded + b"after")[6:-5]
        assert bytes(self.codec_type.decode(view, len(SAMPLE))) == SAMPLE

    @each_codec
    def test_the_same_bytes_encode_the_same_every_time_and_in_every_thread(self, codec: Compressor) -> None:
        expected = codec.encode(DATA["weights"])
        assert all(found == expected for found in in_threads(lambda: codec.encode(DATA["weights"])))

    @each_codec
    def test_several_threads_decode_the_same(self, codec: Compressor) -> None:
        encoded = encoded_sample(codec)
        decoded = in_threads(lambda: bytes(self.codec_type.decode(encoded, len(SAMPLE))))
        assert all(found == SAMPLE for found in decoded)

    @each_codec
    def test_a_stream_that_ends_early_is_damage(self, codec: Compressor) -> None:
        encoded = encoded_sample(codec)
        for length in range(len(encoded)):
            with pytest.raises(CorruptChunkError, match=self.id):
                self.codec_type.decode(encoded[:length], len(SAMPLE))

    @each_codec
    @each("tail", [b"\0", b"\xff", b"more than one byte", SAMPLE], ids=["zero", "ones", "text", "long"])
    def test_a_stream_that_goes_on_is_damage(self, codec: Compressor, tail: bytes) -> None:
        with pytest.raises(CorruptChunkError, match=self.id):
            self.codec_type.decode(encoded_sample(codec) + tail, len(SAMPLE))

    @each_codec
    def test_a_stream_twice_is_damage(self, codec: Compressor) -> None:
        for declared in (len(SAMPLE), 2 * len(SAMPLE)):
            with pytest.raises(CorruptChunkError, match=self.id):
                self.codec_type.decode(encoded_sample(codec) * 2, declared)

    @each_codec
    @each("declared", [1, len(SAMPLE) // 2, len(SAMPLE) - 1, len(SAMPLE) + 1, 2 * len(SAMPLE)])
    def test_another_length_than_declared_is_damage(self, codec: Compressor, declared: int) -> None:
        with pytest.raises(CorruptChunkError, match=self.id):
            self.codec_type.decode(encoded_sample(codec), declared)

    @each_codec
    def test_a_flipped_bit_is_damage_or_decodes_to_the_declared_length(self, codec: Compressor) -> None:
        encoded = encoded_sample(codec)
        for position in range(8 * len(encoded)):
            damaged = bytearray(encoded)
            damaged[position // 8] ^= 1 << position % 8
            self.assert_damage_or_declared_length(bytes(damaged), len(SAMPLE))

    def test_garbage_is_damage_or_decodes_to_the_declared_length(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(_GARBAGE_COUNT):
            self.assert_damage_or_declared_length(random.bytes(int(random.integers(0, 300))), 200)

    @each_codec
    def test_garbage_after_a_good_beginning_is_no_worse(self, codec: Compressor) -> None:
        random = np.random.default_rng(0)
        encoded = encoded_sample(codec)
        for _ in range(_GARBAGE_COUNT):
            kept = int(random.integers(0, len(encoded)))
            self.assert_damage_or_declared_length(encoded[:kept] + random.bytes(len(encoded) - kept), len(SAMPLE))

    @pytest.mark.slow
    def test_a_bomb_costs_no_more_than_the_declared_bytes(self) -> None:
        bomb = self.bomb()
        with (
            allocating_at_most(_DECLARED_BYTES + len(bomb) + _OVERHEAD_BYTES),
            pytest.raises(CorruptChunkError, match=self.id),
        ):
            self.codec_type.decode(bomb, _DECLARED_BYTES)

    def assert_damage_or_declared_length(self, data: bytes, declared: int) -> None:
        """A decoder may fail to notice damage, but must not raise anything else or return another length."""
        try:
            decoded = self.codec_type.decode(data, declared)
        except CorruptChunkError as error:
            assert self.id in str(error)  # noqa: PT017 - an error is one of the two outcomes allowed
        else:
            assert memoryview(decoded).nbytes == declared
