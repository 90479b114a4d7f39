"""A payload file ends with a footer that tells what its row says, and nobody who reads payloads notices."""

from __future__ import annotations

import json
import math
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from support.cases import each
from support.engine import insert, read, stored_tensor
from support.variants import variants_of
from tensorus_codecs.dtypes import opaque_dtype
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.footer import FooterError, pack_footer, read_footer
from tensorus_server.model import Dataset, EncodingShare, Schema

DATASET = Dataset(3, "weights", StoragePolicy(), Schema(), 0)
SEALED_US = 1_700_000_000_123_456

KINDS: dict[str, dict[str, Any]] = {
    "the least": {},
    "metadata of every kind": {
        "metadata": {"a": [1, 2.5, None, True, {"b": "\u00e4\U0001f600"}], "nan": math.nan, "minus zero": -0.0}
    },
    "a policy": {"policy": StoragePolicy("maximum", max_relative_error=0.25)},
    "an infinite error": {"lossy": True, "relative_error": 1 / 3, "max_absolute_error": math.inf},
    "encodings": {"encodings": (EncodingShare(({"id": "zstd", "configuration": {"level": 3}},), 2, 8, 6),)},
    "a summary": {"values": ValueSummary(-1e308, 5e-324, 0.1, None, 3.0, 2**40, 3, 2**33)},
    "an opaque dtype": {"dtype": opaque_dtype(777, 24), "shape": (2, 0, 3)},
}


def parts_of(footer: bytes, payload: bytes) -> Any:
    data = payload + footer
    return (lambda offset, length: data[offset : offset + length]), len(data)


@each("kind", KINDS)
def test_a_footer_makes_the_tensor_that_it_was_made_of(kind: str) -> None:
    stored = stored_tensor(DATASET, "layer/1", **KINDS[kind])
    footer = read_footer(*parts_of(pack_footer(stored, SEALED_US), b"p" * stored.locator.length))
    assert (footer.dataset, footer.id, footer.payload_bytes) == ("weights", "layer/1", stored.locator.length)
    again = footer.stored_tensor(DATASET, stored.locator.key)
    # By their notation, in which NaN, -0.0, 1 and 1.0 are what they are.
    assert repr(again.committed(5, 6, 7)) == repr(stored.committed(5, 6, 7))
    assert (again.source_crc32c, again.created_us) == (stored.source_crc32c, SEALED_US)


NOT_IN_FOOTERS = {
    *("new.replace", "new.edit", "locator.offset", "references", "changes", "sent"),
    *("bases", "bases_of_others", "shares_payload", "content", "equals", "has_payload"),
}
"""What the insert may replace or change; where the payload lies within its file: at its start; the other payloads, which its
chunk table and its base section name; and which other tensors share it."""

VARIANTS = list(
    variants_of(
        stored_tensor(
            DATASET,
            "t",
            policy=StoragePolicy("maximum"),
            values=ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 1, 2, 3),
            encodings=(EncodingShare(({"id": "zstd"},), 1, 4, 25),),
        )
    )
)


@each(("path", "changed"), VARIANTS)
def test_a_footer_has_each_field_of_a_tensor(path: str, changed: StoredTensor) -> None:
    again = read_footer(*parts_of(pack_footer(changed, SEALED_US), b"p" * changed.locator.length))
    made = again.stored_tensor(changed.dataset, changed.locator.key)
    # The dataset and the key are given, the rest is read.
    assert (repr(attrgetter(path)(made)) == repr(attrgetter(path)(changed))) == (path not in NOT_IN_FOOTERS)


@each("bit", range(8))
def test_every_flipped_bit_of_a_footer_is_found(bit: int) -> None:
    footer = pack_footer(stored_tensor(DATASET, "t", metadata={"a": 1}), SEALED_US)
    for place in range(len(footer)):
        damaged = bytearray(footer)
        damaged[place] ^= 1 << bit
        with pytest.raises(FooterError):
            read_footer(*parts_of(bytes(damaged), b"p" * 40))


def test_a_file_without_a_footer_says_so() -> None:
    for data in (b"", b"short", b"a payload of an older version, which ends with its chunk index"):
        with pytest.raises(FooterError):
            read_footer(*parts_of(b"", data))


def test_a_newer_footer_is_refused() -> None:
    footer = pack_footer(stored_tensor(DATASET, "t"), SEALED_US)
    text = footer[:-20]
    import struct  # noqa: PLC0415 - of this test alone

    from tensorus_codecs.checksum import crc32c  # noqa: PLC0415

    newer = text + struct.pack("<II", len(text), 2)
    newer += struct.pack("<I", crc32c(newer)) + b"tensorus"
    with pytest.raises(FooterError, match="version 2, this version of Tensorus knows 1"):
        read_footer(*parts_of(newer, b""))


def test_the_bytes_of_a_footer_stay_what_they_are() -> None:
    stored = stored_tensor(DATASET, "t", source=bytes(range(16)), key="00/" + "ab" * 16)
    footer = pack_footer(stored, SEALED_US)
    fields = json.loads(footer[:-20])
    assert fields == {
        "dataset": "weights",
        "id": "t",
        "dtype": 2,
        "element_bytes": 1,
        "shape": [4],
        "metadata": {},
        "policy": None,
        "chunk_bytes": 1048576,
        "source_checksum": ["xxh3_128", "000102030405060708090a0b0c0d0e0f"],
        "source_crc32c": 0,
        "value_checksum": ["xxh3_128", "000102030405060708090a0b0c0d0e0f"],
        "storage": {
            "canonical_bytes": 4,
            "quantized_bytes": 4,
            "stored_bytes": 40,
            "relative_error": 0.0,
            "max_absolute_error": 0.0,
            "lossy": False,
            "encodings": [],
            "fallback_reason": "",
        },
        "values": None,
        "payload_key": "ab" * 16,
        "index_length": 8,
        "index_crc32c": 7,
        "sealed_us": SEALED_US,
    }
    assert footer[-20:-12].hex() == "3102000001000000"
    assert footer[-8:] == b"tensorus"


def test_a_payload_file_has_one_and_reads_as_before(engine: Engine, raw: RawFolder, tmp_path: Path) -> None:
    array = np.arange(50_000, dtype=np.float32)
    tensor = insert(engine, "d", "t", array, metadata={"layer": 3})
    path = tmp_path / "store" / "chunks" / tensor.locator.key
    data = path.read_bytes()
    assert len(data) > tensor.locator.length == tensor.storage.stored_bytes
    footer = read_footer(lambda offset, length: data[offset : offset + length], len(data))
    again = footer.stored_tensor(engine.get_dataset("d"), tensor.locator.key)
    assert isinstance(again, StoredTensor)
    assert again.committed(tensor.generation, tensor.ordinal, tensor.created_us) == tensor
    assert np.array_equal(read(engine, "d", "t"), array)
    # A file without one, as older versions wrote it.
    path.write_bytes(data[: tensor.locator.length])
    assert np.array_equal(read(engine, "d", "t"), array)
