"""`tensorus import`: what it prints, what it reports, and how it ends."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tensorus
from support.client import run_command
from support.old_tensorus import Written, archive, dataset_pickle, metadata_of, tensor, text
from tensorus_server.processes.server import Server

NUMBERS = torch.linspace(-1, 2, 1200).reshape(30, 40)


@pytest.fixture
def old_folder(tmp_path: Path, dataset: str) -> Path:
    """A folder with two datasets: one that comes as it was, and one of which something is to be said."""
    folder = tmp_path / "tensor_data"
    folder.mkdir()
    plain = Written(generation=1)
    plain.insert(NUMBERS, "a")
    plain.insert(NUMBERS, "b")
    plain.save(folder / f"{dataset}-plain.pt")
    told = Written()
    told.insert(NUMBERS, "same", took=dt.timedelta(1), seen={1})
    told.insert(NUMBERS, "same", took=dt.timedelta(2), seen={2})
    told.insert(torch.tensor([-5, 0, 7], dtype=torch.int8), "repaired", "gzip-9", "int8")
    told.insert(torch.tensor([100.0, 100.25, 101.0]), "lossy", "gzip-9", "int8")
    told.save(folder / f"{dataset}-told.pt")
    return folder


@pytest.fixture
def broken_folder(old_folder: Path, dataset: str) -> Path:
    """Likewise, with a dataset that has a record that fails, and one that cannot be read."""
    broken = Written()
    broken.insert(NUMBERS, "intact")
    broken.insert(NUMBERS, "broken")
    broken.tensors[1] = torch.ones(2).to_sparse()
    broken.save(old_folder / f"{dataset}-broken.pt")
    (old_folder / f"{dataset}-torn.pt").write_bytes((old_folder / f"{dataset}-told.pt").read_bytes()[:-1])
    return old_folder


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_import_says_what_became_of_every_dataset(server: Server, old_folder: Path, dataset: str) -> None:
    ran = run_command("import", old_folder, "--server", server.address)
    assert (ran.exit_code, ran.errors) == (5, "")
    assert rows(ran.output)[:3] == [
        ["dataset", "generation", "records", "imported", "present", "repaired", "lossy", "failed"],
        [f"{dataset}-plain", "1", "2", "2", "0", "0", "0", "0"],
        [f"{dataset}-told", "3", "4", "2", "0", "1", "1", "0"],
    ]
    assert [" ".join(row) for row in rows(ran.output)[4:8]] == [
        "dataset id what why",
        f"{dataset}-told same-2 imported a record before it has the id 'same', too",
        f"{dataset}-told repaired repaired int8 tensors were read back as zeros; the codes are the values",
        f"{dataset}-told lossy lossy 8-bit codes in steps of 0.00392; 3 of 3 values were beyond the codes and are lost",
    ]
    assert rows(ran.output)[9:11] == [
        ["dataset", "dropped", "metadata", "where", "records"],
        [f"{dataset}-told", "datetime.timedelta", "took", "2"],
    ]
    assert ran.output.splitlines()[12:] == [
        "6 records in 2 datasets: 4 imported, 1 repaired, 1 lossy, 2 values of metadata dropped"
    ]
    with tensorus.connect(server.address) as client:
        assert client.stats(f"{dataset}-plain").tensors == 2


def test_import_into_a_folder_makes_it(old_folder: Path, dataset: str, tmp_path: Path) -> None:
    assert run_command("import", old_folder, "--store", tmp_path / "new").exit_code == 5
    with tensorus.open(tmp_path / "new") as client:
        assert [found.name for found in client.datasets()] == [f"{dataset}-plain", f"{dataset}-told"]


def test_import_again_says_that_all_is_present(server: Server, old_folder: Path, dataset: str) -> None:
    for _ in range(2):
        ran = run_command("import", old_folder, "--server", server.address)
        assert ran.exit_code == 5
    assert rows(ran.output)[1:-2] == [
        [f"{dataset}-plain", "1", "2", "0", "2", "0", "0", "0"],
        [f"{dataset}-told", "3", "4", "0", "4", "0", "0", "0"],
        [],
        ["dataset", "dropped", "metadata", "where", "records"],
        [f"{dataset}-told", "datetime.timedelta", "took", "2"],
    ]
    assert ran.output.splitlines()[-1] == (
        "6 records in 2 datasets: 0 imported, 6 present, 2 values of metadata dropped"
    )


def test_what_is_whole_or_lossy_ends_with_exit_code_0(tmp_path: Path) -> None:
    written = Written()
    written.insert(NUMBERS, "whole", seen={1}, loss=np.float32(0.5), when=dt.datetime.now(dt.UTC))
    written.insert(NUMBERS, "lossy", "gzip-6", "fp16")
    written.save(tmp_path / "old.pt")
    ran = run_command("import", tmp_path, "--dry-run")
    assert ran.exit_code == 0
    assert ran.output.splitlines()[-1] == "2 records in 1 dataset: 1 imported, 1 lossy"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"schema": {"dtype": "torch.quint8"}}, "its schema's dtype is dropped: dtype 'torch.quint8' cannot be stored"),
        ({"schema": {"description": "x"}}, "its schema's 'description' is dropped: it never meant anything"),
        ({"indexes": {}}, "1 parts are left out, which no version of the original wrote: indexes"),
    ],
)
def test_what_is_left_out_beside_the_records_ends_with_exit_code_5(tmp_path: Path, content: Any, said: str) -> None:
    written = Written()
    written.insert(NUMBERS, "a")
    written.content |= content
    written.save(tmp_path / "old.pt")
    ran = run_command("import", tmp_path, "--dry-run")
    assert ran.exit_code == 5
    assert f"old: {said}" in ran.output.splitlines()
    assert ran.output.splitlines()[-1] == "1 record in 1 dataset: 1 imported, 1 other part left out"


def test_what_fails_is_named_and_ends_with_exit_code_1(server: Server, broken_folder: Path, dataset: str) -> None:
    ran = run_command("import", broken_folder, "--server", server.address)
    assert ran.exit_code == 1
    lines = ran.output.splitlines()
    assert lines[-1] == (
        "8 records in 4 datasets: 5 imported, 1 repaired, 1 lossy, 1 failed, "
        "2 values of metadata dropped, 1 dataset not imported"
    )
    assert rows(ran.output)[1] == [f"{dataset}-broken", "3", "2", "1", "0", "0", "0", "1"]
    assert rows(ran.output)[4] == [f"{dataset}-torn", "-", "0", "0", "0", "0", "0", "0"]
    assert lines[5] == (
        f"{dataset}-torn: not imported: the file does not end with the directory of an archive: it is torn, or of another kind"
    )
    assert any(line.split()[:3] == [f"{dataset}-broken", "broken", "failed"] for line in lines)
    with tensorus.connect(server.address) as client:
        found = {found.name for found in client.datasets()}
    assert {f"{dataset}-broken", f"{dataset}-plain", f"{dataset}-told"} <= found
    assert f"{dataset}-torn" not in found


def test_json_says_all_of_it(server: Server, broken_folder: Path, dataset: str) -> None:
    ran = run_command("import", broken_folder, "--server", server.address, "--json")
    assert ran.exit_code == 1
    said = json.loads(ran.output)
    broken, plain, told, torn = said["datasets"]
    assert said["summary"] == {
        "datasets": 4,
        "failed_datasets": 1,
        "records": 8,
        "counts": {"imported": 5, "present": 0, "repaired": 1, "lossy": 1, "failed": 1},
        "dropped_values": 2,
        "left_out": 0,
    }
    assert broken["outcomes"][1]["status"] == "failed"
    assert plain["counts"] == {"imported": 2, "present": 0, "repaired": 0, "lossy": 0, "failed": 0}
    assert told["saturated_records"] == 1
    assert told["outcomes"][1] == {
        "position": 1,
        "id": "same-2",
        "status": "imported",
        "reason": "a record before it has the id 'same', too",
        "saturated_count": 0,
        "renamed_from": "same",
        "dropped": [{"name": "datetime.timedelta", "path": "took"}],
    }
    assert told["outcomes"][3]["saturated_count"] == 3
    assert told["dropped"] == [{"name": "datetime.timedelta", "path": "took", "count": 2}]
    assert (torn["generation"], torn["outcomes"]) == (None, [])
    assert torn["error"].startswith("the file does not end with")
    assert torn["file"].endswith(f"{dataset}-torn.pt")


def test_a_report_has_what_json_has(server: Server, broken_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ran = run_command("import", broken_folder, "--server", server.address, "--json", "--report", report)
    assert json.loads(report.read_text()) == json.loads(ran.output)


def test_a_report_cannot_replace_an_old_file(broken_folder: Path, dataset: str) -> None:
    path = broken_folder / f"{dataset}-plain.pt"
    before = path.read_bytes()
    ran = run_command("import", broken_folder, "--dry-run", "--report", path)
    assert ran.exit_code == 2
    assert "must end in .json" in ran.errors
    assert path.read_bytes() == before


def test_a_dry_run_needs_no_store_and_makes_none(broken_folder: Path, dataset: str, tmp_path: Path) -> None:
    ran = run_command("import", broken_folder, "--dry-run", "--server", "127.0.0.1:1", "--store", tmp_path / "none")
    assert ran.exit_code == 1
    assert rows(ran.output)[3] == [f"{dataset}-told", "3", "4", "2", "0", "1", "1", "0"]
    assert not (tmp_path / "none").exists()


def test_named_datasets_are_imported_alone(server: Server, broken_folder: Path, dataset: str) -> None:
    ran = run_command("import", broken_folder, "--dataset", f"{dataset}-plain", "--server", server.address)
    assert ran.exit_code == 0
    assert [row[0] for row in rows(ran.output)[:2]] == ["dataset", f"{dataset}-plain"]
    assert ran.output.splitlines()[2:] == ["", "2 records in 1 dataset: 2 imported"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--dataset", "none"], "has no dataset 'none': there is no none.pt"), ([], "there is no .pt file")],
)
def test_nothing_to_import_is_an_error(tmp_path: Path, options: list[str], message: str) -> None:
    ran = run_command("import", tmp_path, "--dry-run", *options)
    assert (ran.exit_code, ran.output) == (1, "")
    assert message in ran.errors


def test_the_limit_of_a_compressed_tensor_can_be_set(tmp_path: Path) -> None:
    written = Written()
    written.insert(torch.zeros(100_000), "a", "gzip-9", "none")
    written.save(tmp_path / "old.pt")
    assert run_command("import", tmp_path, "--dry-run", "--inflate-limit", "1MB").exit_code == 0
    ran = run_command("import", tmp_path, "--dry-run", "--inflate-limit", "100KB")
    assert ran.exit_code == 1
    assert "its gzip bytes inflate to more than 100000 bytes, the limit" in ran.output


def test_the_terminal_shows_the_first_records_and_the_report_all(tmp_path: Path) -> None:
    written = Written()
    for number in range(30):
        written.insert(NUMBERS, f"r{number:02}", "none", "fp16", **{f"key {number}": 1j})
    written.save(tmp_path / "old.pt")
    report = tmp_path / "report.json"
    ran = run_command("import", tmp_path, "--dry-run", "--report", report)
    assert ran.exit_code == 5
    assert "r19" in ran.output
    assert "r20" not in ran.output
    assert "... and 10 records more; --report FILE.json has all of them" in ran.output
    assert "... and 10 kinds more; --report FILE.json has all of them" in ran.output
    assert len(json.loads(report.read_text())["datasets"][0]["outcomes"]) == 30


def test_a_terminal_sees_a_bar_with_the_dataset_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written()
    written.insert(NUMBERS, "a")
    written.save(tmp_path / "a [bold]name.pt")
    monkeypatch.setenv("FORCE_COLOR", "1")
    ran = run_command("import", tmp_path, "--dry-run")
    assert ran.exit_code == 0
    assert "a [bold]name" in ran.errors
    assert "bold" not in run_command("import", tmp_path, "--dry-run", "--json").errors


def test_a_server_that_is_not_there_ends_with_exit_code_4(old_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ran = run_command("import", old_folder, "--server", "127.0.0.1:1", "--report", report)
    assert (ran.exit_code, ran.output) == (4, "")
    assert "no server can be reached at '127.0.0.1:1'" in ran.errors
    assert json.loads(report.read_text())["datasets"] == []


def test_what_was_imported_before_the_store_failed_is_shown(
    server: Server, old_folder: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = tensorus.Client.create_dataset

    def fails(self: tensorus.Client, name: str, **options: Any) -> Any:
        if name.endswith("-told"):
            raise tensorus.errors.UnavailableError("gone", reason="UNAVAILABLE")
        return create(self, name, **options)

    monkeypatch.setattr(tensorus.Client, "create_dataset", fails)
    ran = run_command("import", old_folder, "--server", server.address)
    assert ran.exit_code == 4
    assert rows(ran.output)[1] == [f"{dataset}-plain", "1", "2", "2", "0", "0", "0", "0"]
    assert "gone" in ran.errors


def test_nothing_in_a_file_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    escape = "\x1b[31m\u202e"
    mark = f"c{escape}\nname\n".encode() + b")R"
    pickle = dataset_pickle(
        [mark, tensor(count=1, shape=[1], strides=[1])],
        [metadata_of("a", text(f"key{escape}") + mark), metadata_of("b", text(f"key{escape}") + mark)],
    )
    (tmp_path / "old.pt").write_bytes(archive(pickle, {"0": bytes(4)}))
    ran = run_command("import", tmp_path, "--dry-run")
    assert ran.exit_code == 1
    assert "\x1b" not in ran.output
    assert "\u202e" not in ran.output
    assert r"\x1b[31m\u202e" in ran.output


def test_info_and_ls_say_that_the_error_of_a_lossy_record_is_unknown(tmp_path: Path) -> None:
    written = Written()
    written.insert(NUMBERS, "lossy", "gzip-6", "int8")
    written.insert(NUMBERS, "exact", "gzip-6", "none")
    written.save(tmp_path / "old.pt")
    store = ("--store", tmp_path / "store")
    assert run_command("import", tmp_path, *store).exit_code == 0
    told = run_command("info", "old", "lossy", *store).output.splitlines()
    assert "unknown: the values were already lossy in Tensorus 0.1, before the import" in "".join(told)
    assert '"import_status": "lossy"' in "".join(told)
    exact = run_command("info", "old", "exact", *store).output.splitlines()
    assert [line.split() for line in exact if line.startswith("error")] == [["error", "exact"]]
    assert [row[-1] for row in rows(run_command("ls", "old", *store).output)] == ["error", "unknown", "exact"]
    (lossy, _) = json.loads(run_command("ls", "old", "--json", *store).output)
    assert lossy["metadata"]["compression_metadata"]["import_status"] == "lossy"


def test_the_worst_error_of_a_dataset_is_unknown_while_it_has_a_lossy_record(tmp_path: Path) -> None:
    written = Written()
    written.insert(NUMBERS, "lossy", "gzip-6", "int8")
    written.insert(NUMBERS, "exact", "gzip-6", "none")
    written.save(tmp_path / "old.pt")
    store = ("--store", tmp_path / "store")
    assert run_command("import", tmp_path, *store).exit_code == 0
    assert [row[-1] for row in rows(run_command("ls", *store).output)] == ["error", "unknown"]
    assert "worst relative error unknown" in run_command("stats", "old", *store).output
    assert run_command("rm", "old", "lossy", "--yes", *store).exit_code == 0
    assert [row[-1] for row in rows(run_command("ls", *store).output)] == ["error", "exact"]
    assert "worst relative error exact" in run_command("stats", "old", *store).output
