"""Equal bytes are stored once: which tensors share a payload, and what happens to the others when one of them changes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, normal, random_bits
from support.engine import Reports, announce, engine_on, find, insert, read, send, set_aside_now, wait_for_purge
from support.marks import mark_tensors
from support.servers import engine_config
from support.verifying import cut, flip, path_of, sql, verified
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.app.local import recover_folder
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.content import content_digest
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.errors import AlreadyExistsError, DataCorruptError
from tensorus_server.model import Append, Checksum, Outcome, Segment, TensorSpec

LARGE = random_bits("uint16", (60_000,), seed=1)
OTHER = random_bits("uint16", (60_000,), seed=2)
SMALL = random_bits("uint8", (1000,), seed=3)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Yield an engine whose deleted payloads have no grace, with a dataset "d" of raw values."""
    with engine_on(tmp_path / "store", delete_grace_s=0.0) as opened:
        opened.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=16384))
        yield opened


def swept(engine: Engine, raw: RawFolder) -> int:
    """Sweep, and return how many payloads are left."""
    engine.sweep()
    return len(raw.published())


def test_the_digest_is_of_the_documented_form() -> None:
    spec, source = TensorSpec(dtype_by_name("float32"), (2, 3)), Checksum("xxh3_128", bytes(range(16)))
    number = spec.dtype.number
    for policy, text in (
        (StoragePolicy(), '{"preset":"lossless"}'),
        (StoragePolicy("lossless"), '{"preset":"lossless"}'),
        (StoragePolicy("bf16", max_relative_error=0.5), '{"max_relative_error":0.5,"preset":"bf16"}'),
    ):
        form = f'[1,{number},32,[2,3],{text},65536,"{source.value.hex()}"]'
        assert content_digest(spec, policy, 65536, source) == TensorDigest.of(form.encode())
    assert content_digest(spec, StoragePolicy(), 65536, Checksum("crc32c", b"0000")) is None


def test_equal_tensors_have_one_payload_until_the_last_of_them_goes(engine: Engine, raw: RawFolder) -> None:
    engine.create_dataset("other")
    policy = engine.get_dataset("d").policy
    first = insert(engine, "d", "a", LARGE, metadata={"first": True})
    # Also in another dataset, by a policy of its own that is the same.
    for dataset, name in (("d", "b"), ("other", "a")):
        tensor = insert(engine, dataset, name, LARGE, metadata={"name": name}, policy=policy)
        assert (tensor.outcome, tensor.locator, tensor.metadata) == (Outcome.INSERTED, first.locator, {"name": name})
    assert swept(engine, raw) == 1
    for dataset, name in (("d", "a"), ("d", "b"), ("other", "a")):
        assert np.array_equal(read(engine, dataset, name), LARGE)
    assert verified(engine).damages == []
    engine.delete_tensors("d", ["a"])
    engine.delete_dataset("other")
    wait_for_purge(engine)
    assert swept(engine, raw) == 1
    assert np.array_equal(read(engine, "d", "b"), LARGE)
    insert(engine, "d", "b", OTHER, replace=True)
    assert swept(engine, raw) == 1
    assert list(raw.published()) == [engine.get_tensor("d", "b").locator.key]
    engine.delete_tensors("d", ["b"])
    assert swept(engine, raw) == 0


def test_what_is_stored_otherwise_is_not_shared(engine: Engine, raw: RawFolder) -> None:
    engine.create_dataset("other", StoragePolicy(preset="lossless", chunk_bytes=16384))
    insert(engine, "d", "a", LARGE)
    insert(engine, "d", "another shape", LARGE.reshape(2, -1))
    insert(engine, "d", "another dtype", LARGE.view(np.int16))
    insert(engine, "d", "another preset", LARGE, preset="fast")
    insert(engine, "other", "another dataset's policy", LARGE)
    insert(engine, "d", "other chunks", LARGE, policy=StoragePolicy("none", chunk_bytes=8192))
    insert(engine, "d", "other values", LARGE[::-1])
    assert swept(engine, raw) == 7
    # Small ones are in the catalogue, each in its row.
    for name in ("small", "small too"):
        insert(engine, "d", name, SMALL)
    assert swept(engine, raw) == 7
    assert engine._catalogue.tensors.equal_tensors([b"0123456789abcdef"]) == {}


