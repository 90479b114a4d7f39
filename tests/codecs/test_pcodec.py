"""The pcodec compressor: the contract, its number types, every bit of every float, and files that lie."""

from __future__ import annotations

import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pcodec
import pytest
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, standalone

from contract.codec_chunks import encode, encoding_of, stored_values
from contract.codec_compressor_contract import DATA, SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract
from contract.codec_libraries import hidden_library
from contract.codec_memory import allocating_at_most
from support.arrays import normal, random_bits
from support.cases import each
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.lossless import pcodec as module
from tensorus_codecs.lossless.pcodec import Pcodec
from tensorus_codecs.registry import codec_class

TYPES = {
    "uint8": 10,
    "uint16": 7,
    "uint32": 1,
    "uint64": 2,
    "int8": 11,
    "int16": 8,
    "int32": 3,
    "int64": 4,
    "float16": 9,
    "float32": 5,
    "float64": 6,
}
"""Frozen: the format's own bytes."""

NUMBERS = np.arange(1000, dtype=np.uint32) ** 2

# "pco!", versions 3, no uniform type, a hint of 10 bits, 4.1, uint32, 1000 numbers less one
START = b"pco!\x03\x00" + (9 | 1000 << 6).to_bytes(2, "little") + b"\x04\x01" + b"\x01" + (999).to_bytes(3, "little")


def file_of(values: np.ndarray, mode: ModeSpec | None = None, delta: DeltaSpec | None = None) -> bytes:
    """Return the file of one chunk that the library writes, in this mode and with this delta encoding."""
    config = ChunkConfig(
        mode_spec=mode or ModeSpec.auto(),
        delta_spec=delta or DeltaSpec.auto(),
        paging_spec=PagingSpec.exact_page_sizes([values.size]),
        enable_8_bit=True,
    )
    return standalone.simple_compress(values, config)


class TestPcodec(CompressorContract, SettingsContract):
    codec_type = Pcodec
    id = "pcodec"
    number = 6

    configurations = (
        {},
        {"level": 0},
        {"level": 12},
        *({"number_type": name} for name in TYPES),
    )

    refusals = (
        *(Refusal("level", value, "an integer from 0 to 12") for value in (-1, 13, 8.0, "8", True, None)),
        *(
            Refusal("number_type", value, f"one of {', '.join(TYPES)}")
            for value in ("bool", "bfloat16", "<f4", "FLOAT32", 4, True, None, ["uint8"])
        ),
    )


class TestNumberTypes:
    """What the bytes are read as."""

    @each("name", TYPES)
    def test_the_file_names_the_type(self, name: str) -> None:
        file = Pcodec(number_type=name).encode(np.arange(1000).astype(name).tobytes())
        assert file[10] == TYPES[name]
        assert file == file_of(np.arange(1000).astype(name))

    @each(
        ("dtype", "name"),
        [
            *((name, name) for name in TYPES),
            ("bfloat16", "uint16"),
            ("float8_e4m3fn", "uint8"),
            ("float8_e5m2", "uint8"),
            ("bool", "uint8"),
            ("complex64", "float32"),
            ("complex128", "float64"),
        ],
    )
    def test_an_encoding_fills_in_the_chunks_own(self, dtype: str, name: str) -> None:
        assert encoding_of("pcodec").fitted(dtype_by_name(dtype)) == encoding_of(
            {"id": "pcodec", "configuration": {"number_type": name}}
        )

    def test_after_a_quantizer_it_is_that_of_the_codes(self) -> None:
        found = encoding_of("int8_block", "pcodec").fitted(dtype_by_name("float32"))
        assert found.compressor == Pcodec(number_type="int8")

    def test_after_a_filter_it_is_bytes(self) -> None:
        found = encoding_of("planes", "pcodec").fitted(dtype_by_name("float32"))
        assert found.compressor == Pcodec(number_type="uint8")

    def test_one_that_was_asked_for_stays(self) -> None:
        asked = Pcodec(number_type="int32")
        assert asked.fitted(np.dtype(np.float64), 1) is asked

    @pytest.mark.parametrize("name", ["uint16", "float32", "int64"])
    def test_bytes_that_are_no_whole_numbers_are_read_as_bytes(self, name: str) -> None:
        data = DATA["noise"]
        assert len(data) % 2
        file = Pcodec(number_type=name).encode(data)
        assert file[11] == TYPES["uint8"]
        assert bytes(Pcodec.decode(file, len(data))) == data

    def test_what_is_stored_needs_no_setting_to_be_read(self) -> None:
        values = np.cumsum(np.random.default_rng(0).integers(0, 9, 5000))
        chunk = encode(values, encoding_of("pcodec"))
        assert chunk.stored_bytes < values.nbytes // 8
        assert stored_values(chunk, values).tobytes() == values.tobytes()


