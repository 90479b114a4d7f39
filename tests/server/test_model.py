"""The engine's values say what follows from their fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cases import each
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_server.config import EngineConfig, ServerConfig
from tensorus_server.model import Locator, Schema, TensorSpec


@each(
    ("shape", "dtype", "elements", "canonical_bytes"),
    [((), "float64", 1, 8), ((0,), "float64", 0, 0), ((3, 5), "int16", 15, 30), ((2**40, 2**40, 0), "uint8", 0, 0)],
)
def test_a_spec_knows_its_elements_and_bytes(
    shape: tuple[int, ...], dtype: str, elements: int, canonical_bytes: int
) -> None:
    spec = TensorSpec(dtype_by_name(dtype), shape)
    assert (spec.element_count, spec.canonical_bytes) == (elements, canonical_bytes)


def test_the_bytes_of_a_spec_do_not_overflow() -> None:
    assert TensorSpec(dtype_by_name("complex128"), (2**63,) * 3).canonical_bytes == 2**193


@each(("key", "expected"), [("7f/abc", "abc"), ("abc", "abc"), ("a/b/c", "c")])
def test_a_locator_knows_what_seeds_the_chunks_crcs(key: str, expected: str) -> None:
    assert Locator(key, 0, 1, 1, 0).payload_key == expected


@each(
    ("schema", "is_empty"),
    [
        (Schema(), True),
        (Schema(dtype="int8"), False),
        (Schema(shape=()), False),
        (Schema(metadata={"a": "any"}), False),
    ],
)
def test_a_schema_knows_whether_it_allows_everything(schema: Schema, *, is_empty: bool) -> None:
    assert schema.is_empty == is_empty


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec_threads": 0}, "codec_threads is 0, must be at least 1"),
        ({"reserve_bytes": -1}, "reserve_bytes must not be negative"),
        ({"reserve_share": -0.1}, "reserve_share must be at least 0 and below 1"),
        ({"reserve_share": 1.0}, "reserve_share must be at least 0 and below 1"),
        (
            {"catalogue": "mysql://h/d"},
            "catalogue must be the URL of a PostgreSQL database: postgresql://HOST/DATABASE",
        ),
        (
            {"catalogue": "mysql://u:secret@h/d"},
            "catalogue must be the URL of a PostgreSQL database: postgresql://HOST/DATABASE$",
        ),
        ({"catalogue": "postgresql://h/d"}, "a catalogue in PostgreSQL needs an object store"),
        ({"chunks": "bucket/prefix"}, "chunks is 'bucket/prefix', must be a URL"),
        ({"cache_dir": Path("/cache")}, "payloads in data_dir need no cache"),
        ({"chunks": "s3://b/p", "cache_bytes": 0}, "cache_bytes is 0, must be at least 1"),
    ],
    ids=str,
)
def test_an_engines_settings_that_cannot_work_are_refused_by_name(tmp_path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"listen": "7733"}, "listen is '7733', must be HOST:PORT"),
        ({"listen": ":7733"}, "listen is ':7733'"),
        ({"listen": "host:"}, "listen is 'host:'"),
        ({"listen": "host:x"}, "listen is 'host:x'"),
        ({"listen": "::1:7733"}, "an IPv6 address must be in brackets"),
        ({"listen": "[::1:7733"}, "an IPv6 address must be in brackets"),
        ({"listen": "[localhost]:7733"}, "an IPv6 address must be in brackets"),
        ({"listen": "unix:/socket:7733"}, "an IPv6 address must be in brackets"),
        ({"listen": "host:65536"}, "listen is 'host:65536'"),
        ({"streams_max": 0}, "streams_max is 0, must be at least 1"),
    ],
    ids=str,
)
def test_a_servers_settings_that_cannot_work_are_refused_by_name(tmp_path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(EngineConfig(tmp_path), **settings)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:7733", "host:65535"])
def test_a_server_may_listen_there(tmp_path, listen: str) -> None:
    assert ServerConfig(EngineConfig(tmp_path), listen=listen).listen == listen
