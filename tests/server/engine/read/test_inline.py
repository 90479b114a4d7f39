"""The short way out is the general way: the same piece, and silence wherever that would find something wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES, normal, random_bits
from support.cases import each
from support.engine import engine_on, find, insert, pieces_of
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read.inline import read_inline
from tensorus_server.engine.read.reader import Piece
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Tensor

CODECS = frozenset({"rotated_planes", "planes", "zstd", "lz4", "gzip", "int8_block", "fp16", "constant", "blosc_lz4"})

RECORD_BYTES_MAX = 2 * 1024 * 1024

ARRAYS = {
    **{f"raw {name}": (random_bits(name, (3, 5)), StoragePolicy("none")) for name in DTYPE_NAMES},
    "compressed": (normal((32, 32)), StoragePolicy("lossless")),
    "quantized": (normal((32, 32)), StoragePolicy("maximum")),
    "one value": (np.ones((9, 9), np.float32), StoragePolicy("lossless")),
    "an encoding": (
        np.zeros((500,), np.int64),
        StoragePolicy(encoding=Encoding.from_json([{"id": "gzip"}])),
    ),
    "two chunks": (random_bits("uint8", (5000,)), StoragePolicy("none", chunk_bytes=4096)),
    "empty": (np.zeros((3, 0)), StoragePolicy("none")),
    "a file": (random_bits("uint8", (100_000,)), StoragePolicy("none")),
}

SHORT = [name for name in ARRAYS if name not in {"two chunks", "empty", "a file"}]
"""What the short way is for."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_on(tmp_path_factory.mktemp("shared") / "store") as opened:
        opened.create_dataset("d", StoragePolicy())
        for name, (array, policy) in ARRAYS.items():
            insert(opened, "d", name, array, policy=policy)
        yield opened


def plain(piece: Piece) -> tuple[Any, ...]:
    return (piece.offset, piece.decoded_length, bytes(piece.data), piece.crc32c, piece.codec_ids)


def short(tensor: Tensor, accepted: frozenset[str] = CODECS, record_bytes_max: int = RECORD_BYTES_MAX) -> Piece | None:
    return read_inline(tensor, accepted, record_bytes_max=record_bytes_max)


@each("name", ARRAYS)
@each("accepted", [frozenset(), CODECS, frozenset({"zstd"})], ids=["none", "all", "one"])
@each("record_bytes_max", [10, RECORD_BYTES_MAX])
def test_its_piece_is_that_of_the_general_way(
    shared: Engine, name: str, accepted: frozenset[str], record_bytes_max: int
) -> None:
    tensor = find(shared, "d", name)
    found = short(tensor, accepted, record_bytes_max)
    pieces = pieces_of(shared, tensor, None, accepted, record_bytes_max=record_bytes_max)
    assert found is None or [plain(found)] == [plain(piece) for piece in pieces]


@each("name", SHORT)
def test_it_answers_for_small_tensors(shared: Engine, name: str) -> None:
    assert short(find(shared, "d", name)) is not None


@pytest.mark.parametrize("name", ["two chunks", "empty", "a file"])
def test_it_is_silent_about_others(shared: Engine, name: str) -> None:
    assert short(find(shared, "d", name)) is None


@given(name=st.sampled_from(SHORT), where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_it_is_silent_about_damage(shared: Engine, name: str, where: float, mask: int) -> None:
    tensor = find(shared, "d", name)
    assert tensor.inline_payload is not None
    damaged = bytearray(tensor.inline_payload)
    damaged[int(where * len(damaged))] ^= mask
    wrong = replace(tensor, inline_payload=bytes(damaged))
    assert short(wrong) is None
    with pytest.raises(DataCorruptError):
        pieces_of(shared, wrong, None, CODECS)


@each("cut", [1, 8, 9, 40])
def test_it_is_silent_about_a_payload_of_another_length(shared: Engine, cut: int) -> None:
    tensor = find(shared, "d", "compressed")
    assert tensor.inline_payload is not None
    for payload in (tensor.inline_payload[:-cut], tensor.inline_payload + bytes(cut)):
        assert short(replace(tensor, inline_payload=payload)) is None


def test_it_is_silent_about_the_payload_of_another_tensor(shared: Engine) -> None:
    one, other = find(shared, "d", "raw float32"), find(shared, "d", "raw int32")
    assert short(replace(one, inline_payload=other.inline_payload)) is None
    assert short(replace(one, inline_payload=other.inline_payload, locator=other.locator)) is None


@pytest.mark.parametrize("spec", ["raw uint8", "raw float64"])
def test_it_is_silent_about_a_record_of_another_size(shared: Engine, spec: str) -> None:
    tensor = find(shared, "d", "compressed")
    assert short(replace(tensor, spec=find(shared, "d", spec).spec)) is None
