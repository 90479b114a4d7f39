"""Tokens, rights and owners in a file: each byte of a right, damaged pages, other processes, and older files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from contract.catalogue_access import GRANT, QUOTA, held, own, token
from support.engine import Reopen, commit, create, stored_tensor
from tensorus_server.access.state import AccessState
from tensorus_server.backup.catalogue_copy import copy_catalogue
from tensorus_server.catalogue.sqlite import SqliteCatalogue, schema
from tensorus_server.catalogue.sqlite.connection import PAGE_BYTES
from tensorus_server.errors import EngineError

CHANGE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from contract.catalogue_access import GRANT
from tensorus_server.catalogue.sqlite import SqliteCatalogue

catalogue = SqliteCatalogue(Path(sys.argv[1]))
assert catalogue.access.add_grant(GRANT)
catalogue.close()
"""


def filled(reopen: Reopen) -> None:
    """Make a catalogue with a token, a grant and a quota, and close it."""
    catalogue = reopen()
    catalogue.access.add_token(token())
    catalogue.access.add_grant(GRANT)
    catalogue.access.set_quota(QUOTA)
    catalogue.close()


def root_page(path: Path, table: str) -> int:
    """Return where the first page of a table begins."""
    connection = apsw.Connection(str(path))
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    connection.close()
    return (int(root) - 1) * PAGE_BYTES


def test_a_flipped_bit_in_the_row_of_a_grant_gives_no_right(tmp_path: Path, reopen: Reopen) -> None:
    filled(reopen)
    path = tmp_path / "catalogue.db"
    page = root_page(path, "access_grant")
    data = path.read_bytes()
    texts = f"{GRANT.principal}{GRANT.scope.pattern}".encode()
    first = data.index(texts, page)
    # Before the texts are the sizes of the row and of its columns; after them the role and the checksum.
    places = range(first - 6, first + len(texts) + 5)
    flipped = tmp_path / "flipped"
    flipped.mkdir()
    for number, place in enumerate(places):
        changed = bytearray(data)
        changed[place] ^= 1 << (number % 8)
        (flipped / "catalogue.db").write_bytes(changed)
        try:
            catalogue = SqliteCatalogue(flipped)
            state = catalogue.access.state()
            catalogue.close()
        except EngineError:
            continue
        finally:
            for leftover in flipped.iterdir():
                leftover.unlink()
        if place >= first or state.grants != (GRANT,):
            assert (state.grants, len(state.damaged)) == ((), 1), place - first
        assert (state.tokens, state.quotas) == ((token(),), (QUOTA,))


@pytest.mark.parametrize("table", ["token", "access_grant", "quota"])
def test_a_table_that_cannot_be_read_is_named_and_allows_nothing(tmp_path: Path, reopen: Reopen, table: str) -> None:
    filled(reopen)
    path = tmp_path / "catalogue.db"
    page = root_page(path, table)
    data = bytearray(path.read_bytes())
    data[page : page + 8] = b"\x55" * 8
    path.write_bytes(data)
    state = reopen().access.state()
    (damage,) = state.damaged
    assert f"the table of {table.removeprefix('access_')}s cannot be read" in damage
    assert (state.tokens == (), state.grants == (), state.quotas == ()) == (
        table == "token",
        table == "access_grant",
        table == "quota",
    )


def test_a_change_of_another_process_is_seen(tmp_path: Path, reopen: Reopen) -> None:
    catalogue = reopen()
    assert catalogue.access.version() == 0
    tests = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", CHANGE, str(tmp_path), tests], check=True, timeout=60)
    assert catalogue.access.version() == 1
    assert catalogue.access.state() == AccessState(1, grants=(GRANT,))


def test_a_catalogue_of_the_version_before_gets_the_tables_and_counts(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema.migrations()
    with monkeypatch.context() as before:
        before.setattr(schema, "migrations", lambda: {version: text for version, text in steps.items() if version < 12})
        old = reopen()
        tensors = commit(old, stored_tensor(create(old), "t0", stored_bytes=10))
        old.close()
    catalogue = reopen()
    assert catalogue.tensors.get("dataset", ["t0"]) == tensors
    assert (catalogue.access.state(), catalogue.access.owner_of("dataset")) == (AccessState(0), "")
    commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "t1", stored_bytes=7))
    catalogue.access.set_owner("dataset", "token:a")
    commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "t2", stored_bytes=5))
    assert held(catalogue) == (3, 22)
    assert catalogue.access.add_grant(GRANT)


def test_a_deleted_tensor_with_a_damaged_size_does_not_break_the_sums(tmp_path: Path, reopen: Reopen) -> None:
    catalogue = reopen()
    dataset = own(catalogue)
    commit(catalogue, stored_tensor(dataset, "a", stored_bytes=5), stored_tensor(dataset, "b", stored_bytes=7))
    catalogue.close()
    connection = apsw.Connection(str(tmp_path / "catalogue.db"))
    connection.execute("UPDATE tensor SET stored_bytes = ? WHERE id = 'a'", (2**63 - 1,))
    connection.close()
    catalogue = reopen()
    assert catalogue.tensors.delete("dataset", ["a"])
    assert held(catalogue) == (1, 0)
    catalogue.access.set_owner("dataset", "token:a")
    assert held(catalogue) == (1, 7)


def test_a_copy_of_a_catalogue_has_tokens_rights_and_owners(tmp_path: Path, reopen: Reopen) -> None:
    catalogue = reopen()
    catalogue.access.add_token(token())
    catalogue.access.add_grant(GRANT)
    catalogue.access.set_quota(QUOTA)
    commit(catalogue, stored_tensor(own(catalogue), "a", stored_bytes=5))
    folder = tmp_path / "copy"
    folder.mkdir()
    copy_catalogue(tmp_path / "catalogue.db", folder / "catalogue.db", lambda _: None)
    copy = SqliteCatalogue(folder)
    assert copy.access.state() == catalogue.access.state()
    assert (copy.access.owner_of("dataset"), held(copy)) == ("token:a", (1, 5))
    copy.close()
