"""Every field of a tensor has its column: none is left out, and none keeps the value of the tensor before."""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import Any

import pytest

from support.cases import each
from support.engine import stored_tensor
from support.variants import variants_of
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.catalogue.sql.dataset_rows import _fixed_columns, _from_row
from tensorus_server.catalogue.sql.rows import (
    ROW_CHECKSUM_COLUMNS,
    TENSOR_COLUMNS,
    RowDamageError,
    RowWriter,
    tensor_from_row,
)
from tensorus_server.catalogue.sql.tensor_columns import COLUMNS
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Dataset, EncodingShare, Schema, Tensor

DATASET = Dataset(3, "dataset", StoragePolicy(), Schema(), 0)

SHARES = (EncodingShare(({"id": "zstd"},), 1, 4, 25),)

STORED = stored_tensor(
    DATASET,
    "t",
    metadata={"a": 1},
    policy=StoragePolicy("maximum"),
    inline_payload=b"payload",
    values=ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 1, 2, 3),
    encodings=SHARES,
    source_crc32c=5,
)

NOT_IN_ROWS = {
    *(f"dataset.{name}" for name in ("name", "created_us", "policy", "retention_s", "schema.metadata")),
    *(f"new.{name}" for name in ("replace",)),
    # They are in the table `reference`.
    "references",
    # They are in the table `payload_base`.
    "bases",
    "bases_of_others",
    # The column `nbytes` comes from the spec, which has the same number.
    "storage.canonical_bytes",
    "inline_payload",
    # It concerns tombstones.
    "shares_payload",
    # They decide which payload it shares, and the first one is in the table `content`.
    *("content", "equals", "has_payload"),
}
"""Fields of a stored tensor that its row does not have, since the row of its dataset, the commit or another table has them."""

VARIANTS = list(variants_of(STORED, {"values": None}))


def row_of(stored: StoredTensor, writer: RowWriter | None = None) -> tuple[Any, ...]:
    return (writer or RowWriter()).row(stored, 7, 8, 9)


def read(stored: StoredTensor) -> Tensor:
    return tensor_from_row((*row_of(stored), stored.inline_payload), DATASET.name, stored.dataset.number)


@each(("path", "changed"), VARIANTS)
def test_a_row_has_each_field_and_never_the_neighbours(path: str, changed: StoredTensor) -> None:
    writer = RowWriter()
    assert row_of(STORED, writer) == row_of(STORED)
    assert row_of(changed, writer) == row_of(changed)
    assert (row_of(changed) == row_of(STORED)) == (path in NOT_IN_ROWS)


@each(("path", "changed"), VARIANTS)
def test_each_field_is_read_as_it_was_written(path: str, changed: StoredTensor) -> None:
    expected = dataclasses.replace(
        changed.committed(7, 8, 9), dataset=DATASET.name, inline_payload=changed.inline_payload
    )
    if path == "storage.canonical_bytes" or path.startswith("new.spec"):
        canonical_bytes = changed.new.spec.canonical_bytes
        expected = dataclasses.replace(
            expected, storage=dataclasses.replace(expected.storage, canonical_bytes=canonical_bytes)
        )
    # By their notation, in which 1, 1.0 and True are what they are.
    assert repr(read(changed)) == repr(expected)
    assert read(changed).inline_payload == changed.inline_payload


def test_the_order_of_the_columns_is_that_of_the_format() -> None:
    assert (
        *("dtype_number", "element_bytes", "shape", "nbytes", "quantized_bytes", "stored_bytes"),
        *("relative_error", "max_absolute_error", "lossy", "encodings", "fallback_reason", "chunk_bytes"),
        *("policy", "source_algorithm", "value_algorithm", "inline", "offset", "length", "index_length"),
        *("dtype", "rank", "ds"),
        *("seq", "ordinal", "created_us", "index_crc", "source_crc", "min", "max", "mean"),
        *("standard_deviation", "l2_norm", "zero_count", "nan_count", "infinity_count"),
        *("id", "metadata", "source_checksum", "value_checksum", "key"),
    ) == ROW_CHECKSUM_COLUMNS
    assert tuple(column.name for column in COLUMNS) == ROW_CHECKSUM_COLUMNS
    assert {*TENSOR_COLUMNS} == {*ROW_CHECKSUM_COLUMNS, "row_checksum"}


def test_every_path_of_the_table_exists() -> None:
    tensor = STORED.committed(7, 8, 9)
    for column in COLUMNS:
        for value, path in ((tensor, column.tensor), (STORED, column.stored)):
            if path is not None:
                attrgetter(path)(value)


def test_neighbours_share_a_number_with_a_fraction_only_as_part_of_the_same_report() -> None:
    """Other shared columns are compared by ==, which takes 0.0 and -0.0 for the same."""
    reals = [column.stored for column in COLUMNS if column.shared and column.kind == "d"]
    assert [path for path in reals if path is None or not path.startswith("storage.")] == []


def test_a_text_that_became_a_blob_is_damage() -> None:
    # One bit of a row says which of them a column is, and the checksum covers the same bytes.
    row = row_of(STORED)
    texts = [place for place, value in enumerate(row) if isinstance(value, str)]
    assert len(texts) > 8
    for place in texts:
        changed = (*row[:place], row[place].encode(), *row[place + 1 :], STORED.inline_payload)
        with pytest.raises(RowDamageError, match=r"cannot be read: (TypeError|AttributeError)"):
            tensor_from_row(changed, DATASET.name, STORED.dataset.number)
    assert isinstance(_from_row((1, "d", "{}", "{}", 0, None, 0, 5, b"checksum"), "d"), DataCorruptError)
    numbers = (0, None, 0)
    _fixed_columns(1, "d", "{}", "{}", *numbers)
    for texts_of_dataset in ((b"d", "{}", "{}"), ("d", b"{}", "{}"), ("d", "{}", b"{}")):
        with pytest.raises(TypeError):
            _fixed_columns(1, *texts_of_dataset, *numbers)
