"""Inserts against a base: what is stored as differences reads as what was sent, and needs its base for as long as it exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import assert_same_bits, canonical, random_bits
from support.deltas import CHUNK, FIRST, needed_bases, next_step, waiting_keys
from support.engine import Reports, announce, find, insert, pieces_of, read, send, wait_for_purge
from support.verifying import cut, path_of
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.options import InsertOptions
from tensorus_server.errors import (
    DatasetNotFoundError,
    InvalidBaseError,
    InvalidRequestError,
    TensorNotFoundError,
)
from tensorus_server.model import Append, At, Checksum, SliceSet, Tensor, TensorReference, Write

pytestmark = pytest.mark.usefixtures("few_shards")

SMALL_CHUNKS = StoragePolicy(chunk_bytes=CHUNK)


def put(
    engine: Engine,
    tensor_id: str,
    values: np.ndarray[Any, Any],
    base: str | TensorReference | None = None,
    **fields: Any,
) -> Tensor:
    """Insert values into the dataset "d" in small chunks, by default against a tensor of the same dataset."""
    fields = {"policy": SMALL_CHUNKS, "base": TensorReference("", base) if isinstance(base, str) else base} | fields
    return insert(engine, "d", tensor_id, values, **fields)


def chunks_with_a_base(tensor: Tensor) -> int:
    return sum(
        share.chunks for share in tensor.storage.encodings if any(step["id"] == "int_delta" for step in share.encoding)
    )


def depth_of(engine: Engine, tensor_id: str) -> int:
    with engine.reader.chunks(find(engine, "d", tensor_id)) as chunks:
        return chunks.own.depth


class TestStored:
    def test_chunks_are_stored_as_differences_and_read_as_they_were_sent(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        values = next_step(FIRST, 2)
        values[:4] = random_bits("uint16", (4, 4096), seed=3)
        stored = put(engine, "second", values, "first")
        assert chunks_with_a_base(stored) == 42
        assert "8 of 50 chunks are stored without the base: the differences" in stored.storage.fallback_reason
        assert stored.storage.stored_bytes < FIRST.nbytes / 3
        assert not stored.storage.lossy
        assert_same_bits(read(engine, "d", "second"), values)

    def test_slices_casts_and_byte_ranges_equal_numpy(self, engine: Engine) -> None:
        values = random_bits("float16", (60, 1000), seed=4)
        values[np.isnan(values)] = 0
        put(engine, "first", values)
        stepped = next_step(values, 5)
        put(engine, "second", stepped, "first")
        for slices in [(slice(3, 9),), (slice(None, None, -7), slice(5, 900, 11)), (slice(59, 60), slice(999, 1000))]:
            assert_same_bits(read(engine, "d", "second", SliceSet(slices)), stepped[slices])

    def test_a_client_gets_no_record_that_needs_a_base_whatever_it_accepts(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        put(engine, "second", next_step(FIRST, 2), "first")
        tensor = find(engine, "d", "second")
        pieces = pieces_of(engine, tensor, accepted_codecs=frozenset({"int_delta", "zstd"}))
        assert {piece.codec_ids for piece in pieces} == {()}

    @pytest.mark.parametrize("preset", ["maximum", "none", "fast"])
    def test_under_any_policy_differences_are_exact(self, engine: Engine, preset: str) -> None:
        values = np.random.default_rng(6).normal(size=(200, 1024)).astype(np.float32)
        put(engine, "first", values, policy=StoragePolicy(preset=preset))
        there = next_step(read(engine, "d", "first"), 7)
        stored = put(engine, "second", there, "first", policy=StoragePolicy(preset=preset))
        assert chunks_with_a_base(stored)
        assert not stored.storage.lossy
        assert_same_bits(read(engine, "d", "second"), there)

    def test_the_chunk_size_is_that_of_the_base_unless_the_policy_has_one(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        values = next_step(FIRST, 2)
        taken = put(engine, "taken", values, "first", policy=None)
        assert (taken.chunk_bytes, chunks_with_a_base(taken)) == (CHUNK, 50)
        other = put(engine, "other", values, "first", policy=StoragePolicy(chunk_bytes=2 * CHUNK))
        assert (other.chunk_bytes, chunks_with_a_base(other)) == (2 * CHUNK, 0)
        assert "without the base: its chunks have 4096 bytes, the policy demands 8192" in other.storage.fallback_reason
        assert_same_bits(read(engine, "d", "other"), values)

    def test_small_tensors_and_those_with_a_base_in_the_catalogue_are_stored_whole(self, engine: Engine) -> None:
        cases = {
            "small": random_bits("int32", (100,), seed=7),
            "compressible": np.zeros((200, 1000), np.int16),
        }
        for name, values in cases.items():
            put(engine, name, values)
            stepped = next_step(values, 8)
            stored = put(engine, f"{name} 2", stepped, name)
            assert chunks_with_a_base(stored) == 0, name
            assert "without the base" in stored.storage.fallback_reason, name
            assert_same_bits(read(engine, "d", f"{name} 2"), stepped)
        assert needed_bases(engine) == set()

    def test_a_payload_without_differences_is_written_as_without_a_base(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        other = random_bits("uint16", FIRST.shape, seed=9)
        alone, compared = put(engine, "alone", other), put(engine, "compared", other, "first")
        assert replace(compared.storage, fallback_reason="") == alone.storage
        assert compared.locator.index_length == alone.locator.index_length
        assert needed_bases(engine) == set()

    def test_validating_measures_differences_and_stores_nothing(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions(validate_only=True))
        send(stream, 0, "second", next_step(FIRST, 2), policy=SMALL_CHUNKS, base=TensorReference("d", "first"))
        stream.finish()
        assert chunks_with_a_base(reports.tensor(0)) == 50
        assert needed_bases(engine) == set()


class TestChains:
    def test_at_most_eight_payloads_build_on_each_other(self, engine: Engine) -> None:
        steps = [FIRST]
        put(engine, "0", FIRST)
        for number in range(1, 11):
            steps.append(next_step(steps[-1], number))
            stored = put(engine, str(number), steps[-1], str(number - 1))
            expected = number if number <= 8 else number - 9
            assert depth_of(engine, str(number)) == expected
            assert chunks_with_a_base(stored) == (50 if expected else 0)
            if number == 9:
                assert "the base has 8 bases before it" in stored.storage.fallback_reason
        for number, values in enumerate(steps):
            assert_same_bits(read(engine, "d", str(number)), values)
        assert_same_bits(read(engine, "d", "8", SliceSet((slice(2, 20, 3), slice(7, 8)))), steps[8][2:20:3, 7:8])

    def test_a_tensor_replaces_the_base_that_it_needs(self, engine: Engine) -> None:
        values = FIRST
        for number in range(12):
            base = "t" if number else None
            values = next_step(values, number)
            put(engine, "t", values, base, replace=True)
            assert_same_bits(read(engine, "d", "t"), values)
            engine.sweep(in_grace=True)
        assert_same_bits(read(engine, "d", "t"), values)
        assert depth_of(engine, "t") == 2
        # The chain of the first nine went when the tenth was stored whole.
        assert len(needed_bases(engine)) == 2
        assert waiting_keys(engine) == set()

    def test_an_edited_base_has_its_chunks_in_several_payloads(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        patch = random_bits("uint16", (9, 4096), seed=10)
        edit(engine, "first", patch, Write(SliceSet((slice(3, 12),))))
        edit(engine, "first", patch[:1], Write(SliceSet((slice(20, 21),))))
        edited = FIRST.copy()
        edited[3:12], edited[20] = patch, patch[0]
        values = next_step(edited, 11)
        stored = put(engine, "second", values, "first")
        # Two chunks have their bases in the catalogue.
        assert chunks_with_a_base(stored) == 48
        assert len(needed_bases(engine)) == 2
        assert_same_bits(read(engine, "d", "second"), values)


class TestEdits:
    def test_edits_of_a_tensor_with_a_base_keep_what_they_do_not_write(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        values = next_step(FIRST, 2)
        put(engine, "second", values, "first")
        values = values.copy()
        values[5, 100:200] = 7
        edit(engine, "second", values[5:6, 100:200], Write(SliceSet((slice(5, 6), slice(100, 200)))))
        assert_same_bits(read(engine, "d", "second"), values)
        more = random_bits("uint16", (30, 4096), seed=12)
        edit(engine, "second", more, Append(0))
        assert_same_bits(read(engine, "d", "second"), np.concatenate([values, more]))
        engine._catalogue.tensors.delete("d", ["first"])
        engine.sweep(in_grace=True)
        assert_same_bits(read(engine, "d", "second"), np.concatenate([values, more]))

    def test_records_that_edits_copy_keep_their_bases(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tensorus_server.engine.insert.edited_chunks._PAYLOADS_SOUGHT", 1)
        put(engine, "first", FIRST)
        values = next_step(FIRST, 2)
        delta = put(engine, "second", values, "first")
        values = np.concatenate([values, random_bits("uint16", (30, 4096), seed=13)])
        edit(engine, "second", values[25:], Append(0))
        values[:1] = 3
        edited = edit(engine, "second", values[:1], Write(SliceSet((slice(0, 1),))))
        first = find(engine, "d", "first")
        assert (first.locator.key, edited.locator.key) in needed_bases(engine)
        assert depth_of(engine, "second") == 1
        engine._catalogue.tensors.delete("d", ["first"])
        engine.sweep(in_grace=True)
        # Nothing needs the payload from which the records were copied.
        assert not any(delta.locator.key in pair for pair in needed_bases(engine))
        assert_same_bits(read(engine, "d", "second"), values)

    def test_an_edit_has_no_base(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        with pytest.raises(InvalidRequestError, match="announced with base"):
            edit(engine, "first", FIRST[:1], Append(0), base=TensorReference("", "first"))


class TestLife:
    def test_a_base_stays_while_a_payload_needs_it(self, engine: Engine) -> None:
        steps = [FIRST, next_step(FIRST, 1), next_step(next_step(FIRST, 1), 2)]
        for number, values in enumerate(steps):
            put(engine, str(number), values, str(number - 1) if number else None)
        engine._catalogue.tensors.delete("d", ["0", "1"])
        engine.sweep(in_grace=True)
        assert_same_bits(read(engine, "d", "2"), steps[2])
        assert len(payloads(engine)) == 3
        engine._catalogue.tensors.delete("d", ["2"])
        engine.sweep(in_grace=True)
        assert payloads(engine) == set()
        assert needed_bases(engine) == waiting_keys(engine) == set()

    def test_a_base_that_only_a_deleted_payload_needed_waits_for_its_own_grace(self, engine: Engine) -> None:
        first = put(engine, "first", FIRST)
        second = put(engine, "second", next_step(FIRST, 2), "first")
        engine._catalogue.tensors.delete("d", ["first", "second"])
        assert waiting_keys(engine) == {second.locator.key}
        engine._chunk_store.delete(second.locator.key)
        engine._catalogue.garbage.delete([second.locator.key])
        assert waiting_keys(engine) == {first.locator.key}
        assert engine._catalogue.garbage.due(10) == []
        assert engine._catalogue.garbage.orphans([first.locator.key]) == set()

    def test_a_deleted_dataset_leaves_what_others_need(self, engine: Engine) -> None:
        engine.create_dataset("e")
        put(engine, "first", FIRST)
        values = next_step(FIRST, 2)
        insert(engine, "e", "second", values, base=TensorReference("d", "first"))
        engine.delete_dataset("d")
        wait_for_purge(engine)
        engine.sweep(in_grace=True)
        assert_same_bits(read(engine, "e", "second"), values)
        engine.delete_dataset("e")
        wait_for_purge(engine)
        engine.sweep(in_grace=True)
        assert payloads(engine) == set()


class TestBadInput:
    def test_a_base_of_another_dtype_or_shape_is_refused_and_both_are_named(self, engine: Engine) -> None:
        put(engine, "first", FIRST)
        for values, named in [
            (FIRST.view(np.int16), r"the base is uint16 of shape \[25, 4096\], must be int16 of shape \[25, 4096\]"),
            (FIRST[:24], r"uint16 of shape \[25, 4096\], must be uint16 of shape \[24, 4096\]"),
            (FIRST[0, :3], r"must be uint16 of shape \[3\]"),
        ]:
            with pytest.raises(InvalidBaseError, match=named) as caught:
                put(engine, "second", values, "first")
            assert caught.value.facts["base"] == "first"

    def test_a_base_that_does_not_exist_is_named(self, engine: Engine) -> None:
        with pytest.raises(TensorNotFoundError, match="tensor=nothing"):
            put(engine, "second", FIRST, "nothing")
        with pytest.raises(DatasetNotFoundError, match="dataset=nowhere"):
            put(engine, "second", FIRST, base=TensorReference("nowhere", "first"))

    def test_a_tensor_that_has_not_changed_since_a_generation_is_that_of_the_state(self, engine: Engine) -> None:
        first = put(engine, "first", FIRST)
        put(engine, "other", FIRST)
        values = next_step(FIRST, 2)
        at = At(generation=first.generation)
        stored = put(engine, "second", values, base=TensorReference("d", "first", at))
        assert chunks_with_a_base(stored) == 50


def payloads(engine: Engine) -> set[str]:
    return {stored.key for stored in engine._chunk_store.published()}


def edit(engine: Engine, tensor_id: str, values: np.ndarray[Any, Any], how: Append | Write, **fields: Any) -> Tensor:
    return insert(engine, "d", tensor_id, np.ascontiguousarray(values), edit=how, **fields)


class TestEqualBytes:
    def test_what_equals_its_base_or_another_tensor_has_its_payload(self, engine: Engine) -> None:
        """So what never changes takes nothing in the next checkpoint, and does not lengthen the chain."""
        first = put(engine, "first", FIRST)
        second = put(engine, "second", next_step(FIRST, 2), "first")
        for name, values, base, expected in (
            ("equals its base", FIRST, "first", first),
            ("equals its base, which has one", next_step(FIRST, 2), "second", second),
            ("equals another one", FIRST, "second", first),
            ("equals another one, which has a base", next_step(FIRST, 2), "first", second),
        ):
            stored = put(engine, name, values, base)
            assert (stored.locator, stored.storage) == (expected.locator, expected.storage), name
            assert_same_bits(read(engine, "d", name), values)
        assert needed_bases(engine) == {(first.locator.key, second.locator.key)}
        engine.sweep(in_grace=True)
        assert {found.key for found in engine._chunk_store.published()} == {first.locator.key, second.locator.key}

    def test_a_payload_whose_base_is_missing_or_cut_is_not_shared(self, engine: Engine, tmp_path: Path) -> None:
        damages: list[Callable[[Path], object]] = [Path.unlink, lambda path: cut(path, 50_000)]
        for number, damage in enumerate(damages):
            values = next_step(FIRST, 2 + number)
            first = put(engine, f"first {number}", next_step(FIRST, 10 + number))
            second = put(engine, f"second {number}", values, first.id)
            assert chunks_with_a_base(second) == 50
            damage(path_of(tmp_path / "store", first))
            checksum = Checksum("xxh3_128", TensorDigest.of(canonical(values)))
            announced = announce(f"third {number}", values, policy=SMALL_CHUNKS, source_checksum=checksum)
            assert engine.insert_known("d", [announced]) == [None]
            # Nor is the base needed to store them.
            third = put(engine, announced.id, values, first.id)
            assert third.locator != second.locator
            assert "without the base: the base cannot be read" in third.storage.fallback_reason
            assert_same_bits(read(engine, "d", third.id), values)

    def test_tensors_that_change_places_against_each_other_are_stored_together(self, engine: Engine) -> None:
        first, second = FIRST, next_step(FIRST, 2)
        put(engine, "a", first)
        put(engine, "b", second)
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions(all_or_nothing=True))
        for item, (name, base) in enumerate((("a", "b"), ("b", "a"))):
            values = next_step(second if name == "a" else first, 5)
            send(stream, item, name, values, policy=SMALL_CHUNKS, base=TensorReference("", base), replace=True)
        assert stream.finish() == (2, 0), reports.outcomes
        engine.sweep(in_grace=True)
        assert_same_bits(read(engine, "d", "a"), next_step(second, 5))
        assert_same_bits(read(engine, "d", "b"), next_step(first, 5))
