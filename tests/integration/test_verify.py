"""Verify and GetStoreStats, as clients see them: damage, progress, interruptions, and answers of a bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import random_bits
from support.client import answering, scripted_server, stoppable_server
from support.engine import commit, stored_tensor
from support.servers import engine_config, running_server
from support.verifying import flip, sql
from support.wire import call_error
from tensorus import _verifying
from tensorus._grpc.remote import _Driver
from tensorus._grpc.steps import AttemptFailedError
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import DatasetNotFoundError, InternalError, TensorNotFoundError, UnavailableError
from tensorus.types import Damage, VerifyProgress
from tensorus_codecs.checksum import crc32c
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.engine.engine import Engine
from tensorus_server.limits import ANSWER_BYTES_MAX
from tensorus_server.model import Locator
from tensorus_server.processes.server import Server
from tensorus_server.rpc import verify_call

pytestmark = pytest.mark.usefixtures("few_shards")

FILES = 6
FILE = random_bits("uint8", (200_000,))


def fill(client: tensorus.Client) -> None:
    """Make a dataset with tensors in files and in the catalogue."""
    client.create_dataset("d", preset="none")
    for number in range(FILES):
        client.insert("d", FILE + number, id=f"file {number}", policy=tensorus.Policy("none", chunk_bytes=65536))
    client.insert_many("d", [(f"row {number}", np.arange(10) + number) for number in range(10)])


def damage(folder: Path, engine: Engine) -> set[tuple[str, int | None]]:
    """Damage three chunks, a footer, a row and an inline payload; return id and chunk of each."""
    for number, chunk in ((1, 0), (1, 3), (4, 2)):
        flip(folder / "chunks" / engine.get_tensor("d", f"file {number}").locator.key, chunk * 65557 + 50)
    flip(folder / "chunks" / engine.get_tensor("d", "file 2").locator.key, -1)
    sql(engine, "UPDATE tensor SET relative_error = 0.5 WHERE id = 'row 3'")
    sql(engine, "UPDATE payload SET bytes = x'00' WHERE seq = (SELECT seq FROM tensor WHERE id = 'row 7')")
    return {("file 1", 0), ("file 1", 3), ("file 4", 2), ("file 2", None), ("row 3", None), ("row 7", None)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def damaged_server(folder: Path) -> Iterator[Server]:
    with running_server(folder) as server:
        with tensorus.connect(server.address) as client:
            fill(client)
        damage(folder, server._engine)
        yield server


@pytest.fixture(params=["remote", "embedded", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def verify(kind: str, folder: Path) -> Iterator[Any]:
    """Verify a store with damage through a client of each kind; takes the arguments of `Client.verify`."""
    if kind == "embedded":
        backend = EmbeddedBackend(folder, engine_config)
        with tensorus.Client(backend) as client:
            fill(client)
            damage(folder, backend._engine)
            yield client.verify
        return
    with running_server(folder) as server, tensorus.connect(server.address) as client:
        fill(client)
        damage(folder, server._engine)

        async def verify_async(*arguments: Any, **named: Any) -> Any:
            async with tensorus.aio.connect(server.address) as client:
                return await client.verify(*arguments, **named)

        yield client.verify if kind == "remote" else lambda *a, **named: asyncio.run(verify_async(*a, **named))


def places(damages: Any) -> set[tuple[str | None, int | None]]:
    return {(damage.id, damage.chunk) for damage in damages}


ALL = {("file 1", 0), ("file 1", 3), ("file 4", 2), ("file 2", None), ("row 3", None), ("row 7", None)}


def test_all_damage_is_reported_once_and_the_rest_is_counted(verify: Any) -> None:
    told: list[Damage] = []
    progress: list[VerifyProgress] = []
    report = verify(on_damage=told.append, on_progress=progress.append)
    assert places(report.damages) == ALL
    assert tuple(told) == report.damages
    assert (report.damage_count, report.damaged_tensors, report.tensors) == (6, 5, FILES + 10)
    assert (report.undecoded_tensors, report.orphans, report.is_intact) == (0, 0, False)
    last = progress[-1]
    assert (last.tensors, last.total_tensors, last.damages) == (FILES + 10, FILES + 10, 6)
    # Nothing of a damaged row is known.
    assert 0 < last.stored_bytes == report.stored_bytes < (last.total_stored_bytes or 0)


def test_a_damage_names_dataset_id_generation_chunk_and_file(verify: Any) -> None:
    found = {(damage.id, damage.chunk): damage for damage in verify("d").damages}
    chunk, row = found["file 1", 3], found["row 3", None]
    assert (chunk.dataset, chunk.reason, chunk.file[:7]) == ("d", "DATA_CORRUPT", "chunks/")
    assert "CRC32C of chunk 3 is" in chunk.message
    assert (row.dataset, row.reason, row.file) == ("d", "DATA_CORRUPT", "catalogue.db")
    assert len({damage.generation for damage in found.values()}) == 5
    assert None not in {damage.generation for damage in found.values()}


def test_a_part_of_the_store_is_verified_alone(verify: Any) -> None:
    report = verify("d", ["file 1", "file 3", "row 3"])
    assert places(report.damages) == {("file 1", 0), ("file 1", 3), ("row 3", None)}
    assert (report.tensors, report.orphans) == (3, None)
    assert verify("d", "file 3").is_intact
    assert verify("d", iter(["file 3", "file 3"])).tensors == 1


def test_what_is_not_there_is_an_error(verify: Any) -> None:
    with pytest.raises(DatasetNotFoundError):
        verify("nowhere")
    with pytest.raises(TensorNotFoundError, match="tensor=nothing"):
        verify("d", ["file 1", "nothing"])


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((None, ["t"]), {}, "ids are of a dataset"),
        (("d", []), {}, "ids is empty"),
        (("",), {}, "dataset is empty"),
        ((), {"max_bytes_per_second": 0}, "max_bytes_per_second is 0, must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(remote: tensorus.Client, arguments: Any, named: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remote.verify(*arguments, **named)


def test_what_a_callback_raises_ends_the_verification(verify: Any) -> None:
    def refuse(_: object) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        verify(on_damage=refuse)
    with pytest.raises(LookupError, match="enough"):
        verify(on_progress=refuse)


def test_a_verification_that_a_callback_ended_has_no_file_open(folder: Path) -> None:
    def refuse(_: object) -> None:
        raise LookupError("enough")

    backend = EmbeddedBackend(folder, engine_config)
    with tensorus.Client(backend) as client:
        fill(client)
        damage(folder, backend._engine)
        with pytest.raises(LookupError, match="enough") as caught:
            client.verify("d", on_damage=refuse)
        # The traceback, which `caught` has, keeps what the frames had.
        assert caught.tb is not None
        open_files = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.exists()]
        assert not [path for path in open_files if path.is_relative_to(folder / "chunks")]


def test_the_damaged_row_of_a_dataset_has_no_id(folder: Path) -> None:
    with running_server(folder) as server, tensorus.connect(server.address) as client:
        client.create_dataset("d", preset="none")
        client.insert("d", np.arange(3), id="d")
        sql(server._engine, "UPDATE dataset SET policy = '{}'")
        (found,) = client.verify().damages
    assert (found.dataset, found.id, found.generation, found.file) == ("d", None, None, "catalogue.db")


# ---- Interruptions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [1, 2, 3])
def test_a_client_whose_stream_breaks_reports_every_damage_once(
    damaged_server: Server, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    # Every check is a message, so that streams break between any two damages, and within tensors.
    monkeypatch.setattr(verify_call, "_SEND_EVERY_S", 0.0)
    read, opened = _Driver._read, _Driver._open
    tokens: list[str] = []
    left = answers

    def open_stream(self: Any, step: Any) -> Any:
        nonlocal left
        if step.name == "Verify":
            tokens.append(pb.VerifyRequest.FromString(step.requests).resume_token)
            # A tensor is verified anew in each stream, so a stream has to get beyond the largest one.
            left = answers + len(tokens) * 2
        return opened(self, step)

    def reading(self: Any) -> Any:
        nonlocal left
        if left == 0:
            raise AttemptFailedError(UnavailableError("it broke", reason="UNAVAILABLE"), OSError())
        left -= 1
        return read(self)

    progress: list[VerifyProgress] = []
    told: list[Damage] = []
    with tensorus.connect(damaged_server.address) as client:
        whole = client.verify()
        monkeypatch.setattr(_Driver, "_open", open_stream)
        monkeypatch.setattr(_Driver, "_read", reading)
        report = client.verify(on_progress=progress.append, on_damage=told.append)
    assert len(tokens) > 3
    assert len(set(tokens)) == len(tokens)
    assert report == whole
    assert tuple(told) == report.damages
    assert progress[-1].interruptions == len(tokens) - 1


def test_a_verification_goes_on_after_a_restart_of_the_server(folder: Path) -> None:
    with ExitStack() as servers, ExitStack() as second:
        address, _ = servers.enter_context(stoppable_server(folder))
        port = int(address.rpartition(":")[2])
        with tensorus.connect(address) as client:
            fill(client)
            flip(next(iter(sorted((folder / "chunks").glob("??/*")))), 50)
            told: list[Damage] = []
            progress: list[VerifyProgress] = []

            def restart(found: VerifyProgress) -> None:
                if not progress:
                    servers.close()
                    second.enter_context(stoppable_server(folder, port=port))
                progress.append(found)

            report = client.verify(max_bytes_per_second=600_000, on_progress=restart, on_damage=told.append)
    assert progress[-1].interruptions >= 1
    assert (report.tensors, report.damage_count, len(told)) == (FILES + 10, 1, 1)


def test_a_stream_that_ends_without_a_summary_is_an_error() -> None:
    with (
        scripted_server(Verify=answering(pb.VerifyResponse(verified_tensors=1))) as address,
        tensorus.connect(address) as client,
        pytest.raises(InternalError, match="ended Verify without a summary"),
    ):
        client.verify()


# ---- On the wire ---------------------------------------------------------------------------------------------------------


REFUSED = {
    "ids without a dataset": (pb.VerifyRequest(ids=["t"]), "INVALID_REQUEST", "ids but no dataset"),
    "no bytes": (pb.VerifyRequest(max_bytes_per_second=0), "INVALID_REQUEST", "must be at least 1 byte"),
    "too many ids": (pb.VerifyRequest(dataset="d", ids=["t"] * 10_001), "LIMIT_EXCEEDED", "limit is 10000"),
    "a token": (pb.VerifyRequest(resume_token="x"), "INVALID_PAGE_TOKEN", "resume_token"),
    "a dataset": (pb.VerifyRequest(dataset="nowhere"), "DATASET_NOT_FOUND", "no such dataset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_refused_with_its_reason(stub: TensorServiceStub, case: str) -> None:
    request, reason, message = REFUSED[case]
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Verify(request, timeout=30))
    error = call_error(caught.value)
    assert error.reason == reason
    assert message in error.message


def test_every_message_has_a_token_that_leads_to_what_comes_after_it(
    damaged_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_call, "_SEND_EVERY_S", 0.0)
    with grpc.insecure_channel(damaged_server.address) as channel:
        stub = TensorServiceStub(channel)
        messages = list(stub.Verify(pb.VerifyRequest(), timeout=60))
        assert [message.HasField("summary") for message in messages] == [False] * (len(messages) - 1) + [True]
        everything = [(damage.id, damage.chunk) for message in messages for damage in message.damages]
        assert len(everything) == 6
        for number in range(0, len(messages), 5):
            request = pb.VerifyRequest(resume_token=messages[number].resume_token)
            rest = list(stub.Verify(request, timeout=60))
            before = [(damage.id, damage.chunk) for message in messages[: number + 1] for damage in message.damages]
            after = [(damage.id, damage.chunk) for message in rest for damage in message.damages]
            assert before + after == everything
            assert rest[-1].summary == messages[-1].summary


def test_a_hundred_thousand_damages_come_in_messages_of_a_bounded_size(folder: Path) -> None:
    count = 100_000
    with running_server(folder) as server, tensorus.connect(server.address) as client:
        client.create_dataset("d")
        # Of each record, a byte and a wrong checksum.
        index = ChunkIndex.of([(1, 0)] * count).packed()
        key = f"00/{new_payload_key()}"
        (folder / "chunks" / key).write_bytes(bytes(count) + index)
        stored = stored_tensor(server._engine.get_dataset("d"), "t" * 512, shape=(count * 4096,), key=key)
        locator = Locator(key, 0, 9 * count, 8 * count, crc32c(index))
        commit(server._engine._catalogue, replace(stored, chunk_bytes=4096, locator=locator))
        with grpc.insecure_channel(server.address) as channel:
            messages = TensorServiceStub(channel).Verify(pb.VerifyRequest(), timeout=110)
            sizes = [(message.ByteSize(), len(message.damages)) for message in messages]
    assert max(size for size, _ in sizes) <= ANSWER_BYTES_MAX + 4096
    assert sum(damages for _, damages in sizes) == count


def test_a_report_has_the_first_damages_and_the_number_of_all(verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_verifying, "DAMAGES_MAX", 2)
    told: list[Damage] = []
    report = verify(on_damage=told.append)
    assert (len(report.damages), report.damage_count, len(told)) == (2, 6, 6)
    assert report.damages == tuple(told[:2])


# ---- GetStoreStats -------------------------------------------------------------------------------------------------------


def test_store_stats_are_those_of_the_store(client: tensorus.Client, dataset: str) -> None:
    before = client.store_stats()
    client.create_dataset(dataset, preset="none")
    infos = client.insert_many(dataset, [("file", FILE), ("row", np.arange(10))])
    client.insert(dataset, FILE + 1, id="file", on_conflict="replace")
    stats = client.store_stats()
    assert (stats.datasets - before.datasets, stats.tensors - before.tensors) == (1, 2)
    assert stats.stored_bytes - before.stored_bytes == sum(info.stored_bytes for info in infos)
    assert stats.canonical_bytes - before.canonical_bytes == sum(info.canonical_bytes for info in infos)
    assert stats.garbage_payloads - before.garbage_payloads == 1
    assert stats.garbage_bytes - before.garbage_bytes > FILE.nbytes
    assert stats.garbage_until is not None
    assert stats.garbage_until.tzinfo is not None
    assert (stats.uploads, stats.quarantined_payloads, stats.quarantined_until) == (0, 0, None)
    assert 0 < (stats.disk_free_bytes or 0) < (stats.disk_total_bytes or 0)
