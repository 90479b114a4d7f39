"""The golden chunk records decode with a reader that was written from docs/FORMAT.md alone."""

import hashlib
import json
from pathlib import Path

import pytest

from format.reader import FormatError, decode
from support.cases import each

GOLDEN = Path(__file__).parents[1] / "golden" / "chunk_records"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
NAMES = sorted(path.name for path in GOLDEN.glob("v1_*.bin"))


def test_every_record_is_in_the_manifest():
    assert sorted(name for name in MANIFEST if name.startswith("v1_")) == NAMES
    assert NAMES


@each("name", NAMES)
def test_record_decodes(name):
    decoded = decode((GOLDEN / name).read_bytes())
    assert len(decoded) == MANIFEST[name]["decoded_bytes"]
    assert hashlib.sha256(decoded).hexdigest() == MANIFEST[name]["decoded_sha256"]


@each("name", NAMES)
def test_record_of_another_length_is_refused(name):
    record = (GOLDEN / name).read_bytes()
    for damaged in (record[:-1], record + b"\0", record[:15]):
        with pytest.raises(FormatError):
            decode(damaged)
