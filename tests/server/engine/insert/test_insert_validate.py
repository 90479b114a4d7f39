"""Inserts that only validate: they measure what an insert would store, refuse what it would refuse, and store nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, normal, random_bits
from support.engine import Reports, announce, insert, read, send
from support.marks import mark_tensors
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import PageRequest
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.errors import (
    AlreadyExistsError,
    ChecksumMismatchError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InvalidMetadataError,
    InvalidNameError,
    SchemaMismatchError,
    SegmentOutOfOrderError,
    SessionExpiredError,
    SizeMismatchError,
)
from tensorus_server.model import Checksum, Schema, Segment, Tensor

VALIDATE = InsertOptions(request_id="request", validate_only=True)
PRESETS = ["none", "fast", "lossless", "balanced", "maximum"]
ARRAY = normal((300, 101), "float32")
SMALL = random_bits("uint8", (100,))


@pytest.fixture(autouse=True)
def small_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=8192)


def validate(engine: Engine, tensor_id: str, array: np.ndarray[Any, Any], **fields: Any) -> Tensor | Exception:
    """Validate one array and return what is said of it."""
    reports = Reports()
    stream = engine.open_insert("d", reports, VALIDATE)
    send(stream, 0, tensor_id, array, cuts=range(5000, array.nbytes, 5000), **fields)
    counts = stream.finish()
    assert counts == ((1, 0) if isinstance(reports.outcomes[0], Tensor) else (0, 1))
    assert reports.committed_bytes == {}
    return reports.outcomes[0]


def assert_nothing_stored(engine: Engine, raw: RawFolder) -> None:
    assert (raw.published(), raw.unfinished(), raw.kept()) == ({}, 0, {})
    assert engine._catalogue.uploads.find("request") == []
    assert engine._catalogue.tensors.page("d", PageRequest()).tensors == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("array", [ARRAY, SMALL, np.empty((0, 3), np.float32)], ids=["large", "small", "empty"])
def test_what_is_measured_is_what_an_insert_measures(
    engine: Engine, raw: RawFolder, preset: str, array: np.ndarray[Any, Any]
) -> None:
    policy = StoragePolicy(preset=preset, chunk_bytes=4096)
    found = validate(engine, "t", array, metadata={"a": 1}, policy=policy)
    assert_nothing_stored(engine, raw)
    stored = insert(engine, "d", "t", array, metadata={"a": 1}, policy=policy)
    assert isinstance(found, Tensor)
    assert found.generation == found.ordinal == found.created_us == 0
    # Where it lies, and its numbers, are all that is not known before.
    given = {name: getattr(stored, name) for name in ("generation", "ordinal", "created_us", "locator")}
    assert replace(found, **given) == stored


def test_nothing_is_left_of_a_request_that_only_validates(engine: Engine, raw: RawFolder) -> None:
    assert isinstance(validate(engine, "t", ARRAY), Tensor)
    with pytest.raises(SessionExpiredError):
        engine.insert_status("request")
    assert_nothing_stored(engine, raw)


def test_an_interrupted_validation_leaves_nothing(engine: Engine, reports: Reports, raw: RawFolder) -> None:
    stream = engine.open_insert("d", reports, VALIDATE)
    piece = memoryview(canonical(ARRAY))[:100_000]
    stream.receive(Segment(0, 0, piece.nbytes, last=False, tensor=announce("t", ARRAY)), piece)
    stream.abort()
    assert_nothing_stored(engine, raw)


def test_a_validation_leaves_an_interrupted_insert_of_the_request_alone(engine: Engine, reports: Reports) -> None:
    engine.update_dataset("d", StoragePolicy(preset="none", chunk_bytes=4096), None)
    stream = engine.open_insert("d", reports, InsertOptions(request_id="request"))
    piece = memoryview(canonical(ARRAY))[:100_000]
    stream.receive(Segment(0, 0, piece.nbytes, last=False, tensor=announce("t", ARRAY)), piece)
    stream.abort()
    left = engine._catalogue.uploads.find("request")
    assert engine.open_insert("d", reports, VALIDATE).resumable == []
    assert isinstance(validate(engine, "t", ARRAY), Tensor)
    assert engine._catalogue.uploads.find("request") == left


def test_of_many_small_tensors_one_that_cannot_be_stored_fails_alone(engine: Engine, reports: Reports) -> None:
    insert(engine, "d", "1", SMALL)
    stream = engine.open_insert("d", reports, VALIDATE)
    for item in range(3):
        send(stream, item, f"{item}", SMALL + np.uint8(item))
    assert stream.finish() == (2, 1)
    assert isinstance(reports.error(1), AlreadyExistsError)
    assert [reports.tensor(item).generation for item in (0, 2)] == [0, 0]


class TestRefused:
    """The same error as an insert's, and nothing stored."""

    @pytest.mark.parametrize(
        ("sent", "error"),
        [
            pytest.param({"tensor_id": "a\n"}, InvalidNameError, id="an id"),
            pytest.param({"metadata": {"a": object()}}, InvalidMetadataError, id="metadata"),
            pytest.param({"last_checksum": Checksum("crc32c", b"\0" * 4)}, ChecksumMismatchError, id="a checksum"),
            pytest.param({"array": SMALL.view(np.int8)}, SchemaMismatchError, id="a dtype that the schema forbids"),
        ],
    )
    def test_a_tensor_that_an_insert_refuses(
        self, engine: Engine, raw: RawFolder, sent: dict[str, Any], error: type[Exception]
    ) -> None:
        engine.update_dataset("d", None, Schema(dtype="uint8"))
        filled = {"tensor_id": "t", "array": SMALL, **sent}
        found = validate(engine, **filled)
        assert isinstance(found, error)
        with pytest.raises(error) as caught:
            insert(engine, "d", **filled)
        assert str(caught.value) == str(found)
        assert_nothing_stored(engine, raw)

    @pytest.mark.parametrize("extra", [-1, 1])
    def test_too_few_and_too_many_bytes(self, engine: Engine, reports: Reports, raw: RawFolder, extra: int) -> None:
        stream = engine.open_insert("d", reports, VALIDATE)
        data = memoryview(bytes(SMALL.nbytes + extra))
        stream.receive(Segment(0, 0, data.nbytes, last=True, tensor=announce("t", SMALL)), data)
        assert stream.finish() == (0, 1)
        assert isinstance(reports.error(0), SizeMismatchError)
        assert_nothing_stored(engine, raw)

    def test_an_item_without_an_end(self, engine: Engine, reports: Reports) -> None:
        stream = engine.open_insert("d", reports, VALIDATE)
        stream.receive(Segment(0, 0, 1, last=False, tensor=announce("t", SMALL)), memoryview(b"x"))
        assert stream.finish() == (0, 1)
        assert isinstance(reports.error(0), SegmentOutOfOrderError)

    def test_other_values_under_an_id_that_is_taken(self, engine: Engine) -> None:
        there = insert(engine, "d", "t", SMALL)
        found = validate(engine, "t", SMALL[::-1])
        assert isinstance(found, AlreadyExistsError)
        assert found.facts["generation"] == str(there.generation)

    def test_a_replacement_of_another_generation(self, engine: Engine) -> None:
        assert isinstance(validate(engine, "t", SMALL, if_generation_match=1), GenerationMismatchError)
        there = insert(engine, "d", "t", SMALL)
        found = validate(engine, "t", SMALL[::-1], if_generation_match=there.generation + 1)
        assert isinstance(found, GenerationMismatchError)

    def test_a_dataset_that_has_gone(self, engine: Engine, reports: Reports) -> None:
        stream = engine.open_insert("d", reports, VALIDATE)
        engine.delete_dataset("d")
        send(stream, 0, "t", SMALL)
        stream.finish()
        assert isinstance(reports.error(0), DatasetNotFoundError)

    @pytest.mark.parametrize("all_or_nothing", [False, True])
    def test_the_others_of_the_insert_are_validated(
        self, engine: Engine, reports: Reports, raw: RawFolder, *, all_or_nothing: bool
    ) -> None:
        options = InsertOptions("request", all_or_nothing=all_or_nothing, validate_only=True)
        stream = engine.open_insert("d", reports, options)
        send(stream, 0, "a", SMALL)
        send(stream, 1, "b\n", SMALL)
        send(stream, 2, "c", ARRAY)
        assert stream.finish() == (2, 1)
        assert [reports.tensor(item).id for item in (0, 2)] == ["a", "c"]
        assert_nothing_stored(engine, raw)


