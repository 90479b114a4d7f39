"""Coarse forms: what the start of a record alone says of its values, and that nothing in it goes unverified."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_chunks import encoding_of, record_bytes
from tensorus_codecs.chunk_record import pack_header
from tensorus_codecs.coarse import COARSE_CODECS, COARSE_ERROR, HEAD_BYTES, CoarseHead, has_coarse_form
from tensorus_codecs.dtypes import DTYPES, dtype_by_name
from tensorus_codecs.pipeline import EncodedChunk, codec_ids, decode_chunk, decode_record, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy

HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
FLOAT32, COMPLEX64 = dtype_by_name("float32"), dtype_by_name("complex64")
STEPS = ("bf16_planes", HUFFMAN)


def normal(count: int = 5000) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(count) * 0.02).astype(np.float32)


def encode(values: np.ndarray, *steps: object) -> EncodedChunk:
    dtype = dtype_by_name(values.dtype.name)
    policy = StoragePolicy(encoding=encoding_of(*(steps or STEPS)))
    return encode_chunk(values.tobytes(), dtype, plan(policy, dtype))


def head_of(record: bytes) -> CoarseHead | None:
    return CoarseHead.parse(record[:HEAD_BYTES], len(record))


def coarse_values(values: np.ndarray, *steps: object) -> np.ndarray:
    """Return what the start of the values' record decodes to."""
    record = record_bytes(encode(values, *steps))
    head = head_of(record)
    assert head is not None
    streams = record[HEAD_BYTES : HEAD_BYTES + head.streams_bytes]
    return np.frombuffer(decode_record(head.record(streams)), values.dtype)


def assert_within_the_bound(values: np.ndarray, coarse: np.ndarray) -> None:
    exact = values.astype(np.float64)
    bound = np.where(np.abs(exact) >= 2.0**-126, COARSE_ERROR * np.abs(exact), 2.0**-134)
    assert (np.abs(coarse.astype(np.float64) - exact) <= bound).all()


class TestValues:
    """What a coarse form decodes to."""

    def test_values_are_those_of_bfloat16_but_for_ties(self) -> None:
        values = normal()
        ties = values.view(np.uint32) & 0xFFFF == 0x8000
        expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
        assert coarse_values(values)[~ties].tobytes() == expected[~ties].tobytes()

    def test_values_that_bfloat16_holds_are_exact(self) -> None:
        values = np.concatenate([normal().astype(ml_dtypes.bfloat16).astype(np.float32), np.arange(257, dtype="<f4")])
        assert coarse_values(values).tobytes() == values.tobytes()

    def test_zeros_keep_their_signs_and_infinities_and_nans_stay_what_they_are(self) -> None:
        values = normal()
        values[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45]
        coarse = coarse_values(values)
        assert coarse[:4].tobytes() == values[:4].tobytes()
        assert np.isnan(coarse[4])
        assert coarse[5:7].tobytes() == np.array([0.0, -0.0], "<f4").tobytes()

    @given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
    def test_no_error_is_above_the_bound(self, values: list[float]) -> None:
        array = np.array([*values, *normal()], "<f4")
        head = head_of(record_bytes(encode(array)))
        if head is None:
            # A value that rounds to infinity.
            assert np.abs(array).max() >= np.frombuffer(b"\x00\x80\x7f\x7f", "<f4")[0]
        else:
            assert_within_the_bound(array, coarse_values(array))

    def test_the_relative_error_of_weights_is_below_two_thousandths(self) -> None:
        values = normal().astype(np.float64)
        assert np.linalg.norm(coarse_values(normal()) - values) <= 2.0e-3 * np.linalg.norm(values)

    def test_complex_values_are_rounded_by_their_parts(self) -> None:
        values = normal().view(np.complex64)
        assert coarse_values(values, "bf16_planes", "zstd").tobytes() == coarse_values(normal()).tobytes()

    def test_the_start_is_at_most_45_percent_of_the_record(self) -> None:
        chunk = encode(normal(262144))
        head = head_of(record_bytes(chunk))
        assert head is not None
        assert HEAD_BYTES + head.streams_bytes <= 0.45 * chunk.stored_bytes