class TestBits:
    """Lossless means every bit, of NaN and zero, too."""

    @each("name", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "complex64"])
    @each("level", [0, 8])
    def test_every_bit_pattern_comes_back(self, name: str, level: int) -> None:
        data = random_bits(name, (2000,)).tobytes()
        codec = Pcodec(level=level).fitted(dtype_by_name(name).component, 1)
        assert bytes(Pcodec.decode(codec.encode(data), len(data))) == data

    @pytest.mark.parametrize("name", ["float16", "float32", "float64"])
    def test_multiples_with_nan_payloads_infinities_and_both_zeros_come_back(self, name: str) -> None:
        # What makes the library look for a base, which must not round the others.
        values = (np.random.default_rng(0).integers(-1000, 1000, 3000) * 0.01).astype(name)
        values[::7], values[1::7], values[2::7], values[3::7] = np.nan, np.inf, -0.0, 0.0
        bits = values.view(f"u{values.itemsize}")
        bits[::14] ^= np.array(0x155, bits.dtype)
        data = values.tobytes()
        assert bytes(Pcodec.decode(Pcodec(number_type=name).encode(data), len(data))) == data

    def test_bfloat16_weights_shrink_more_than_their_planes(self) -> None:
        values = normal((100_000,)).astype(ml_dtypes.bfloat16)
        sizes = {
            steps[-1]: encode(values, encoding_of(*steps)).stored_bytes for steps in (("pcodec",), ("planes", "zstd"))
        }
        assert sizes["pcodec"] < 0.67 * values.nbytes
        assert sizes["pcodec"] < sizes["zstd"]


class TestFormat:
    """The standalone format, as it is documented."""

    def test_a_file_starts_as_documented(self) -> None:
        assert Pcodec(number_type="uint32").encode(NUMBERS.tobytes())[: len(START)] == START

    def test_a_chunk_of_the_largest_size_is_one_file_of_one_chunk(self) -> None:
        file = Pcodec(number_type="uint8").encode(bytes(CANONICAL_BYTES_MAX))
        count = CANONICAL_BYTES_MAX - 1
        assert count.to_bytes(3, "little") in file[10:20]
        assert len(file) < 100

    def test_another_decoder_reads_its_files(self) -> None:
        file = Pcodec(number_type="uint32").encode(NUMBERS.tobytes())
        assert (standalone.simple_decompress(file) == NUMBERS).all()

    @each("delta", [DeltaSpec.no_op(), DeltaSpec.try_consecutive(3), DeltaSpec.try_lookback()])
    @each(
        ("mode", "name"),
        [
            (ModeSpec.classic(), "int32"),
            (ModeSpec.try_int_mult(10), "int16"),
            (ModeSpec.try_float_mult(10.0), "float32"),
            (ModeSpec.try_float_quant(5), "float64"),
        ],
    )
    def test_every_mode_and_delta_encoding_decodes(self, mode: ModeSpec, name: str, delta: DeltaSpec) -> None:
        for count in (1, 17, 300, 3000):
            values = (np.random.default_rng(0).integers(0, 9, count) * 10).astype(name)
            assert bytes(Pcodec.decode(file_of(values, mode, delta), values.nbytes)) == values.tobytes()

    @pytest.mark.parametrize("name", ["uint64", "float32", "int8"])
    def test_a_dictionary_decodes(self, name: str) -> None:
        # Without a delta encoding, since libraries before 1.1 do not read back what they write with both.
        for count in (1, 17, 300, 3000):
            values = (np.random.default_rng(0).integers(0, 9, count) * 10).astype(name)
            file = file_of(values, ModeSpec.try_dict(), DeltaSpec.no_op())
            assert bytes(Pcodec.decode(file, values.nbytes)) == values.tobytes()

    def test_a_convolution_decodes(self) -> None:
        values = np.cumsum(np.random.default_rng(0).integers(-5, 5, 3000)).astype(np.int32)
        file = file_of(values, delta=DeltaSpec.try_conv1(4))
        assert bytes(Pcodec.decode(file, values.nbytes)) == values.tobytes()


