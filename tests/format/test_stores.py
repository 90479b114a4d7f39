"""Stores that each format's version wrote open with this version: they read, verify and can be edited."""

import contextlib
import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits

STORES = Path(__file__).parents[1] / "golden" / "stores"
FORMATS = ["bases", "format1", "format2"]

pytestmark = pytest.mark.slow


def expected_of(name):
    return json.loads((STORES / name / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(params=FORMATS)
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    """A copy of a golden store."""
    return shutil.copytree(STORES / name / "store", tmp_path / "store")


def payload_files(folder):
    """Return the SHA-256 of each payload file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("chunks/??/*")}


def test_a_golden_store_exists_for_each_format():
    assert sorted(path.name for path in STORES.iterdir()) == FORMATS
    for name in FORMATS:
        files = payload_files(STORES / name / "store")
        assert len(files) >= 3


def test_every_tensor_reads_as_when_it_was_stored(folder, name):
    with tensorus.open(folder) as client:
        # Every value is compared with the value checksum.
        found = {
            record.info.id: {
                "dtype": record.info.dtype,
                "shape": list(record.tensor.shape),
                "metadata": record.info.metadata,
                "value_checksum": record.info.value_checksum,
                "relative_error": record.info.relative_error,
            }
            for record in client.query("golden", as_="numpy")
        }
    assert found == expected_of(name)


def test_no_damage_is_found(folder, name):
    with tensorus.open(folder) as client:
        report = client.verify()
    assert list(report.damages) == []
    assert report.tensors == len(expected_of(name))


def test_reading_leaves_payload_files_untouched(folder):
    before = payload_files(folder)
    # What the store no longer needed when it was written may be swept while it is open.
    with contextlib.closing(sqlite3.connect(folder / "catalogue.db")) as catalogue:
        garbage = {Path(key).name for (key,) in catalogue.execute("SELECT key FROM tombstone")}
    with tensorus.open(folder) as client:
        for record in client.query("golden", as_="numpy"):
            assert record.tensor.nbytes == record.info.canonical_bytes
    after = payload_files(folder)
    assert after.items() <= before.items()
    assert before.keys() - after.keys() <= garbage


@pytest.mark.parametrize("tensor_id", ["exact", "int8", "raw", "small"])
def test_tensors_can_be_edited(folder, tensor_id):
    with tensorus.open(folder) as client:
        before = client.get("golden", tensor_id, as_="numpy")
        metadata = client.info("golden", tensor_id).metadata
        rows = np.zeros((2, before.shape[1]), before.dtype)
        info = client.append("golden", tensor_id, rows)
        assert (info.shape, info.metadata) == ((len(before) + 2, before.shape[1]), metadata)
        after = client.get("golden", tensor_id, as_="numpy")
        assert_same_bits(after[: len(before)], before)
        assert_same_bits(after[len(before) :], rows)
        client.write("golden", tensor_id, np.s_[1:3, ::2], before[:2, ::2])
        assert list(client.verify().damages) == []
    with tensorus.open(folder) as client:
        changed = client.get("golden", tensor_id, as_="numpy")
        outside = np.ones(changed.shape, bool)
        outside[1:3, ::2] = False
        assert_same_bits(changed[outside], after[outside])
        tolerance = client.info("golden", tensor_id).max_absolute_error
        np.testing.assert_allclose(
            changed[1:3, ::2].astype(np.float64), before[:2, ::2].astype(np.float64), rtol=0, atol=tolerance
        )