class TestTaken:
    """Ids that are taken, by what an insert would take for the same tensor, or replace."""

    def test_the_same_values_again_would_be_the_same_insert(self, engine: Engine) -> None:
        insert(engine, "d", "t", SMALL)
        assert isinstance(validate(engine, "t", SMALL), Tensor)

    def test_a_replacement_would_be_done_and_is_not(self, engine: Engine) -> None:
        there = insert(engine, "d", "t", SMALL)
        found = validate(engine, "t", SMALL[::-1], if_generation_match=there.generation)
        assert isinstance(found, Tensor)
        assert read(engine, "d", "t").tobytes() == canonical(SMALL)

    @pytest.mark.parametrize("same", [True, False])
    def test_values_are_compared_with_those_of_a_tensor_that_was_resumed(
        self, engine: Engine, reports: Reports, *, same: bool
    ) -> None:
        # Lossy and resumed, it has a CRC where others have a digest.
        engine.update_dataset("d", StoragePolicy(preset="balanced", chunk_bytes=4096), None)
        request = InsertOptions(request_id="interrupted")
        data = memoryview(canonical(ARRAY))
        stream = engine.open_insert("d", reports, request)
        stream.receive(Segment(0, 0, 100_000, last=False, tensor=announce("t", ARRAY)), data[:100_000])
        stream.abort()
        stream = engine.open_insert("d", reports, request)
        begin = stream.resumable[0].committed_bytes
        checksum = Checksum("crc32c", crc32c(data).to_bytes(4, "big"))
        stream.receive(Segment(0, begin, data.nbytes - begin, True, announce("t", ARRAY), checksum), data[begin:])
        stream.finish()
        assert reports.tensor(0).source_checksum == checksum
        found = validate(engine, "t", ARRAY if same else ARRAY[::-1])
        assert isinstance(found, Tensor if same else AlreadyExistsError)
