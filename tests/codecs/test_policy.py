"""Policies: what is refused, and what survives JSON."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from contract.codec_chunks import encoding_of
from support.cases import each
from tensorus_codecs.dtypes import DTYPES
from tensorus_codecs.encoding import IDENTITY
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedCodecError
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MIN, StoragePolicy
from tensorus_codecs.presets import preset_by_name

NAMES = "none, fast, lossless, archive, balanced, bf16, maximum, extreme, auto, fp16_only, int8_only"
HUFFMAN = {"id": "zstd", "configuration": {"huffman_only": True}}
INT8_128 = {"id": "int8_block", "configuration": {"block_size": 128}}


class TestChunkBytes:
    """Canonical bytes per chunk."""

    @each("chunk_bytes", [4096, 4112, 65536, 2**20, 2**21 - 16, 2**21])
    def test_these_are_planned_with(self, chunk_bytes: int) -> None:
        assert plan(StoragePolicy(chunk_bytes=chunk_bytes), DTYPES[0]).chunk_bytes == chunk_bytes

    def test_the_default_is_a_mebibyte(self) -> None:
        assert plan(StoragePolicy(), DTYPES[0]).chunk_bytes == CHUNK_BYTES_DEFAULT == 2**20

    @each("chunk_bytes", [0, -4096, 16, 4080, 4095, 4097, 4104, 2**21 + 1, 2**21 + 16, 2**31])
    def test_these_are_refused(self, chunk_bytes: int) -> None:
        message = rf"^chunk_bytes of a policy is {chunk_bytes}, must be a multiple of 16 from 4096 to 2097152 bytes$"
        with pytest.raises(InvalidPolicyError, match=message):
            StoragePolicy(chunk_bytes=chunk_bytes)

    def test_every_dtype_fits_the_smallest_chunk_in_whole_elements(self) -> None:
        assert all((CHUNK_BYTES_MIN + 16) % dtype.element_bytes == 0 for dtype in DTYPES)


@each("key", ["max_relative_error", "max_absolute_error"])
class TestErrorBounds:
    """Bounds of a policy."""

    @each("bound", [0, 0.0, 1e-300, 0.5, 1e300])
    def test_any_finite_bound_is_taken(self, key: str, bound: float) -> None:
        assert getattr(StoragePolicy(**{key: bound}), key) == bound

    @each("bound", [-1, -1e-300, math.nan, math.inf, -math.inf])
    def test_a_bound_that_bounds_nothing_is_refused(self, key: str, bound: float) -> None:
        with pytest.raises(
            InvalidPolicyError, match=rf"^{key} of a policy is {bound}, must be finite and not negative$"
        ):
            StoragePolicy(**{key: bound})


@each("name", ["zip", "", "Lossless", "best"])
def test_an_unknown_preset_is_refused_with_those_that_are_known(name: str) -> None:
    for refuse in (preset_by_name, lambda preset: StoragePolicy(preset=preset)):
        with pytest.raises(InvalidPolicyError, match=rf"^preset '{name}' is not one of {NAMES}$"):
            refuse(name)


def test_a_preset_beside_an_encoding_is_refused() -> None:
    message = r"^policy has both preset 'fast' and an encoding, must have at most one$"
    with pytest.raises(InvalidPolicyError, match=message):
        StoragePolicy(preset="fast", encoding=IDENTITY)


def test_a_filter_that_needs_a_base_is_refused() -> None:
    message = r"^encoding of a policy has the filter 'int_delta', which needs a base; a policy has none$"
    with pytest.raises(InvalidPolicyError, match=message):
        StoragePolicy(encoding=encoding_of("int_delta", HUFFMAN))


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


@each(("policy", "fields"), POLICIES.values(), ids=POLICIES)
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


@each(
    ("step", "message"),
    [
        ({"id": "bitround", "configuration": {"keep_bits": 99}}, "keep_bits of codec bitround is 99, must be"),
        ({"id": "int8_block", "configuration": {"code_max": 200}}, "code_max of codec int8_block is 200, must be"),
        ({"id": "int8_block", "configuration": {"variant": "both"}}, "variant of codec int8_block is 'both', must be"),
        ({"id": "delta", "configuration": {"distance": 256}}, "distance of codec delta is 256, must be"),
    ],
)
def test_a_codec_that_cannot_do_what_it_is_asked_is_refused_with_the_policy(step: dict, message: str) -> None:
    with pytest.raises(InvalidPolicyError, match=message):
        StoragePolicy.from_json({"encoding": [step]})
