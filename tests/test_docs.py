"""The documents say what the code does: their blocks run, their tables are compared with it."""

from __future__ import annotations

import json
import logging
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.calls import a_call
from support.client import run_command
from tensorus_codecs.presets import DEFAULT_PRESET, PRESETS
from tensorus_codecs.registry import available_codecs
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server import limits
from tensorus_server.errors import UnauthenticatedError
from tensorus_server.logs.audit_file import AuditFile
from tensorus_server.logs.formats import JsonFormatter
from tensorus_server.metrics.families import FAMILIES, Kind
from tensorus_server.processes.server import Server
from tensorus_server.rpc.audit_log import AuditLog
from tensorus_server.rpc.call_log import CallLog
from tensorus_server.rpc.capabilities import FEATURES
from tensorus_server.rpc.service import UNIMPLEMENTED
from tensorus_server.rpc.status import STATUS_BY_REASON, status_of_call

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column is headed so, without its head."""
    after = text.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in after.splitlines()[2:]]


@pytest.mark.parametrize("number", range(len(python_blocks(README))))
def test_the_readme_s_blocks_run(
    number: int, fresh_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = python_blocks(README)[number].replace("127.0.0.1:7733", fresh_server.address)
    names: dict[str, Any] = {}
    # Twice, as the cell of a notebook is.
    for _ in range(2):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    if "tensor" in names:
        assert names["info"].ratio == pytest.approx(2.36, abs=0.1)
        assert names["tensor"].shape == (4096, 1024)
        assert (names["rows"] == names["tensor"][:10]).all()
        names["client"].close()
    elif "storage" in names:
        assert names["same"].shape == (3, 256, 256)
        names["storage"].close()
    else:
        assert names["same"].shape == (1000, 64)


def test_the_commands_for_backups_make_a_store_of_a_running_server_s_tensors(
    fresh_server: Server, tmp_path: Path
) -> None:
    places = {
        "/srv/tensors": str(fresh_server._config.engine.data_dir),
        "/backup": str(tmp_path),
        "/srv": str(tmp_path),
    }
    commands = re.findall(r"^    tensorus (backup .*)$", OPERATIONS, re.MULTILINE)
    assert [line.split()[1] for line in commands] == ["create", "verify", "restore"]
    tensors = {"in the catalogue": np.arange(3), "in a file": random_bits("float32", (300_000,), seed=1)}
    with tensorus.connect(fresh_server.address) as client:
        client.create_dataset("d", preset="none")
        client.insert_many("d", tensors.items())
        for line in commands:
            for place, instead in places.items():
                line = line.replace(f" {place}", f" {instead}")  # noqa: PLW2901 - one place after the other
            assert run_command(*line.split()).exit_code == 0
    with tensorus.open(tmp_path / "restored") as client:
        assert {record.info.id for record in client.query("d")} == set(tensors)
        for tensor_id, tensor in tensors.items():
            assert_same_bits(client.get("d", tensor_id, as_="numpy"), tensor)


def test_the_table_of_metrics_is_what_a_server_shows() -> None:
    shown = {
        Kind.COUNTER: "counter",
        Kind.HISTOGRAM: "histogram",
        Kind.GAUGE: "gauge",
        Kind.SHARED: "gauge, of the store",
    }
    assert table_rows(METRICS, "metric") == [
        [f"`{family.name}`", shown[family.kind], ", ".join(family.labels), family.help] for family in FAMILIES
    ]


def test_every_alert_is_documented() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    assert [row[0] for row in table_rows(METRICS, "alert")] == re.findall(r"- alert: (\w+)", rules)


def test_the_table_of_errors_is_the_server_s_table() -> None:
    documented = {reason: code for reason, code, _ in table_rows(PROTOCOL, "reason")}
    assert documented == {reason: code.name for reason, (code, _) in STATUS_BY_REASON.items()}


def test_the_keys_of_a_record_are_those_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tensorus_server.calls")
    call, error = a_call(), RuntimeError("unexpected")
    call.dataset = "d"
    status_of_call(error, call=call)
    CallLog(every_call=True).ended(call, error)
    written = set(json.loads(JsonFormatter().format(caplog.records[-1])))
    documented = {key.strip("`") for key, _ in table_rows(OPERATIONS, "key of a record")}
    # Only the record that says where the server serves has it.
    assert documented - {"address"} == written


def test_the_keys_of_a_line_are_those_of_the_audit_log(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.log")
    call = a_call("CreateSnapshot")
    call.dataset, call.request = "d", pb.CreateSnapshotRequest(dataset="d", name="s")
    AuditLog(file).tensors(call, [("t", "OK")])
    AuditLog(file).ended(call, UnauthenticatedError("who are you?"))
    file.close()
    written = {key for line in (tmp_path / "audit.log").read_text().splitlines() for key in json.loads(line)}
    documented = {key.strip("` ") for keys, _ in table_rows(OPERATIONS, "key of a line") for key in keys.split(",")}
    # Only a line about other lines has it.
    assert documented - {"lines"} == written


def test_every_reason_of_the_contract_is_documented() -> None:
    for name in pb.ErrorReason.keys():  # noqa: SIM118 - a wrapper of the enum, no dict
        if name != "ERROR_REASON_UNSPECIFIED":
            assert name.removeprefix("ERROR_REASON_") in PROTOCOL


def test_the_table_of_limits_is_limits_py() -> None:
    documented = {name: int(value) for name, value in table_rows(PROTOCOL, "limit")}
    for name, value in documented.items():
        assert getattr(limits, name.upper()) == value, name
    internal = {
        "ANSWER_BYTES_MAX",
        "BATCH_S",
        "COMMIT_GROUP_MAX",
        "DETAILS_CACHE_BYTES",
        "EDIT_COPIED_BYTES_MAX",
        "EDIT_HELD_BYTES_MAX",
        "EDIT_TIMEOUT_S",
        "INDEXED_VALUES_MAX",
        "INDEX_CACHE_BYTES",
        "INLINE_BYTES_MAX",
        "MEMBER_LEASE_S",
        "MEMBER_RENEW_S",
        "MOVED_ROWS_MAX",
        "PACKED_BYTES_MAX",
        "PACK_BYTES_MAX",
        "PAGE_READ_BYTES",
        "PAYLOAD_BYTES_TARGET",
        "PUT_MARGIN_S",
        "PUT_TIMEOUT_S",
        "READ_AHEAD_BYTES",
        "RECEIVED_MESSAGE_BYTES_MAX",
        "SEGMENT_OBJECT_BYTES",
        "STATEMENT_TIMEOUT_S",
        "SYNC_EVERY_BYTES",
        "UNCOMMITTED_BYTES_MAX",
        "UNCOMMITTED_ITEMS_MAX",
    }
    assert set(limits.__all__) - internal == {name.upper() for name in documented}


def test_what_is_not_implemented_is_listed() -> None:
    section = PROTOCOL.split("## Not implemented in this version", 1)[1].split("\n\n", 2)[1]
    listed = re.findall(r"`(\w+)`", section.split("So do", 1)[0])
    assert tuple(listed) == UNIMPLEMENTED


def test_the_features_of_this_version_are_listed() -> None:
    listed = PROTOCOL.split("(field 6, features)", 1)[1].split("\n\n", 1)[0]
    assert tuple(re.findall(r"`([\w.]+)`", listed)) == FEATURES


def test_the_table_of_codecs_is_the_registry() -> None:
    documented = {(kind, codec_id): int(number) for kind, codec_id, number, *_ in table_rows(FORMAT, "kind")}
    registered = {(entry.kind.__name__.lower(), entry.id): entry.number for entry in available_codecs()}
    assert documented == registered


def test_the_tables_of_presets_are_complete() -> None:
    assert [row[0] for row in table_rows(FORMAT, "preset")] == list(PRESETS)
    assert set(re.findall(r"`(\w+)`", " ".join(row[0] for row in table_rows(README, "preset")))) == set(PRESETS)
    assert f"`{DEFAULT_PRESET}` is the default" in FORMAT


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {tensorus.__version__}" in changelog or "## Unreleased" in changelog


def test_the_example_of_costs_computes_with_the_limits_of_the_server() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "object_store_costs.py"))
    named = {"INLINE_BYTES_MAX": limits.INLINE_BYTES_MAX, "PACKED_BYTES_MAX": limits.PACKED_BYTES_MAX}
    named |= {"PACK_BYTES": limits.PACK_BYTES_MAX, "SEGMENT_BYTES": limits.SEGMENT_OBJECT_BYTES}
    assert {name: example[name] for name in named} == named
    requests = example["requests_for"]
    for stored_bytes, puts, gets in ((4096, 0, 0), (100_000, 5989, 1_000_000), (16 << 20, 2_000_000, 6_000_000)):
        found = requests(1_000_000, stored_bytes, limits.COMMIT_GROUP_MAX)
        assert (found.puts, found.gets) == (puts, gets)


def test_the_commands_of_the_example_of_costs_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "REPLICAS.md").read_text(encoding="utf-8")
    example = ROOT / "examples" / "object_store_costs.py"
    commands = re.findall(r"^    python examples/object_store_costs.py (.*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert f"object_store_costs.py {command}\n" in example.read_text(encoding="utf-8")
        monkeypatch.setattr("sys.argv", [str(example), *command.split()])
        runpy.run_path(str(example), run_name="__main__")
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
            "stored",
            "PUT",
            "GET",
            "space",
            "traffic",
        ]
