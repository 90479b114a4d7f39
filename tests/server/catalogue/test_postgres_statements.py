"""How statements, values and addresses become PostgreSQL's."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from support.cases import each
from tensorus_server.catalogue.postgres.adapters import escaped
from tensorus_server.catalogue.postgres.address import Address
from tensorus_server.catalogue.postgres.translation import copy_statement, insert_statement, translated
from tensorus_server.errors import StoreUnavailableError

TRANSLATIONS = [
    pytest.param("SELECT ?, ?", "SELECT $1, $2", id="parameters are numbered in order"),
    pytest.param("SELECT ?2, ?1, ?2", "SELECT $2, $1, $2", id="numbers stay"),
    pytest.param("SELECT '?' || \"?\" || ?", "SELECT '?' || \"?\" || $1", id="quoted text stays"),
    pytest.param("FROM tensor t NOT INDEXED WHERE", "FROM tensor t  WHERE", id="no index"),
    pytest.param("FROM t INDEXED BY some_index WHERE", "FROM t  WHERE", id="a certain index"),
    pytest.param("a CROSS JOIN b ON ?", "a JOIN b ON $1", id="the order of a join"),
    pytest.param("SELECT CAST(key AS BLOB), ?", "SELECT bytes_of(key), $1", id="bytes of a text"),
    pytest.param("CAST('a(' || key AS BLOB)", "bytes_of('a(' || key)", id="bytes of an expression"),
    pytest.param("CAST(x AS BIGINT)", "CAST(x AS BIGINT)", id="another cast stays"),
    pytest.param("UPDATE sqlite_sequence SET seq = ?", "UPDATE counter SET seq = $1", id="the counter"),
]

MALFORMED = [
    "postgresql://user:not-to-be-told@host/db?schema=Upper",
    "postgresql://user:not-to-be-told@host/db?schema=pg_catalog",
    "postgresql://user:not-to-be-told@host/db?schema=a%22b",
    "postgresql://user:not-to-be-told@host/db?pgbouncer=perhaps",
    "postgresql://user:not-to-be-told@host/db?nonsense=1",
    "postgresql://user:not-to-be-told@[host/db",
    "host=host password=not-to-be-told nonsense",
]


@each(("statement", "expected"), TRANSLATIONS)
def test_what_differs_is_rewritten(statement: str, expected: str) -> None:
    assert translated(statement) == expected


def test_rows_are_inserted_or_copied_into_the_same_columns() -> None:
    insert = 'INSERT INTO tensor ("seq", "offset") VALUES '
    assert copy_statement(insert) == 'COPY tensor ("seq", "offset") FROM STDIN (FORMAT BINARY)'
    assert insert_statement(insert, 2, 2) == f"{insert}($1, $2), ($3, $4)"


@hypothesis.given(*[st.text(st.sampled_from("\x00\x01\x02aé\U0001f600"), max_size=5)] * 2)
def test_escaped_texts_have_no_nul_and_keep_their_order_and_their_prefixes(one: str, other: str) -> None:
    assert "\x00" not in escaped(one)
    assert (escaped(one) < escaped(other)) == (one < other)
    assert escaped(one).startswith(escaped(other)) == one.startswith(other)


def test_an_address_has_options_of_its_own_and_those_of_libpq() -> None:
    address = Address.parse("postgresql://me:not-to-be-told@host:77/db?schema=mine&pgbouncer=true&sslmode=require")
    assert (address.schema, address.prepares, address.where) == ("mine", False, "PostgreSQL at host:77/db")
    assert "sslmode=require" in address.conninfo
    assert Address.parse("postgresql://host/db").schema == "tensorus"
    assert Address.parse("host=/run dbname=db").where == "PostgreSQL at /run:5432/db"


@each("dsn", MALFORMED)
def test_a_malformed_address_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(
        StoreUnavailableError, match=r"^the address of the catalogue in PostgreSQL is malformed"
    ) as caught:
        Address.parse(dsn)
    assert "not-to-be-told" not in str(caught.value)
    assert caught.value.__cause__ is None
