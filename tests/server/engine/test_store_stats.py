"""The sizes of a whole store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contract.chunk_store_raw import RawFolder
from support.engine import commit, insert, set_aside_now, stored_tensor
from support.verifying import IN_A_FILE, put_in_file, put_in_row
from tensorus_server.engine import store_stats as store_stats_module
from tensorus_server.engine.engine import Engine


def test_tensors_are_counted_with_what_they_take(engine: Engine) -> None:
    tensors = [put_in_file(engine, "file"), put_in_row(engine, "row")]
    stats = engine.store_stats()
    sizes = stats.totals.sizes
    assert (stats.totals.datasets, sizes.tensors) == (1, 2)
    assert sizes.canonical_bytes == sum(tensor.storage.canonical_bytes for tensor in tensors)
    assert sizes.stored_bytes == sum(tensor.storage.stored_bytes for tensor in tensors)
    assert stats.space is not None
    assert 0 < stats.space.free_bytes < stats.space.total_bytes


def test_garbage_has_the_size_of_the_files_that_wait(engine: Engine, raw: RawFolder) -> None:
    for number in range(3):
        put_in_file(engine, f"t{number}")
    put_in_row(engine, "row")
    file_bytes = sum(map(len, raw.published().values()))
    engine.delete_tensors("d", ["t0", "t1", "t2", "row"])
    stats = engine.store_stats()
    assert (stats.totals.garbage_payloads, stats.garbage_bytes) == (3, file_bytes)
    assert not stats.garbage_bytes_estimated
    assert stats.totals.garbage_until_us is not None
    assert stats.totals.garbage_until_us > time.time() * 1e6
    engine.sweep(in_grace=True)
    assert (engine.store_stats().totals.garbage_payloads, engine.store_stats().garbage_bytes) == (0, 0)


def test_a_replaced_tensor_is_garbage_too(engine: Engine) -> None:
    put_in_file(engine, "t")
    insert(engine, "d", "t", IN_A_FILE + 1, replace=True)
    assert engine.store_stats().totals.garbage_payloads == 1


def test_much_garbage_is_estimated_from_a_part_of_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_stats_module, "_MEASURED_MAX", 2)
    for number in range(5):
        put_in_file(engine, f"t{number}")
    engine.delete_tensors("d", ["t0", "t1"])
    exact = engine.store_stats()
    assert not exact.garbage_bytes_estimated
    engine.delete_tensors("d", ["t2", "t3", "t4"])
    stats = engine.store_stats()
    assert stats.garbage_bytes_estimated
    # All are as long, but for a digit or two in their footers.
    assert stats.garbage_bytes == pytest.approx(exact.garbage_bytes * 5 / 2, rel=0.01)


def test_garbage_whose_file_is_gone_takes_no_space(engine: Engine) -> None:
    commit(engine._catalogue, stored_tensor(engine.get_dataset("d"), "t", key="00/" + "0" * 32))
    engine.delete_tensors("d", ["t"])
    stats = engine.store_stats()
    assert (stats.totals.garbage_payloads, stats.garbage_bytes) == (1, 0)


def test_the_quarantine_is_counted_apart(engine: Engine, tmp_path: Path, raw: RawFolder) -> None:
    (tmp_path / "store" / "chunks" / "00").mkdir(exist_ok=True)
    put_in_file(engine, "t")
    raw.plant("00/" + "a" * 32, b"left by a crash")
    assert set_aside_now(engine) == 1
    stats = engine.store_stats()
    assert (stats.quarantined_payloads, stats.quarantined_bytes) == (1, 15)
    assert stats.quarantined_until_us is not None
    assert stats.quarantined_until_us > time.time() * 1e6
    assert stats.totals.sizes.tensors == 1
