"""Policies and presets: what is refused, what survives JSON, and what is done with each dtype."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from contract.codec_chunks import encoding_of
from contract.codec_libraries import hidden_library
from contract.codec_values import EVERY_DTYPE
from tensorus_codecs.abc import Quantizer
from tensorus_codecs.dtypes import DTYPES, DType, Kind, dtype_by_name, opaque_dtype
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedCodecError
from tensorus_codecs.policy import (
    CHUNK_BYTES_DEFAULT,
    CHUNK_BYTES_MIN,
    DEFAULT_PRESET,
    PRESETS,
    StoragePolicy,
    plan,
    preset_by_name,
)
from tensorus_codecs.quantizers.fp16 import Fp16
from tensorus_codecs.quantizers.int8_block import Int8Block

NAMES = "none, fast, lossless, balanced, bf16, maximum, fp16_only, int8_only"
HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
ZSTD_1 = {"id": "zstd", "configuration": {"level": 1}}
INT8_128 = {"id": "int8_block", "configuration": {"block_size": 128}}
ROTATED = ("rotated_planes", HUFFMAN)
PLANES = ("planes", ZSTD_1)
EXPLICIT = [
    Encoding(),
    encoding_of("fp16"),
    encoding_of("int8_block"),
    encoding_of("fp16", "planes", "gzip"),
    encoding_of("int8_block", "rotated_planes", HUFFMAN),
    encoding_of("planes", "lz4"),
    encoding_of("gzip"),
]


def blosc_lz4(word_bytes: int) -> dict:
    return {"id": "blosc_lz4", "configuration": {"word_bytes": word_bytes}}


# preset: what is tried, by dtype. Filters have nothing to do where a word is a single byte.
PLANS = {
    "none": {"float32": (), "float16": (), "int32": (), "bool": (), "float8_e5m2": (), "complex64": ()},
    "fast": {
        "float32": (blosc_lz4(4),),
        "float16": (blosc_lz4(2),),
        "int64": (blosc_lz4(8),),
        "bool": (blosc_lz4(1),),
        "complex128": (blosc_lz4(8),),
    },
    "lossless": {
        "float32": ROTATED,
        "bfloat16": ROTATED,
        "complex64": ROTATED,
        "float8_e4m3fn": (HUFFMAN,),
        "int64": PLANES,
        "uint16": PLANES,
        "uint8": (ZSTD_1,),
        "bool": (ZSTD_1,),
    },
    "balanced": {
        "float32": ("fp16", *ROTATED),
        "complex128": ("fp16", *ROTATED),
        "float16": ROTATED,
        "bfloat16": ROTATED,
        "float8_e5m2": (HUFFMAN,),
        "int32": PLANES,
        "int8": (ZSTD_1,),
    },
    "bf16": {
        "float32": ("bf16", *ROTATED),
        "float64": ("bf16", *ROTATED),
        "bfloat16": ROTATED,
        "int32": PLANES,
    },
    "maximum": {
        "float32": (INT8_128, HUFFMAN),
        "float16": (INT8_128, HUFFMAN),
        "complex64": (INT8_128, HUFFMAN),
        "float8_e4m3fn": (HUFFMAN,),
        "uint64": PLANES,
        "bool": (ZSTD_1,),
    },
    "fp16_only": {"float32": ("fp16",), "complex64": ("fp16",), "float16": (), "int32": (), "bool": ()},
    "int8_only": {"float64": ("int8_block",), "bfloat16": ("int8_block",), "float8_e5m2": (), "int8": ()},
}


def test_these_are_the_presets() -> None:
    assert ", ".join(PRESETS) == NAMES
    assert DEFAULT_PRESET == "lossless"


@pytest.mark.parametrize(
    ("preset", "dtype", "steps"),
    [(preset, dtype, steps) for preset, plans in PLANS.items() for dtype, steps in plans.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_preset_tries_this_encoding_first(preset: str, dtype: str, steps: tuple) -> None:
    found = plan(StoragePolicy(preset=preset), dtype_by_name(dtype))
    assert found.encoding == encoding_of(*steps)
    assert found.fallback_reason == ""


@pytest.mark.parametrize("preset", PRESETS)
class TestPresets:
    """Every preset, with every dtype there is or may be."""

    @pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=lambda dtype: dtype.name)
    def test_it_has_a_plan_and_nothing_stands_against_it(self, preset: str, dtype: DType) -> None:
        found = plan(StoragePolicy(preset=preset), dtype)
        assert found.fallback_reason == ""
        assert found.chunk_bytes == CHUNK_BYTES_DEFAULT
        assert found.lossless.quantizer is None

    @pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=lambda dtype: dtype.name)
    def test_only_a_quantizer_that_applies_is_planned(self, preset: str, dtype: DType) -> None:
        quantizer = plan(StoragePolicy(preset=preset), dtype).encoding.quantizer
        assert quantizer is None or quantizer.applies_to(dtype)

    def test_a_chunk_that_stays_lossless_is_stored_as_the_lossless_preset_does(self, preset: str) -> None:
        found = plan(StoragePolicy(preset=preset), dtype_by_name("float32"))
        expected = {"none": (), "fast": (blosc_lz4(4),), "fp16_only": (), "int8_only": ()}.get(preset, ROTATED)
        assert found.lossless == encoding_of(*expected)

    def test_it_describes_itself_in_a_line(self, preset: str) -> None:
        description = preset_by_name(preset).description
        assert description
        assert "\n" not in description

    def test_its_contract_holds_unless_the_policy_has_one(self, preset: str) -> None:
        dtype = dtype_by_name("float32")
        own = 1e-2 if preset == "maximum" else None
        assert plan(StoragePolicy(preset=preset), dtype).max_relative_error == own
        assert plan(StoragePolicy(preset=preset), dtype).max_absolute_error is None
        for bound in (0.0, 0.5):
            policy = StoragePolicy(preset=preset, max_relative_error=bound, max_absolute_error=bound)
            assert plan(policy, dtype).max_relative_error == bound
            assert plan(policy, dtype).max_absolute_error == bound


def _exact_dtypes() -> list[DType]:
    return [dtype for dtype in EVERY_DTYPE if dtype.kind in {Kind.BOOL, Kind.INTEGER, Kind.OPAQUE}]


@pytest.mark.parametrize("dtype", _exact_dtypes(), ids=lambda dtype: dtype.name)
class TestExactDTypes:
    """Integers, bools and unknown types are never lossy."""

    def test_under_no_preset(self, dtype: DType) -> None:
        for preset in PRESETS:
            found = plan(StoragePolicy(preset=preset), dtype)
            assert found.encoding.quantizer is None
            assert found.encoding == found.lossless

    def test_under_no_explicit_encoding(self, dtype: DType) -> None:
        for encoding in EXPLICIT:
            found = plan(StoragePolicy(encoding=encoding), dtype)
            assert found.encoding.quantizer is None
            assert found.encoding.compressor == encoding.compressor
            if encoding.quantizer is not None:
                assert found.fallback_reason == (
                    f"{encoding.quantizer.id} does not apply to {dtype.name}, which stays lossless"
                )


class TestExplicitEncodings:
    """What the caller names is done, and nothing else."""

    @pytest.mark.parametrize("encoding", EXPLICIT, ids=lambda encoding: "-".join(c.id for c in encoding.codecs))
    def test_it_is_followed_where_it_applies(self, encoding: Encoding) -> None:
        found = plan(StoragePolicy(encoding=encoding), dtype_by_name("float32"))
        # Codes of one byte have a single plane.
        filters = None if isinstance(encoding.quantizer, Int8Block) else encoding.filter
        assert found.encoding == Encoding(encoding.quantizer, filters, encoding.compressor)
        assert found.lossless == Encoding(None, encoding.filter, encoding.compressor)
        assert found.max_relative_error is None
        assert found.fallback_reason == ""

    @pytest.mark.parametrize(
        ("quantizer", "dtype"), [(Fp16(), "float16"), (Fp16(), "bfloat16"), (Int8Block(), "float8_e4m3fn")]
    )
    def test_a_quantizer_that_saves_nothing_is_left_out(self, quantizer: Quantizer, dtype: str) -> None:
        found = plan(StoragePolicy(encoding=Encoding(quantizer, None, None)), dtype_by_name(dtype))
        assert found.encoding == IDENTITY
        assert found.fallback_reason == f"{quantizer.id} does not apply to {dtype}, which stays lossless"

    @pytest.mark.parametrize("name", ["planes", "rotated_planes"])
    @pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=lambda dtype: dtype.name)
    def test_planes_of_single_bytes_are_left_out(self, name: str, dtype: DType) -> None:
        found = plan(StoragePolicy(encoding=encoding_of(name, "gzip")), dtype)
        assert (found.encoding.filter is None) == (dtype.word.itemsize == 1)
        assert found.lossless == found.encoding

    def test_planes_of_quantized_codes_depend_on_the_codes(self) -> None:
        dtype = dtype_by_name("complex128")
        assert plan(StoragePolicy(encoding=encoding_of("fp16", "planes")), dtype).encoding.filter is not None
        found = plan(StoragePolicy(encoding=encoding_of("int8_block", "planes", "lz4")), dtype)
        assert found.encoding == encoding_of("int8_block", "lz4")
        assert found.lossless == encoding_of("planes", "lz4")


class TestChunkBytes:
    """Canonical bytes per chunk."""

    @pytest.mark.parametrize("chunk_bytes", [4096, 4112, 65536, 2**20, 2**21 - 16, 2**21])
    def test_these_are_planned_with(self, chunk_bytes: int) -> None:
        assert plan(StoragePolicy(chunk_bytes=chunk_bytes), DTYPES[0]).chunk_bytes == chunk_bytes

    def test_the_default_is_a_mebibyte(self) -> None:
        assert plan(StoragePolicy(), DTYPES[0]).chunk_bytes == CHUNK_BYTES_DEFAULT == 2**20

    @pytest.mark.parametrize("chunk_bytes", [0, -4096, 16, 4080, 4095, 4097, 4104, 2**21 + 1, 2**21 + 16, 2**31])
    def test_these_are_refused(self, chunk_bytes: int) -> None:
        message = rf"^chunk_bytes of a policy is {chunk_bytes}, must be a multiple of 16 from 4096 to 2097152 bytes$"
        with pytest.raises(InvalidPolicyError, match=message):
            StoragePolicy(chunk_bytes=chunk_bytes)

    def test_every_dtype_fits_the_smallest_chunk_in_whole_elements(self) -> None:
        assert all((CHUNK_BYTES_MIN + 16) % dtype.element_bytes == 0 for dtype in DTYPES)


@pytest.mark.parametrize("key", ["max_relative_error", "max_absolute_error"])
class TestErrorBounds:
    """Bounds of a policy."""

    @pytest.mark.parametrize("bound", [0, 0.0, 1e-300, 0.5, 1e300])
    def test_any_finite_bound_is_taken(self, key: str, bound: float) -> None:
        assert getattr(StoragePolicy(**{key: bound}), key) == bound

    @pytest.mark.parametrize("bound", [-1, -1e-300, math.nan, math.inf, -math.inf])
    def test_a_bound_that_bounds_nothing_is_refused(self, key: str, bound: float) -> None:
        with pytest.raises(
            InvalidPolicyError, match=rf"^{key} of a policy is {bound}, must be finite and not negative$"
        ):
            StoragePolicy(**{key: bound})


@pytest.mark.parametrize("name", ["zip", "", "Lossless", "extreme"])
def test_an_unknown_preset_is_refused_with_those_that_are_known(name: str) -> None:
    for refuse in (preset_by_name, lambda preset: StoragePolicy(preset=preset)):
        with pytest.raises(InvalidPolicyError, match=rf"^preset '{name}' is not one of {NAMES}$"):
            refuse(name)


def test_a_preset_beside_an_encoding_is_refused() -> None:
    message = r"^policy has both preset 'fast' and an encoding, must have at most one$"
    with pytest.raises(InvalidPolicyError, match=message):
        StoragePolicy(preset="fast", encoding=IDENTITY)


POLICIES = {
    "nothing": (StoragePolicy(), {}),
    "a preset": (StoragePolicy(preset="balanced"), {"preset": "balanced"}),
    "an encoding": (
        StoragePolicy(encoding=encoding_of("gzip"), chunk_bytes=4096),
        {"encoding": [{"id": "gzip", "configuration": {}}], "chunk_bytes": 4096},
    ),
    "the identity is not nothing": (StoragePolicy(encoding=IDENTITY), {"encoding": []}),
    "bounds of zero are not nothing": (
        StoragePolicy(max_relative_error=0.0, max_absolute_error=0.0),
        {"max_relative_error": 0.0, "max_absolute_error": 0.0},
    ),
    "everything": (
        StoragePolicy(
            encoding=encoding_of(INT8_128, HUFFMAN), max_relative_error=0.01, max_absolute_error=1.5, chunk_bytes=2**20
        ),
        {
            "encoding": [INT8_128, HUFFMAN],
            "max_relative_error": 0.01,
            "max_absolute_error": 1.5,
            "chunk_bytes": 2**20,
        },
    ),
}


@pytest.mark.parametrize(("policy", "fields"), POLICIES.values(), ids=POLICIES)
def test_a_policy_survives_json(policy: StoragePolicy, fields: dict) -> None:
    assert policy.to_json() == fields
    assert StoragePolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_reading_json_leaves_it_as_it_was() -> None:
    fields = {"encoding": [{"id": "gzip"}]}
    StoragePolicy.from_json(fields)
    assert fields == {"encoding": [{"id": "gzip"}]}


def test_json_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InvalidPolicyError, match="preset 'zip' is not one of"):
        StoragePolicy.from_json({"preset": "zip"})
    with pytest.raises(UnsupportedCodecError, match="codec 'zip' is not one of"):
        StoragePolicy.from_json({"encoding": [{"id": "zip"}]})
    with pytest.raises(InvalidPolicyError, match="an encoding is 'gzip', must be a list"):
        StoragePolicy.from_json({"encoding": "gzip"})


def test_an_unknown_key_is_refused_by_name() -> None:
    # A mistake of ours, since no user writes this JSON: hence any error will do that names the key.
    with pytest.raises((InvalidPolicyError, TypeError), match="no_such_key"):
        StoragePolicy.from_json({"no_such_key": 1})


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StoragePolicy().preset = "none"  # type: ignore[misc]  # that is what must not work


def test_the_default_policy_is_the_default_preset() -> None:
    for dtype in EVERY_DTYPE:
        assert plan(StoragePolicy(), dtype) == plan(StoragePolicy(preset=DEFAULT_PRESET), dtype)


class TestMissingLibrary:
    """A preset names a codec whose library is not installed: it is left out, and the plan says why."""

    REASON = r"codec 'zstd' needs the library"

    @pytest.mark.parametrize("preset", ["lossless", "balanced", "maximum"])
    @pytest.mark.parametrize("name", ["float32", "bfloat16", "int32", "bool"])
    def test_storing_without_zstd_keeps_the_bytes_as_they_are(self, preset: str, name: str) -> None:
        with hidden_library("zstd"):
            found = plan(StoragePolicy(preset=preset), dtype_by_name(name))
        assert found.encoding == IDENTITY
        assert found.lossless == IDENTITY
        assert found.fallback_reason.startswith(self.REASON)
        assert found.fallback_reason.count("zstd") == 1

    def test_storing_without_blosc_keeps_the_bytes_as_they_are(self) -> None:
        with hidden_library("blosc_lz4"):
            found = plan(StoragePolicy(preset="fast"), dtype_by_name("float32"))
        assert found.encoding == IDENTITY
        assert found.fallback_reason.startswith("codec 'blosc_lz4' needs the library")

    @pytest.mark.parametrize("preset", ["none", "fast", "fp16_only", "int8_only"])
    def test_presets_that_do_not_need_it_are_not_touched(self, preset: str) -> None:
        dtype = dtype_by_name("float32")
        expected = plan(StoragePolicy(preset=preset), dtype)
        with hidden_library("zstd"):
            assert plan(StoragePolicy(preset=preset), dtype) == expected

    def test_an_explicit_encoding_that_needs_it_is_refused(self) -> None:
        with hidden_library("zstd"), pytest.raises(UnsupportedCodecError, match=self.REASON):
            StoragePolicy.from_json({"encoding": [{"id": "zstd"}]})


def test_an_unknown_dtype_is_stored_by_the_width_of_its_words() -> None:
    wide, odd = opaque_dtype(99, 32), opaque_dtype(99, 24)
    assert plan(StoragePolicy(), wide).encoding == encoding_of(*PLANES)
    assert plan(StoragePolicy(), odd).encoding == encoding_of(ZSTD_1)
