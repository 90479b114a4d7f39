"""Values of metadata beyond JSON's: insert, batches and updates take them alike, and an import makes the same of them.

What can be stored is tested in every place. What is refused or converted is so before the place has a part in it: that is
tested in memory, and all cases of an import are records of one file.
"""

from __future__ import annotations

import datetime as dt
import enum
import uuid
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

from support.old_tensorus import Written
from tensorus.tensor_storage import TensorStorage, TransactionError

Opening: TypeAlias = Callable[..., TensorStorage]

GIVEN: dict[str, Any] = {
    "loss": np.float32(0.1),
    "half": np.float16(0.1),
    "double": np.float64(0.1),
    "step": np.int64(7),
    "byte": np.uint8(200),
    "best": np.bool_(True),
    "name": np.str_("résumé"),
    "long name": np.str_("x" * 1000),
    "when": dt.datetime.fromisoformat("2025-09-01T12:30:05.123456"),
    "when in UTC": dt.datetime(2025, 9, 1, tzinfo=dt.UTC),
    "when in India": dt.datetime(2025, 9, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")),
    "day": dt.date(2025, 9, 1),
    "hour": dt.time(12, 30),
    "moment": np.datetime64("2025-09-01T12:00:00", "ms"),
    "tags": {"b", "a", "c"},
    "sizes": frozenset({3, 1, 2}),
    "mixed": {"a", 2, None, 0.5},
    "pairs": {(1, 2)},
    "no tags": set(),
    "nested": {"seen": [{np.int64(3), np.int64(1)}, (dt.date(2025, 9, 1),)]},
    "tuple": (1, (2, "x")),
    "plain": {"a": [1, None, True, 0.5, "x"]},
}

STORED: dict[str, Any] = {
    "loss": 0.10000000149011612,
    "half": 0.0999755859375,
    "double": 0.1,
    "step": 7,
    "byte": 200,
    "best": True,
    "name": "résumé",
    "long name": "x" * 1000,
    "when": "2025-09-01T12:30:05.123456",
    "when in UTC": "2025-09-01T00:00:00+00:00",
    "when in India": "2025-09-01T00:00:00+05:30",
    "day": "2025-09-01",
    "hour": "12:30:00",
    "moment": "2025-09-01T12:00:00.000",
    "tags": ["a", "b", "c"],
    "sizes": [1, 2, 3],
    "mixed": [0.5, 2, "a", None],
    "pairs": [[1, 2]],
    "no tags": [],
    "nested": {"seen": [[1, 3], ["2025-09-01"]]},
    "tuple": [1, [2, "x"]],
    "plain": {"a": [1, None, True, 0.5, "x"]},
}


class _Colour(enum.Enum):
    RED = 1


REFUSED: dict[str, Any] = {
    "timedelta": dt.timedelta(1),
    "UUID": uuid.UUID(int=1),
    "PosixPath": Path("a"),
    "Decimal": Decimal("0.1"),
    "_Colour": _Colour.RED,
    "bytes": b"x",
    "Tensor": torch.ones(1),
    "ndarray": np.ones(1),
    "complex": 1j,
    "longdouble": np.longdouble(1),
    "timedelta64": np.timedelta64(1, "s"),
    "datetime64": np.datetime64("NaT"),
    "time": dt.time(12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    "dtype": torch.float32,
}
"""By how the type is called."""

NUMBERS: list[tuple[Any, str]] = [(7, "7"), (7.5, "7.5"), (np.int64(8), "8"), (np.str_("r"), "r")]
"""Ids as they are given, and as they are stored."""

TIMES: list[Any] = [
    1756684800,
    1756684800.0,
    np.float64(1756684800),
    "2025-09-01",
    "2025-09-01T00:00:00",
    "2025-09-01T00:00:00Z",
    "2025-09-01T02:00:00+02:00",
    dt.datetime.fromisoformat("2025-09-01"),
    dt.datetime(2025, 9, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    np.datetime64("2025-09-01"),
]
"""The same moment, 1756684800 seconds after 1970 began."""

SYSTEM = {"record_id", "timestamp_utc", "shape", "dtype", "version", "compressed", "compression_metadata"}


@pytest.fixture
def in_memory(opened: Opening) -> TensorStorage:
    """A storage in memory, with the dataset "d"."""
    storage = opened(None)
    storage.create_dataset("d")
    return storage


def users(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in SYSTEM}


def assert_stored(metadata: dict[str, Any]) -> None:
    found = users(metadata)
    assert found == STORED
    # 1 and True and 1.0 are equal.
    assert {key: repr(value) for key, value in found.items()} == {key: repr(value) for key, value in STORED.items()}


def test_insert_update_batch_and_transaction_make_the_same_of_values(storage: TensorStorage) -> None:
    storage.create_dataset("d")
    ids = [storage.insert("d", torch.ones(1), GIVEN), storage.insert("d", torch.ones(1))]
    storage.update_tensor_metadata("d", ids[1], GIVEN)
    ids += storage.batch_insert("d", [(torch.ones(1), GIVEN), (torch.ones(1), None)])
    storage.batch_update_metadata("d", [(ids[3], GIVEN)])
    with storage.transaction(["d"]):
        ids.append(storage.insert("d", torch.ones(1), GIVEN))
        assert_stored(storage.get_tensor_by_id("d", ids[-1])["metadata"])
    for record_id in ids:
        assert_stored(storage.get_tensor_by_id("d", record_id)["metadata"])


def test_an_import_makes_the_same_of_values_as_an_insert(tmp_path: Path, opened: Opening) -> None:
    old = Written()
    old.insert(torch.ones(1), "r", **GIVEN)
    old.save(tmp_path / "d.pt")
    storage = opened(tmp_path)
    (report,) = storage.import_report
    assert (report.counts["imported"], report.dropped) == (1, ())
    assert_stored(storage.get_tensor_by_id("d", "r")["metadata"])


def test_values_are_found_as_they_were_given(storage: TensorStorage) -> None:
    storage.create_dataset("d")
    storage.insert("d", torch.ones(1), GIVEN)
    for key, value in GIVEN.items():
        assert len(storage.query_by_metadata("d", key, value)) == 1, key
        assert len(storage.query_by_metadata("d", key, STORED[key])) == 1, key


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_refused_by_key_and_type(in_memory: TensorStorage, kind: str) -> None:
    storage = in_memory
    with pytest.raises(TypeError, match=rf"metadata\['key'\] is a {kind}"):
        storage.insert("d", torch.ones(1), {"key": REFUSED[kind]})
    with pytest.raises(TypeError, match=rf"metadata\['in'\]\['a'\]\[0\] is a {kind}"):
        storage.insert("d", torch.ones(1), {"in": {"a": (REFUSED[kind],)}})
    with pytest.raises(TransactionError, match=rf"metadata\['key'\] is a {kind}"):
        storage.batch_insert("d", [(torch.ones(1), {"key": REFUSED[kind]})])
    record_id = storage.insert("d", torch.ones(1), {"before": 1})
    with pytest.raises(TypeError, match=rf"metadata\['key'\] is a {kind}"):
        storage.update_tensor_metadata("d", record_id, {"key": REFUSED[kind]})
    assert users(storage.get_tensor_by_id("d", record_id)["metadata"]) == {"before": 1}
    assert storage.count("d") == 1


def test_an_import_drops_what_an_insert_refuses(tmp_path: Path, opened: Opening) -> None:
    old = Written()
    kinds = [kind for kind in REFUSED if kind != "_Colour"]
    for kind in kinds:
        old.insert(torch.ones(1), kind, **{f"{kind} key": REFUSED[kind], "other": kind})
    old.save(tmp_path / "d.pt")
    storage = opened(tmp_path)
    (report,) = storage.import_report
    assert report.counts["imported"] == len(kinds)
    assert sorted((dropped.path, dropped.count) for dropped in report.dropped) == sorted(
        (f"{kind} key", 1) for kind in kinds
    )
    for kind in kinds:
        assert users(storage.get_tensor_by_id("d", kind)["metadata"]) == {"other": kind}


def test_a_time_in_a_zone_of_the_user_s_is_kept_with_its_offset(storage: TensorStorage) -> None:
    storage.create_dataset("d")
    when = dt.datetime(2025, 9, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    record_id = storage.insert("d", torch.ones(1), {"when": when})
    assert storage.get_tensor_by_id("d", record_id)["metadata"]["when"] == "2025-09-01T00:00:00+02:00"


def test_what_holds_itself_is_refused(in_memory: TensorStorage) -> None:
    own: list[Any] = []
    own.append(own)
    with pytest.raises(ValueError, match="nested deeper than"):
        in_memory.insert("d", torch.ones(1), {"own": own})


# ---- Id and time --------------------------------------------------------------------------------------------------------


def test_numbers_as_ids_are_their_text(storage: TensorStorage) -> None:
    storage.create_dataset("d")
    for given, stored in NUMBERS:
        assert storage.insert("d", torch.ones(1), {"record_id": given}) == stored
        assert storage.get_tensor_by_id("d", stored)["metadata"]["record_id"] == stored


def test_numbers_as_ids_are_their_text_in_an_import(tmp_path: Path, opened: Opening) -> None:
    old = Written()
    for given, _ in NUMBERS:
        old.insert(torch.ones(1), given)
    old.save(tmp_path / "d.pt")
    storage = opened(tmp_path)
    assert storage.count("d") == len(NUMBERS)
    for _, stored in NUMBERS:
        assert storage.get_tensor_by_id("d", stored)["metadata"]["record_id"] == stored


@pytest.mark.parametrize("given", [None, "", np.str_("")])
def test_without_an_id_each_record_gets_a_new_one(in_memory: TensorStorage, given: Any) -> None:
    storage = in_memory
    first, second = (storage.insert("d", torch.ones(1), {"record_id": given}) for _ in range(2))
    assert first != second
    assert uuid.UUID(first)
    assert storage.batch_insert("d", [(torch.ones(1), {"record_id": given})])[0] not in {first, second, ""}


@pytest.mark.parametrize("given", [True, ["r"], {"r"}, {"a": 1}])
def test_an_id_of_another_type_is_refused(in_memory: TensorStorage, given: Any) -> None:
    with pytest.raises(TypeError, match=r"metadata\['record_id'\] is a \w+, must be a str or a number"):
        in_memory.insert("d", torch.ones(1), {"record_id": given})


def test_the_time_of_a_record_is_taken_in_any_form(storage: TensorStorage) -> None:
    storage.create_dataset("d")
    for given in TIMES:
        record_id = storage.insert("d", torch.ones(1), {"timestamp_utc": given})
        assert storage.get_tensor_by_id("d", record_id)["metadata"]["timestamp_utc"] == 1756684800, repr(given)
    assert len(storage.query_by_metadata("d", "timestamp_utc", 1756684800)) == len(TIMES)


def test_the_time_of_a_record_is_taken_in_any_form_in_an_import(tmp_path: Path, opened: Opening) -> None:
    old = Written()
    for number, given in enumerate(TIMES):
        old.insert(torch.ones(1), f"r{number}")
        old.metadata[number]["timestamp_utc"] = given
    old.save(tmp_path / "d.pt")
    storage = opened(tmp_path)
    for number, given in enumerate(TIMES):
        found = storage.get_tensor_by_id("d", f"r{number}")["metadata"]["timestamp_utc"]
        assert found == 1756684800, repr(given)


def test_a_time_that_is_none_is_refused(in_memory: TensorStorage) -> None:
    storage = in_memory
    with pytest.raises(
        ValueError, match=r"metadata\['timestamp_utc'\] is 'now', must be a number of seconds since 1970"
    ):
        storage.insert("d", torch.ones(1), {"timestamp_utc": "now"})
    for given in (True, [1], {"a": 1}):
        with pytest.raises(TypeError, match=r"metadata\['timestamp_utc'\] is a \w+, must be a number"):
            storage.insert("d", torch.ones(1), {"timestamp_utc": given})
    assert storage.count("d") == 0
