"""A verification of edited tensors, whose chunks are in several payloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.arrays import random_bits
from support.engine import insert
from support.verifying import CHUNK_BYTES, RECORD_BYTES, flip, path_of, put_in_file, verified
from tensorus_server.engine.engine import Engine
from tensorus_server.model import SliceSet, Tensor, Write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write(engine: Engine, first: int, chunks: int) -> Tensor:
    """Write so many whole chunks of the tensor "t" in dataset "d", from number `first` on."""
    begin, end = first * CHUNK_BYTES, (first + chunks) * CHUNK_BYTES
    values = random_bits("uint8", (end - begin,), seed=first)
    return insert(engine, "d", "t", values, edit=Write(SliceSet((slice(begin, end),))))


def test_a_damaged_chunk_has_its_number_in_the_tensor_whichever_payload_it_is_in(engine: Engine, folder: Path) -> None:
    base = put_in_file(engine, "t")
    edited = write(engine, 1, 2)
    assert verified(engine).damages == []
    # Chunks 1 and 2 are the new payload's records 0 and 1.
    flip(path_of(folder, edited), RECORD_BYTES + 30)
    flip(path_of(folder, base), 3 * RECORD_BYTES + 30)
    found = verified(engine)
    assert found.places == [
        ("t", "2", f"chunks/{edited.locator.key}"),
        ("t", "3", f"chunks/{base.locator.key}"),
    ]
    assert [str(damage).split(" is ")[0] for damage in found.damages] == ["CRC32C of chunk 2", "CRC32C of chunk 3"]
