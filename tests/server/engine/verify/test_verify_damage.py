"""A verification finds damage wherever it is, names the place, and finds nothing where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import canonical, random_bits
from support.engine import commit, find, insert, stored_tensor
from support.third_party import example, installed
from support.verifying import (
    CHUNKS,
    IN_A_FILE,
    RECORD_BYTES,
    cut,
    flip,
    path_of,
    put_in_file,
    put_in_row,
    sql,
    verified,
)
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.verify import chunks as chunks_module
from tensorus_server.engine.verify.verification import Target
from tensorus_server.errors import DataCorruptError, StoreUnavailableError
from tensorus_server.model import Checksum, Tensor

DETAILS = CHUNKS * RECORD_BYTES - 100
"""Where the chunk details of `IN_A_FILE` begin."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def end_of(path: Path) -> int:
    """Return where the payload in a file ends, and the footer begins."""
    return path.read_bytes().rindex(b'{"dataset"')


DAMAGED_FILES: dict[str, tuple[Any, str | None, str]] = {
    "a flipped bit in the values of a chunk": (lambda p: flip(p, 2 * RECORD_BYTES + 500), "2", "CRC32C of chunk 2 is"),
    "a flipped bit in the head of a record": (lambda p: flip(p, RECORD_BYTES), "1", "CRC32C of chunk 1 is"),
    "a flipped bit in the chunk details": (lambda p: flip(p, DETAILS + 9), None, "CRC32C of the chunk details is"),
    "a flipped bit in the chunk index": (lambda p: flip(p, end_of(p) - 40), None, "CRC32C of the chunk index is"),
    "a flipped bit in the text of the footer": (lambda p: flip(p, end_of(p) + 20), None, "CRC32C of the footer is"),
    "a flipped bit in the last byte of the footer": (lambda p: flip(p, -1), None, "ends without a footer"),
    "a file that ends within a chunk": (lambda p: cut(p, 3 * RECORD_BYTES + 7), None, "too short for the chunk index"),
    "a file that ends within the footer": (lambda p: cut(p, -5), None, "ends without a footer"),
    "an empty file": (lambda p: cut(p, 0), None, "too short for the chunk index"),
    "a missing file": (Path.unlink, None, "the payload is missing from the chunk store"),
    "a folder instead of the file": (lambda p: (p.unlink(), p.mkdir()), "0", "the disk cannot read"),
}


@pytest.mark.parametrize("case", DAMAGED_FILES)
def test_a_damaged_file_is_reported_with_its_place(engine: Engine, folder: Path, case: str) -> None:
    inject, chunk, message = DAMAGED_FILES[case]
    tensors = [put_in_file(engine, f"t{number}") for number in range(3)]
    inject(path_of(folder, tensors[1]))
    found = verified(engine)
    first = found.damages[0]
    if case == "a folder instead of the file":
        # The index is read first.
        chunk, message = None, "the disk cannot read the chunk index"
    expected = {"dataset": "d", "tensor": "t1", "generation": str(tensors[1].generation)}
    expected["file"] = f"chunks/{tensors[1].locator.key}"
    assert len(found.damages) == 1, found.damages
    assert isinstance(first, DataCorruptError)
    assert first.facts == expected | ({} if chunk is None else {"chunk": chunk})
    assert message in str(first)
    assert str(folder) not in str(first)
    assert found.progress is not None
    assert (found.progress.tensors, found.progress.damaged_tensors, found.progress.damages) == (3, 1, 1)


def test_every_damaged_chunk_is_reported(engine: Engine, folder: Path) -> None:
    tensor = put_in_file(engine, "t")
    for chunk in (0, 1, 3):
        flip(path_of(folder, tensor), chunk * RECORD_BYTES + 30)
    found = verified(engine)
    assert found.places == [("t", chunk, f"chunks/{tensor.locator.key}") for chunk in ("0", "1", "3")]


def test_an_intact_payload_of_another_tensor_is_damage(engine: Engine, folder: Path) -> None:
    one, two = put_in_file(engine, "one"), put_in_file(engine, "two")
    path_of(folder, two).write_bytes(path_of(folder, one).read_bytes())
    found = verified(engine)
    assert {damage.facts["tensor"] for damage in found.damages} == {"two"}


def test_a_footer_of_another_payload_is_damage(engine: Engine, folder: Path) -> None:
    one, two = put_in_file(engine, "one"), put_in_file(engine, "two")
    files = [path_of(folder, tensor) for tensor in (one, two)]
    footer = files[0].read_bytes()[end_of(files[0]) :]
    files[1].write_bytes(files[1].read_bytes()[: end_of(files[1])] + footer)
    found = verified(engine)
    assert [str(damage).split(",")[0] for damage in found.damages] == ["the footer describes another payload"]


