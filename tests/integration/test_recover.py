"""`tensorus recover` makes rows again from payloads: without a catalogue, beside an older one, and beside a damaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.client import run_command
from support.deltas import FIRST, next_step
from support.engine import set_aside_now, wait_for_purge
from support.servers import engine_config
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import UnavailableError
from tensorus.types import TensorInfo
from tensorus_server.app import open_engine
from tensorus_server.app.local import recover_folder
from tensorus_server.engine.recover import Recovery
from tensorus_server.errors import StoreUnavailableError

pytestmark = pytest.mark.usefixtures("few_shards")


def large(number: int) -> np.ndarray[Any, Any]:
    """Above what is kept in the catalogue, whatever the preset."""
    return np.random.default_rng(number).standard_normal((100_000,)).astype(np.float32)


def opened(folder: Path) -> tensorus.Client:
    return tensorus.Client(EmbeddedBackend(folder, engine_config))


@pytest.fixture
def infos(tmp_path: Path) -> dict[str, TensorInfo]:
    """What was stored in a store that is closed: three large tensors of two datasets, and a small one."""
    with opened(tmp_path / "store") as client:
        client.create_dataset("a", preset="maximum")
        client.create_dataset("b/c")
        return {
            "one": client.insert("a", large(1), id="one", metadata={"layer": 1, "kind": "attention"}),
            "two": client.insert("a", large(2), id="two"),
            "three": client.insert("b/c", large(3), id="three", preset="balanced"),
            "small": client.insert("a", np.arange(4), id="small"),
        }


def fields_of(info: TensorInfo) -> dict[str, Any]:
    """Everything but what a new row has anew; `created` is the moment of the sealing."""
    names = (
        "dataset",
        "id",
        "dtype",
        "shape",
        "metadata",
        "canonical_bytes",
        "quantized_bytes",
        "stored_bytes",
        "lossy",
    )
    more = (
        "relative_error",
        "max_absolute_error",
        "encodings",
        "fallback_reason",
        "values",
        "source_checksum",
        "value_checksum",
    )
    return {name: getattr(info, name) for name in (*names, *more)}


def outcomes(recovery: Recovery) -> dict[str, str]:
    return {finding.id: finding.outcome for finding in recovery.findings}


def require_recovered(folder: Path, infos: dict[str, TensorInfo], *names: str) -> None:
    with opened(folder) as client:
        for name in names:
            before = infos[name]
            after = client.info(before.dataset, name)
            assert fields_of(after) == fields_of(before)
            assert abs((after.created - before.created).total_seconds()) < 60
            reference = {"one": 1, "two": 2, "three": 3}[name]
            array = client.get(before.dataset, name, as_="numpy")
            assert np.abs(array - large(reference)).max() <= before.max_absolute_error
        # Filters see what they saw.
        if "one" in names:
            assert [info.id for info in client.list("a", 'kind = "attention"')] == ["one"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "chunks").glob("*/*")}


def test_without_a_catalogue_all_but_small_tensors_come_back(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    folder = tmp_path / "store"
    for path in folder.glob("catalogue.db*"):
        path.unlink()
    before = files_of(folder)
    recovery = recover_folder(folder)
    assert outcomes(recovery) == {"one": "recovered", "two": "recovered", "three": "recovered"}
    assert sorted(recovery.datasets) == ["a", "b/c"]
    assert recovery.is_complete
    assert files_of(folder) == before
    require_recovered(folder, infos, "one", "two", "three")
    again = recover_folder(folder)
    assert (again.findings, again.known) == ([], 3)


def test_beside_an_older_catalogue_what_it_lacks_comes_back(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    folder = tmp_path / "store"
    older = tmp_path / "older.db"
    shutil.copy(folder / "catalogue.db", older)
    with opened(folder) as client:
        client.insert("b/c", large(4), id="four")
        client.create_dataset("new")
        client.insert("new", large(5), id="five")
        client.update_metadata("a", "two", {"later": True})
    shutil.copy(older, folder / "catalogue.db")
    recovery = recover_folder(folder)
    assert outcomes(recovery) == {"four": "recovered", "five": "recovered"}
    assert (recovery.known, recovery.datasets) == (3, ["new"])
    require_recovered(folder, infos, "one", "two", "three")
    with opened(folder) as client:
        assert np.array_equal(client.get("b/c", "four", as_="numpy"), large(4))
        assert np.array_equal(client.get("new", "five", as_="numpy"), large(5))
        assert client.get("a", "small", as_="numpy").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "change", [lambda data: b"no database" * 1000, lambda data: data.replace(b"metadata TEXT", b"metadatb TEXT")]
)
def test_a_catalogue_that_cannot_be_opened_is_kept_under_another_name(
    tmp_path: Path, infos: dict[str, TensorInfo], change: Any
) -> None:
    folder = tmp_path / "store"
    damaged = change((folder / "catalogue.db").read_bytes())
    (folder / "catalogue.db").write_bytes(damaged)
    with pytest.raises(UnavailableError, match="catalogue"):
        opened(folder)
    recovery = recover_folder(folder)
    assert (folder / recovery.moved).read_bytes() == damaged
    assert outcomes(recovery) == {"one": "recovered", "two": "recovered", "three": "recovered"}
    require_recovered(folder, infos, "one", "two", "three")


def test_damaged_rows_come_back_where_there_is_a_payload(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    folder = tmp_path / "store"
    connection = apsw.Connection(str(folder / "catalogue.db"))
    connection.execute("UPDATE tensor SET metadata = 'no json' WHERE id IN ('one', 'small')")
    connection.execute("UPDATE dataset SET policy = 'no json' WHERE name = 'a'")
    connection.close()
    recovery = recover_folder(folder)
    assert outcomes(recovery) == {"one": "recovered"}
    assert recovery.damaged == ["a/small"]
    assert recovery.datasets == ["a"]
    assert not recovery.is_complete
    require_recovered(folder, infos, "one", "two", "three")


def test_of_two_payloads_of_an_id_the_newest_counts(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    folder = tmp_path / "store"
    with opened(folder) as client:
        client.insert("a", large(7), id="one", preset="none", if_generation_match=infos["one"].generation)
    for path in folder.glob("catalogue.db*"):
        path.unlink()
    recovery = recover_folder(folder)
    assert sorted(finding.outcome for finding in recovery.findings if finding.id == "one") == ["older", "recovered"]
    with opened(folder) as client:
        assert np.array_equal(client.get("a", "one", as_="numpy"), large(7))


def test_what_was_deleted_stays_deleted_while_the_catalogue_knows(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    folder = tmp_path / "store"
    with opened(folder) as client:
        client.delete("a", "two")
    recovery = recover_folder(folder)
    assert (recovery.findings, recovery.known) == ([], 3)


def test_payloads_in_quarantine_come_back_to_their_place(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    folder = tmp_path / "store"
    for path in folder.glob("catalogue.db*"):
        path.unlink()
    (folder / "quarantine").mkdir(exist_ok=True)
    for number, path in enumerate(path for path in (folder / "chunks").glob("*/*")):
        path.rename(folder / "quarantine" / f"{number}-{path.name}")
    recovery = recover_folder(folder)
    assert outcomes(recovery) == {"one": "recovered", "two": "recovered", "three": "recovered"}
    assert list((folder / "quarantine").iterdir()) == []
    require_recovered(folder, infos, "one", "two", "three")


@pytest.mark.parametrize("place", ["footer", "index"])
def test_what_is_damaged_is_named_and_the_others_come_back(
    tmp_path: Path, infos: dict[str, TensorInfo], place: str
) -> None:
    folder = tmp_path / "store"
    for path in folder.glob("catalogue.db*"):
        path.unlink()
    (path,) = [path for path in (folder / "chunks").glob("*/*") if b'"id":"two"' in path.read_bytes()]
    data = bytearray(path.read_bytes())
    footer = data.rindex(b'{"dataset"')
    data[footer + 5 if place == "footer" else footer - 1] ^= 1
    path.write_bytes(data)
    found = run_command("recover", folder, "--json")
    assert found.exit_code == 1, found.errors
    report = json.loads(found.output)
    (failed,) = [finding for finding in report["findings"] if finding["outcome"] == "failed"]
    assert failed["file"] == path.relative_to(folder).as_posix()
    assert "CRC32C" in failed["reason"]
    assert path.read_bytes() == data
    text = run_command("recover", folder)
    assert text.exit_code == 1
    assert "0 tensors recovered, 2 payloads already known" in text.output
    require_recovered(folder, infos, "one", "three")


def test_a_store_that_is_open_is_left_alone(tmp_path: Path, infos: dict[str, TensorInfo]) -> None:
    with opened(tmp_path / "store"), pytest.raises(StoreUnavailableError, match="a process has the store"):
        recover_folder(tmp_path / "store")


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    found = run_command("recover", tmp_path)
    assert found.exit_code == 4
    assert "there is no store in" in found.errors
    assert list(tmp_path.iterdir()) == []


class TestEditedTensors:
    """A tensor that was edited has several payloads; the newest one says which."""

    @pytest.fixture
    def edited(self, tmp_path: Path) -> Path:
        """Return a store with a tensor of two payloads, whose catalogue is lost."""
        folder = tmp_path / "store"
        with opened(folder) as client:
            client.create_dataset("a", policy=tensorus.Policy("none", chunk_bytes=65_536))
            client.insert("a", large(1), id="t", metadata={"layer": 1})
            client.append("a", "t", large(2))
        for path in folder.glob("catalogue.db*"):
            path.unlink()
        return folder

    @staticmethod
    def payloads(folder: Path) -> list[Path]:
        """Return both payloads, that of the insert first."""
        return sorted(folder.glob("chunks/*/*"), key=lambda path: path.stat().st_mtime_ns)

    def test_the_newest_generation_is_recovered_with_all_its_payloads(self, edited: Path) -> None:
        assert {finding.outcome for finding in recover_folder(edited).findings} == {"recovered", "older"}
        with opened(edited) as client:
            np.testing.assert_array_equal(client.get("a", "t", as_="numpy"), np.concatenate([large(1), large(2)]))
            client.append("a", "t", large(3))
            assert client.verify().damage_count == 0
            client.delete("a", "t")

    def test_payloads_in_quarantine_come_back(self, edited: Path) -> None:
        first, second = self.payloads(edited)
        for path in (first, second):
            path.rename(edited / "quarantine" / f"1.{path.parent.name}.{path.name}")
        assert "recovered" in {finding.outcome for finding in recover_folder(edited).findings}
        assert first.exists()
        assert second.exists()
        with opened(edited) as client:
            np.testing.assert_array_equal(client.get("a", "t", as_="numpy"), np.concatenate([large(1), large(2)]))

    def test_a_tensor_whose_other_payload_is_missing_is_reported(self, edited: Path) -> None:
        first, _ = self.payloads(edited)
        first.unlink()
        (finding,) = recover_folder(edited).findings
        assert finding.outcome == "failed"
        assert f"the payload {first.parent.name}/{first.name}, which has other chunks of the tensor" in finding.reason


class TestBases:
    """The payload of a tensor names those with its bases, and these name theirs."""

    @pytest.fixture
    def chain(self, tmp_path: Path) -> Path:
        """Return a store whose catalogue is lost. The newest tensor needs four payloads, and one other tensor is left."""
        folder = tmp_path / "store"
        policy = tensorus.Policy("lossless", chunk_bytes=4096)
        with opened(folder) as client:
            client.create_dataset("a", policy=policy)
            client.create_dataset("b", policy=policy)
            for number in range(3):
                base = ("a", str(number - 1)) if number else None
                client.insert("a", step_of(number), id=str(number), base=base)
            client.insert("b", step_of(3), id="newest", base=("a", "2"))
            client.write("b", "newest", np.s_[:7000], np.zeros(7000, np.uint16))
            client.write("b", "newest", np.s_[70_000:], random_bits("uint16", (32_400,), seed=9))
            client.delete("a", ["0", "1"])
        for path in folder.glob("catalogue.db*"):
            path.unlink()
        return folder

    def test_a_tensor_is_recovered_with_its_bases(self, chain: Path) -> None:
        found = outcomes(recover_folder(chain))
        # As after any loss of the catalogue, deleted tensors are back.
        assert found == {"0": "recovered", "1": "recovered", "2": "recovered", "newest": "recovered"}
        with opened(chain) as client:
            expected = step_of(3)
            expected[:7000], expected[70_000:] = 0, random_bits("uint16", (32_400,), seed=9)
            client.delete_dataset("a")
            assert client.verify().is_intact
        engine = open_engine(engine_config(chain, delete_grace_s=0.0))
        try:
            wait_for_purge(engine)
            engine.sweep(in_grace=True)
            set_aside_now(engine)
        finally:
            engine.close()
        with opened(chain) as client:
            np.testing.assert_array_equal(client.get("b", "newest", as_="numpy"), expected)
            assert client.verify().is_intact

    def test_bases_in_quarantine_come_back(self, chain: Path) -> None:
        paths = sorted(chain.glob("chunks/??/*"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths[:2]:
            path.rename(chain / "quarantine" / f"1.{path.parent.name}.{path.name}")
        assert outcomes(recover_folder(chain))["newest"] == "recovered"
        with opened(chain) as client:
            assert client.verify().is_intact

    def test_a_tensor_whose_base_is_missing_is_reported(self, chain: Path) -> None:
        first = min(chain.glob("chunks/??/*"), key=lambda path: path.stat().st_mtime_ns)
        first.unlink()
        found = {finding.id: finding for finding in recover_folder(chain).findings if finding.outcome == "failed"}
        assert found.keys() == {"1", "2", "newest"}
        assert f"the payload {first.parent.name}/{first.name}, which has other chunks of the tensor, or bases" in (
            found["newest"].reason
        )


def step_of(number: int) -> np.ndarray[Any, Any]:
    """Return the values of a training after some steps."""
    values = FIRST
    for step in range(number):
        values = next_step(values, step)
    return values.reshape(-1).copy()
