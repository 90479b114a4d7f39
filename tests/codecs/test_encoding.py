"""Encodings: one codec of each kind at most, in order, as JSON and as keys."""

from __future__ import annotations

import dataclasses
import json

import pytest

from support.cases import each
from tensorus_codecs.encoding import IDENTITY, Encoding
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedCodecError
from tensorus_codecs.filters.planes import Planes, RotatedPlanes
from tensorus_codecs.lossless.gzip import Gzip
from tensorus_codecs.lossless.lz4 import Lz4
from tensorus_codecs.lossless.zstd import Zstd
from tensorus_codecs.quantizers.fp16 import Fp16
from tensorus_codecs.quantizers.int8_block import Int8Block

ENCODINGS = {
    "identity": (Encoding(), []),
    "quantizer": (Encoding(quantizer=Fp16()), [{"id": "fp16", "configuration": {}}]),
    "filter": (Encoding(filter=Planes()), [{"id": "planes", "configuration": {}}]),
    "compressor": (Encoding(compressor=Gzip(level=9)), [{"id": "gzip", "configuration": {"level": 9}}]),
    "quantizer and compressor": (
        Encoding(Int8Block(block_size=128), None, Lz4()),
        [{"id": "int8_block", "configuration": {"block_size": 128}}, {"id": "lz4", "configuration": {}}],
    ),
    "filter and compressor": (
        Encoding(None, RotatedPlanes(), Zstd(level=1)),
        [{"id": "rotated_planes", "configuration": {}}, {"id": "zstd", "configuration": {"level": 1}}],
    ),
    "all three": (
        Encoding(Fp16(), RotatedPlanes(), Zstd(huffman_only=True)),
        [
            {"id": "fp16", "configuration": {}},
            {"id": "rotated_planes", "configuration": {}},
            {"id": "zstd", "configuration": {"huffman_only": True}},
        ],
    ),
}


@each(("encoding", "steps"), ENCODINGS.values(), ids=ENCODINGS)
class TestJson:
    """What `to_json` writes, `from_json` reads."""

    def test_it_lists_ids_and_what_differs_from_the_defaults(self, encoding: Encoding, steps: list) -> None:
        assert encoding.to_json() == steps

    def test_it_survives_json(self, encoding: Encoding, steps: list) -> None:
        assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding

    def test_its_codecs_make_it_again(self, encoding: Encoding, steps: list) -> None:
        assert [codec.id for codec in encoding.codecs] == [step["id"] for step in steps]
        assert Encoding.from_codecs(encoding.codecs) == encoding
        assert Encoding.from_codecs(iter(encoding.codecs)) == encoding

    def test_its_lossless_part_has_no_quantizer(self, encoding: Encoding, steps: list) -> None:
        assert encoding.lossless == dataclasses.replace(encoding, quantizer=None)
        assert encoding.lossless.to_json() == [
            step for step in steps if step["id"] not in {"fp16", "bf16", "int8_block"}
        ]


def test_a_step_needs_no_configuration() -> None:
    assert Encoding.from_json([{"id": "gzip"}]) == Encoding(compressor=Gzip())


def test_the_identity_does_nothing() -> None:
    assert Encoding() == IDENTITY
    assert IDENTITY.codecs == []


def test_equal_encodings_are_one_key() -> None:
    found = {Encoding.from_json(encoding.to_json()): name for name, (encoding, _) in ENCODINGS.items()}
    assert found == {encoding: name for name, (encoding, _) in ENCODINGS.items()}
    assert len(found) == len(ENCODINGS)


ORDERS = {
    "filter before quantizer": (["planes", "fp16"], "planes -> fp16"),
    "compressor before filter": (["gzip", "planes"], "gzip -> planes"),
    "compressor before quantizer": (["gzip", "fp16"], "gzip -> fp16"),
    "two quantizers": (["fp16", "int8_block"], "fp16 -> int8_block"),
    "two filters": (["planes", "rotated_planes", "gzip"], "planes -> rotated_planes -> gzip"),
    "two compressors": (["gzip", "zstd"], "gzip -> zstd"),
    "the same twice": (["gzip", "gzip"], "gzip -> gzip"),
    "all in reverse": (["zstd", "planes", "fp16"], "zstd -> planes -> fp16"),
    "one too many": (["fp16", "planes", "zstd", "gzip"], "fp16 -> planes -> zstd -> gzip"),
}


@each(("ids", "chain"), ORDERS.values(), ids=ORDERS)
def test_any_other_order_is_refused_with_the_whole_chain(ids: list[str], chain: str) -> None:
    message = rf"^encoding is {chain}, must be at most one quantizer, then one filter, then one compressor$"
    with pytest.raises(InvalidPolicyError, match=message):
        Encoding.from_json([{"id": codec_id} for codec_id in ids])


@each("steps", [None, "gzip", {"id": "gzip"}, 5, ({"id": "gzip"},)])
def test_what_is_no_list_is_refused(steps: object) -> None:
    with pytest.raises(InvalidPolicyError, match=r"^an encoding is .*, must be a list of codecs$"):
        Encoding.from_json(steps)


@each("step", ["gzip", None, 5, [], {}, {"configuration": {}}, {"id": 5}, {"id": None}, {"id": "gzip", "level": 6}])
def test_a_malformed_step_is_refused(step: object) -> None:
    message = r"^a step of an encoding is .*, must have an id and may have a configuration$"
    with pytest.raises(InvalidPolicyError, match=message):
        Encoding.from_json([{"id": "planes"}, step])


@each("configuration", [None, 5, [], "level", [["level", 3]]])
def test_a_configuration_that_is_no_object_is_refused(configuration: object) -> None:
    with pytest.raises(InvalidPolicyError, match="gzip"):
        Encoding.from_json([{"id": "gzip", "configuration": configuration}])


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedCodecError, match=r"^codec 'middle_out' is not one of fp16, .*, brotli, pcodec; "):
        Encoding.from_json([{"id": "fp16"}, {"id": "middle_out"}])


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(InvalidPolicyError, match=r"^codec fp16 has no setting 'bits'; its settings: none$"):
        Encoding.from_json([{"id": "fp16", "configuration": {"bits": 8}}])
