"""Verification of tensors with bases: damage of every payload in a chain is found, and reported with its chunk and its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.deltas import CHUNK, FIRST, next_step
from support.engine import find, insert
from support.verifying import verified
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read.reader import decode_chunk
from tensorus_server.engine.verify.verification import Target
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import TensorReference

pytestmark = pytest.mark.usefixtures("few_shards")

LAST = Target("d", ("2",))


@pytest.fixture
def files(engine: Engine, tmp_path: Path) -> list[Path]:
    """The payload files of three tensors, each of which has the one before as its base."""
    values, files = FIRST, []
    for number in range(3):
        base = TensorReference("d", str(number - 1)) if number else None
        stored = insert(engine, "d", str(number), values, policy=StoragePolicy(chunk_bytes=CHUNK), base=base)
        files.append(tmp_path / "store" / "chunks" / stored.locator.key)
        values = next_step(values, number + 1)
    assert verified(engine).damages == []
    return files


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def named(path: Path) -> str:
    return f"chunks/{path.parent.name}/{path.name}"


def record_start(engine: Engine, tensor_id: str, chunk: int) -> int:
    with engine.reader.chunks(find(engine, "d", tensor_id)) as chunks:
        return chunks.own.index.places.place(chunk)[0]


def test_a_damaged_record_of_a_chain_is_reported_with_each_chunk_that_needs_it(
    engine: Engine, files: list[Path]
) -> None:
    for number in range(3):
        flip(files[number], record_start(engine, str(number), 10 + number) + 5)
    found = verified(engine, LAST)
    assert found.places == [("2", str(10 + number), named(files[number])) for number in range(3)]
    messages = [str(damage) for damage in found.damages]
    assert all(f"the base of chunk {10 + number}" in messages[number] for number in range(2))
    # Each tensor is affected by the damage before it in the chain.
    assert [place[0] for place in verified(engine).places] == ["0", "1", "1", "2", "2", "2"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_base_is_reported_once_with_its_file(engine: Engine, files: list[Path], number: int) -> None:
    files[number].unlink()
    assert verified(engine, LAST).places == [("2", "0", named(files[number]))]


def test_a_damaged_index_or_section_of_a_base_is_reported(engine: Engine, files: list[Path]) -> None:
    locator = find(engine, "d", "1").locator
    with engine.reader.chunks(find(engine, "d", "1")) as chunks:
        end = chunks.own.index.end
        assert end is not None
        section = locator.length - locator.index_length - end.overhead_bytes
    before = files[1].read_bytes()
    for position, text in [(section + 3, "the base section"), (locator.length - 5, "the chunk index")]:
        flip(files[1], position)
        (damage,) = verified(engine, LAST).damages
        assert text in str(damage)
        assert (damage.facts["file"], damage.facts["chunk"]) == (named(files[1]), "0")
        (own,) = verified(engine, Target("d", ("1",))).damages
        assert text in str(own)
        files[1].write_bytes(before)
    assert verified(engine).damages == []


@pytest.mark.usefixtures("files")
def test_an_intact_base_that_is_another_one_is_damage(engine: Engine) -> None:
    """Every checksum of the files is right, but the chunk was encoded against other values."""
    other = insert(engine, "d", "other", next_step(FIRST, 99), policy=StoragePolicy(chunk_bytes=CHUNK))
    first = find(engine, "d", "0")
    with engine.reader.chunks(find(engine, "d", "1")) as chunks:
        bases = chunks.own.read_bases()
        assert bases is not None
        assert [payload.key for payload in bases.payloads] == [first.locator.key]
        bases.payloads = (other.locator,)
        record, _ = chunks.read_record(3)
        with pytest.raises(DataCorruptError, match="chunk 3: chunk record: the digest of the base is"):
            decode_chunk(find(engine, "d", "1"), chunks, 3, record)
