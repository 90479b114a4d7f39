"""Packs in a catalogue that is damaged: nothing is deleted because a row cannot be found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from contract.catalogue_packs import commit_packed, copies_of
from support.engine import commit, create, stored_tensor
from support.packs import begin_pack, packed
from tensorus_server.catalogue.abc import packed_key
from tensorus_server.catalogue.sql import packs
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import DataCorruptError
from tensorus_server.limits import MOVED_ROWS_MAX
from tensorus_server.model import Tensor


def change(catalogue: SqliteCatalogue, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Change a row behind the catalogue's back."""
    with catalogue._database.write() as connection:
        connection.execute(statement, parameters)


def test_a_payload_that_only_the_table_has_keeps_its_pack(catalogue: SqliteCatalogue) -> None:
    dataset = create(catalogue)
    commit_packed(catalogue, dataset, "a")
    commit_packed(catalogue, dataset, "b", "c")
    one, two = catalogue.packs.claim(10)
    assert catalogue.packs.doubtful([one, two]) == set()
    assert catalogue.packs.doubtful([replace(one, payloads=()), two]) == {one.pack}
    assert catalogue.packs.doubtful([one, replace(two, payloads=two.payloads[1:])]) == {two.pack}


def test_a_past_tensor_that_only_the_table_has_keeps_its_pack(catalogue: SqliteCatalogue) -> None:
    commit_packed(catalogue, create(catalogue), "a")
    catalogue.snapshots.create("dataset", "s")
    catalogue.tensors.delete("dataset", ["a"])
    (content,) = catalogue.packs.claim(10)
    assert catalogue.packs.doubtful([replace(content, payloads=())]) == {content.pack}


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param("'p' || substr(?, 2, 0) || '0123' || substr(?, 6)", id="another pack"),
        pytest.param("'q' || substr(?, 2) || substr(?, 1, 0)", id="no key"),
        pytest.param("CAST(? || ? AS BLOB)", id="no text"),
        pytest.param("'0' || substr(?, 2) || substr(?, 1, 0)", id="a key of a folder"),
    ],
)
def test_a_row_with_a_damaged_key_keeps_all_packs(catalogue: SqliteCatalogue, damaged: str) -> None:
    dataset = create(catalogue)
    _, (tensor,) = commit_packed(catalogue, dataset, "a")
    commit_packed(catalogue, dataset, "b")
    contents = catalogue.packs.claim(10)
    key = tensor.locator.key
    # The table is strict, so text that is no text gets in only as a past row.
    if "BLOB" in damaged:
        catalogue.snapshots.create("dataset", "s")
        catalogue.tensors.delete("dataset", ["a"])
        change(catalogue, f"UPDATE past_tensor SET key = {damaged}", (key, key))
    else:
        change(catalogue, f"UPDATE tensor SET key = {damaged} WHERE id = 'a'", (key, key))
    assert catalogue.packs.doubtful(contents) == {content.pack for content in contents}


def test_a_payload_with_a_damaged_row_does_not_move(catalogue: SqliteCatalogue) -> None:
    dataset = create(catalogue)
    _, (first, second) = commit_packed(catalogue, dataset, "a", "b")
    change(catalogue, "UPDATE tensor SET nbytes = nbytes + 1 WHERE id = 'a'")
    _, moves = copies_of([first.locator.key, second.locator.key], catalogue)
    assert catalogue.packs.repoint(moves) == [moves[1][1]]
    damaged, moved = catalogue.tensors.get("dataset", ["a", "b"])
    assert isinstance(damaged, DataCorruptError)
    assert isinstance(moved, Tensor)
    assert moved.locator.key == moves[1][1]


def test_a_payload_that_too_many_tensors_share_does_not_move(catalogue: SqliteCatalogue) -> None:
    dataset = create(catalogue)
    (key,) = packed(new_payload_key(), 1)
    begin_pack(catalogue, packed_key(key).pack)
    same = [
        replace(stored_tensor(dataset, f"{number}", key=key, source=b"s" * 16), shares_payload=number > 0)
        for number in range(MOVED_ROWS_MAX + 1)
    ]
    commit(catalogue, *same)
    _, moves = copies_of([key], catalogue)
    assert catalogue.packs.repoint(moves) == []
    catalogue.tensors.delete("dataset", ["7"])
    _, moves = copies_of([key], catalogue)
    assert catalogue.packs.repoint(moves) == [moves[0][1]]


def test_no_table_is_scanned_to_look_at_a_pack(catalogue: SqliteCatalogue) -> None:
    with catalogue._database.read() as connection:
        due = packs._due(connection, 1)
    statements = {
        packs._DUE: due,
        packs._CONTENT: ("a", "b") * 5,
        packs._IS_USED: ("a", "b") * 5,
        **{
            statement.replace("[keys]", "(?, ?)"): ("a", "b")
            for statement in (
                *packs._NAMED,
                *(form.format(table) for form in (packs._HAVING, packs._COUNTED) for table in packs._TENSORS),
            )
        },
    }
    with catalogue._database.read() as connection:
        plans = [
            row[3]
            for statement, parameters in statements.items()
            for row in select(connection, f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert [
        step for step in plans if re.match(r"SCAN (tensor|past_tensor|reference|payload_base|tombstone|pack)\b", step)
    ] == []
    assert sum("pack_checked" in step for step in plans) == 3


def test_a_pack_that_was_looked_at_in_the_future_is_due(catalogue: SqliteCatalogue) -> None:
    pack, _ = commit_packed(catalogue, create(catalogue), "a")
    assert len(catalogue.packs.claim(10)) == 1
    change(catalogue, "UPDATE pack SET checked_us = checked_us + 1000000000")
    assert [content.pack for content in catalogue.packs.claim(10)] == [pack]
    assert catalogue.packs.claim(10) == []
    change(catalogue, "UPDATE pack SET checked_us = checked_us - ?", (24 * 3600 * 1_000_000 - 60_000_000,))
    assert catalogue.packs.claim(10) == []
    change(catalogue, "UPDATE pack SET checked_us = checked_us - ?", (61_000_000,))
    assert [content.pack for content in catalogue.packs.claim(10)] == [pack]
