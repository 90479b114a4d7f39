"""tensorus copy: between folders and servers, every value stays as it is."""

from __future__ import annotations

import copy as copying
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import DTYPE_NAMES, assert_same_bits, normal, random_bits
from support.client import Ran, run_command, run_process
from support.servers import running_server
from support.store_copies import assert_copied, copied, sums
from tensorus import Policy, Schema
from tensorus._moving.copying import CopyOptions, copy_datasets
from tensorus._moving.exact import STORED_BEFORE
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import InvalidPolicyError, NotImplementedByServerError
from tensorus_protos.limits import METADATA_BYTES_MAX

pytestmark = pytest.mark.usefixtures("few_shards")

PRESETS = (
    "none",
    "fast",
    "lossless",
    "archive",
    "balanced",
    "bf16",
    "maximum",
    "extreme",
    "auto",
    "fp16_only",
    "int8_only",
)

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, 1.0, -1.0] * 30, np.float32)


def fill(client: tensorus.Client) -> None:
    """Store tensors of every dtype, preset and kind of value, and edited and equal ones."""
    client.create_dataset("dtypes")
    for name in DTYPE_NAMES:
        client.insert("dtypes", random_bits(name, (257, 5)), id=f"{name}/bits", metadata={"kind": "bits", "n": 1.0})
        client.insert("dtypes", random_bits(name, (0, 3)), id=f"{name}/empty")
        client.insert("dtypes", random_bits(name, ()), id=f"{name}/scalar", metadata={"nested": {"deep": [1, None]}})
    client.create_dataset("presets", preset="balanced", schema=Schema(dtype="float32"), retention=timedelta(days=1))
    for preset in PRESETS:
        policy = Policy(preset=preset, chunk_bytes=64 * 1024)
        client.insert("presets", normal((300, 301)), id=f"{preset}/normal", policy=policy, metadata={"é": -0.0})
        client.insert("presets", SPECIAL, id=f"{preset}/special", policy=policy)
        client.insert("presets", normal((700, 701), scale=1e4), id=f"{preset}/large", policy=policy)
    client.create_dataset("edited", policy=Policy(preset="extreme", chunk_bytes=4096))
    client.insert("edited", normal((4096,)), id="appended")
    client.append("edited", "appended", np.full(1024, -0.0, np.float32))
    client.insert("edited", normal((600, 600)), id="written", policy=Policy(preset="lossless"))
    client.write("edited", "written", (3, slice(None)), 7.0)
    client.insert("edited", normal((600, 600)), id="twin", policy=Policy(preset="lossless"))
    client.insert("edited", normal((600, 600)), id="other-twin", policy=Policy(preset="lossless"))