def test_a_file_without_a_footer_is_intact_as_older_versions_wrote_it(engine: Engine, folder: Path) -> None:
    path = path_of(folder, put_in_file(engine, "t"))
    cut(path, end_of(path))
    assert verified(engine).damages == []


def test_a_tensor_with_a_damaged_footer_is_still_read(engine: Engine, folder: Path) -> None:
    tensor = put_in_file(engine, "t")
    flip(path_of(folder, tensor), -1)
    assert "the tensor is readable" in str(verified(engine).damages[0])
    pieces = engine.reader.read(find(engine, "d", "t"), plan_of(tensor))
    assert b"".join(bytes(piece.data) for piece in pieces) == IN_A_FILE.tobytes()


def plan_of(tensor: Tensor) -> Any:
    from tensorus_server.engine.read.reader import ReadPlan  # noqa: PLC0415 - of this test alone

    return ReadPlan(tensor, None)


ROWS: dict[str, tuple[str, str]] = {
    "a flipped bit of an inline payload": (
        "UPDATE payload SET bytes = CAST(substr(bytes, 1, 99) || x'2a' || substr(bytes, 101) AS BLOB) WHERE seq = ?",
        "CRC32C of chunk 0 is",
    ),
    "an inline payload that is too long": (
        "UPDATE payload SET bytes = CAST(bytes || x'00' AS BLOB) WHERE seq = ?",
        "the inline payload is 1030 bytes, expected 1029",
    ),
    "an inline payload that is too short": (
        "UPDATE payload SET bytes = substr(bytes, 1, 500) WHERE seq = ?",
        "payload is too short for the chunk index",
    ),
    "a missing inline payload": ("DELETE FROM payload WHERE seq = ?", "the payload is missing from the catalogue"),
    "a damaged row": ("UPDATE tensor SET relative_error = 0.5 WHERE seq = ?", "the row's checksum is"),
    "a row that cannot be read": (
        "UPDATE tensor SET metadata = CAST(x'7b22ff227d' AS TEXT) WHERE seq = ?",
        "its row cannot be read",
    ),
}


@pytest.mark.parametrize("target", [Target(), Target("d"), Target("d", ("t0", "t1", "t2"))], ids=["store", "d", "ids"])
@pytest.mark.parametrize("case", ROWS)
def test_damage_in_the_catalogue_is_reported_with_its_place(engine: Engine, case: str, target: Target) -> None:
    statement, message = ROWS[case]
    tensors = [put_in_row(engine, f"t{number}") for number in range(3)]
    sql(engine, statement, tensors[1].generation)
    found = verified(engine, target)
    (damage,) = found.damages
    expected = {"dataset": "d", "tensor": "t1", "generation": str(tensors[1].generation), "file": "catalogue.db"}
    assert {name: value for name, value in damage.facts.items() if name != "chunk"} == expected
    assert message in str(damage)
    assert found.progress is not None
    assert (found.progress.tensors, found.progress.damaged_tensors) == (3, 1)


def test_a_damaged_dataset_is_reported_and_its_tensors_are_verified(engine: Engine) -> None:
    put_in_row(engine, "t")
    sql(engine, "UPDATE payload SET bytes = x'00'")
    sql(engine, "UPDATE dataset SET policy = '{}'")
    for target in (Target(), Target("d")):
        row, tensor = verified(engine, target).damages
        assert (row.facts, "the row's checksum is" in str(row)) == ({"dataset": "d", "file": "catalogue.db"}, True)
        assert tensor.facts["tensor"] == "t"


def committed(engine: Engine, tensor_id: str, tensor: Tensor, **checksums: Checksum) -> None:
    """Commit a tensor with the inline payload of another one, and other checksums."""
    stored = stored_tensor(engine.get_dataset("d"), tensor_id, shape=tensor.spec.shape, inline_payload=b"")
    stored = replace(stored, locator=tensor.locator, inline_payload=tensor.inline_payload)
    stored = replace(stored, chunk_bytes=tensor.chunk_bytes, storage=tensor.storage)
    its_own = {"value_checksum": tensor.value_checksum, "source_checksum": tensor.source_checksum}
    commit(engine._catalogue, replace(stored, **(its_own | checksums)))


WRONG = Checksum("xxh3_128", bytes(16))


