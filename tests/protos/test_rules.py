"""The rules for ids, metadata and names of snapshots that server and client share."""

from __future__ import annotations

from typing import Any

import pytest

from tensorus_protos.limits import (
    ID_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_DEPTH_MAX,
    METADATA_KEY_BYTES_MAX,
    SNAPSHOT_NAME_BYTES_MAX,
)
from tensorus_protos.rules import RuleError, flattened, require_id, require_metadata, require_snapshot_name, to_json


@pytest.mark.parametrize("tensor_id", ["x" * ID_BYTES_MAX, "..", "layer.0/q[1] ä"])
def test_an_id_within_the_rules_is_accepted(tensor_id: str) -> None:
    require_id(tensor_id)


@pytest.mark.parametrize(
    ("tensor_id", "limit", "message"),
    [
        ("", ID_BYTES_MAX, "^id of a tensor is '', 0 bytes of UTF-8; must be 1 to 512 bytes$"),
        ("x" * (ID_BYTES_MAX + 1), ID_BYTES_MAX, "513 bytes of UTF-8; must be 1 to 512 bytes$"),
        ("a\n", None, r"is 'a\\n', must have no control characters$"),
        ("\ud800", None, "is not Unicode text"),
    ],
    ids=repr,
)
def test_an_id_against_the_rules_is_refused_with_its_limit(tensor_id: str, limit: int | None, message: str) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        require_id(tensor_id)
    assert caught.value.limit == limit


SNAPSHOTS = [
    "x" * SNAPSHOT_NAME_BYTES_MAX,
    "v1",
    "2026-01-31-nightly",
    "nightly 2026-01-31",
    "2026-01",
    "20260131T1200",
    "+7",
    "\u0661\u0662",
    "Schnappschuß",
]
"""Names of snapshots. Digits of other alphabets are no generation."""

NO_SNAPSHOTS = [
    ("", SNAPSHOT_NAME_BYTES_MAX, "0 bytes of UTF-8; must be 1 to 128 bytes$"),
    ("ä" * 65, SNAPSHOT_NAME_BYTES_MAX, "130 bytes of UTF-8; must be 1 to 128 bytes$"),
    ("a\n", None, "must have no control characters$"),
    ("\ud800", None, "is not Unicode text"),
    ("a@b", None, "must have no '@' and no '/'$"),
    ("a/b", None, "must have no '@' and no '/'$"),
    ("0", None, "must not be all digits: they stand for a generation$"),
    ("2026-01-31", None, "must not look like a time$"),
    ("9999-99-99", None, "must not look like a time$"),
    ("2026-01-31 12", None, "must not look like a time$"),
    ("2026-01-31T12:30:59.25+01:00", None, "must not look like a time$"),
    ("2026-01-31T12Z", None, "must not look like a time$"),
]


@pytest.mark.parametrize("name", SNAPSHOTS, ids=repr)
def test_a_name_of_a_snapshot_within_the_rules_is_accepted(name: str) -> None:
    require_snapshot_name(name)


@pytest.mark.parametrize(("name", "limit", "message"), NO_SNAPSHOTS, ids=repr)
def test_a_name_of_a_snapshot_that_could_be_meant_otherwise_is_refused(
    name: str, limit: int | None, message: str
) -> None:
    with pytest.raises(RuleError, match=f"^name of a snapshot .*{message}") as caught:
        require_snapshot_name(name)
    assert caught.value.limit == limit


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


LARGEST = {"a": "x" * (METADATA_BYTES_MAX - len(to_json({"a": ""})))}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"a": [None, True, -(2**63), 2**63 - 1, float("nan"), "ä"]},
        nested(METADATA_DEPTH_MAX),
        LARGEST,
        {"x" * METADATA_KEY_BYTES_MAX: 1},
        {"." * (METADATA_KEY_BYTES_MAX // 2): 1},
    ],
    ids=["empty", "every type", "deepest", "largest", "longest key", "longest escaped key"],
)
def test_metadata_within_the_rules_are_accepted(metadata: dict[str, Any]) -> None:
    require_metadata(metadata)


@pytest.mark.parametrize(
    ("metadata", "limit", "message"),
    [
        ({"a": b""}, None, "^a value is a bytes; metadata holds"),
        ({"a": (1,)}, None, "^a value is a tuple"),
        ({"a": {1: 2}}, None, "^a key is a int, must be text$"),
        ({"a": 2**63}, None, "beyond 64 bits$"),
        ({"a": "\ud800"}, None, "^metadata has text that is not Unicode"),
        (nested(METADATA_DEPTH_MAX + 1), METADATA_DEPTH_MAX, "deeper than 16 levels"),
        ({"a": LARGEST["a"] + "x"}, METADATA_BYTES_MAX, "^metadata is 65537 bytes as JSON, limit is 65536 bytes"),
        ({"x" * (METADATA_KEY_BYTES_MAX + 1): 1}, METADATA_KEY_BYTES_MAX, "is 1025 bytes, limit is 1024 bytes"),
        ({"." * 513: 1}, METADATA_KEY_BYTES_MAX, "is 1026 bytes, limit is 1024 bytes"),
        ({"a" * 512: {"b" * 512: 1}}, METADATA_KEY_BYTES_MAX, "is 1025 bytes, limit is 1024 bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_metadata_against_the_rules_are_refused_with_their_limit(
    metadata: dict[str, Any], limit: int | None, message: str
) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        require_metadata(metadata)
    assert caught.value.limit == limit


def test_flattened_metadata_name_every_scalar_once() -> None:
    metadata = {"a": {"b.c": [1, 1, {"d": "x"}], "e": {}}, "f": []}
    assert sorted(flattened(metadata, repr)) == [
        ("a.b\\.c", "1"),
        ("a.b\\.c.d", "'x'"),
        ("a.e", "{}"),
        ("f", "[]"),
    ]