def test_equal_tensors_of_one_stream_and_of_many_are_stored_once(engine: Engine, raw: RawFolder) -> None:
    reports = Reports()
    stream = engine.open_insert("d", reports)
    for item in range(40):
        send(stream, item, f"{item}", (LARGE, OTHER)[item % 2])
    assert stream.finish() == (40, 0)
    assert swept(engine, raw) == 2
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: insert(engine, "d", f"thread {number}", LARGE), range(20)))
    together = Reports()
    stream = engine.open_insert("d", together, InsertOptions(all_or_nothing=True))
    for item, array in enumerate((LARGE, LARGE[::-1], LARGE[::-1])):
        send(stream, item, f"together {item}", array)
    assert stream.finish() == (3, 0)
    assert swept(engine, raw) == 3
    assert all(np.array_equal(read(engine, "d", f"{item}"), (LARGE, OTHER)[item % 2]) for item in range(40))
    assert verified(engine).damages == []


def test_an_insert_that_fails_shares_nothing_and_leaves_nothing(engine: Engine, raw: RawFolder) -> None:
    insert(engine, "d", "taken", SMALL)
    for options, array in (
        (InsertOptions(all_or_nothing=True), LARGE),
        (InsertOptions(validate_only=True), LARGE),
    ):
        reports = Reports()
        stream = engine.open_insert("d", reports, options)
        for item, name in enumerate(("a", "b", "taken")):
            send(stream, item, name, array)
        stream.finish()
        assert isinstance(reports.error(2), AlreadyExistsError)
        assert swept(engine, raw) == 0
    # The one that failed before must not be the one that others of its group share.
    reports = Reports()
    stream = engine.open_insert("d", reports)
    for item, name in enumerate(("taken", "a", "b")):
        send(stream, item, name, LARGE)
    assert stream.finish() == (2, 1)
    assert swept(engine, raw) == 1
    assert np.array_equal(read(engine, "d", "b"), LARGE)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="missing"),
        pytest.param(lambda path: cut(path, 50_000), id="cut"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
    ],
)
def test_a_payload_that_is_not_whole_is_not_shared(
    engine: Engine, raw: RawFolder, tmp_path: Path, damage: object
) -> None:
    first = insert(engine, "d", "a", LARGE)
    damage(path_of(tmp_path / "store", first))  # type: ignore[operator]
    second = insert(engine, "d", "b", LARGE)
    assert second.locator.key != first.locator.key
    assert np.array_equal(read(engine, "d", "b"), LARGE)
    assert insert(engine, "d", "c", LARGE).locator == second.locator


def test_damage_is_reported_for_each_tensor_and_mended_by_replacing_them(engine: Engine, tmp_path: Path) -> None:
    tensors = {name: insert(engine, "d", name, LARGE) for name in "abc"}
    flip(path_of(tmp_path / "store", tensors["a"]), 100)
    assert [damage.facts["tensor"] for damage in verified(engine).damages] == ["a", "b", "c"]
    replacing = {"if_generation_match": tensors["a"].generation}
    mended = insert(engine, "d", "a", LARGE, **replacing)
    assert mended.outcome is Outcome.REPLACED
    assert mended.locator.key != tensors["a"].locator.key
    assert np.array_equal(read(engine, "d", "a"), LARGE)
    with pytest.raises(DataCorruptError):
        read(engine, "d", "b")
    # With other metadata, so that it is not already stored.
    assert insert(engine, "d", "b", LARGE, replace=True, metadata={"new": 1}).locator == mended.locator
    assert insert(engine, "d", "c", LARGE, if_generation_match=tensors["c"].generation).locator == mended.locator
    assert verified(engine).damages == []
    # Also if the row is what is damaged: which payload it had is unknown then.
    sql(engine, "UPDATE tensor SET nbytes = 7 WHERE id = 'c'")
    again = insert(engine, "d", "c", LARGE, replace=True)
    assert again.locator.key != mended.locator.key
    assert verified(engine).damages == []


def test_an_edit_changes_none_of_the_others(engine: Engine, raw: RawFolder) -> None:
    for name in "abc":
        insert(engine, "d", name, LARGE)
    for name in "ab":
        send_edit(engine, name, OTHER)
    grown = np.concatenate([LARGE, OTHER])
    assert np.array_equal(read(engine, "d", "a"), grown)
    assert np.array_equal(read(engine, "d", "b"), grown)
    assert np.array_equal(read(engine, "d", "c"), LARGE)
    # Edits are not shared: their payloads have only what changed.
    assert swept(engine, raw) == 3
    assert insert(engine, "d", "whole", grown).locator.key not in {find(engine, "d", name).locator.key for name in "ab"}
    engine.delete_tensors("d", ["a", "c"])
    assert swept(engine, raw) == 3
    assert np.array_equal(read(engine, "d", "b"), grown)
    assert verified(engine).damages == []