def replaced(file: bytes, at: int, data: bytes) -> bytes:
    return file[:at] + data + file[at + len(data) :]


class TestLies:
    """Files that no encoder of ours wrote."""

    @each(
        ("at", "data", "rule"),
        [
            (0, b"Pco!", r"starts with b'Pco!\\x03', must start with b'pco!\\x03'"),
            (4, b"\x02", r"starts with b'pco!\\x02', must start with"),
            (8, b"\x03", r"has wrapped version 3, must be 4"),
            (8, b"\x05", r"has wrapped version 5, must be 4"),
            (10, b"\x00", r"has number type 0, must be one of \[1, 2, .*, 11\]"),
            (10, b"\x0c", r"has number type 12, must be one of"),
            (10, b"\x02", r"has 1000 numbers of type uint64, must be 4000 bytes"),
            (11, b"\xe8", r"has 1001 numbers of type uint32, must be 4000 bytes"),
            (11, b"\xff\xff\xff", r"has 16777216 numbers of type uint32, must be 4000 bytes"),
            (14, b"\x05", r"has mode 5, must be 0 to 4"),
            (14, b"\x40", r"has delta encoding 4, must be 0 to 3"),
        ],
    )
    def test_a_start_that_is_none_is_refused_by_its_field(self, at: int, data: bytes, rule: str) -> None:
        file = replaced(file_of(NUMBERS), at, data)
        with pytest.raises(CorruptChunkError, match=rf"^pcodec stream of {len(file)} bytes {rule}"):
            Pcodec.decode(file, NUMBERS.nbytes)

    @each("length", [0, 4, 6, 7, 13, 14])
    def test_a_file_without_numbers_is_refused(self, length: int) -> None:
        with pytest.raises(CorruptChunkError, match=rf"^pcodec stream of {length} bytes "):
            Pcodec.decode(file_of(NUMBERS)[:length], NUMBERS.nbytes)

    def test_a_file_of_two_chunks_is_refused(self) -> None:
        file = standalone.simple_compress(NUMBERS, ChunkConfig(paging_spec=PagingSpec.equal_pages_up_to(500)))
        with pytest.raises(CorruptChunkError, match="has 500 numbers of type uint32, must be 4000 bytes"):
            Pcodec.decode(file, NUMBERS.nbytes)
        with pytest.raises(CorruptChunkError, match="does not end after 500 numbers"):
            Pcodec.decode(file, NUMBERS.nbytes // 2)

    @pytest.mark.parametrize("end", [b"", b"\x01", b"\x00\x00"])
    def test_a_file_ends_with_one_zero(self, end: bytes) -> None:
        with pytest.raises(CorruptChunkError, match="does not end after 1000 numbers"):
            Pcodec.decode(file_of(NUMBERS)[:-1] + end, NUMBERS.nbytes)

    @pytest.mark.parametrize("length", [1001, 2**25 - 1])
    def test_a_dictionary_of_more_values_than_numbers_costs_nothing(self, length: int) -> None:
        file = replaced(file_of(NUMBERS), 14, (4 | length << 4).to_bytes(4, "little"))
        with (
            allocating_at_most(64 * 1024),
            pytest.raises(CorruptChunkError, match=f"has a dictionary of {length} numbers for 1000$"),
        ):
            Pcodec.decode(file, NUMBERS.nbytes)

    @each("log", [11, 15, 24, 31])
    @each("mode", [ModeSpec.classic(), ModeSpec.try_int_mult(7), ModeSpec.try_dict()])
    def test_a_window_of_far_more_numbers_than_there_are_costs_nothing(self, mode: ModeSpec, log: int) -> None:
        file = file_of(np.tile(NUMBERS[:100], 10), mode, DeltaSpec.try_lookback())
        bits = {0: 4, 1: 4 + 32, 4: 32 + 32 * 100}[file[14] & 15]
        metadata = int.from_bytes(file[14:], "little")
        assert metadata >> bits & 0x1FF == 2 | 9 << 4  # a window of 2**(9 + 1) for 1000 numbers
        metadata ^= (9 ^ log) << bits + 4
        lying = file[:14] + metadata.to_bytes(len(file) - 14, "little")
        with pytest.raises(CorruptChunkError, match=f"has a window of {2 << log} numbers for 1000$"):
            Pcodec.decode(lying, NUMBERS.nbytes)

    def test_the_encoders_window_is_never_refused(self) -> None:
        for count in (1, 2, 15, 16, 17, 255, 256, 257, 1000, 40_000, 70_000):
            values = np.tile(np.random.default_rng(0).integers(0, 2**31, 7), count // 7 + 1)[:count].astype(np.uint32)
            file = file_of(values, ModeSpec.classic(), DeltaSpec.try_lookback())
            assert bytes(Pcodec.decode(file, values.nbytes)) == values.tobytes()


def a_panic() -> BaseException:
    """Return what the library raises where its Rust code panics: here, in a delta encoding that our encoder never asks for."""
    values = np.random.default_rng(0).integers(0, 9, 1028).astype(np.int32)
    with pytest.raises(BaseException, match="out of range for slice") as caught:
        file_of(values, delta=DeltaSpec.try_conv1(7))
    assert not isinstance(caught.value, Exception)
    return caught.value


class TestWhatTheLibraryRaises:
    """Errors of the library are damage; others are not swallowed."""

    def raising(self, error: BaseException) -> Callable[..., None]:
        def new(_: bytes) -> None:
            raise error

        return new

    def decode(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        fake = type("FileDecompressor", (), {"new": staticmethod(self.raising(error))})
        monkeypatch.setattr(module, "wrapped", type("wrapped", (), {"FileDecompressor": fake}))
        Pcodec.decode(file_of(NUMBERS), NUMBERS.nbytes)

    @pytest.mark.parametrize(
        "error", [a_panic, lambda: RuntimeError("pco error: x out of range")], ids=["panic", "error"]
    )
    def test_a_panic_is_damage_like_an_error(
        self, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
    ) -> None:
        raised = error()
        with pytest.raises(CorruptChunkError, match=r"^pcodec stream of \d+ bytes: .*out of range") as caught:
            self.decode(monkeypatch, raised)
        assert caught.value.__cause__ is raised

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    def test_other_errors_pass(self, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
        with pytest.raises(error):
            self.decode(monkeypatch, error())


def test_a_library_of_another_format_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with hidden_library("pcodec"):
        monkeypatch.setitem(sys.modules, "pcodec", pcodec)
        monkeypatch.setattr(pcodec, "ChunkConfig", type("ChunkConfig", (), {}))
        with pytest.raises(
            UnsupportedCodecError, match=r"^codec 'pcodec' needs the library 'pcodec 1\.0\.3 or newer', which"
        ):
            codec_class("pcodec")
        monkeypatch.undo()


def test_garbage_of_every_kind_is_damage_or_decodes() -> None:
    random = np.random.default_rng(0)
    for name in TYPES:
        values = (random.integers(0, 50, 500) * 3).astype(name)
        for mode in (ModeSpec.auto(), ModeSpec.try_dict()):
            for delta in (DeltaSpec.auto(), DeltaSpec.try_lookback()):
                file = file_of(values, mode, delta)
                for _ in range(40):
                    damaged = bytearray(file)
                    for _ in range(int(random.integers(1, 5))):
                        damaged[int(random.integers(13, min(len(file), 60)))] = int(random.integers(0, 256))
                    try:
                        assert Pcodec.decode(damaged, values.nbytes).nbytes == values.nbytes
                    except CorruptChunkError as error:
                        assert "pcodec" in str(error)  # noqa: PT017 - an error is one of the two outcomes allowed


def test_the_samples_of_the_contract_shrink() -> None:
    for name in ("zeros", "a ramp", "exponents"):
        assert len(Pcodec().encode(DATA[name])) < len(DATA[name]), name
    assert len(Pcodec().encode(SAMPLE)) < len(SAMPLE)