@pytest.mark.parametrize(
    ("checksums", "messages"),
    [
        ({}, []),
        ({"value_checksum": WRONG}, ["value checksum is"]),
        ({"source_checksum": WRONG}, ["source checksum is"]),
        ({"value_checksum": WRONG, "source_checksum": WRONG}, ["value checksum is", "source checksum is"]),
        ({"value_checksum": Checksum("crc32c", bytes(4))}, ["value checksum is"]),
        ({"value_checksum": Checksum("md5", bytes(16))}, ["value checksum has the algorithm 'md5'"]),
    ],
    ids=["none", "value", "source", "both", "a CRC32C", "unknown"],
)
def test_intact_chunks_of_other_values_are_found_by_the_checksums(
    engine: Engine, checksums: dict[str, Checksum], messages: list[str]
) -> None:
    put_in_row(engine, "t")
    committed(engine, "other", find(engine, "d", "t"), **checksums)
    damages = verified(engine).damages
    assert len(damages) == len(messages)
    for damage, message in zip(damages, messages, strict=True):
        assert str(damage).startswith(message)
        assert damage.facts["tensor"] == "other"


def test_a_checksum_of_a_resumed_insert_is_verified(engine: Engine) -> None:
    array = random_bits("uint8", (1000,), seed=8)
    put_in_row(engine, "t", array)
    value = Checksum("crc32c", crc32c(canonical(array)).to_bytes(4, "big"))
    committed(engine, "resumed", find(engine, "d", "t"), value_checksum=value)
    assert verified(engine).damages == []


INTACT: dict[str, Any] = {
    "a scalar": np.float32(7),
    "an empty tensor": np.empty((0, 3), np.float32),
    "a chunk": np.arange(100, dtype=np.int64),
    "many chunks": np.arange(300_000, dtype=np.float32),
    "zeros": np.zeros(1_000_000, np.uint8),
    "bfloat16": random_bits("bfloat16", (5000,), seed=1),
}


@pytest.mark.parametrize("preset", ["none", "lossless", "maximum", "balanced"])
def test_intact_tensors_of_every_kind_have_no_damage(engine: Engine, preset: str) -> None:
    stored_bytes = sum(
        insert(engine, "d", name, np.asarray(array), preset=preset).storage.stored_bytes
        for name, array in INTACT.items()
    )
    found = verified(engine)
    assert found.damages == []
    assert found.progress is not None
    assert (found.progress.tensors, found.progress.total_tensors) == (len(INTACT), len(INTACT))
    assert (found.progress.stored_bytes, found.progress.total_stored_bytes) == (stored_bytes, stored_bytes)


def test_a_codec_that_is_not_installed_is_no_damage(engine: Engine, folder: Path, tmp_path: Path) -> None:
    entry_points, modules = example()
    with installed(tmp_path / "package", name="tensorus-zlib", entry_points=entry_points, modules=modules):
        policy = StoragePolicy(encoding=Encoding.from_json([{"id": "zlib"}]), chunk_bytes=4096)
        tensor = insert(engine, "d", "theirs", random_bits("uint8", (300_000,)) // 16, policy=policy)
        assert verified(engine).damages == []
    found = verified(engine)
    assert found.damages == []
    assert found.progress is not None
    assert (found.progress.tensors, found.progress.undecoded_tensors) == (1, 1)
    flip(path_of(folder, tensor), 100)
    assert [damage.facts["chunk"] for damage in verified(engine).damages] == ["0"]


def test_a_payload_that_cannot_be_opened_is_reported_as_such_and_the_others_are_verified(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [put_in_file(engine, f"t{number}") for number in range(3)]
    store = engine._chunk_store
    opened = type(store).open

    def fail(self: Any, key: str) -> Any:
        if key == tensors[0].locator.key:
            raise StoreUnavailableError("could not open a payload: Permission denied")
        return opened(self, key)

    monkeypatch.setattr(type(store), "open", fail)
    (damage,) = verified(engine).damages
    assert isinstance(damage, StoreUnavailableError)
    assert str(damage).startswith("the payload cannot be opened: could not open a payload: Permission denied")
    assert damage.facts["tensor"] == "t0"


def test_the_places_that_are_named_are_those_of_the_format(engine: Engine, folder: Path) -> None:
    in_file, in_row = put_in_file(engine, "file"), put_in_row(engine, "row")
    assert (folder / chunks_module.file_of(in_file.locator.key)).is_file()
    assert (folder / chunks_module.file_of(in_row.locator.key)).is_file()