@contextmanager
def place(kind: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield a store as an argument of the command, and what opens a client of it."""
    if kind == "folder":
        yield str(folder), lambda: tensorus.open(folder)
        return
    with running_server(folder) as server:
        yield server.address, lambda: tensorus.connect(server.address)


@pytest.mark.parametrize(("source", "destination"), [("folder", "server"), ("server", "folder"), ("server", "server")])
def test_every_value_arrives_with_all_its_bits_and_a_second_run_copies_nothing(
    source: str, destination: str, tmp_path: Path
) -> None:
    with place(source, tmp_path / "a") as (src, open_source), place(destination, tmp_path / "b") as (dst, open_copy):
        with open_source() as client:
            fill(client)
        first = sums(copied(src, dst))
        tensors = 3 * len(DTYPE_NAMES) + 3 * len(PRESETS) + 4
        assert set(first) <= {"copied", "shared"}
        assert sum(first.values()) == tensors
        second = copied(src, dst, "--verify")
        assert sums(second) == {"present": tensors}
        assert second["verified"]
        with open_source() as client, open_copy() as copy:
            assert_copied(client, copy, "dtypes", "presets", "edited")


def test_lossy_tensors_whose_codec_reproduces_its_values_do_not_grow(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
        for preset in ("balanced", "bf16", "extreme", "fp16_only"):
            client.insert("d", normal((600, 600)), id=preset, preset=preset)
    report = copied(tmp_path / "a", tmp_path / "b")
    assert report["datasets"][0]["stored_bytes"] == report["datasets"][0]["source_stored_bytes"]
    with tensorus.open(tmp_path / "a") as client, tensorus.open(tmp_path / "b") as copy:
        for info in client.list("d"):
            assert copy.info("d", info.id).metadata[STORED_BEFORE]["relative_error"] == info.relative_error > 0


@pytest.mark.parametrize("length", [64, 100_000], ids=["small", "large"])
def test_values_that_the_first_encoding_alters_are_stored_again_losslessly(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(preset="fp16_only", max_absolute_error=0.0)
    monkeypatch.setattr("tensorus._moving.sending.exact_policy", lambda *_: policy)
    # A NaN whose payload does not survive in half precision, although no error is measured.
    values = np.array([0x7FC00000, 0x7FC12345, 0x40E00000, 0] * length, np.uint32).view(np.float32)
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
        client.insert("d", values, id="t")
        altered = client.insert("d", values, policy=policy, validate_only=True)
        assert altered.value_checksum != altered.source_checksum
    assert sums(copied(tmp_path / "a", tmp_path / "b")) == {"copied": 1}
    with tensorus.open(tmp_path / "b") as copy:
        assert_same_bits(copy.get("d", "t", as_="numpy"), values)


def test_tensors_with_equal_values_are_sent_once(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
        for number in range(3):
            client.insert("d", normal((600, 600)), id=str(number))
    report = copied(tmp_path / "a", tmp_path / "b", "--threads", 1)
    assert sums(report) == {"copied": 1, "shared": 2}
    with tensorus.open(tmp_path / "b") as copy:
        stats = copy.stats("d")
        assert stats.unique_stored_bytes * 3 == stats.stored_bytes


def test_conflicts_are_reported_and_kept_unless_they_are_to_be_replaced(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d", preset="bf16")
        client.insert("d", normal((8, 8)), id="values")
        client.insert("d", normal((8, 8)), id="metadata", metadata={"a": 1})
        client.insert("d", normal((8, 8)), id="new")
        client.insert("d", normal((8, 8)), id="shape")
    with tensorus.open(tmp_path / "b") as copy:
        copy.create_dataset("d")
        copy.insert("d", np.ones((8, 8), np.float32), id="values")
        copy.insert("d", np.ones((8, 8)), id="shape")
        copy.insert("d", np.asarray(_values_of(tmp_path / "a", "metadata")), id="metadata", metadata={"a": 1.0})
    before = run_command("copy", tmp_path / "a", tmp_path / "b")
    assert before.exit_code == 1
    assert "d/values: another tensor has this id" in before.errors
    assert "d/metadata: the same values are stored with other metadata" in before.errors
    assert "dataset d has another policy in the destination" in before.errors
    assert "--replace replaces them" in before.errors
    with tensorus.open(tmp_path / "b") as copy:
        assert copy.get("d", "values", as_="numpy").sum() == 64
        assert copy.info("d", "metadata").metadata == {"a": 1.0}
    assert sums(copied(tmp_path / "a", tmp_path / "b", "--replace")) == {"replaced": 2, "updated": 1, "present": 1}
    with tensorus.open(tmp_path / "a") as client, tensorus.open(tmp_path / "b") as copy:
        assert_copied(client, copy, "d")


def _values_of(folder: Path, tensor_id: str) -> Any:
    with tensorus.open(folder) as client:
        return client.get("d", tensor_id, as_="numpy")


def test_a_part_and_an_earlier_state_can_be_copied_under_another_name(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
        client.create_dataset("e")
        for tensor_id in ('q"\\x', 'q"\\y', "other"):
            client.insert("d", normal((4,)), id=tensor_id)
        client.snapshot("d", "before")
        client.delete("d", 'q"\\x')
    ran = run_command(
        "copy", tmp_path / "a", tmp_path / "b", "--dataset", "d", "--as", "f", "--prefix", 'q"\\', "--at", "before"
    )
    assert ran.exit_code == 0, ran.errors
    assert "1 snapshot of d and its earlier states were not copied" in ran.errors
    with tensorus.open(tmp_path / "b") as copy:
        assert [info.name for info in copy.datasets()] == ["f"]
        assert [info.id for info in copy.list("f", order_by="id")] == ['q"\\x', 'q"\\y']


def test_a_dry_run_stores_nothing_and_creates_no_folder(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
        client.insert("d", normal((4,)), id="one")
        client.insert("d", normal((600, 600)), id="two")
    assert sums(copied(tmp_path / "a", tmp_path / "b", "--dry-run")) == {"copied": 2}
    assert not (tmp_path / "b").exists()
    assert sums(copied(tmp_path / "a", tmp_path / "b")) == {"copied": 2}


def test_metadata_of_the_largest_size_are_copied_without_what_a_copy_has_in_addition(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d", preset="bf16")
        metadata = {"text": "x" * (METADATA_BYTES_MAX - 100)}
        client.insert("d", normal((64, 64)), id="small", metadata=metadata)
        client.insert("d", normal((600, 600)), id="large", metadata=metadata)
    assert sums(copied(tmp_path / "a", tmp_path / "b")) == {"copied": 2}
    assert sums(copied(tmp_path / "a", tmp_path / "b")) == {"present": 2}
    with tensorus.open(tmp_path / "b") as copy:
        assert [info.metadata for info in copy.list("d")] == [metadata, metadata]


def test_the_command_line_shows_the_error_of_the_original(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d", preset="bf16")
        info = client.insert("d", normal((64, 64)), id="t")
    copied(tmp_path / "a", tmp_path / "b")
    for folder in ("a", "b"):
        assert f"{info.relative_error:.1e}" in run_command("ls", "d", "--store", tmp_path / folder).output
    assert "unknown" in run_command("ls", "--store", tmp_path / "b").output


class Older(EmbeddedBackend):
    """A store of a version that lacks some calls, fields and presets."""

    def list_tensors(self, listing: Any) -> Any:
        """Tell no sizes of chunks."""
        for info in super().list_tensors(listing):
            found = copying.copy(info)
            object.__setattr__(found, "chunk_bytes", 0)
            yield found

    def insert(self, dataset: str, uploads: Any, options: Any, on_progress: Any) -> Any:
        """Refuse the preset "extreme"."""
        refused = InvalidPolicyError("no such preset", reason="INVALID_POLICY")
        taken = [one for one in uploads if one.policy.preset != "extreme"]
        outcomes = [outcome for _, outcome in super().insert(dataset, taken, options, on_progress)]
        for position, upload in enumerate(uploads):
            yield position, refused if upload.policy.preset == "extreme" else outcomes.pop(0)

    def insert_known(self, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedByServerError("InsertKnown", reason="NOT_IMPLEMENTED")

    def list_snapshots(self, _: str) -> Any:
        """Refuse."""
        raise NotImplementedByServerError("ListSnapshots", reason="NOT_IMPLEMENTED")

    def verify(self, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedByServerError("Verify", reason="NOT_IMPLEMENTED")


def test_stores_of_older_versions_take_and_give_copies(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
        for preset in ("extreme", "balanced", "lossless"):
            client.insert("d", normal((64, 64)), id=f"{preset}/small", preset=preset)
            client.insert("d", normal((600, 600)), id=f"{preset}/large", preset=preset)
        old, back = Older(tmp_path / "old"), EmbeddedBackend(tmp_path / "back")
        with tensorus.Client(old) as older, tensorus.Client(back) as copy:
            first = copy_datasets(client._backend, old, CopyOptions(verify=True))
            assert first.is_complete, first
            assert not first.verified
            assert "was not verified" in first.datasets[0].notes[0]
            second = copy_datasets(old, back, CopyOptions())
            assert second.is_complete, second
            for one in (older, copy):
                assert one.stats("d").tensors == 6
                for record in client.query("d", as_="numpy"):
                    assert_same_bits(one.get("d", record.info.id, as_="numpy"), record.tensor)


def test_a_damaged_tensor_is_reported_and_the_others_are_copied(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d", preset="none")
        client.insert("d", random_bits("uint8", (400_000,)), id="damaged")
        client.insert("d", normal((4,)), id="intact")
    (payload,) = [path for path in (tmp_path / "a/chunks").glob("??/*") if path.is_file()]
    content = bytearray(payload.read_bytes())
    content[200_000] ^= 1
    payload.write_bytes(content)
    ran = run_command("copy", tmp_path / "a", tmp_path / "b")
    assert ran.exit_code == 1
    assert "d/damaged: " in ran.errors
    with tensorus.open(tmp_path / "b") as copy:
        assert [info.id for info in copy.list("d")] == ["intact"]


MEMORY_SOURCE = """
import resource, sys
import numpy as np
import tensorus
from tensorus._moving.copying import CopyOptions, copy_datasets
from tensorus.embedded import EmbeddedBackend

folder, address = sys.argv[1:]
source = EmbeddedBackend(folder)
with tensorus.Client(source) as client, tensorus.connect(address) as copy:
    for name, mib in (("small", 32), ("large", 512)):
        client.create_dataset(name, preset="fast")
        client.insert(name, np.zeros(mib << 18, np.float32), id="t")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = copy_datasets(source, copy._backend, CopyOptions([name]))
        assert report.is_complete and report.datasets[0].copied == 1, report
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_tensor_is_copied_in_bounded_memory(tmp_path: Path) -> None:
    with running_server(tmp_path / "b") as server:
        ran = run_process([sys.executable, "-c", MEMORY_SOURCE, str(tmp_path / "a"), server.address])
        assert ran.returncode == 0, ran.stderr
        # The source is of zeros, whose pages are not in memory until they are written; the copy adds only blocks.
        assert int(ran.stdout) < 64 * 1024, ran.stdout


def refused(*arguments: object) -> Ran:
    ran = run_command("copy", *arguments)
    assert ran.exit_code != 0
    assert not ran.output
    return ran


def test_bad_arguments_are_refused_in_words_that_say_what_to_do(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d")
    store, nothing, other = tmp_path / "a", tmp_path / "nothing", tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (3, "there is no folder", (nothing, tmp_path / "b")),
        (3, "there is no store in", (other, tmp_path / "b")),
        (3, "there is no store in", (store, other)),
        (2, "are the same store", (store, store)),
        (2, "are the same store", (store, f"{store}/../a")),
        (2, "are the same store", ("localhost:1", "localhost:1")),
        (2, "is a file", (store, other / "file")),
        (2, "s3:// is a part of a store; name both, as postgresql://", (store, "s3://bucket/prefix")),
        (2, "neither a folder nor HOST:PORT", (store, "ftp://host/folder")),
        (2, "--as needs exactly one --dataset", (store, tmp_path / "b", "--as", "x")),
        (2, "needs exactly one --dataset", (store, tmp_path / "b", "--at", "snapshot")),
        (3, "nowhere", (store, tmp_path / "b", "--dataset", "nowhere")),
        (4, "no server can be reached at '127.0.0.1:1'", ("127.0.0.1:1", tmp_path / "c")),
        (4, "no server can be reached at '127.0.0.1:1'", (store, "127.0.0.1:1")),
    ]
    for exit_code, message, arguments in cases:
        ran = refused(*arguments)
        assert message in ran.errors, (arguments, ran.errors)
        assert ran.exit_code == exit_code, (arguments, ran.errors)
    assert not nothing.exists()
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()
    assert [path.name for path in other.iterdir()] == ["file"]
