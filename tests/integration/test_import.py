"""Old datasets into a store, by both clients: all of a file or nothing, in order, and never twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tensorus
from support.arrays import assert_same_bits
from support.client import run_process, thin_environment
from support.old_tensorus import Written, archive, dataset_pickle, metadata_of, tensor
from tensorus.errors import DatasetNotFoundError, InvalidRequestError, StorageFullError
from tensorus.old_files import FileReport
from tensorus.old_files.storing import examine_file, import_file, old_files
from tensorus_server.limits import ITEMS_TOGETHER_MAX
from tensorus_server.processes.server import Server

NUMBERS = torch.linspace(-1, 2, 1200).reshape(30, 40)


@pytest.fixture
def old(tmp_path: Path, dataset: str) -> Callable[..., tuple[Written, Callable[[], Path]]]:
    """Make an old dataset: what is to be written, and a function that writes it, under a name that no other test uses."""

    def make(**options: Any) -> tuple[Written, Callable[[], Path]]:
        written = Written(**options)
        return written, lambda: written.save(tmp_path / f"{dataset}.pt")

    return make


def filled(old: Any, count: int = 3, **options: Any) -> tuple[Written, Path]:
    written, save = old(**options)
    for number in range(count):
        written.insert(NUMBERS + number, f"record {number}", number=number)
    return written, save()


def statuses(report: FileReport) -> list[str]:
    return [outcome.status for outcome in report.outcomes]


def names(client: tensorus.Client) -> list[str]:
    return [found.name for found in client.datasets()]


# ---- What is imported ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_a_dataset_comes_as_it_was(client: tensorus.Client, old: Any, dataset: str, generation: int) -> None:
    written, save = old(generation=generation)
    written.insert(NUMBERS.t().clone(), "b", split="train", box=(1, 2))
    written.insert(torch.ones(3, dtype=torch.bfloat16), "a")
    written.insert(torch.tensor(True), "c")
    report = import_file(client, save())
    assert (report.dataset, report.error, report.generation, report.notes) == (dataset, "", generation, ())
    assert report.counts == {"imported": 3, "present": 0, "repaired": 0, "lossy": 0, "failed": 0}
    assert not report.failed
    infos = list(client.list(dataset))
    assert [info.id for info in infos] == ["b", "a", "c"]
    assert [info.lossy for info in infos] == [False] * 3
    assert infos[0].metadata["box"] == [1, 2]
    assert infos[0].metadata["record_id"] == "b"
    assert [info.metadata["version"] for info in infos] == [1, 2, 3]
    assert_same_bits(client.get(dataset, "b", as_="numpy"), NUMBERS.t().numpy().copy())
    assert client.get(dataset, "a", as_="torch").dtype == torch.bfloat16
    assert client.get(dataset, "c", as_="numpy").item() is True


def test_compressed_records_come_as_what_they_are_worth(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, save = old()
    written.insert(NUMBERS, "half", "gzip-6", "fp16")
    written.insert(torch.tensor([-5, 0, 7], dtype=torch.int8), "repaired", "gzip-9", "int8")
    written.insert(torch.tensor([100.0, 100.25, 101.0]), "saturated", "none", "int8")
    report = import_file(client, save())
    assert statuses(report) == ["lossy", "repaired", "lossy"]
    assert report.saturated_records == 1
    assert client.get(dataset, "repaired", as_="numpy").tolist() == [-5, 0, 7]
    assert_same_bits(client.get(dataset, "half", as_="numpy"), NUMBERS.half().float().numpy())
    info = client.info(dataset, "half")
    assert not info.lossy
    assert info.metadata["compressed"] is True
    assert info.metadata["compression_metadata"]["quantization_params"]["original_dtype"] == "torch.float32"


def test_records_are_stored_losslessly_whatever_the_dataset_s_policy(
    client: tensorus.Client, old: Any, dataset: str
) -> None:
    client.create_dataset(dataset, preset="maximum")
    _, path = filled(old)
    assert statuses(import_file(client, path)) == ["imported"] * 3
    assert_same_bits(client.get(dataset, "record 2", as_="numpy"), (NUMBERS + 2).numpy())


def test_an_empty_dataset_is_made(client: tensorus.Client, old: Any, dataset: str) -> None:
    _, path = filled(old, 0)
    report = import_file(client, path)
    assert (report.error, report.outcomes) == ("", ())
    assert client.stats(dataset).tensors == 0


def test_more_records_than_one_insert_of_all_or_nothing_takes(
    embedded: tensorus.Client, tmp_path: Path, dataset: str
) -> None:
    count = ITEMS_TOGETHER_MAX + 4
    pickle = dataset_pickle(
        [tensor(count=1, shape=[1], strides=[1])] * count, [metadata_of(f"{number:05}") for number in range(count)]
    )
    (tmp_path / f"{dataset}.pt").write_bytes(archive(pickle, {"0": bytes(4)}))
    report = import_file(embedded, tmp_path / f"{dataset}.pt")
    assert report.counts["imported"] == count
    assert [info.id for info in embedded.list(dataset)] == [f"{number:05}" for number in range(count)]


def test_the_file_stays_as_it_is(client: tensorus.Client, old: Any) -> None:
    _, path = filled(old)
    path.chmod(0o400)
    before = path.read_bytes(), path.stat().st_mtime_ns
    import_file(client, path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_progress_adds_up_to_the_file(client: tensorus.Client, old: Any) -> None:
    _, path = filled(old, 20)
    counts: list[int] = []
    import_file(client, path, on_bytes=counts.append)
    assert len(counts) == 20
    assert sum(counts) == pytest.approx(path.stat().st_size, rel=0.1)


# ---- Schemas ------------------------------------------------------------------------------------------------------------

SCHEMA = {"shape": (30, 40), "dtype": "torch.float32", "metadata": {"number": "int"}}


def test_a_schema_holds_for_later_inserts(client: tensorus.Client, old: Any, dataset: str) -> None:
    _, path = filled(old, schema=SCHEMA)
    assert import_file(client, path).notes == ()
    schema = client.dataset(dataset).schema
    assert (schema.dtype, schema.shape, schema.metadata) == ("float32", (30, 40), {"number": int})
    with pytest.raises(InvalidRequestError, match="the schema requires float32"):
        client.insert(dataset, np.ones((30, 40)), metadata={"number": 7})


def test_records_that_do_not_fit_their_schema_are_imported(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, save = old(schema=SCHEMA)
    # What an update of the original left, and what was true to it: a bool is an int.
    written.insert(NUMBERS, "updated")
    written.insert(NUMBERS, "bool", number=True)
    assert statuses(import_file(client, save())) == ["imported", "imported"]
    assert client.dataset(dataset).schema.dtype == "float32"


def test_a_schema_that_cannot_be_said_is_noted(client: tensorus.Client, old: Any, dataset: str) -> None:
    _, path = filled(old, schema={"dtype": "torch.quint8", "shape": (30,) * 40})
    report = import_file(client, path)
    assert report.counts["imported"] == 3
    assert report.left_out[0] == "its schema's dtype is dropped: dtype 'torch.quint8' cannot be stored"
    assert report.left_out[1].startswith("its schema is dropped: ")
    assert client.dataset(dataset).schema.shape is None


# ---- Again --------------------------------------------------------------------------------------------------------------


def test_an_import_again_finds_everything_present(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, save = old(schema={"dtype": "torch.float32"})
    written.insert(NUMBERS, "plain")
    written.insert(NUMBERS, "half", "gzip-6", "fp16")
    written.insert(NUMBERS, "plain")
    path = save()
    import_file(client, path)
    before = list(client.list(dataset))
    client.update_metadata(dataset, "plain", {"label": "mine"})
    report = import_file(client, path)
    assert statuses(report) == ["present"] * 3
    assert not report.failed
    after = list(client.list(dataset))
    assert [info.id for info in after] == [info.id for info in before] == ["plain", "half", "plain-2"]
    assert client.info(dataset, "plain").metadata == {"label": "mine"}


def test_an_import_goes_on_where_one_was_killed(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, path = filled(old, 2)
    import_file(client, path)
    written.insert(NUMBERS, "record 2")
    report = import_file(client, written.save(path))
    assert statuses(report) == ["present", "present", "imported"]
    assert [info.id for info in client.list(dataset)] == ["record 0", "record 1", "record 2"]


def test_an_id_that_has_other_values_fails_and_stays(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, path = filled(old)
    import_file(client, path)
    written.tensors[1] = NUMBERS * 7
    report = import_file(client, written.save(path))
    assert statuses(report) == ["present", "failed", "present"]
    assert report.outcomes[1].reason == "the store has another tensor with this id"
    assert_same_bits(client.get(dataset, "record 1", as_="numpy"), (NUMBERS + 1).numpy())


def test_a_name_that_another_dataset_has_is_refused(client: tensorus.Client, old: Any, dataset: str) -> None:
    client.create_dataset(dataset)
    client.insert(dataset, np.ones(3), id="mine")
    _, path = filled(old)
    report = import_file(client, path)
    assert report.error == f"the store has another dataset {dataset!r}, which holds no record of this file"
    assert report.failed
    assert [info.id for info in client.list(dataset)] == ["mine"]


# ---- All or nothing -----------------------------------------------------------------------------------------------------


def test_a_record_that_fails_does_not_keep_the_others(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, path = filled(old)
    written.tensors[1] = torch.ones(2).to_sparse()
    report = import_file(client, written.save(path))
    assert statuses(report) == ["imported", "failed", "imported"]
    assert (report.failed, report.error) == (True, "")
    assert [info.id for info in client.list(dataset)] == ["record 0", "record 2"]


def test_what_a_store_refuses_fails_alone(client: tensorus.Client, tmp_path: Path, dataset: str) -> None:
    # More than TENSOR_BYTES_MAX in one axis, and no element.
    pickle = dataset_pickle(
        [tensor(count=0, shape=[0, 2**50], strides=[1, 1]), tensor(count=1, shape=[1], strides=[1])],
        [metadata_of("a"), metadata_of("b")],
    )
    (tmp_path / f"{dataset}.pt").write_bytes(archive(pickle, {"0": bytes(4)}))
    report = import_file(client, tmp_path / f"{dataset}.pt")
    assert statuses(report) == ["failed", "imported"]
    assert "tensor_bytes_max" in report.outcomes[0].reason


@pytest.mark.parametrize("data", [b"", b"PK", archive(b"\x80\x02cos\nsystem\n."), archive(b"\x80\x02P")])
def test_a_file_that_cannot_be_read_leaves_no_name(
    client: tensorus.Client, tmp_path: Path, dataset: str, data: bytes
) -> None:
    (tmp_path / f"{dataset}.pt").write_bytes(data)
    report = import_file(client, tmp_path / f"{dataset}.pt")
    assert report.error
    assert (report.failed, report.generation, report.outcomes) == (True, None, ())
    assert dataset not in names(client)


def test_a_file_of_which_no_record_can_be_read_leaves_no_name(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, path = filled(old)
    written.tensors[:] = [None] * 3
    report = import_file(client, written.save(path))
    assert (
        report.error == "none of its records can be imported; the first: its tensor is a NoneType, which is not loaded"
    )
    assert report.counts["failed"] == 3
    assert dataset not in names(client)


def test_a_file_that_is_not_there_is_reported(client: tensorus.Client, tmp_path: Path, dataset: str) -> None:
    assert import_file(client, tmp_path / f"{dataset}.pt").error == "No such file or directory"
    assert dataset not in names(client)


def test_a_library_that_is_missing_is_named_and_leaves_no_name(
    client: tensorus.Client, old: Any, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, save = old()
    written.insert(NUMBERS, "plain")
    written.insert(NUMBERS, "lz4", "lz4-1", "none")
    path = save()
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    report = import_file(client, path)
    assert "pip install 'tensorus[codecs]'" in report.error
    assert report.outcomes == ()
    assert dataset not in names(client)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("the disk is gone"), MemoryError])
def test_whatever_ends_an_import_leaves_no_name(client: tensorus.Client, old: Any, dataset: str, error: Any) -> None:
    _, path = filled(old, 20)
    calls: list[int] = []

    def fail(count: int) -> None:
        calls.append(count)
        if len(calls) == 15:
            raise error

    if isinstance(error, OSError):
        assert import_file(client, path, on_bytes=fail).error == "the disk is gone"
    else:
        with pytest.raises(error):
            import_file(client, path, on_bytes=fail)
    assert dataset not in names(client)


def test_a_store_that_fails_is_an_error_of_the_store_and_leaves_no_name(
    client: tensorus.Client, old: Any, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = filled(old)
    full = StorageFullError("the disk is full", reason="STORAGE_FULL")
    monkeypatch.setattr(
        client._backend, "insert", lambda _dataset, uploads, *_: [(0, full), *((1, full) for _ in uploads)]
    )
    with pytest.raises(StorageFullError):
        import_file(client, path)
    assert dataset not in names(client)


def test_what_was_there_before_stays_where_an_import_ends(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, path = filled(old)
    import_file(client, path)
    written.insert(NUMBERS, "more")

    def fail(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(client, written.save(path), on_bytes=fail)
    assert [info.id for info in client.list(dataset)] == ["record 0", "record 1", "record 2"]


def test_a_name_that_no_dataset_can_have_is_reported(client: tensorus.Client, tmp_path: Path) -> None:
    report = import_file(client, Written().save(tmp_path / "a\nb.pt"))
    assert report.error.startswith(r"a dataset cannot be called 'a\nb'")


# ---- Before an import ---------------------------------------------------------------------------------------------------


def test_examining_reports_the_same_and_stores_nothing(client: tensorus.Client, old: Any, dataset: str) -> None:
    written, save = old(schema=SCHEMA)
    written.insert(NUMBERS, "a", "gzip-9", "int8", at={1})
    written.insert(NUMBERS, "a")
    written.tensors.append(None)
    path = save()
    counts: list[int] = []
    examined = examine_file(path, on_bytes=counts.append)
    assert dataset not in names(client)
    assert len(counts) == 3
    assert import_file(client, path) == examined
    with pytest.raises(DatasetNotFoundError):
        client.dataset(f"{dataset}-")


def test_the_files_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.pt", "a.pt", "c.d.pt", "readme.txt", ".pt", "e.PT"):
        (tmp_path / name).touch()
    (tmp_path / "folder.pt").mkdir()
    assert [path.name for path in old_files(tmp_path)] == ["a.pt", "b.pt", "c.d.pt"]
    assert [path.name for path in old_files(tmp_path, ["c.d", "a", "c.d"])] == ["c.d.pt", "a.pt"]
    with pytest.raises(FileNotFoundError, match=r"has no dataset 'x': there is no x\.pt"):
        old_files(tmp_path, ["a", "x"])
    with pytest.raises(FileNotFoundError, match=r"has no datasets: there is no \.pt file"):
        old_files(tmp_path / "folder.pt")


def test_the_thin_client_imports_into_a_server(server: Server, old: Any, dataset: str, tmp_path: Path) -> None:
    written, save = old()
    written.insert(NUMBERS, "a", "gzip-6", "int8")
    written.insert(NUMBERS, "b")
    (tmp_path / "thin").mkdir()
    source = f"""
import tensorus
from tensorus.old_files.storing import import_file
with tensorus.connect({server.address!r}) as client:
    report = import_file(client, {str(save())!r})
print([outcome.status for outcome in report.outcomes])
"""
    done = run_process(thin_environment(tmp_path / "thin"), source=source)
    assert done.stdout.strip() == "['lossy', 'imported']", done.stderr
