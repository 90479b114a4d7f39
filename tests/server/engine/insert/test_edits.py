"""Edits: values that are appended to a tensor, or written into it, and what becomes of everything else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.arrays import assert_same_bits
from support.engine import Reports, announce, find, insert, read, send
from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.digest import ChunkedDigest
from tensorus_server.chunk_table import ChunkTable
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import edit_writer, edited_chunks
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.errors import (
    EngineError,
    GenerationMismatchError,
    InvalidRequestError,
    InvalidShapeError,
    InvalidSliceError,
    StoreBusyError,
    TensorNotFoundError,
)
from tensorus_server.model import Append, Outcome, SliceSet, Tensor, Write

pytestmark = pytest.mark.usefixtures("few_shards")

CHUNK_BYTES = 4096

POLICIES = {
    "raw": StoragePolicy("none", chunk_bytes=CHUNK_BYTES),
    "lossless": StoragePolicy("lossless", chunk_bytes=CHUNK_BYTES),
    "int8": StoragePolicy("int8_only", chunk_bytes=CHUNK_BYTES),
}


def values(*shape: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """Return random float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def edit(engine: Engine, tensor_id: str, array: np.ndarray[Any, Any], how: Append | Write, **fields: Any) -> Tensor:
    """Edit a tensor of the dataset "d" and return the new generation."""
    return insert(engine, "d", tensor_id, array, edit=how, **fields)


def append(engine: Engine, tensor_id: str, array: np.ndarray[Any, Any], axis: int = 0, **fields: Any) -> Tensor:
    """Append to a tensor of the dataset "d"."""
    return edit(engine, tensor_id, array, Append(axis), **fields)


def write(engine: Engine, tensor_id: str, index: tuple[slice, ...], array: np.ndarray[Any, Any]) -> Tensor:
    """Write into a tensor of the dataset "d"."""
    return edit(engine, tensor_id, array, Write(SliceSet(index)))