def send_edit(engine: Engine, tensor_id: str, values: np.ndarray) -> None:
    """Append values to a tensor."""
    insert(engine, "d", tensor_id, values, edit=Append(0))


def test_a_kept_tensor_of_the_past_gives_its_payload(engine: Engine, raw: RawFolder) -> None:
    engine.update_dataset("d", None, None, retention_s=3600)
    first = insert(engine, "d", "a", LARGE)
    engine.delete_tensors("d", ["a"])
    assert swept(engine, raw) == 1
    assert insert(engine, "d", "b", LARGE).locator == first.locator


def test_a_resumed_tensor_is_not_shared_because_the_digest_of_its_bytes_is_unknown(
    engine: Engine, raw: RawFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=65536)
    array = normal((100_000,), "float32")
    data = memoryview(canonical(array))
    for preset in ("balanced", "lossless"):
        engine.create_dataset(preset, StoragePolicy(preset, chunk_bytes=65536))
        first = insert(engine, preset, "first", array)
        options = InsertOptions(request_id=preset)
        interrupted = engine.open_insert(preset, Reports(), options)
        interrupted.receive(Segment(0, 0, 300_000, last=False, tensor=announce("t", array)), data[:300_000])
        interrupted.abort()
        reports = Reports()
        resumed = engine.open_insert(preset, reports, options)
        (progress,) = resumed.resumable
        begin = progress.committed_bytes
        assert begin > 0
        rest = Segment(0, begin, data.nbytes - begin, last=True, tensor=announce("t", array))
        resumed.receive(rest, data[begin:])
        assert resumed.finish() == (1, 0)
        assert reports.tensor(0).locator != first.locator, preset
        assert reports.tensor(0).source_checksum.algorithm == "crc32c"
    assert swept(engine, raw) == 4
    assert raw.kept() == {}


def test_sharing_can_be_turned_off(tmp_path: Path, raw: RawFolder) -> None:
    config = engine_config(tmp_path / "store", shares_payloads=False, sweeps=False)
    engine = open_engine(config)
    try:
        engine.create_dataset("d", StoragePolicy("none"))
        for name in "ab":
            insert(engine, "d", name, LARGE)
        assert len(raw.published()) == 2
    finally:
        engine.close()
    # Tensors from then are not shared later, either, since they are not listed.
    engine = open_engine(engine_config(tmp_path / "store", sweeps=False))
    try:
        for name in "cd":
            insert(engine, "d", name, LARGE)
        assert len(raw.published()) == 3
    finally:
        engine.close()


def test_a_payload_that_was_published_and_not_shared_is_an_orphan(
    engine: Engine, raw: RawFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the commit and the deletion of the payload that was not needed."""
    insert(engine, "d", "a", LARGE)
    monkeypatch.setattr(engine._committer, "_delete", lambda keys: None)
    insert(engine, "d", "b", LARGE)
    assert len(raw.published()) == 2
    # With the next commit, the committer forgets its keys.
    insert(engine, "d", "small", SMALL)
    assert set_aside_now(engine) == 1
    assert np.array_equal(read(engine, "d", "a"), LARGE)
    assert np.array_equal(read(engine, "d", "b"), LARGE)


def test_a_recovery_brings_back_the_tensor_that_the_payload_names(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with engine_on(folder) as engine:
        engine.create_dataset("d", StoragePolicy(preset="none"))
        for name in "ab":
            insert(engine, "d", name, LARGE)
        tensor = engine.get_tensor("d", "a")
    for path in folder.glob("catalogue.db*"):
        path.unlink()
    found = recover_folder(folder)
    assert [finding.outcome for finding in found.findings] == ["recovered"]
    with engine_on(folder) as engine:
        assert np.array_equal(read(engine, "d", "a"), LARGE)
        assert engine.get_tensor("d", "a").locator == tensor.locator
        # The other one is lost, and comes back when it is inserted again.
        assert engine._catalogue.tensors.get("d", ["b"]) == [None]
        insert(engine, "d", "b", LARGE)
        assert verified(engine).damages == []
