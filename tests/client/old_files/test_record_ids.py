"""Ids of an old file: kept wherever a store takes them, unique, and the same at every import."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from support.cases import each
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import read_pickle
from tensorus.old_files.record_ids import RecordId, unique_ids
from tensorus_server.engine.validate import require_id


def ids(values: list[Any], count: int | None = None) -> list[RecordId]:
    """Return what becomes of these ids, and of `count` records in all."""
    file = io.BytesIO()
    torch.save([{"record_id": value} for value in values], file)
    container = PtContainer(file)
    metadata: Any = read_pickle(container)
    found = list(unique_ids(container, metadata, len(values) if count is None else count))
    assert len({record_id.id for record_id in found}) == len(found)
    for record_id in found:
        require_id(record_id.id, dataset="d")
    return found


def test_ids_are_kept() -> None:
    values = ["a", "b/c d", "é", "x" * 512, "a" * 300]
    assert ids(values) == [RecordId(value) for value in values]


def test_numbers_become_their_text() -> None:
    assert [record_id.id for record_id in ids([7, -1, 1.5])] == ["7", "-1", "1.5"]


def test_an_id_that_comes_again_is_numbered() -> None:
    found = ids(["r", "r", "r-2", "r", "r"])
    assert [record_id.id for record_id in found] == ["r", "r-3", "r-2", "r-4", "r-5"]
    assert [record_id.renamed_from for record_id in found] == [None, "r", None, "r", "r"]
    assert found[1].reason == "a record before it has the id 'r', too"


def test_a_number_and_its_text_are_one_id() -> None:
    assert [record_id.id for record_id in ids(["7", 7])] == ["7", "7-2"]


def test_a_long_id_that_comes_again_stays_within_the_limit() -> None:
    first, second, third = ids(["é" * 256] * 3)
    assert first.id == "é" * 256
    assert (second.id[-2:], third.id[-2:]) == ("-2", "-3")


@each(
    ("value", "renamed_from", "reason"),
    [
        (None, None, "it has no id"),
        (True, "bool", "its id is a bool, which cannot be kept"),
        (["a"], "list", "its id is a list, which cannot be kept"),
        (torch.float32, "torch.float32", "its id is a torch.float32, which cannot be kept"),
        ("", "", "id of a tensor is '', 0 bytes of UTF-8; must be 1 to 512 bytes"),
        ("a\nb", "a\nb", r"id of a tensor is 'a\nb', must have no control characters"),
        ("\ud800", "\ud800", "id of a tensor is not Unicode text: surrogates not allowed"),
        ("x" * 513, "str", "its id is a str, which cannot be kept"),
    ],
)
def test_an_id_that_no_store_takes_becomes_the_position(value: Any, renamed_from: str | None, reason: str) -> None:
    assert ids(["a", value])[1] == RecordId("record-1", renamed_from, reason)


def test_a_position_that_is_an_id_of_another_is_numbered() -> None:
    assert [record_id.id for record_id in ids([None, "record-0", None])] == ["record-0-2", "record-0", "record-2"]


def test_records_without_metadata_have_positions() -> None:
    assert ids(["a"], count=3)[1:] == [RecordId(f"record-{n}", None, "it has no id") for n in (1, 2)]


@pytest.mark.slow
def test_many_of_one_id_take_no_time() -> None:
    # Quadratic, this would be 2 * 10**8 steps.
    assert ids(["r"] * 20_000)[-1].id == "r-20000"
