"""Old dataset files, and what they must not do: run anything, need torch, take memory, or be changed."""

from __future__ import annotations

import hashlib
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from support.client import run_process
from support.old_reading import read, read_bytes
from support.old_tensorus import (
    COMPRESSORS,
    Written,
    archive,
    dataset_pickle,
    metadata_of,
    tensor,
    text,
)
from tensorus.old_files import DroppedValue, OldDataset, OldFileError, tensorus_files

pytestmark = pytest.mark.slow

NUMBERS = torch.linspace(-1, 2, 1200).reshape(30, 40)


# ---- Without torch, memory, and the file itself -------------------------------------------------------------------------


def test_torch_is_not_needed_and_nothing_is_unpickled(tmp_path: Path) -> None:
    written = Written()
    for compression in COMPRESSORS:
        written.insert(NUMBERS, compression, compression, "int8", at={1})
    written.insert(torch.ones(3, dtype=torch.bfloat16), "bfloat16")
    written.save(tmp_path / "old.pt")
    source = f"""
import pickle, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "grpc", "apsw", "google"}}:
            raise AssertionError(f"{{name}} is imported")
sys.meta_path.insert(0, Forbidden())
def refuse(*arguments, **options):
    raise AssertionError("something is unpickled")
pickle.Unpickler = pickle._Unpickler = pickle.load = pickle.loads = pickle._load = pickle._loads = refuse
from tensorus.old_files import OldDataset
with OldDataset({str(tmp_path / "old.pt")!r}) as old:
    records = list(old.records())
assert [record.outcome.status for record in records] == ["lossy"] * 6 + ["imported"], records
assert str(records[-1].array.dtype) == "bfloat16"
assert "torch" not in sys.modules
print("done")
"""
    done = run_process([sys.executable, "-c", source])
    assert (done.stdout.strip(), done.returncode) == ("done", 0), done.stderr


def test_memory_is_that_of_about_one_record(tmp_path: Path) -> None:
    written = Written()
    torch.manual_seed(7)
    record_bytes = 1_000_000
    for number in range(20):
        written.insert(torch.rand(record_bytes // 4), f"plain {number}")
        written.insert(torch.rand(record_bytes // 4), f"compressed {number}", "gzip-1", "none")
    path = written.save(tmp_path / "old.pt")
    del written
    list(read(path)[1])
    tracemalloc.start()
    try:
        with OldDataset(path) as old:
            for _ in old.records():
                pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 40 * record_bytes
    # Its container and its values, and those of the record before, while the next one is made.
    assert peak_bytes < 4.5 * record_bytes


def test_the_bytes_that_records_took_are_those_of_the_file(tmp_path: Path) -> None:
    written = Written()
    for number in range(10):
        written.insert(torch.rand(10_000), str(number), "gzip-1" if number % 2 else "none", "none")
    path = written.save(tmp_path / "old.pt")
    _, records = read(path)
    assert sum(record.file_bytes for record in records) == pytest.approx(path.stat().st_size, rel=0.05)


def test_the_file_stays_as_it_is(tmp_path: Path) -> None:
    written = Written()
    written.insert(NUMBERS, "r", "gzip-6", "int8")
    path = written.save(tmp_path / "old.pt")
    path.chmod(0o400)
    before = hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns
    read(path)
    assert (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) == before
    assert list(tmp_path.iterdir()) == [path]


# ---- Hostile ------------------------------------------------------------------------------------------------------------


def test_a_dataset_that_would_run_something_only_loses_that(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    runs = b"cposix\nsystem\n(" + text(f"touch {marker}") + b"tR"
    pickle = dataset_pickle(
        [tensor(count=8, shape=[8], strides=[1]), runs],
        [metadata_of("a", text("evil") + runs), metadata_of("b")],
    )
    _, (first, second) = read_bytes(tmp_path, archive(pickle, {"0": bytes(32)}))
    assert first.outcome.status == "imported"
    assert first.outcome.dropped == (DroppedValue("posix.system", "evil"),)
    assert (second.outcome.status, second.outcome.reason) == (
        "failed",
        "its tensor is a posix.system, which is not loaded",
    )
    assert not marker.exists()


def test_records_may_share_everything(tmp_path: Path) -> None:
    shared = tensor(count=8, shape=[2, 4], strides=[4, 1]) + b"r\0\0\0\0"
    metadata = metadata_of("a") + b"r\1\0\0\0"
    pickle = dataset_pickle([shared, b"j\0\0\0\0", b"j\0\0\0\0"], [metadata, b"j\1\0\0\0", b"j\1\0\0\0"])
    _, records = read_bytes(tmp_path, archive(pickle, {"0": bytes(range(32))}))
    assert [record.outcome.id for record in records] == ["a", "a-2", "a-3"]
    assert all(record.array is not None and record.array.shape == (2, 4) for record in records)


def test_more_records_than_there_can_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorus_files, "RECORDS_MAX", 10)
    _, records = read_bytes(tmp_path, archive(dataset_pickle([b"N"] * 10, [])))
    assert len(records) == 10
    with pytest.raises(OldFileError, match="it has 11 records, limit is 10"):
        read_bytes(tmp_path, archive(dataset_pickle([b"N"], [b"N"] * 11)))


@pytest.mark.parametrize("items", [b"]" * 100_000 + b"a" * 99_999, b"N" + b"\x85" * 100_000])
def test_depth_in_a_record_fails_it_alone(tmp_path: Path, items: bytes) -> None:
    pickle = dataset_pickle(
        [items, tensor(count=8, shape=[8], strides=[1])],
        [metadata_of("a", text("deep") + items), metadata_of("b", text("deep") + items)],
    )
    _, (first, second) = read_bytes(tmp_path, archive(pickle, {"0": bytes(32)}))
    assert first.outcome.status == "failed"
    assert second.outcome.status == "imported"
    assert [dropped.name for dropped in second.outcome.dropped] == ["nested deeper than 16 levels"]


def test_a_text_that_is_no_latin1_fails_its_record(tmp_path: Path) -> None:
    blob = b"c_codecs\nencode\n(" + text("PK\u0100" * 200) + text("latin1") + b"tR"
    _, (record,) = read_bytes(tmp_path, archive(dataset_pickle([blob], [metadata_of("a")])))
    assert record.outcome.reason.startswith("its bytes are no text of one byte per character")


def test_a_file_that_cannot_be_opened_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OldDataset(tmp_path / "nowhere.pt")
    with pytest.raises(IsADirectoryError):
        OldDataset(tmp_path)
