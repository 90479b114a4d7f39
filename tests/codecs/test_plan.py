"""Plans: what a policy means for each dtype, and what no policy changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contract.codec_chunks import encoding_of
from contract.codec_libraries import hidden_library
from contract.codec_values import EVERY_DTYPE
from support.cases import each
from tensorus_codecs.abc import Quantizer
from tensorus_codecs.contract import ErrorContract
from tensorus_codecs.dtypes import DType, Kind, dtype_by_name, opaque_dtype
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.plan import ChunkPlan, plan
from tensorus_codecs.policy import CHUNK_BYTES_DEFAULT, StoragePolicy
from tensorus_codecs.presets import DEFAULT_PRESET, PRESETS, Family, family_of, preset_by_name
from tensorus_codecs.quantizers.bf16 import Bf16
from tensorus_codecs.quantizers.fp16 import Fp16
from tensorus_codecs.quantizers.int8_block import Int8Block

NAMES = "none, fast, lossless, archive, balanced, bf16, maximum, extreme, auto, fp16_only, int8_only"
HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
ZSTD_1 = {"id": "zstd", "configuration": {"level": 1}}
INT8_128 = {"id": "int8_block", "configuration": {"block_size": 128, "code_max": 96}}
ROTATED = ("rotated_planes", HUFFMAN)
EXPLICIT = [
    Encoding(),
    encoding_of("fp16"),
    encoding_of("int8_block"),
    encoding_of("fp16", "planes", "gzip"),
    encoding_of("int8_block", "rotated_planes", HUFFMAN),
    encoding_of("planes", "lz4"),
    encoding_of("gzip"),
]

# preset: what floats of at least 16 bits are quantized with where the quantizer applies; None: not at all.
LOSSY: dict[str, tuple | None] = {
    "none": None,
    "fast": None,
    "lossless": None,
    "archive": None,
    "balanced": ("fp16", *ROTATED),
    "bf16": ("bf16", *ROTATED),
    "maximum": (INT8_128, *ROTATED),
    "extreme": ("int4_block", *ROTATED),
    "auto": None,
    "fp16_only": ("fp16",),
    "int8_only": ("int8_block",),
}


def planned(name: str, preset: str, **contract: float) -> ChunkPlan:
    return plan(StoragePolicy(preset=preset, **contract), dtype_by_name(name))


def test_these_are_the_presets() -> None:
    assert ", ".join(PRESETS) == NAMES
    assert list(LOSSY) == list(PRESETS)
    assert DEFAULT_PRESET == "lossless"


@each(("preset", "steps"), LOSSY.items(), ids=LOSSY)
@each("dtype", EVERY_DTYPE)
def test_a_preset_quantizes_what_its_quantizer_applies_to(preset: str, steps: tuple | None, dtype: DType) -> None:
    found = plan(StoragePolicy(preset=preset), dtype)
    expected = None if steps is None else encoding_of(*steps)
    if expected is not None and not expected.quantizer.applies_to(dtype):
        expected = None
    assert found.lossy == expected
    assert found.fallback_reason == ""
    # The largest number of whole elements that the default holds.
    assert found.chunk_bytes % dtype.element_bytes == 0
    assert CHUNK_BYTES_DEFAULT - dtype.element_bytes < found.chunk_bytes <= CHUNK_BYTES_DEFAULT


@each("preset", PRESETS)
class TestPresets:
    """Every preset, with every dtype there is or may be."""

    @each("dtype", EVERY_DTYPE)
    def test_there_is_a_lossless_encoding_to_fall_back_to(self, preset: str, dtype: DType) -> None:
        candidates = plan(StoragePolicy(preset=preset), dtype).lossless
        assert candidates
        assert all(candidate.encoding.quantizer is None for candidate in candidates)
        assert all(0 <= candidate.penalty < 0.1 for candidate in candidates)

    def test_it_describes_itself_in_a_line(self, preset: str) -> None:
        description = preset_by_name(preset).description
        assert description
        assert "\n" not in description

    def test_its_contract_holds_unless_the_policy_has_one(self, preset: str) -> None:
        own = 1e-2 if preset == "maximum" else None
        assert planned("float32", preset).contract == ErrorContract(own)
        for bound in (0.0, 0.5):
            found = planned("float32", preset, max_relative_error=bound, max_absolute_error=bound)
            assert found.contract == ErrorContract(bound, bound)
        assert planned("float32", preset, max_absolute_error=0.5).contract == ErrorContract(None, 0.5)

    def test_a_quantizer_alone_leaves_what_it_does_not_apply_to_as_it_is(self, preset: str) -> None:
        alone = preset in {"none", "fp16_only", "int8_only"}
        assert (planned("int32", preset).lossless[0].encoding == IDENTITY) == alone

    def test_only_none_does_exactly_one_thing(self, preset: str) -> None:
        assert planned("float32", preset).automatic == (preset != "none")


class TestAuto:
    """The preset that aims at an error."""

    def test_without_a_contract_it_is_lossless(self) -> None:
        assert planned("float32", "auto").lossy is None
        assert planned("float32", "auto").lossless == planned("float32", "lossless").lossless

    @pytest.mark.parametrize("bound", ["max_relative_error", "max_absolute_error"])
    def test_with_one_it_quantizes_floats(self, bound: str) -> None:
        assert planned("float32", "auto", **{bound: 0.1}).lossy is not None
        assert planned("int32", "auto", **{bound: 0.1}).lossy is None


def _exact_dtypes() -> list[DType]:
    return [dtype for dtype in EVERY_DTYPE if dtype.kind in {Kind.BOOL, Kind.INTEGER, Kind.OPAQUE}]


@each("dtype", _exact_dtypes())
class TestExactDTypes:
    """Integers, bools and unknown types are never lossy."""

    def test_under_no_preset_and_no_contract(self, dtype: DType) -> None:
        for preset in PRESETS:
            assert plan(StoragePolicy(preset=preset), dtype).lossy is None
            assert plan(StoragePolicy(preset=preset, max_relative_error=0.5), dtype).lossy is None

    def test_under_no_explicit_encoding(self, dtype: DType) -> None:
        for encoding in EXPLICIT:
            found = plan(StoragePolicy(encoding=encoding), dtype)
            assert found.lossy is None
            (candidate,) = found.lossless
            assert candidate.encoding == encoding.lossless.fitted(dtype)
            if encoding.quantizer is not None:
                assert found.fallback_reason == (
                    f"{encoding.quantizer.id} does not apply to {dtype.name}, which stays lossless"
                )


class TestExplicitEncodings:
    """What the caller names is done, and nothing else."""

    @each("encoding", EXPLICIT)
    def test_it_is_followed_where_it_applies(self, encoding: Encoding) -> None:
        found = plan(StoragePolicy(encoding=encoding), dtype_by_name("float32"))
        assert found.lossy == (None if encoding.quantizer is None else encoding)
        assert [candidate.encoding for candidate in found.lossless] == [encoding.lossless]
        assert found.contract.is_empty
        assert not found.automatic
        assert found.fallback_reason == ""

    @each(
        ("quantizer", "dtype"),
        [(Fp16(), "float16"), (Fp16(), "bfloat16"), (Bf16(), "bfloat16"), (Int8Block(), "float8_e4m3fn")],
    )
    def test_a_quantizer_that_saves_nothing_is_left_out(self, quantizer: Quantizer, dtype: str) -> None:
        found = plan(StoragePolicy(encoding=Encoding(quantizer, None, None)), dtype_by_name(dtype))
        assert found.lossy is None
        assert found.lossless[0].encoding == IDENTITY
        assert found.fallback_reason == f"{quantizer.id} does not apply to {dtype}, which stays lossless"


def test_the_default_policy_is_the_default_preset() -> None:
    for dtype in EVERY_DTYPE:
        assert plan(StoragePolicy(), dtype) == plan(StoragePolicy(preset=DEFAULT_PRESET), dtype)


@each(
    ("name", "family"),
    [
        ("bool", Family.BOOLS),
        ("uint8", Family.BYTES),
        ("float8_e5m2", Family.BYTES),
        ("int16", Family.INTEGERS),
        ("uint64", Family.INTEGERS),
        ("bfloat16", Family.FLOATS),
        ("complex128", Family.FLOATS),
    ],
)
def test_dtypes_that_the_same_encodings_suit_are_a_family(name: str, family: Family) -> None:
    assert family_of(dtype_by_name(name)) is family


def test_an_unknown_dtype_is_of_the_family_of_its_width() -> None:
    assert family_of(opaque_dtype(99, 32)) is Family.INTEGERS
    assert family_of(opaque_dtype(99, 24)) is Family.BYTES


class TestMissingLibrary:
    """A preset names a codec whose library is not installed: it is left out, and the plan says why."""

    REASON = r"codec 'zstd' needs the library"

    @each("preset", ["lossless", "balanced", "maximum", "auto"])
    @each("name", ["float32", "bfloat16", "int32", "bool"])
    def test_storing_without_zstd_keeps_the_bytes_as_they_are(self, preset: str, name: str) -> None:
        with hidden_library("zstd"):
            found = planned(name, preset)
        assert found.lossy is None
        assert [candidate.encoding for candidate in found.lossless] == [IDENTITY]
        assert found.fallback_reason.startswith(self.REASON)
        assert found.fallback_reason.count("zstd") == 1

    def test_storing_without_blosc_keeps_the_bytes_as_they_are(self) -> None:
        with hidden_library("blosc_lz4"):
            found = planned("float32", "fast")
        assert found.lossless[0].encoding == IDENTITY
        assert found.fallback_reason.startswith("codec 'blosc_lz4' needs the library")

    def test_where_another_takes_its_place_nothing_is_said(self) -> None:
        with hidden_library("pcodec"):
            found = planned("float32", "archive")
        assert found.fallback_reason == ""
        assert 1 <= len(found.lossless) < len(planned("float32", "archive").lossless)

    @each("preset", ["none", "fast", "fp16_only", "int8_only"])
    def test_presets_that_do_not_need_it_are_not_touched(self, preset: str) -> None:
        expected = planned("float32", preset)
        with hidden_library("zstd"):
            # A chunk with a base needs it under every preset.
            assert replace(planned("float32", preset), delta=expected.delta) == expected

    def test_an_explicit_encoding_that_needs_it_is_refused(self) -> None:
        with hidden_library("zstd"), pytest.raises(UnsupportedCodecError, match=self.REASON):
            StoragePolicy.from_json({"encoding": [{"id": "zstd"}]})