class TestVerification:
    """The start of a record has a checksum with that of the whole."""

    RECORD = record_bytes(encode(normal(500)))

    def test_the_start_tells_the_checksum_of_the_whole_record(self) -> None:
        for values in (normal(), normal(64).repeat(50), normal()[:2500].view(np.complex64)):
            chunk = encode(values)
            record = record_bytes(chunk)
            head = head_of(record)
            assert head is not None
            assert head.record_crc32c(record[HEAD_BYTES : HEAD_BYTES + head.streams_bytes]) == chunk.crc32c

    def test_no_flipped_bit_of_the_start_goes_unnoticed(self) -> None:
        intact = head_of(self.RECORD)
        assert intact is not None
        start = HEAD_BYTES + intact.streams_bytes
        expected = intact.record_crc32c(self.RECORD[HEAD_BYTES:start])
        for bit in range(8 * start):
            damaged = bytearray(self.RECORD)
            damaged[bit // 8] ^= 1 << bit % 8
            head = head_of(bytes(damaged))
            # Without a head, the whole record is read, and its checksum verified.
            if head is not None:
                streams = bytes(damaged[HEAD_BYTES : HEAD_BYTES + head.streams_bytes])
                assert head.record_crc32c(streams) != expected, bit

    def test_a_damaged_checksum_of_the_tail_does_not_change_what_the_whole_record_decodes_to(self) -> None:
        damaged = bytearray(self.RECORD)
        damaged[HEAD_BYTES - 1] ^= 1
        assert decode_chunk(damaged) == normal(500).tobytes()


class TestForms:
    """Which records have a coarse form."""

    @pytest.mark.parametrize(
        "values",
        [
            pytest.param(normal().astype(np.float64), id="float64"),
            pytest.param(np.arange(5000, dtype=np.int32), id="int32"),
            pytest.param(np.array([*normal(), np.finfo(np.float32).max], "<f4"), id="a value that rounds to infinity"),
            pytest.param(np.array([*normal().view("<u4"), 0xFFFFFFFF], "<u4").view("<f4"), id="a NaN that rounds to 0"),
        ],
    )
    def test_a_record_of_other_values_has_none(self, values: np.ndarray) -> None:
        record = record_bytes(encode(values))
        assert head_of(record) is None
        assert decode_chunk(record) == values.tobytes()

    @pytest.mark.parametrize("steps", [("rotated_planes", "zstd"), ("planes", "zstd"), ("zstd",), ("bitround", *STEPS)])
    def test_a_record_of_another_encoding_has_none(self, steps: tuple[object, ...]) -> None:
        assert head_of(record_bytes(encode(normal(), *steps))) is None

    @pytest.mark.parametrize("length", [0, 1, 15, 35, 39])
    def test_what_is_shorter_than_a_head_has_none(self, length: int) -> None:
        record = record_bytes(encode(normal()))
        assert CoarseHead.parse(record[:length], len(record)) is None

    def test_a_head_whose_sizes_are_not_those_of_the_record_is_none(self) -> None:
        record = record_bytes(encode(normal()))
        assert CoarseHead.parse(record[:HEAD_BYTES], len(record) + 1) is None

    def test_the_coarse_form_is_a_record_of_its_own(self) -> None:
        record = record_bytes(encode(normal()))
        head = head_of(record)
        assert head is not None
        coarse = head.record(record[HEAD_BYTES : HEAD_BYTES + head.streams_bytes])
        data = b"".join([pack_header(coarse), *(bytes(stream.data) for stream in coarse.streams)])
        assert decode_chunk(data) == coarse_values(normal()).tobytes()
        assert codec_ids(coarse) == (*COARSE_CODECS, "zstd")

    def test_float32_and_complex64_may_have_one_and_no_other_dtype(self) -> None:
        ids = ["bf16_planes", "zstd"]
        assert [dtype for dtype in DTYPES if has_coarse_form(dtype, ids)] == [FLOAT32, COMPLEX64]
        assert not has_coarse_form(FLOAT32, ["bitround", *ids])
        assert not has_coarse_form(FLOAT32, [])
