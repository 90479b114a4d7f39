"""Golden chunk records: what any version wrote decodes to what it was. This only ever decodes; `make golden` writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from support.cases import each
from tensorus_codecs.abc import Compressor, Filter, Quantizer
from tensorus_codecs.base import Base
from tensorus_codecs.chunk_record import VERSION, parse_record
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import codec_ids, decode_chunk
from tensorus_codecs.registry import available_codecs

FOLDER = Path(__file__).parent.parent / "golden" / "chunk_records"
MANIFEST: dict[str, dict[str, Any]] = json.loads((FOLDER / "manifest.json").read_text())
QUANTIZERS = {entry.id for entry in available_codecs() if entry.kind is Quantizer}


def base_of(name: str) -> Base | None:
    """Return the base of a record: what another record decodes to."""
    base = MANIFEST[name].get("base")
    if base is None:
        return None
    record = (FOLDER / base).read_bytes()
    return Base(decode_chunk(record), parse_record(record).dtype)


def test_there_is_no_file_too_few_and_none_too_many() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*MANIFEST, "manifest.json", "README.md"}


@each("name", MANIFEST)
class TestRecords:
    """One file after the other."""

    def test_it_decodes_to_what_it_was(self, name: str) -> None:
        decoded = decode_chunk((FOLDER / name).read_bytes(), base=base_of(name))
        assert decoded.nbytes == MANIFEST[name]["decoded_bytes"]
        assert hashlib.sha256(decoded).hexdigest() == MANIFEST[name]["decoded_sha256"]

    def test_a_lossless_one_decodes_to_what_went_in(self, name: str) -> None:
        entry = MANIFEST[name]
        lossless = not any(step["id"] in QUANTIZERS for step in entry["encoding"])
        assert lossless == (entry["decoded"] == "the input, bit for bit")
        assert not lossless or entry["decoded_sha256"] == entry["input_sha256"]

    def test_it_holds_the_codecs_that_it_was_written_with(self, name: str) -> None:
        record = parse_record((FOLDER / name).read_bytes())
        assert list(codec_ids(record)) == [step["id"] for step in MANIFEST[name]["encoding"]]

    def test_it_is_of_its_dtype(self, name: str) -> None:
        entry, dtype = MANIFEST[name], parse_record((FOLDER / name).read_bytes()).dtype
        assert dtype.element_bytes == entry["element_bytes"]
        # The name of an opaque dtype stands in the tensor's specification, not in the record.
        assert dtype.number == 0 if entry["dtype"].startswith("dtype_") else dtype is dtype_by_name(entry["dtype"])


def test_every_codec_has_one() -> None:
    held = {step["id"] for entry in MANIFEST.values() for step in entry["encoding"]}
    assert held == {entry.id for entry in available_codecs()}


def test_every_kind_of_chain_has_one() -> None:
    kinds = {entry.id: entry.kind for entry in available_codecs()}
    chains = {tuple(kinds[step["id"]] for step in entry["encoding"]) for entry in MANIFEST.values()}
    assert {
        (),
        (Compressor,),
        (Filter,),
        (Filter, Compressor),
        (Quantizer,),
        (Quantizer, Compressor),
        (Quantizer, Filter),
        (Quantizer, Filter, Compressor),
    } == chains


def test_the_version_that_is_written_today_has_some() -> None:
    versions = {name.split("_")[0] for name in MANIFEST}
    assert f"v{VERSION}" in versions
    assert versions == {f"v{version}" for version in range(1, VERSION + 1)}