def assert_sound(engine: Engine, tensor_id: str) -> Tensor:
    """Check everything that is stored of a tensor against its values."""
    tensor = find(engine, "d", tensor_id)
    found = read(engine, "d", tensor_id)
    spec = tensor.spec
    digest = ChunkedDigest(spec.dtype.number, 8 * spec.dtype.element_bytes, spec.shape, tensor.chunk_bytes)
    digest.update(np.ascontiguousarray(found).reshape(-1).view(np.uint8))
    assert tensor.value_checksum.value == digest.digest()
    assert tensor.storage.canonical_bytes == found.nbytes
    assert sum(share.canonical_bytes for share in tensor.storage.encodings) == found.nbytes
    assert sum(share.chunks for share in tensor.storage.encodings) == -(-found.nbytes // tensor.chunk_bytes)
    if tensor.values is not None and not tensor.storage.lossy:
        assert tensor.values.minimum == found.min()
        assert tensor.values.maximum == found.max()
        assert tensor.values.mean == pytest.approx(found.astype(np.float64).mean(), rel=1e-4, abs=1e-6)
    return tensor


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("rows", [(3, 2), (300, 1), (300, 256), (1, 700), (300, 5000)])
def test_appended_values_follow_the_old_ones(engine: Engine, name: str, rows: tuple[int, int]) -> None:
    first, second = values(rows[0], 64), values(rows[1], 64, seed=2)
    insert(engine, "d", "t", first, policy=POLICIES[name], metadata={"a": 1})
    before = read(engine, "d", "t")
    old = find(engine, "d", "t")
    tensor = append(engine, "t", second)
    assert tensor.outcome is Outcome.CHANGED
    assert tensor.generation > old.generation
    assert tensor.metadata == {"a": 1}
    assert tensor.spec.shape == (sum(rows), 64)
    found = read(engine, "d", "t")
    assert_same_bits(found[: rows[0]], before)
    if name == "int8":
        np.testing.assert_allclose(found[rows[0] :], second, atol=tensor.storage.max_absolute_error)
    else:
        assert_same_bits(found[rows[0] :], second)
    assert_sound(engine, "t")


def test_readers_read_a_large_chunk_table_once_and_none_of_an_earlier_generation(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = values(1024, 1024)
    insert(engine, "d", "t", expected, policy=POLICIES["raw"])
    # Runs of one chunk each, so that the tables are larger than the smallest ones that are kept.
    for first in (0, 2):
        expected[first::4] = first
        write(engine, "t", (slice(first, None, 4),), expected[first::4])
    parsed = []
    parse = ChunkTable.parse

    def parse_and_note(stored: bytes) -> ChunkTable:
        parsed.append(parse(stored))
        return parsed[-1]

    monkeypatch.setattr(ChunkTable, "parse", parse_and_note)
    for row in (0, 1, 2, 3):
        assert_same_bits(read(engine, "d", "t", SliceSet((slice(row, row + 1),))), expected[row : row + 1])
    assert_same_bits(read(engine, "d", "t"), expected)
    assert [len(table.payloads) for table in parsed] == [2]


def test_a_payload_of_unchanged_chunks_is_shared(engine: Engine) -> None:
    insert(engine, "d", "t", values(1024, 64), policy=POLICIES["raw"])
    old = find(engine, "d", "t")
    tensor = append(engine, "t", values(16, 64))
    assert tensor.locator.length < 10_000
    assert tensor.storage.canonical_bytes == old.storage.canonical_bytes + 4096
    assert [stored.key for stored in engine._chunk_store.published()] == [old.locator.key]
    assert engine.sweep(in_grace=True).deleted == 0
    assert_sound(engine, "t")


def test_payloads_are_deleted_with_the_last_generation_that_needs_them(engine: Engine) -> None:
    insert(engine, "d", "t", values(1024, 64), policy=POLICIES["raw"])
    append(engine, "t", values(400, 64))
    write(engine, "t", (slice(0, 1024),), values(1024, 64, seed=3))
    # The first payload is not needed any more; that of the append has the last chunks.
    assert engine.sweep(in_grace=True).deleted == 1
    assert_sound(engine, "t")
    engine.delete_tensors("d", ["t"])
    assert engine.sweep(in_grace=True).deleted == 2
    assert list(engine._chunk_store.published()) == []


@pytest.mark.parametrize(
    "index",
    [
        (slice(3, 5),),
        (slice(0, 100),),
        (slice(None), slice(7, 8)),
        (slice(10, 90, 7), slice(1, 60, 3)),
        (slice(99, 100), slice(63, 64)),
        (slice(-3, None),),
        (slice(5, 5),),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", POLICIES)
def test_written_values_replace_those_of_the_slice_and_no_others(
    engine: Engine, name: str, index: tuple[slice, ...]
) -> None:
    insert(engine, "d", "t", values(100, 64), policy=POLICIES[name])
    before = read(engine, "d", "t")
    expected = before.copy()
    new = values(*expected[index].shape, seed=9)
    expected[index] = new
    tensor = write(engine, "t", index, new)
    found = read(engine, "d", "t")
    kept = np.ones(before.shape, bool)
    kept[index] = False
    assert_same_bits(found[kept], before[kept])
    np.testing.assert_allclose(found, expected, atol=tensor.storage.max_absolute_error if name == "int8" else 0)
    assert_sound(engine, "t")


def test_random_edits_equal_those_of_an_array(engine: Engine) -> None:
    random = np.random.default_rng(5)
    for name, policy in POLICIES.items():
        expected = values(200, 64)
        insert(engine, "d", name, expected, policy=policy)
        expected = read(engine, "d", name)
        for step in range(40):
            if random.random() < 0.5:
                new = values(int(random.integers(0, 40)), 64, seed=step)
                append(engine, name, new)
                expected = np.concatenate([expected, new])
            else:
                start, stop = sorted(random.integers(0, len(expected) + 1, 2).tolist())
                index = (slice(start, stop, int(random.integers(1, 4))), slice(int(random.integers(0, 64)), None))
                new = values(*expected[index].shape, seed=step)
                write(engine, name, index, new)
                expected[index] = new
            tensor = assert_sound(engine, name)
            found = read(engine, "d", name)
            np.testing.assert_allclose(found, expected, atol=tensor.storage.max_absolute_error)
            # What was quantized once keeps its values from then on.
            expected = found
            part = tuple(slice(int(random.integers(0, size)), None, 2) for size in expected.shape)
            assert_same_bits(read(engine, "d", name, SliceSet(part)), expected[part])
        engine.sweep(in_grace=True)
        assert_same_bits(read(engine, "d", name), expected)


def test_many_appends_leave_few_payloads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edited_chunks, "_PAYLOADS_SOUGHT", 6)
    insert(engine, "d", "t", values(512, 64), policy=POLICIES["lossless"])
    expected = [values(512, 64)]
    for step in range(40):
        expected.append(values(17, 64, seed=step))
        append(engine, "t", expected[-1])
    engine.sweep(in_grace=True)
    assert len(list(engine._chunk_store.published())) <= 8
    assert_same_bits(read(engine, "d", "t"), np.concatenate(expected))
    assert_sound(engine, "t")


def test_concurrent_appends_are_ordered_and_none_is_lost(engine: Engine) -> None:
    insert(engine, "d", "t", values(3, 64), policy=POLICIES["lossless"])
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            for step in range(6):
                append(engine, "t", np.full((5, 64), 100 * number + step, np.float32))
        except Exception as error:  # noqa: BLE001 - the test reports it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rows = read(engine, "d", "t")[3:, 0].reshape(-1, 5)
    assert (rows == rows[:, :1]).all()
    assert sorted(rows[:, 0].tolist()) == [100 * number + step for number in range(1, 9) for step in range(6)]
    for number in range(1, 9):
        mine = [row for row in rows[:, 0].tolist() if row // 100 == number]
        assert mine == sorted(mine)


class TestLargeEdits:
    """Edits above the size that is held in memory are encoded as they arrive."""

    @pytest.fixture(autouse=True)
    def _nothing_is_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(edit_writer, "EDIT_HELD_BYTES_MAX", 0)

    def begun(self, engine: Engine, array: np.ndarray[Any, Any], how: Append | Write) -> Callable[[], Tensor]:
        """Send all of an edit but its end; return what ends it."""
        reports = Reports()
        stream = engine.open_insert("d", reports)
        data = memoryview(array.tobytes())
        from tensorus_server.model import Segment  # noqa: PLC0415

        stream.receive(Segment(0, 0, data.nbytes, False, announce("t", array, edit=how)), data)

        def end() -> Tensor:
            stream.receive(Segment(0, data.nbytes, 0, True), memoryview(b""))
            stream.finish()
            outcome = reports.outcomes[0]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return end

    def test_a_large_append_is_encoded_as_it_arrives(self, engine: Engine) -> None:
        first, second = values(300, 64), values(1000, 64, seed=2)
        insert(engine, "d", "t", first, policy=POLICIES["lossless"])
        self.begun(engine, second, Append(0))()
        assert_same_bits(read(engine, "d", "t"), np.concatenate([first, second]))
        assert_sound(engine, "t")

    def test_an_edit_of_other_chunks_meanwhile_is_kept(self, engine: Engine) -> None:
        expected = values(1024, 64)
        insert(engine, "d", "t", expected, policy=POLICIES["lossless"])
        end = self.begun(engine, np.ones((10, 64), np.float32), Write(SliceSet((slice(0, 10),))))
        write(engine, "t", (slice(1000, 1024),), np.zeros((24, 64), np.float32))
        end()
        expected[:10], expected[1000:] = 1, 0
        assert_same_bits(read(engine, "d", "t"), expected)
        assert_sound(engine, "t")

    def test_an_edit_of_the_same_chunk_meanwhile_makes_it_fail_as_busy(self, engine: Engine) -> None:
        expected = values(1024, 64)
        insert(engine, "d", "t", expected, policy=POLICIES["lossless"])
        ends = [
            self.begun(engine, np.ones((1, 64), np.float32), Write(SliceSet((slice(0, 1),)))),
            self.begun(engine, np.ones((1, 64), np.float32), Append(0)),
        ]
        write(engine, "t", (slice(1, 2),), np.zeros((1, 64), np.float32))
        append(engine, "t", np.zeros((1, 64), np.float32))
        for end in ends:
            with pytest.raises(StoreBusyError, match="another edit changed the same part of the tensor meanwhile"):
                end()
        expected[1] = 0
        assert_same_bits(read(engine, "d", "t")[:1024], expected)

    def test_a_tensor_that_was_replaced_in_chunks_of_another_size_meanwhile_makes_it_fail_as_busy(
        self, engine: Engine
    ) -> None:
        insert(engine, "d", "t", values(1024, 64), policy=POLICIES["lossless"])
        # Whole chunks alone, so that nothing of the old ones was merged.
        end = self.begun(engine, np.ones((32, 64), np.float32), Write(SliceSet((slice(0, 32),))))
        replacement = values(1024, 64, seed=7)
        insert(
            engine, "d", "t", replacement, policy=StoragePolicy("lossless", chunk_bytes=4 * CHUNK_BYTES), replace=True
        )
        with pytest.raises(StoreBusyError, match="another edit changed the same part of the tensor meanwhile"):
            end()
        assert_same_bits(read(engine, "d", "t"), replacement)


class TestEnds:
    """An edit that has all its values ends before its next chunk if nobody waits for it, and leaves the tensor to others."""

    def test_an_edit_whose_client_is_gone_ends(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        insert(engine, "d", "t", values(1024, 64), policy=POLICIES["lossless"])
        before = find(engine, "d", "t")
        reports = Reports()
        stream = engine.open_insert("d", reports)
        begun: list[int] = []
        encode = edit_writer._encode_merged

        def encode_and_leave(*arguments: Any) -> Any:
            begun.append(1)
            stream._items.stop_edits()
            return encode(*arguments)

        monkeypatch.setattr(edit_writer, "_encode_merged", encode_and_leave)
        # A column: all 64 chunks change.
        send(stream, 0, "t", np.zeros((1024, 1), np.float32), edit=Write(SliceSet((slice(None), slice(0, 1)))))
        stream.finish()
        assert "the insert ended before the edit was done" in str(reports.error(0))
        assert len(begun) < 8
        assert find(engine, "d", "t") == before
        monkeypatch.undo()
        append(engine, "t", values(1, 64))
        assert engine.sweep(in_grace=True).deleted == 0

    def test_an_edit_waits_for_its_turn_without_a_thread_that_other_tensors_need(self, engine: Engine) -> None:
        insert(engine, "d", "t", values(3, 64))
        lock = engine._services.tensor_locks.acquire(engine.get_dataset("d"), "t")
        waiting = [threading.Thread(target=append, args=(engine, "t", values(1, 64))) for _ in range(10)]
        for thread in waiting:
            thread.start()
        # Above what is inline: it needs the seal pool.
        insert(engine, "d", "other", values(1024, 64), policy=POLICIES["raw"])
        assert all(thread.is_alive() for thread in waiting)
        lock.release()
        for thread in waiting:
            thread.join()
        assert read(engine, "d", "t").shape == (13, 64)


class TestBadEdits:
    """Each wrong edit has its reason, and changes nothing."""

    @pytest.mark.parametrize(
        ("array", "how", "error", "message"),
        [
            (
                np.zeros((1, 64), np.float32),
                Append(2),
                InvalidShapeError,
                "axis of the append is 2, the tensor has 2 axes",
            ),
            (
                np.zeros((1, 64), np.float32),
                Append(1),
                InvalidShapeError,
                "values can be appended along the first axis",
            ),
            (np.zeros((1, 63), np.float32), Append(0), InvalidShapeError, r"shape of the values is \[1, 63\]"),
            (np.zeros((1, 64)), Append(0), InvalidShapeError, "dtype of the values is float64, the tensor has float32"),
            (
                np.zeros((2, 64), np.float32),
                Write(SliceSet((slice(99, 101),))),
                InvalidSliceError,
                "the write goes to 101 on axis 0, the tensor has size 100",
            ),
            (
                np.zeros((2, 64), np.float32),
                Write(SliceSet((slice(3, 4),))),
                InvalidShapeError,
                r"shape of the values is \[2, 64\], the slice has \[1, 64\]",
            ),
            (
                np.zeros((4, 64), np.float32),
                Write(SliceSet((slice(4, 0, -1),))),
                InvalidSliceError,
                "a step of the write is negative",
            ),
        ],
    )
    def test_an_edit_that_does_not_fit_is_refused(
        self, engine: Engine, array: np.ndarray[Any, Any], how: Append | Write, error: type[EngineError], message: str
    ) -> None:
        insert(engine, "d", "t", values(100, 64), policy=POLICIES["raw"])
        before = find(engine, "d", "t")
        with pytest.raises(error, match=message):
            edit(engine, "t", array, how)
        assert find(engine, "d", "t") == before

    def test_a_tensor_that_does_not_exist_cannot_be_edited(self, engine: Engine) -> None:
        with pytest.raises(TensorNotFoundError, match="there is no such tensor to edit"):
            append(engine, "missing", values(1, 64))

    def test_an_edit_of_another_generation_is_refused(self, engine: Engine) -> None:
        tensor = insert(engine, "d", "t", values(100, 64))
        append(engine, "t", values(1, 64), if_generation_match=tensor.generation)
        with pytest.raises(GenerationMismatchError, match=f"{tensor.generation} was to be edited"):
            append(engine, "t", values(1, 64), if_generation_match=tensor.generation)

    @pytest.mark.parametrize("fields", [{"metadata": {"a": 1}}, {"policy": POLICIES["raw"]}, {"replace": True}])
    def test_an_edit_brings_nothing_of_a_whole_tensor(self, engine: Engine, fields: dict[str, Any]) -> None:
        insert(engine, "d", "t", values(100, 64))
        with pytest.raises(InvalidRequestError, match=f"announced with {next(iter(fields))}"):
            append(engine, "t", values(1, 64), **fields)

    @pytest.mark.parametrize("options", [InsertOptions(all_or_nothing=True), InsertOptions(validate_only=True)])
    def test_only_a_plain_insert_has_edits(self, engine: Engine, options: InsertOptions) -> None:
        insert(engine, "d", "t", values(100, 64))
        reports = Reports()
        stream = engine.open_insert("d", reports, options)
        send(stream, 0, "t", values(1, 64), edit=Append(0))
        stream.finish()
        assert "cannot have edits" in str(reports.error(0))


def test_an_edit_that_is_repeated_is_done_once(engine: Engine) -> None:
    insert(engine, "d", "t", values(100, 64))
    found = []
    for _ in range(3):
        reports = Reports()
        stream = engine.open_insert("d", reports, InsertOptions(request_id="r"))
        send(stream, 0, "t", values(1, 64), edit=Append(0))
        stream.finish()
        found.append(reports.tensor(0))
        append(engine, "t", values(1, 64))
    assert [tensor.outcome for tensor in found] == [Outcome.CHANGED] * 3
    assert read(engine, "d", "t").shape == (104, 64)
