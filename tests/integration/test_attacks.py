"""What strangers and callers with few rights try at a server: hostile texts, odd headers, names of others, and a lax umask."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.client import run_command
from support.hostile import HOSTILE_BASES, hostile_texts
from support.http2 import Http2Client
from support.servers import ServerProcess, running_server
from support.wire import announced, insert, insert_message, open_insert
from tensorus import errors
from tensorus_protos.v1 import access_pb2, access_pb2_grpc
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.access.rights import Grant, Role, Scope
from tensorus_server.processes.server import Server

STATUS = "/tensorus.v1.TensorService/GetServerStatus"
STORE_FILES = re.compile(
    r"catalogue\.db(-wal|-shm)?|[a-z-]+\.lock|spare|quarantine|chunks/store|(tmp|uploads|chunks)(/[0-9a-f]{2,4})?(/[0-9a-f-]+)?"
)
"""What may be in the folder of a store."""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "store", authenticates=True) as server:
        yield server


def token_of(server: Server, name: str, *grants: Scope) -> str:
    access = server._engine.access
    for scope in grants:
        access.add_grant(Grant(f"token:{name}", scope))
    return access.create_token(name)[1]


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_no_text_of_a_client_reaches_a_path(tmp_path: Path, fresh_server: Server) -> None:
    """On the wire, where no client of ours checks anything before."""
    texts = [text for text in hostile_texts() if text.isprintable() or text.isascii()]
    outside = names_in(tmp_path) - {name for name in names_in(tmp_path) if name.startswith("store")}
    with grpc.insecure_channel(fresh_server.address) as channel:
        stub, codes = TensorServiceStub(channel), set()
        stub.CreateDataset(pb.CreateDatasetRequest(name="d", policy=pb.StoragePolicy(preset="none")))
        for text in texts:
            codes.add(code_of(stub.CreateDataset, pb.CreateDatasetRequest(name=text)))
            codes.add(code_of(stub.CreateSnapshot, pb.CreateSnapshotRequest(dataset="d", name=text)))
            codes.add(code_of(stub.GetInsertStatus, pb.GetInsertStatusRequest(request_id=text)))
        messages = [
            # Large enough for a payload of its own.
            insert_message(
                bytes(70_000), item=number, tensor=announced(text, [70_000], metadata={text: pb.Value(text=text)})
            )
            for number, text in enumerate(texts[::10])
        ]
        insert(stub, [open_insert("d", request_id="../../r"), *messages])
        assert codes == {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
        assert len(stub.ListDatasets(pb.ListDatasetsRequest(page_size=1000)).datasets) > 200
    found = names_in(tmp_path)
    assert {name for name in found if not name.startswith("store")} == outside
    inside = {name.removeprefix("store/") for name in found if name.startswith("store/")}
    assert not [name for name in inside if not STORE_FILES.fullmatch(name)]


def test_no_filter_is_more_than_a_filter(server: Server, dataset: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name=dataset))
        insert(stub, [open_insert(dataset), insert_message(b"\1\2\3\4", tensor=announced("t"))])
        found = set()
        for base in HOSTILE_BASES:
            for text in (base, f"key = {base}", f"key = '{base}", f"{base} = 1", f"@id = '{base}'"):
                if text.isprintable() or text.isascii():
                    query = pb.QueryRequest(dataset=dataset, filter_text=text, order_by="id")
                    found.add(code_of(lambda request, **_: list(stub.Query(request)), query))
            order = pb.QueryRequest(dataset=dataset, order_by=base.encode(errors="replace").decode())
            found.add(code_of(lambda request, **_: list(stub.Query(request)), order))
        assert found == {"OK", "INVALID_ARGUMENT"}
        assert [tensor.id for tensor in stub.ListTensors(pb.ListTensorsRequest(dataset=dataset)).tensors] == ["t"]


def code_of(method: Any, request: Any) -> str:
    try:
        method(request, timeout=20)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


class TestHeaders:
    """What is sent as proof, below all libraries for clients."""

    @pytest.fixture
    def secret(self, guarded: Server) -> str:
        return token_of(guarded, "one")

    @staticmethod
    def answer(server: Server, *headers: tuple[bytes, bytes]) -> bytes:
        with Http2Client(server.address) as client:
            return client.answer(client.begin(STATUS, *headers, message=b""))

    def test_one_token_is_enough_and_what_else_is_claimed_counts_for_nothing(
        self, guarded: Server, secret: str
    ) -> None:
        claims = [
            (name, b"token:admin")
            for name in (b"principal", b"x-principal", b"x-forwarded-user", b"x-remote-user", b"x-request-id", b"from")
        ]
        answer = self.answer(guarded, (b"authorization", b"Bearer " + secret.encode()), *claims)
        assert b"token:one" in answer
        assert b"token:admin" not in answer

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"authorization", b"")],
            [(b"authorization", b"Bearer")],
            [(b"authorization", b"Bearer ")],
            [(b"authorization", b"Basic SECRET")],
            [(b"authorization", b"SECRET")],
            [(b"authorization", b"Bearer SECRETx")],
            [(b"authorization", b"Bearer SECRET\0")],
            [(b"authorization", b"Bearer SECRET\xff")],
            [(b"authorization", b"Bearer x SECRET")],
            [(b"authorization", b"Bearer SECRET"), (b"authorization", b"Bearer SECRET")],
            [(b"authorization", b"Bearer SECRET"), (b"authorization", b"Bearer other")],
            [(b"authorization", b"Bearer other"), (b"authorization", b"Bearer SECRET")],
            [(b"authorization-bin", b"Bearer SECRET")],
            [(b"Authorization", b"Bearer SECRET")],
            [(b"proxy-authorization", b"Bearer SECRET")],
            [(b"authorization", b"Bearer " + b"x" * 8000)],
        ],
        ids=repr,
    )
    def test_nothing_else_proves_who_calls(
        self, guarded: Server, secret: str, headers: list[tuple[bytes, bytes]]
    ) -> None:
        answer = self.answer(guarded, *((name, value.replace(b"SECRET", secret.encode())) for name, value in headers))
        assert b"token:one" not in answer
        assert secret.encode() not in answer
        # UNAUTHENTICATED, or INTERNAL from gRPC itself.
        assert re.search(rb"grpc-status\x02(16|13)", answer)

    def test_headers_of_a_mebibyte_end_at_most_their_connection(self, guarded: Server, secret: str) -> None:
        with tensorus.connect(guarded.address, token=secret, retry_timeout_s=0) as client:
            for header in ("authorization", "x-request-id"):
                with (
                    grpc.insecure_channel(guarded.address) as channel,
                    pytest.raises(grpc.RpcError) as caught,
                ):
                    channel.unary_unary(STATUS)(b"", metadata=((header, "x" * (1 << 20)),), timeout=20)
                assert caught.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
            assert client.server_status().principal == "token:one"

    def test_metadata_that_are_no_text_are_not_logged(
        self, guarded: Server, secret: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Otherwise a token with one wrong byte would be in the log."""
        assert b"unknown" in self.answer(guarded, (b"authorization", b"Bearer " + secret.encode() + b"\xff"))
        assert b"token:one" in self.answer(
            guarded, (b"authorization", b"Bearer " + secret.encode()), (b"x-request-id", b"\xff\xfe")
        )
        assert secret not in caplog.text
        assert "Invalid encoding" not in caplog.text

    def test_an_unknown_id_and_a_wrong_secret_are_the_same_to_the_caller(self, guarded: Server, secret: str) -> None:
        wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
        unknown = f"tns_{'0' * 16}_{secret.rpartition('_')[2][-43:]}"
        found = set()
        for shown in (wrong, unknown, "tns_short", "neither"):
            with (
                tensorus.connect(guarded.address, token=shown, retry_timeout_s=0) as client,
                pytest.raises(errors.UnauthenticatedError) as caught,
            ):
                client.server_status()
            facts = {name: fact for name, fact in caught.value.facts.items() if name != "request_id"}
            found.add((str(caught.value), caught.value.reason, str(facts)))
        assert len(found) == 1


