"""How the command line writes sizes, shapes, errors and JSON."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import Any

import pytest
from rich.console import Console

from support.cases import each
from support.tensor_infos import tensor_info
from tensorus._grpc.patience import Interruption
from tensorus.cli import _output
from tensorus.cli._output import (
    TransferBar,
    counted,
    human_bytes,
    human_encoding,
    human_error,
    human_ratio,
    human_shape,
    human_worst_error,
    print_fields,
    print_table,
    to_json,
)
from tensorus.client import Client
from tensorus.errors import TensorusError
from tensorus.types import (
    DatasetStats,
    DTypeShare,
    EncodingShare,
    Policy,
    PolicyExplanation,
    Schema,
    TensorInfo,
    ValueSummary,
)


@each(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1024.0 KiB"),
        (1024**2, "1.0 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (1024**4, "1.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_a_size_is_written_in_its_largest_unit(count: int, text: str) -> None:
    assert human_bytes(count) == text


@each(("shape", "text"), [((), "scalar"), ((3,), "3"), ((384, 1536), "384 x 1536"), ((0, 2), "0 x 2")])
def test_a_shape_is_written_with_crosses(shape: tuple[int, ...], text: str) -> None:
    assert human_shape(shape) == text


@each(("count", "text"), [(0, "0 tensors"), (1, "1 tensor"), (2345, "2,345 tensors")])
def test_a_count_agrees_with_its_noun(count: int, text: str) -> None:
    assert counted(count, "tensor") == text


def test_a_table_is_aligned_whatever_the_width_of_its_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["id", ">size", "note"], [("a", "1.0 KiB", ""), ("張量", "24 B", "x"), ("🦦", "7 B", "y")])
    assert capsys.readouterr().out.splitlines() == [
        "id       size  note",
        "a     1.0 KiB",
        "張量     24 B  x",
        "🦦        7 B  y",
    ]


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["id", ">size"], [])
    assert capsys.readouterr().out == "id  size\n"


def test_fields_have_no_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("id", "a"), ("dtype", "x" * 300)])
    assert capsys.readouterr().out.splitlines() == ["id     a", "dtype  " + "x" * 300]


@each(("value", "text"), [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (1.5, 1.5)])
def test_json_spells_the_numbers_that_it_lacks(value: float, text: object) -> None:
    assert to_json({"deep": [value]}) == {"deep": [text]}


def dataset_stats(lossy_tensors: int) -> DatasetStats:
    return DatasetStats(
        *(2, lossy_tensors, 24, 12, 48, 0.00123, 0.5),
        dtypes=(DTypeShare("float32", 2, 24, 48),),
        encodings=(EncodingShare((), 2, 24, 40),),
    )


@each(
    ("codecs", "text"),
    [((), "as it is"), (("zstd",), "zstd"), (("fp16", "rotated_planes", "zstd"), "fp16 > rotated_planes > zstd")],
)
def test_an_encoding_is_written_in_the_order_of_its_codecs(codecs: tuple[str, ...], text: str) -> None:
    assert human_encoding(codecs) == text


def test_a_ratio_is_written_with_the_shares_in_it() -> None:
    info = tensor_info(canonical_bytes=90_856_960, quantized_bytes=45_428_480, stored_bytes=38_569_849)
    assert human_ratio(info) == "2.356 (quantizer 2.000 x compressor 1.178)"
    assert human_ratio(dataset_stats(0)) == "0.500 (quantizer 2.000 x compressor 0.250)"


def test_an_error_is_written_where_there_is_one() -> None:
    assert human_error(tensor_info()) == "exact"
    assert human_error(tensor_info(lossy=True, relative_error=0.00123)) == "1.2e-03"
    # Lossy and without an error, as integers in half precision are: measured, and not assumed.
    assert human_error(tensor_info(lossy=True, relative_error=0.0)) == "0.0e+00"


def test_the_worst_error_of_a_dataset_is_written_where_there_is_one(embedded: Client, dataset: str) -> None:
    embedded.create_dataset(dataset)
    assert human_worst_error(embedded, dataset, dataset_stats(0)) == "exact"
    assert human_worst_error(embedded, dataset, dataset_stats(1)) == "1.2e-03"


def test_a_tensor_as_json_has_every_field_and_its_ratios() -> None:
    info = tensor_info(
        metadata={"k": [1, {"a": None}]},
        encodings=(EncodingShare(("fp16", "zstd"), 1, 24, 30),),
        values=ValueSummary(0.0, 1.0, 0.5, 0.25, 2.0, 1, 0, 0),
        created=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    )
    found = to_json(info)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {*TensorInfo.__dataclass_fields__, "ratio", "quantizer_ratio", "compressor_ratio"}
    assert found["shape"] == [2, 3]
    assert found["encodings"] == [{"codecs": ["fp16", "zstd"], "chunks": 1, "canonical_bytes": 24, "stored_bytes": 30}]
    assert found["values"]["standard_deviation"] == 0.25
    assert found["created"] == "2026-01-02T03:04:05+00:00"
    assert (found["ratio"], found["quantizer_ratio"], found["compressor_ratio"]) == (0.5, 1.0, 0.5)


def test_sums_as_json_have_their_ratios_and_shares() -> None:
    found = to_json(dataset_stats(0))
    assert (found["ratio"], found["quantizer_ratio"], found["compressor_ratio"]) == (0.5, 2.0, 0.25)
    assert found["encodings"] == [{"codecs": [], "chunks": 2, "canonical_bytes": 24, "stored_bytes": 40}]
    assert found["dtypes"] == [{"dtype": "float32", "tensors": 2, "canonical_bytes": 24, "stored_bytes": 48}]


def explanation(**fields: Any) -> PolicyExplanation:
    filled: dict[str, Any] = {
        "policy": Policy(preset="maximum"),
        "canonical_bytes": 24,
        "quantized_bytes": 12,
        "stored_bytes": 8,
        "lossy": True,
        "relative_error": 0.00123,
        "max_absolute_error": 0.5,
        "encodings": (EncodingShare(("fp16", "zstd"), 1, 24, 8),),
        "fallback_reason": "",
        "encode_bytes_per_second": 1.5,
        "decode_bytes_per_second": 2.5,
    }
    return PolicyExplanation(**{**filled, **fields})


def test_an_explanation_as_json_has_every_field_and_its_ratios() -> None:
    found = to_json(explanation())
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {*PolicyExplanation.__dataclass_fields__, "ratio", "quantizer_ratio", "compressor_ratio"}
    assert (found["ratio"], found["quantizer_ratio"], found["compressor_ratio"]) == (3.0, 2.0, 1.5)
    assert found["policy"]["preset"] == "maximum"


def test_the_error_of_an_explanation_is_written_as_that_of_a_tensor() -> None:
    assert human_error(explanation()) == "1.2e-03"
    assert human_error(explanation(lossy=False, relative_error=0.0)) == "exact"


def test_settings_as_json_have_no_ratio_and_types_by_name() -> None:
    assert "ratio" not in to_json(Policy(preset="fast"))
    assert to_json(Schema(shape=(None, 3), metadata={"a": int, "b": None})) == {
        "dtype": None,
        "shape": [None, 3],
        "metadata": {"a": "int", "b": None},
    }


# ---- Interruptions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> TransferBar:
    """A bar on a terminal."""
    monkeypatch.setattr(_output, "Console", lambda **_: Console(file=io.StringIO(), force_terminal=True))
    return TransferBar("storing", quiet=False)


def shown(bar: TransferBar) -> str:
    return bar._bar.console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def interruption(at_same_place: int, reason: str = "UNAVAILABLE") -> Interruption:
    return Interruption(TensorusError("it broke", reason=reason), at_same_place)


def test_a_bar_says_that_the_disk_is_full_until_something_is_sent_again(bar: TransferBar) -> None:
    with bar:
        bar.show(90, 100)
        bar.disk_full(interruption(1, "STORAGE_FULL"))
        assert bar._bar.tasks[0].description == "the server's disk is full, waiting"
        bar.show(10, 100)
        assert bar._bar.tasks[0].description == "storing"


def test_a_bar_says_that_the_connection_is_lost_until_there_is_progress(
    bar: TransferBar, capsys: pytest.CaptureFixture[str]
) -> None:
    def description() -> str:
        return bar._bar.tasks[0].description

    with bar:
        bar.show(10, 100)
        assert description() == "storing"
        bar.connection_lost(interruption(1))
        assert description() == "connection lost, retrying"
        bar.show(10, 100)
        assert description() == "connection lost, retrying"
        bar.show(11, 100)
        assert description() == "storing"
        assert "proxy" not in shown(bar)
        bar.connection_lost(interruption(2))
        assert "proxy" in shown(bar)
        bar.disk_full(interruption(1, "STORAGE_FULL"))
        assert description() == "the server's disk is full, waiting"
    assert capsys.readouterr().err == ""


def test_without_a_terminal_lines_say_so_once_for_each_place(capsys: pytest.CaptureFixture[str]) -> None:
    with TransferBar("storing", quiet=False) as bar:
        for count in (1, 2, 3, 4, 1):
            bar.connection_lost(interruption(count))
        for count in (1, 2, 3):
            bar.disk_full(interruption(count, "STORAGE_FULL"))
    lost, stuck, again, full = capsys.readouterr().err.splitlines()
    assert lost == again == "tensorus: connection lost, retrying (it broke)"
    assert stuck.startswith("tensorus: the call fails without progress and is tried again: it broke")
    assert full == "tensorus: the server's disk is full, waiting (it broke)"
