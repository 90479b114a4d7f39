"""A verification of edited tensors, whose chunks are in several payloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.arrays import random_bits
from support.engine import insert
from support.verifying import CHUNK_BYTES, RECORD_BYTES, flip, path_of, put_in_file, verified
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_store.abc import ChunkReader, ChunkStore
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read.payload import Payload
from tensorus_server.engine.verify.verification import Target
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import Append, SliceSet, Tensor, Write


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


def with_newest_in_the_catalogue(engine: Engine) -> Tensor:
    """Return the generation of a tensor that wrote the second of its payloads; the third and newest is in the catalogue."""
    policy = StoragePolicy(preset="none", chunk_bytes=4096)
    insert(engine, "d", "t", random_bits("uint8", (40 * 4096,), seed=1), policy=policy)
    values = random_bits("uint8", (20 * 4096,), seed=2)
    second = insert(engine, "d", "t", values, edit=Write(SliceSet((slice(0, values.size),))))
    newest = insert(engine, "d", "t", values[:5], edit=Append(0))
    assert ("/" in second.locator.key, "/" in newest.locator.key) == (True, False)
    return second


def test_a_payload_that_is_missing_is_reported_once(engine: Engine, folder: Path) -> None:
    second = with_newest_in_the_catalogue(engine)
    path_of(folder, second).unlink()
    found = verified(engine)
    assert found.places == [("t", None, f"chunks/{second.locator.key}")]
    assert "missing from the chunk store" in str(found.damages[0])
    assert found.progress is not None
    assert (found.progress.tensors, found.progress.damaged_tensors) == (1, 1)


def test_a_payload_whose_index_is_damaged_is_read_and_reported_once(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = with_newest_in_the_catalogue(engine)
    path = path_of(folder, second)
    flip(path, path.read_bytes().rindex(b'{"dataset"') - 40)
    opened = opened_keys(engine, monkeypatch)
    found = verified(engine)
    assert found.places == [("t", None, f"chunks/{second.locator.key}")]
    assert "CRC32C of the chunk index is" in str(found.damages[0])
    assert opened.count(second.locator.key) == 1


def test_a_payload_that_cannot_be_opened_is_reported_and_the_others_are_verified(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = with_newest_in_the_catalogue(engine)
    path_of(folder, put_in_file(engine, "u")).unlink()
    opened_keys(engine, monkeypatch, refused=second.locator.key)
    unopened, missing = verified(engine).damages
    assert isinstance(unopened, StoreUnavailableError)
    assert (unopened.facts["tensor"], unopened.facts["file"]) == ("t", f"chunks/{second.locator.key}")
    assert missing.facts["tensor"] == "u"


def test_damage_that_was_reported_of_a_payload_is_not_reported_again_by_the_next_verification(
    engine: Engine, folder: Path
) -> None:
    path_of(folder, with_newest_in_the_catalogue(engine)).unlink()
    verification = engine.verify(Target("d"))
    assert next(iter(verification)) is not None
    rest = verified(engine, Target("d"), verification.token())
    assert (rest.damages, rest.progress.damages if rest.progress else None) == ([], 1)


def test_the_chunk_details_of_a_payload_are_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_file(engine, "t")
    write(engine, 1, 1)
    read: list[str] = []
    of_payload = Payload.read_details

    def read_details(self: Payload) -> ChunkDetails | None:
        read.append(self.locator.key)
        return of_payload(self)

    monkeypatch.setattr(Payload, "read_details", read_details)
    assert verified(engine).damages == []
    assert len(read) == len(set(read)) == 2


def opened_keys(engine: Engine, monkeypatch: pytest.MonkeyPatch, refused: str = "") -> list[str]:
    """Return a list to which the key of each payload is added that is opened; the refused one cannot be."""
    keys: list[str] = []
    store = type(engine._chunk_store)
    opened = store.open

    def open_payload(self: ChunkStore, key: str) -> ChunkReader:
        keys.append(key)
        if key == refused:
            raise StoreUnavailableError("could not open a payload: Too many open files")
        return opened(self, key)

    monkeypatch.setattr(store, "open", open_payload)
    return keys