class TestNames:
    """Principals that look like others."""

    @pytest.mark.parametrize(
        "name",
        [
            "",
            " ",
            "a ",
            " a",
            "a\nb",
            "a\0",
            "a\x1bb",
            "a\x9bb",
            "a\u200bb",
            "a\u202eb",
            "a\u2028b",
            "\ud800",
            "x" * 251,
        ],
        ids=repr,
    )
    def test_a_name_that_nobody_could_tell_is_refused(self, guarded: Server, name: str) -> None:
        with pytest.raises(Exception, match="principal is"):
            guarded._engine.access.create_token(name)

    @pytest.mark.parametrize("name", ["cert:one", "one b", "oidc:one", "local:", "group:ml", "token:one"])
    def test_a_token_stands_for_no_principal_of_another_kind(self, guarded: Server, name: str) -> None:
        access = guarded._engine.access
        for other in {name, "cert:one", "token:one", "group:ml"}:
            if re.match("token:|cert:|oidc:|group:.", other):
                access.add_grant(Grant(other, Scope(Role.ADMIN, "*")))
        token, secret = access.create_token(name)
        assert token.principal == f"token:{name}"
        with tensorus.connect(guarded.address, token=secret, retry_timeout_s=0) as client:
            assert client.server_status().principal == f"token:{name}"
            assert client.server_status().rights == ()
            with pytest.raises(errors.PermissionDeniedError):
                client.create_dataset("d")

    def test_names_of_datasets_that_look_like_patterns_are_names(self, guarded: Server) -> None:
        with tensorus.connect(guarded.address, token=token_of(guarded, "admin", Scope(Role.ADMIN, "*"))) as admin:
            for name in ("team/*", "team/a", "*", "te"):
                admin.create_dataset(name)
        secret = token_of(guarded, "one", Scope(Role.ADMIN, "te"))
        with tensorus.connect(guarded.address, token=secret, retry_timeout_s=0) as client:
            assert [found.name for found in client.datasets()] == ["te"]
            for name in ("*", "te*"):
                # Whoever owned such a dataset would not own the pattern.
                with pytest.raises(errors.PermissionDeniedError):
                    client.create_dataset(name)
                with pytest.raises(errors.PermissionDeniedError):
                    client.access.grant("token:one", "reader", name)

    def test_a_caller_cannot_give_itself_rights(self, guarded: Server) -> None:
        secret = token_of(guarded, "one", Scope(Role.WRITER, "*"), Scope(Role.ADMIN, "team/*"))
        metadata = (("authorization", f"Bearer {secret}"),)
        grants = [
            access_pb2.Grant(principal="token:one", role=role, pattern=pattern)
            for role, pattern in [
                (3, "*"),
                (1, "*"),
                (3, "other"),
                (0, "team/*"),
                (99, "team/*"),
                (3, ""),
                (3, "team*"),
            ]
        ]
        with grpc.insecure_channel(guarded.address) as channel:
            stub = access_pb2_grpc.AccessServiceStub(channel)
            for grant in grants:
                with pytest.raises(grpc.RpcError) as caught:
                    stub.AddGrant(access_pb2.AddGrantRequest(grant=grant), metadata=metadata, timeout=20)
                assert caught.value.code().name in {"PERMISSION_DENIED", "INVALID_ARGUMENT"}, grant
            for method, request in (
                (stub.CreateToken, access_pb2.CreateTokenRequest(name="one")),
                (stub.SetQuota, access_pb2.SetQuotaRequest(quota=access_pb2.Quota(principal="token:one"))),
                (stub.SetOwner, access_pb2.SetOwnerRequest(dataset="d", principal="token:one")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    method(request, metadata=metadata, timeout=20)
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_texts_of_others_do_not_move_the_terminal(fresh_server: Server) -> None:
    evil = "d\x9b2J\u202e"
    with tensorus.connect(fresh_server.address) as client:
        client.create_dataset(evil)
        client.insert(evil, np.arange(3), id="t\x9b31m\u2028x", metadata={"a\x1b[2J": "b\x1b[31m\nforged  row"})
    place = ["--server", fresh_server.address]
    for command in (["ls", *place], ["ls", evil, *place], ["info", evil, *place], ["stats", evil, *place]):
        ran = run_command(*command)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", ran.output + ran.errors), (
            ran.output
        )
    assert "\\x9b2J" in run_command("ls", *place).output


# ---- Files and folders -----------------------------------------------------------------------------------------------


def require_private(folder: Path, *, but: tuple[str, ...] = ()) -> None:
    found = [folder, *folder.rglob("*")]
    assert len(found) > 1
    for path in found:
        if path.name not in but:
            assert stat.S_IMODE(path.lstat().st_mode) in {0o600, 0o700}, path


def test_all_that_is_written_is_its_owner_s_alone_even_without_a_umask(tmp_path: Path) -> None:
    """Stores, backups, restored stores, audit logs and keys."""
    program = ("-c", "import os; os.umask(0); from tensorus.cli import main; main()")
    store, backup, restored = tmp_path / "store", tmp_path / "backup", tmp_path / "restored"

    def run(*arguments: str) -> None:
        ran = subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr

    server = ServerProcess(store, program=program, options=["--audit-log", str(tmp_path / "audit.log")], workers=2)
    try:
        with tensorus.connect(server.address) as client:
            client.create_dataset("d")
            client.insert("d", np.random.default_rng(0).random(400_000), id="t")
            client.insert_many("d", [(f"t{number}", np.arange(20_000) + number) for number in range(50)])
            client.delete("d", ["t0"])
        run("backup", "create", str(store), str(backup))
        require_private(store)
    finally:
        server.terminate()
    run("backup", "verify", str(backup))
    run("backup", "restore", str(backup), str(restored))
    run("tls", "self-signed", "--host", "localhost", "--out", str(tmp_path / "tls"))
    for folder in (store, backup, restored):
        require_private(folder)
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls" / "tls-key.pem").stat().st_mode) == 0o600
