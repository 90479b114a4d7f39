"""InsertKnown in the engine: what is stored without its bytes, what is missing, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, normal, random_bits
from support.engine import announce, insert, read
from support.servers import engine_config
from support.verifying import path_of, sql
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.engine.engine import Engine
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InvalidNameError,
    InvalidRequestError,
    LimitExceededError,
    SchemaMismatchError,
    StoredDifferentlyError,
)
from tensorus_server.limits import KNOWN_PER_INSERT_MAX
from tensorus_server.model import Append, Checksum, NewTensor, Outcome, Schema, Tensor

LARGE = random_bits("uint16", (60_000,), seed=1)
OTHER = random_bits("uint16", (60_000,), seed=2)
SMALL = random_bits("uint8", (1000,), seed=3)


def known(tensor_id: str, array: np.ndarray[Any, Any], **fields: Any) -> NewTensor:
    """Return how a tensor is announced by its checksum."""
    checksum = Checksum("xxh3_128", TensorDigest.of(canonical(array)))
    return announce(tensor_id, array, **{"source_checksum": checksum, **fields})


def asked(engine: Engine, *announced: NewTensor, dataset: str = "d") -> list[Any]:
    """Return what became of each: its outcome, "missing", or the type of its error."""
    found = engine.insert_known(dataset, announced)
    return ["missing" if one is None else one.outcome if isinstance(one, Tensor) else type(one) for one in found]


def test_what_the_store_has_is_inserted_and_the_rest_is_missing(engine: Engine, raw: RawFolder) -> None:
    engine.create_dataset("other", StoragePolicy("none"))
    engine.create_dataset("lossless", StoragePolicy("lossless"))
    first = insert(engine, "d", "a", LARGE)
    batch = [known("a", LARGE), known("b", LARGE, metadata={"b": 1}), known("c", OTHER), known("b", LARGE)]
    expected = [Outcome.ALREADY_STORED, Outcome.INSERTED, "missing", Outcome.ALREADY_STORED]
    assert asked(engine, *batch) == expected
    assert asked(engine, *batch) == [Outcome.ALREADY_STORED, Outcome.ALREADY_STORED, "missing", Outcome.ALREADY_STORED]
    assert engine.get_tensor("d", "b").locator == first.locator
    assert engine.get_tensor("d", "b").metadata == {"b": 1}
    assert np.array_equal(read(engine, "d", "b"), LARGE)
    # In any dataset, if its policy is the same; otherwise with that policy.
    assert asked(engine, known("a", LARGE), dataset="other") == [Outcome.INSERTED]
    assert asked(engine, known("a", LARGE), dataset="lossless") == ["missing"]
    assert asked(engine, known("b", LARGE, policy=StoragePolicy("none")), dataset="lossless") == [Outcome.INSERTED]
    assert asked(engine) == []
    assert len(raw.published()) == 1


def test_a_small_tensor_is_known_by_its_id_alone(engine: Engine) -> None:
    insert(engine, "d", "small", SMALL, metadata={"a": 1})
    assert asked(engine, known("small", SMALL), known("other", SMALL), known("small", SMALL[::-1])) == [
        Outcome.ALREADY_STORED,
        "missing",
        AlreadyExistsError,
    ]
    assert asked(engine, known("small", SMALL, metadata={"b": 1})) == [StoredDifferentlyError]
    assert asked(engine, known("small", SMALL, replace=True)) == ["missing"]
    # If the values were stored with a loss, another policy may ask for more; which one, the store need not know.
    noise = normal((1000,), "float32")
    insert(engine, "d", "lossy", noise, preset="bf16")
    assert asked(engine, known("lossy", noise), known("lossy", noise, policy=StoragePolicy("bf16"))) == [
        "missing",
        Outcome.ALREADY_STORED,
    ]


def test_conflicts_are_resolved_as_of_an_insert(engine: Engine, raw: RawFolder) -> None:
    stored = {name: insert(engine, "d", name, LARGE, metadata={"a": 1}) for name in "abc"}
    insert(engine, "d", "x", OTHER)
    generation = stored["a"].generation
    cases = [
        (known("x", LARGE), AlreadyExistsError),
        (known("a", OTHER), AlreadyExistsError),
        (known("a", LARGE, metadata={"b": 1}), StoredDifferentlyError),
        (known("a", LARGE, if_generation_match=0, metadata={"a": 1}), Outcome.ALREADY_STORED),
        (known("a", LARGE, if_generation_match=0), GenerationMismatchError),
        (known("a", OTHER, if_generation_match=generation + 100), GenerationMismatchError),
        (known("new", LARGE, if_generation_match=7), GenerationMismatchError),
        (known("new", normal((60_000,), "float32"), if_generation_match=7), GenerationMismatchError),
        (known("a", LARGE, replace=True, metadata={"a": 1}), Outcome.ALREADY_STORED),
        # Who replaces a tensor by the same bytes may know that its payload is damaged.
        (known("a", LARGE, if_generation_match=generation), "missing"),
        (known("a", LARGE, replace=True), "missing"),
        (known("x", LARGE, replace=True), Outcome.REPLACED),
        (known("new", LARGE, if_generation_match=0), Outcome.INSERTED),
    ]
    for announced, expected in cases:
        assert asked(engine, announced) == [expected], announced
    assert np.array_equal(read(engine, "d", "x"), LARGE)
    assert len({engine.get_tensor("d", name).locator.key for name in ("a", "b", "c", "x", "new")}) == 1


def test_what_cannot_be_announced_fails_alone(engine: Engine) -> None:
    engine.update_dataset("d", None, Schema(dtype="uint16"))
    insert(engine, "d", "a", LARGE)
    crc32c = Checksum("crc32c", b"0000")
    assert asked(
        engine,
        known("", LARGE),
        known("b", LARGE.view(np.int16)),
        known("c", LARGE, source_checksum=None),
        known("c", LARGE, source_checksum=crc32c),
        known("c", LARGE, source_checksum=Checksum("xxh3_128", b"short")),
        known("c", LARGE, edit=Append(0)),
        known("d", LARGE, policy=StoragePolicy("int8_only")),
        known("e", LARGE),
    ) == [InvalidNameError, SchemaMismatchError, *[InvalidRequestError] * 4, "missing", Outcome.INSERTED]
    with pytest.raises(DatasetNotFoundError):
        engine.insert_known("nothing", [])
    with pytest.raises(LimitExceededError, match="known_per_insert_max"):
        engine.insert_known("d", [known("a", LARGE)] * (KNOWN_PER_INSERT_MAX + 1))
    assert asked(engine, *[known("a", LARGE)] * KNOWN_PER_INSERT_MAX) == [Outcome.ALREADY_STORED] * KNOWN_PER_INSERT_MAX


def test_a_damaged_payload_or_row_is_not_taken_for_the_bytes(engine: Engine, tmp_path: Path) -> None:
    tensor = insert(engine, "d", "a", LARGE)
    other = insert(engine, "d", "b", OTHER)
    sql(engine, "UPDATE tensor SET nbytes = 7 WHERE id = 'b'")
    path_of(tmp_path / "store", tensor).unlink()
    assert asked(engine, known("c", LARGE), known("d", OTHER), known("b", OTHER)) == ["missing"] * 3
    # The row of the id itself is intact, and says what is stored, as of an insert.
    assert asked(engine, known("a", LARGE)) == [Outcome.ALREADY_STORED]
    assert other.generation


def test_without_sharing_only_what_has_the_id_is_known(tmp_path: Path) -> None:
    engine = open_engine(engine_config(tmp_path / "unshared", shares_payloads=False, sweeps=False))
    try:
        engine.create_dataset("d", StoragePolicy("none"))
        insert(engine, "d", "a", LARGE)
        assert asked(engine, known("a", LARGE), known("b", LARGE)) == [Outcome.ALREADY_STORED, "missing"]
    finally:
        engine.close()
