"""The Blosc compressor: the contract, the widths of its words, and frames that others read and write."""

from __future__ import annotations

import numpy as np
import pytest

from contract.codec_compressor_contract import DATA, SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract
from support.arrays import normal
from support.cases import each
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.lossless.blosc_lz4 import BloscLz4, blosc
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy


class TestBloscLz4(CompressorContract, SettingsContract):
    codec_type = BloscLz4
    id = "blosc_lz4"
    number = 4

    configurations = (
        {},
        *({"word_bytes": width} for width in (1, 2, 4, 8)),
    )

    refusals = tuple(
        Refusal("word_bytes", value, "one of (0, 1, 2, 4, 8)") for value in (3, 16, -1, 4.0, "4", True, None)
    )


def test_another_encoders_frame_decodes() -> None:
    for name, data in DATA.items():
        frame = blosc.compress(data, b"lz4hc", 9, blocksize=256, shuffle=blosc.SHUFFLE)
        assert bytes(BloscLz4.decode(frame, len(data))) == data, name


def test_another_decoder_reads_its_frames() -> None:
    for name, data in DATA.items():
        assert blosc.decompress(BloscLz4(word_bytes=4).encode(data)) == data, name


def test_weights_shrink_where_their_width_is_known() -> None:
    data = normal((100_000,)).tobytes()
    sizes = {width: len(BloscLz4(word_bytes=width).encode(data)) for width in (1, 4)}
    assert sizes[4] < 0.9 * len(data)
    assert sizes[4] < sizes[1]


@pytest.mark.parametrize("inner", [b"blosclz", b"zlib", b"zstd"])
def test_frames_of_other_formats_are_refused(inner: bytes) -> None:
    frame = blosc.compress(SAMPLE, inner, 5)
    with pytest.raises(CorruptChunkError, match="must be 2, 1,"):
        BloscLz4.decode(frame, len(SAMPLE))


@pytest.mark.parametrize(("at", "name"), [(4, "nbytes"), (12, "cbytes")])
def test_lengths_that_lie_are_refused_before_anything_is_decoded(at: int, name: str) -> None:
    frame = bytearray(BloscLz4().encode(SAMPLE))
    for lie in (0, 1, 2**31 - 1, 2**32 - 1):
        frame[at : at + 4] = lie.to_bytes(4, "little")
        with pytest.raises(CorruptChunkError, match="blosc_lz4 frame says"):
            BloscLz4.decode(bytes(frame), len(SAMPLE))


@each(
    ("dtype", "width"),
    [("float32", 4), ("bfloat16", 2), ("int64", 8), ("complex64", 4), ("complex128", 8), ("uint8", 1), ("bool", 1)],
)
def test_a_policy_fills_in_the_width_of_the_dtype(dtype: str, width: int) -> None:
    found = plan(StoragePolicy(preset="fast"), dtype_by_name(dtype)).lossless[0].encoding
    assert found.compressor == BloscLz4(word_bytes=width)


def test_after_a_quantizer_the_width_is_that_of_its_codes() -> None:
    policy = StoragePolicy.from_json({"encoding": [{"id": "int8_block"}, {"id": "blosc_lz4"}]})
    assert policy.encoding.fitted(dtype_by_name("float32")).compressor == BloscLz4(word_bytes=1)


def test_a_width_that_was_asked_for_stays() -> None:
    policy = StoragePolicy.from_json({"encoding": [{"id": "blosc_lz4", "configuration": {"word_bytes": 2}}]})
    assert plan(policy, dtype_by_name("float32")).lossless[0].encoding.compressor == BloscLz4(word_bytes=2)


def test_values_are_the_same_on_every_thread_and_in_one_call() -> None:
    data = np.arange(500_000, dtype=np.uint32).tobytes()
    frame = BloscLz4(word_bytes=4).encode(data)
    assert bytes(BloscLz4.decode(frame, len(data))) == data
