"""Replacing a tensor of a known generation: readers see the old one or the new one, and the old one goes after its grace."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, normal, random_bits
from support.engine import Reports, announce, assemble, engine_on, find, insert, pieces_of, read
from support.marks import mark_tensors
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.engine.read.reader import ReadPlan
from tensorus_server.errors import (
    GenerationMismatchError,
    InvalidMetadataError,
    SchemaMismatchError,
    StoredDifferentlyError,
)
from tensorus_server.model import Checksum, Outcome, Schema, Segment, Tensor

SMALL = [random_bits("uint8", (100,), seed=seed) for seed in range(2)]
LARGE = [random_bits("uint16", (50_000, 3), seed=seed) for seed in range(2)]
SIZES = {"inline": SMALL, "in files": LARGE}


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Engine]:
    """Yield an engine on the same store whose deleted payloads have no grace."""
    with engine_on(tmp_path / "store", delete_grace_s=0.0) as opened:
        opened.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=4096))
        yield opened


def replacement(engine: Engine, old: Tensor, array: np.ndarray[Any, Any], **fields: Any) -> Tensor:
    return insert(engine, "d", old.id, array, if_generation_match=old.generation, **fields)


@pytest.mark.parametrize("before", SIZES)
@pytest.mark.parametrize("after", SIZES)
def test_a_replacement_has_new_values_and_new_numbers(engine: Engine, before: str, after: str) -> None:
    old = insert(engine, "d", "t", SIZES[before][0], metadata={"a": 1})
    other = insert(engine, "d", "other", SMALL[0])
    new = replacement(engine, old, SIZES[after][1], metadata={"b": 2}, preset="fast")
    assert new.generation > old.generation
    assert (old.ordinal, other.ordinal, new.ordinal) == (1, 2, 3)
    assert find(engine, "d", "t").metadata == {"b": 2}
    assert engine.get_tensor("d", "t") == new
    assert engine.get_tensor("d", "other") == other
    assert read(engine, "d", "t").tobytes() == canonical(SIZES[after][1])
    assert engine.dataset_stats("d").tensors == 2
    with pytest.raises(GenerationMismatchError) as caught:
        find(engine, "d", "t", generation=old.generation)
    assert caught.value.facts["generation"] == str(new.generation)


@pytest.mark.parametrize("size", SIZES)
def test_a_reader_that_found_the_tensor_before_reads_the_old_values(engine: Engine, size: str) -> None:
    before, after = SIZES[size]
    replacement(engine, insert(engine, "d", "t", before), before[::-1])
    found = find(engine, "d", "t")
    replacement(engine, found, after)
    # Nothing of it was open before: the grace keeps the bytes.
    engine.sweep()
    plan = ReadPlan(found, None)
    assert assemble(plan.result, pieces_of(engine, found)).tobytes() == canonical(before[::-1])
    assert read(engine, "d", "t").tobytes() == canonical(after)


def test_a_reader_in_the_middle_reads_the_old_values_to_their_end(impatient: Engine) -> None:
    before, after = LARGE
    old = insert(impatient, "d", "t", before)
    plan = ReadPlan(old, None)
    reading = impatient.reader.read(old, plan, frozenset())
    first = next(reading)
    replacement(impatient, old, after)
    # Not even the grace is needed for what is open already.
    impatient.sweep()
    assert assemble(plan.result, [first, *reading]).tobytes() == canonical(before)


def test_the_old_payload_is_swept_after_its_grace_and_not_before(engine: Engine, raw: RawFolder) -> None:
    old = insert(engine, "d", "t", LARGE[0])
    new = replacement(engine, old, LARGE[1])
    engine.sweep()
    assert raw.published().keys() == {old.locator.key, new.locator.key}


def test_without_a_grace_the_next_sweep_takes_it(impatient: Engine, raw: RawFolder) -> None:
    new = replacement(impatient, insert(impatient, "d", "t", LARGE[0]), LARGE[1])
    impatient.sweep()
    assert raw.published().keys() == {new.locator.key}
    assert read(impatient, "d", "t").tobytes() == canonical(LARGE[1])


@pytest.mark.parametrize("size", SIZES)
def test_a_replacement_that_is_repeated_is_the_one_that_was_done(engine: Engine, raw: RawFolder, size: str) -> None:
    before, after = SIZES[size]
    old = insert(engine, "d", "t", before)
    new = replacement(engine, old, after, metadata={"a": 1})
    payloads = raw.published()
    assert replacement(engine, old, after, metadata={"a": 1}) == new
    assert engine.get_tensor("d", "t") == new
    assert raw.published() == payloads


@pytest.mark.parametrize("size", SIZES)
def test_replace_takes_the_place_of_whatever_is_there_and_done_twice_is_done_once(
    engine: Engine, raw: RawFolder, size: str
) -> None:
    before, after = SIZES[size]
    assert insert(engine, "d", "t", before, replace=True).outcome is Outcome.INSERTED
    new = insert(engine, "d", "t", after, replace=True, metadata={"a": 1})
    assert new.outcome is Outcome.REPLACED
    assert read(engine, "d", "t").tobytes() == canonical(after)
    payloads = raw.published()
    again = insert(engine, "d", "t", after, replace=True, metadata={"a": 1})
    assert (again, again.outcome, raw.published()) == (new, Outcome.ALREADY_STORED, payloads)


def test_replace_stores_by_the_policy_that_the_dataset_has_now(engine: Engine) -> None:
    array = normal((4096,), "float32")
    engine.update_dataset("d", StoragePolicy(preset="maximum"), None)
    lossy = insert(engine, "d", "t", array)
    engine.update_dataset("d", StoragePolicy(preset="lossless"), None)
    exact = insert(engine, "d", "t", array, replace=True)
    assert (lossy.storage.lossy, exact.storage.lossy, exact.outcome) == (True, False, Outcome.REPLACED)


class TestStoredDifferently:
    """A repeated insert whose tensor does not keep what it asks for fails, however large it is; nothing is left of it."""

    @pytest.mark.parametrize("shape", [(4096,), (200_000,)], ids=["inline", "in files"])
    @pytest.mark.parametrize(
        ("stored", "asked"),
        [
            pytest.param({"preset": "maximum"}, {"preset": "lossless"}, id="lossless"),
            pytest.param({"preset": "maximum"}, {"preset": "balanced"}, id="a more exact preset"),
            pytest.param(
                {"preset": "maximum"}, {"policy": StoragePolicy("maximum", max_relative_error=1e-6)}, id="a contract"
            ),
            pytest.param({"metadata": {"a": 1}}, {"metadata": {"a": 2}}, id="metadata"),
            pytest.param({}, {"metadata": {"a": 2}}, id="metadata where there are none"),
        ],
    )
    def test_what_is_there_does_not_keep(
        self, engine: Engine, raw: RawFolder, shape: tuple[int, ...], stored: dict[str, Any], asked: dict[str, Any]
    ) -> None:
        array = normal(shape, "float32")
        first = insert(engine, "d", "t", array, **stored)
        payloads = raw.published()
        with pytest.raises(StoredDifferentlyError, match='on_conflict="replace"'):
            insert(engine, "d", "t", array, **asked)
        assert engine.get_tensor("d", "t") == first
        assert (raw.published(), raw.unfinished()) == (payloads, 0)
        replaced = insert(engine, "d", "t", array, replace=True, **asked)
        assert replaced.outcome is Outcome.REPLACED

    @pytest.mark.parametrize("shape", [(4096,), (200_000,)], ids=["inline", "in files"])
    @pytest.mark.parametrize(
        ("stored", "asked"),
        [
            pytest.param({}, {"preset": "balanced"}, id="a lossy preset where it is lossless"),
            pytest.param({"preset": "balanced"}, {"preset": "maximum"}, id="a less exact preset"),
            pytest.param({"preset": "maximum"}, {"preset": "maximum"}, id="the same preset"),
            pytest.param({"metadata": {"a": 1}}, {}, id="no metadata"),
            pytest.param({"preset": "archive"}, {"preset": "fast"}, id="another lossless preset"),
        ],
    )
    def test_what_is_there_keeps(
        self, engine: Engine, shape: tuple[int, ...], stored: dict[str, Any], asked: dict[str, Any]
    ) -> None:
        array = normal(shape, "float32")
        first = insert(engine, "d", "t", array, **stored)
        again = insert(engine, "d", "t", array, **asked)
        assert (again, first.outcome, again.outcome) == (first, Outcome.INSERTED, Outcome.ALREADY_STORED)


def test_a_tensor_may_be_replaced_by_the_same_values(engine: Engine) -> None:
    old = insert(engine, "d", "t", SMALL[0], metadata={"a": 1})
    new = replacement(engine, old, SMALL[0], metadata={"a": 2})
    assert new.generation > old.generation
    assert engine.get_tensor("d", "t").metadata == {"a": 2}


class TestMismatches:
    """Nothing is replaced, and nothing of the new one is left."""

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"array": LARGE[0]}, id="other values"),
            pytest.param({"array": LARGE[1], "metadata": {"a": 2}}, id="other metadata"),
            pytest.param({"array": LARGE[1], "metadata": {"a": 1}, "preset": "fast"}, id="another policy"),
        ],
    )
    def test_another_replacement_of_a_generation_that_has_gone(
        self, engine: Engine, raw: RawFolder, fields: dict[str, Any]
    ) -> None:
        old = insert(engine, "d", "t", SMALL[0])
        new = replacement(engine, old, LARGE[1], metadata={"a": 1})
        with pytest.raises(GenerationMismatchError, match=f"{old.generation} was to be replaced") as caught:
            replacement(engine, old, **fields)
        assert caught.value.facts["generation"] == str(new.generation)
        assert engine.get_tensor("d", "t") == new
        assert raw.published().keys() == {new.locator.key}
        assert raw.unfinished() == 0

    def test_a_generation_that_is_not_there_yet(self, engine: Engine) -> None:
        old = insert(engine, "d", "t", SMALL[0])
        with pytest.raises(GenerationMismatchError):
            insert(engine, "d", "t", SMALL[1], if_generation_match=old.generation + 1)
        assert read(engine, "d", "t").tobytes() == canonical(SMALL[0])

    def test_the_generation_of_another_tensor(self, engine: Engine) -> None:
        insert(engine, "d", "t", SMALL[0])
        other = insert(engine, "d", "other", SMALL[0])
        with pytest.raises(GenerationMismatchError):
            insert(engine, "d", "t", SMALL[1], if_generation_match=other.generation)

    def test_a_tensor_that_was_deleted(self, engine: Engine, raw: RawFolder) -> None:
        old = insert(engine, "d", "t", SMALL[0])
        engine.delete_tensors("d", ["t"])
        with pytest.raises(GenerationMismatchError, match="there is no such tensor"):
            replacement(engine, old, LARGE[1])
        assert raw.published() == {}

    def test_generation_zero_where_the_id_is_taken(self, engine: Engine) -> None:
        first = insert(engine, "d", "t", SMALL[0], if_generation_match=0)
        with pytest.raises(GenerationMismatchError, match="the id was to be free"):
            insert(engine, "d", "t", SMALL[1], if_generation_match=0)
        again = insert(engine, "d", "t", SMALL[0], if_generation_match=0)
        assert (again, again.outcome) == (first, Outcome.ALREADY_STORED)

    def test_what_the_dataset_does_not_take(self, engine: Engine) -> None:
        old = insert(engine, "d", "t", SMALL[0])
        engine.update_dataset("d", None, Schema(dtype="uint8"))
        with pytest.raises(SchemaMismatchError):
            replacement(engine, old, LARGE[0])
        with pytest.raises(InvalidMetadataError):
            replacement(engine, old, SMALL[1], metadata={"a": object()})
        assert engine.get_tensor("d", "t") == old


def test_of_many_replacements_of_one_generation_one_is_done(engine: Engine) -> None:
    old = insert(engine, "d", "t", SMALL[0])
    arrays = [random_bits("uint8", (100,), seed=seed) for seed in range(10, 18)]

    def replace(array: np.ndarray[Any, Any]) -> Tensor | None:
        try:
            return replacement(engine, old, array)
        except GenerationMismatchError:
            return None

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(replace, arrays))
    ((winner, array),) = [(tensor, array) for tensor, array in zip(done, arrays, strict=True) if tensor is not None]
    assert engine.get_tensor("d", "t") == winner
    assert read(engine, "d", "t").tobytes() == canonical(array)


def test_a_replacement_that_was_interrupted_can_be_resumed(
    engine: Engine, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=8192)
    engine.update_dataset("d", StoragePolicy(preset="none", chunk_bytes=4096), None)
    before, after = LARGE
    old = insert(engine, "d", "t", before)
    request = InsertOptions(request_id="request")
    new, data = announce("t", after, if_generation_match=old.generation), memoryview(canonical(after))
    stream = engine.open_insert("d", Reports(), request)
    stream.receive(Segment(0, 0, 100_000, last=False, tensor=new), data[:100_000])
    stream.abort()
    assert read(engine, "d", "t").tobytes() == canonical(before)
    stream = engine.open_insert("d", reports, request)
    begin = stream.resumable[0].committed_bytes
    checksum = Checksum("crc32c", crc32c(data).to_bytes(4, "big"))
    stream.receive(Segment(0, begin, data.nbytes - begin, True, new, checksum), data[begin:])
    assert stream.finish() == (1, 0)
    assert read(engine, "d", "t").tobytes() == canonical(after)
    assert reports.tensor(0).generation > old.generation
