"""Who may do what at a server: every method, for every kind of identity, over TLS; and who can see whose inserts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.certificates import Pair, secure_channel, server_pair, signed, the_ca, write_tls
from support.client import run_command
from support.interrupted import wait_until
from support.issuer import AUDIENCE, Issuer, issuer
from support.servers import ServerProcess, running_server
from support.wire import announced, insert_message, open_insert
from tensorus import errors
from tensorus._grpc.steps import Call
from tensorus.access import Quota, Scope
from tensorus_codecs.checksum import TensorDigest
from tensorus_protos.v1 import access_pb2, tensorus_pb2
from tensorus_server.access.rights import Grant, Role
from tensorus_server.access.rights import Scope as EngineScope
from tensorus_server.engine.access import Access
from tensorus_server.processes.server import Server
from tensorus_server.rpc.rights import NEEDS

CA = the_ca()

REQUESTS: dict[str, Any] = {
    "CreateDataset": {"name": "new"},
    "GetDataset": {"name": "d"},
    "UpdateDataset": {"name": "d"},
    "DeleteDataset": {"name": "d"},
    "GetDatasetStats": {"name": "d"},
    "CopyDataset": {"name": "d", "new_name": "e"},
    "RenameDataset": {"name": "d", "new_name": "e"},
    "CreateSnapshot": {"dataset": "d", "name": "s"},
    "ListSnapshots": {"dataset": "d"},
    "DeleteSnapshot": {"dataset": "d", "name": "s"},
    "RestoreDataset": {"dataset": "d", "at": tensorus_pb2.At(snapshot="s")},
    "InsertKnown": {"dataset": "d"},
    "GetInsertStatus": {"request_id": "r"},
    "CancelInsert": {"request_id": "r"},
    "Get": {"dataset": "d"},
    "Query": {"dataset": "d"},
    "GetPlan": {"dataset": "d"},
    "ListTensors": {"dataset": "d"},
    "UpdateTensor": {"dataset": "d", "id": "t"},
    "DeleteTensors": {"dataset": "d", "ids": ["t"]},
    "CopyTensors": {"source_dataset": "d", "dataset": "e", "tensors": [tensorus_pb2.CopiedTensor(id="t")]},
    "Verify": {"dataset": "d"},
    "CreateToken": {"name": "x"},
    "RevokeToken": {"id": "x"},
    "AddGrant": {"grant": access_pb2.Grant(principal="token:x", role=access_pb2.ROLE_READER, pattern="team/*")},
    "RemoveGrant": {"grant": access_pb2.Grant(principal="token:x", role=access_pb2.ROLE_READER, pattern="team/*")},
    "SetQuota": {"quota": access_pb2.Quota(principal="token:x")},
    "SetOwner": {"dataset": "d", "principal": "token:x"},
}
"""What is asked of each method; the others take nothing."""

SERVICES = [(name, module) for name, module in (("TensorService", tensorus_pb2), ("AccessService", access_pb2))]
METHODS = {
    method.name: (service, method)
    for service, module in SERVICES
    for method in module.DESCRIPTOR.services_by_name[service].methods
}

STREAMED_NEEDS = {"Insert": [(Role.WRITER, "d")], "ExplainPolicy": [(Role.READER, "d")]}
"""Of the methods that check their first message themselves."""


def messages_of(name: str) -> list[bytes]:
    if name == "Insert":
        return [open_insert("d", request_id="").SerializeToString()]
    if name == "ExplainPolicy":
        spec = tensorus_pb2.TensorSpec(dtype=tensorus_pb2.DATA_TYPE_UINT8, shape=[1])
        base = tensorus_pb2.TensorReference(dataset="d", id="t")
        opened = tensorus_pb2.OpenExplain(spec=spec, base=base)
        return [tensorus_pb2.ExplainPolicyRequest(open=opened, payload=b"x").SerializeToString()]
    module = access_pb2 if METHODS[name][0] == "AccessService" else tensorus_pb2
    return [getattr(module, f"{name}Request")(**REQUESTS.get(name, {})).SerializeToString()]


def needs_of(name: str) -> list[tuple[Role, str]]:
    if name in STREAMED_NEEDS:
        return STREAMED_NEEDS[name]
    module = access_pb2 if METHODS[name][0] == "AccessService" else tensorus_pb2
    return list(NEEDS[name](getattr(module, f"{name}Request")(**REQUESTS.get(name, {}))))


@dataclass(frozen=True)
class Identity:
    """A caller of one kind."""

    principal: str
    address: str
    access: Access
    metadata: tuple[tuple[str, str], ...] = ()
    client: Pair | None = None

    def code_of(self, name: str) -> str:
        """Call a method and return the name of its code."""
        service, method = METHODS[name]
        with secure_channel(self.address, CA, self.client) as channel:
            path = f"/tensorus.v1.{service}/{name}"
            sent = messages_of(name)
            arguments = {"timeout": 20, "metadata": self.metadata}
            try:
                if method.client_streaming:
                    kind = channel.stream_stream if method.server_streaming else channel.stream_unary
                    answer = kind(path)(iter(sent), **arguments)
                else:
                    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
                    answer = kind(path)(sent[0], **arguments)
                if method.server_streaming:
                    list(answer)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    @contextmanager
    def granted(self, needs: Sequence[tuple[Role, str]]) -> Iterator[None]:
        """Grant exactly this for the duration of the block."""
        grants = [Grant(self.principal, EngineScope(role, dataset)) for role, dataset in needs]
        for grant in grants:
            self.access.add_grant(grant)
        try:
            yield
        finally:
            for grant in grants:
                self.access.remove_grant(grant)


@pytest.fixture(scope="module")
def provider() -> Iterator[Issuer]:
    with issuer() as found:
        yield found


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory, provider: Issuer) -> Iterator[dict[str, Identity]]:
    """Yield a caller of each kind, and callers without an identity."""
    folder = tmp_path_factory.mktemp("access")
    settings = {"authenticates": True, "oidc_issuer": provider.url, "oidc_audience": AUDIENCE}
    with ExitStack() as stack:
        tls = write_tls(folder / "tls", server_pair())
        mutual = write_tls(folder / "mutual", server_pair(), client_ca=CA.cert)
        one = stack.enter_context(running_server(folder / "one", tls=tls, **settings))
        two = stack.enter_context(running_server(folder / "two", tls=mutual, authenticates=True))
        for server in (one, two):
            server._engine.create_dataset("d")
            server._engine.create_dataset("e")
        access = one._engine.access
        _, secret = access.create_token("trainer")
        certified = signed("gpu-17", by=CA)
        yield {
            "token": Identity("token:trainer", one.address, access, (("authorization", f"Bearer {secret}"),)),
            "oidc": Identity("oidc:alice", one.address, access, (("authorization", f"Bearer {provider.token()}"),)),
            "cert": Identity("cert:gpu-17", two.address, two._engine.access, client=certified),
            "nobody": Identity("", one.address, access),
            "a wrong token": Identity("", one.address, access, (("authorization", f"Bearer {secret[:-1]}x"),)),
            "a nameless certificate": Identity("", two.address, access, client=signed(by=CA)),
        }


@pytest.mark.parametrize("kind", ["token", "oidc", "cert"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_refused_without_and_allowed_with_the_right_it_needs(
    identities: dict[str, Identity], name: str, kind: str
) -> None:
    caller, needs = identities[kind], needs_of(name)
    if not needs:
        assert caller.code_of(name) not in {"UNAUTHENTICATED", "PERMISSION_DENIED"}
        return
    assert caller.code_of(name) == "PERMISSION_DENIED"
    for missing in range(len(needs)):
        role, dataset = needs[missing]
        others = [need for place, need in enumerate(needs) if place != missing]
        # The right before it is not enough, nor is the right on another dataset.
        less = [(Role(role - 1), dataset)] if role > Role.READER else []
        elsewhere = [(Role.ADMIN, f"{dataset}x"), (Role.ADMIN, "team/x")] if "*" not in dataset else []
        with caller.granted([*others, *less, *elsewhere]):
            assert caller.code_of(name) == "PERMISSION_DENIED"
    with caller.granted(needs):
        assert caller.code_of(name) not in {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    assert caller.code_of(name) == "PERMISSION_DENIED"


@pytest.mark.parametrize("who", ["nobody", "a wrong token", "a nameless certificate"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_is_for_those_whom_the_server_does_not_know(
    identities: dict[str, Identity], name: str, who: str
) -> None:
    assert identities[who].code_of(name) == "UNAUTHENTICATED"


# ---- One server without TLS, whose callers have tokens ------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "store", authenticates=True) as found:
        yield found


@contextmanager
def client_of(server: Server, name: str, *grants: str, **options: Any) -> Iterator[tensorus.Client]:
    """Yield a client with a new token of a principal, which gets these grants, such as "writer team/*"."""
    access = server._engine.access
    for grant in grants:
        role, _, pattern = grant.partition(" ")
        access.add_grant(Grant(f"token:{name}", EngineScope(Role[role.upper()], pattern)))
    _, secret = access.create_token(name)
    with tensorus.connect(server.address, token=secret, **options) as client:
        yield client


def test_listings_show_only_what_may_be_read(server: Server) -> None:
    with client_of(server, "admin", "admin *") as admin, client_of(server, "reader", "reader team/*") as reader:
        for name in ("team/a", "other", "team/b", "teams"):
            admin.create_dataset(name)
        assert [found.name for found in reader.datasets()] == ["team/a", "team/b"]
        assert len(admin.datasets()) == 4


def test_a_dataset_that_may_not_be_read_seems_to_be_one_that_does_not_exist(server: Server) -> None:
    with client_of(server, "admin", "admin *") as admin, client_of(server, "reader", "reader team/*") as reader:
        admin.create_dataset("secret")
        messages = []
        for name in ("secret", "absent"):
            with pytest.raises(errors.PermissionDeniedError) as caught:
                reader.get(name, "t")
            messages.append(str(caught.value).replace(name, "NAME"))
        assert messages[0] == messages[1]


def test_bytes_of_others_are_not_known_to_those_who_may_not_read_them(server: Server) -> None:
    """Otherwise a checksum would be enough to get the values."""
    values = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
    digest = tensorus_pb2.Checksum(algorithm=TensorDigest.ALGORITHM, value=TensorDigest.of(values.tobytes()))
    with client_of(server, "admin", "admin *") as admin:
        admin.create_dataset("secret")
        admin.create_dataset("team/a")
        admin.insert("secret", values, id="t")
    with client_of(server, "writer", "writer team/*") as writer:

        def ask() -> tensorus_pb2.InsertKnownResponse:
            tensors = [announced("copy", values.shape, source_checksum=digest)]
            request = tensorus_pb2.InsertKnownRequest(dataset="team/a", tensors=tensors)
            return writer._backend.call(Call("InsertKnown", request, tensorus_pb2.InsertKnownResponse.FromString, keep))

        assert list(ask().missing) == [0]
        server._engine.access.add_grant(Grant("token:writer", EngineScope(Role.READER, "secret")))
        assert list(ask().missing) == []
        np.testing.assert_array_equal(writer.get("team/a", "copy", as_="numpy"), values)


def keep(answer: tensorus_pb2.InsertKnownResponse) -> tensorus_pb2.InsertKnownResponse:
    return answer


def test_a_base_must_be_readable(server: Server) -> None:
    values = np.arange(100_000, dtype=np.float32)
    with client_of(server, "admin", "admin *") as admin, client_of(server, "writer", "writer team/*") as writer:
        admin.create_dataset("secret")
        admin.insert("secret", values, id="t")
        writer.create_dataset("team/a")
        with pytest.raises(errors.PermissionDeniedError, match="not reader of dataset secret"):
            writer.insert("team/a", values + 1, id="t", base=("secret", "t"))


def test_an_insert_belongs_to_whoever_began_it(server: Server) -> None:
    """With the same request id, another caller neither sees nor ends it, and does not take it over."""
    access = server._engine.access
    secrets = {}
    for name in ("one", "two"):
        access.add_grant(Grant(f"token:{name}", EngineScope(Role.WRITER, "d")))
        _, secrets[name] = access.create_token(name)
    server._engine.create_dataset("d")
    go_on, outcome = threading.Event(), []

    def metadata(name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {secrets[name]}"),)

    def messages() -> Iterator[bytes]:
        yield open_insert("d", request_id="shared").SerializeToString()
        go_on.wait(30)
        yield insert_message(b"\1\2\3\4", tensor=announced("t")).SerializeToString()
        yield tensorus_pb2.InsertRequest(finish=True).SerializeToString()

    def insert(channel: grpc.Channel) -> None:
        call = channel.stream_stream("/tensorus.v1.TensorService/Insert")
        for raw in call(messages(), metadata=metadata("one"), timeout=60):
            outcome.extend(tensorus_pb2.InsertResponse.FromString(raw).results)

    def ask(channel: grpc.Channel, method: str, name: str) -> str:
        request = getattr(tensorus_pb2, f"{method}Request")(request_id="shared").SerializeToString()
        try:
            channel.unary_unary(f"/tensorus.v1.TensorService/{method}")(request, metadata=metadata(name), timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    with grpc.insecure_channel(server.address) as channel:
        thread = threading.Thread(target=insert, args=(channel,))
        thread.start()
        try:
            wait_until(lambda: ask(channel, "GetInsertStatus", "one") == "OK")
            assert ask(channel, "GetInsertStatus", "two") == "NOT_FOUND"
            assert ask(channel, "CancelInsert", "two") == "OK"
            call = channel.stream_stream("/tensorus.v1.TensorService/Insert")
            taken = open_insert("d", request_id="shared").SerializeToString()
            finish = tensorus_pb2.InsertRequest(finish=True).SerializeToString()
            list(call(iter([taken, finish]), metadata=metadata("two"), timeout=20))
        finally:
            go_on.set()
            thread.join(60)
    assert [result.status.code for result in outcome] == [0]
    assert outcome[0].tensor.id == "t"


def test_a_right_that_is_withdrawn_ends_an_insert_at_its_next_message(server: Server) -> None:
    access = server._engine.access
    with client_of(server, "writer", "writer d") as client:
        client.create_dataset("d")

        def tensors() -> Iterator[tuple[str, np.ndarray]]:
            yield "first", np.zeros(1_000_000, np.float32)
            access.remove_grant(Grant("token:writer", EngineScope(Role.WRITER, "d")))
            for number in range(8):
                yield f"later {number}", np.zeros(1_000_000, np.float32)

        with pytest.raises(errors.TensorusError, match="not writer of dataset d"):
            client.insert_many("d", tensors())


def test_a_revoked_token_and_an_expired_one_are_refused(server: Server) -> None:
    with client_of(server, "admin", "admin *") as admin:
        made = admin.access.create_token("short")
        with tensorus.connect(server.address, token=made.secret) as client:
            assert client.server_status().principal == "token:short"
            admin.access.revoke_token(made.token.id)
            with pytest.raises(errors.UnauthenticatedError, match="was revoked"):
                client.server_status()
        with pytest.raises(errors.TokenNotFoundError):
            admin.access.revoke_token("unknown")


def test_scopes_limit_a_token(server: Server) -> None:
    with client_of(server, "admin", "admin *") as admin:
        admin.create_dataset("a")
        made = admin.access.create_token("admin", scopes=[Scope("reader", "a")])
        with tensorus.connect(server.address, token=made.secret) as client:
            assert client.server_status().rights == ("reader a",)
            assert [found.name for found in client.datasets()] == ["a"]
            with pytest.raises(errors.PermissionDeniedError, match="token:admin is not writer of dataset a"):
                client.insert("a", np.zeros(1))


def test_an_admin_of_a_prefix_grants_on_it_and_no_further(server: Server) -> None:
    with client_of(server, "lead", "admin team/*") as lead:
        assert lead.access.grant("token:x", "writer", "team/a*")
        assert not lead.access.grant("token:x", "writer", "team/a*")
        for pattern in ("*", "team*", "other"):
            with pytest.raises(errors.PermissionDeniedError):
                lead.access.grant("token:x", "reader", pattern)
        server._engine.access.add_grant(Grant("token:y", EngineScope(Role.READER, "other")))
        assert {grant.principal for grant in lead.access.grants()} == {"token:lead", "token:x"}
        with pytest.raises(errors.PermissionDeniedError):
            lead.access.tokens()


class TestQuotas:
    """Limits of one principal."""

    def test_what_is_stored_counts_for_the_owner_of_the_dataset(self, server: Server) -> None:
        values = np.random.default_rng(0).random(100_000)
        with client_of(server, "admin", "admin *") as admin, client_of(server, "one", "writer one/*") as one:
            admin.access.set_quota(Quota("token:one", tensors=2))
            one.create_dataset("one/a")
            one.insert("one/a", values, id="1")
            admin.insert("one/a", values, id="2")
            with pytest.raises(
                errors.QuotaExceededError, match=r"token:one, .* has stored 2 tensors, limit is 2"
            ) as caught:
                one.insert("one/a", values, id="3")
            assert caught.value.facts["limit"] == "2"
            with pytest.raises(errors.QuotaExceededError):
                admin.copy("one/a", "1", "copy")
            (usage,) = admin.access.quotas()
            assert (usage.quota, usage.tensors) == (Quota("token:one", tensors=2), 2)
            admin.access.set_owner("one/a", "")
            one.insert("one/a", values, id="3")

    def test_calls_above_the_rate_are_told_when_to_come_back_and_the_client_does(self, server: Server) -> None:
        with client_of(server, "admin", "admin *") as admin, client_of(server, "eager") as eager:
            admin.access.set_quota(Quota("token:eager", calls_per_second=20.0))
            for _ in range(60):
                eager.server_status()
            with client_of(server, "eager", retry_timeout_s=0.0) as hasty, pytest.raises(errors.RateLimitedError):
                [hasty.server_status() for _ in range(60)]

    def test_a_slow_principal_gets_all_of_its_bytes(self, server: Server) -> None:
        values = np.random.default_rng(1).random(250_000)
        with client_of(server, "admin", "admin *") as admin, client_of(server, "slow", "writer *") as slow:
            admin.access.set_quota(Quota("token:slow", bytes_per_second=4_000_000))
            slow.create_dataset("d")
            slow.insert("d", values, id="t")
            np.testing.assert_array_equal(slow.get("d", "t", as_="numpy"), values)


# ---- The command line, from the first token on --------------------------------------------------------------------------


def test_a_store_gets_its_first_token_while_a_server_has_it_and_the_rest_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServerProcess(tmp_path / "store", options=["--auth"], workers=2)
    try:
        first = run_command("token", "create", "admin", "--store", str(tmp_path / "store"), "--grant", "admin *")
        assert first.exit_code == 0, first.errors
        assert first.output.startswith("tns_")
        secret = first.output.strip()
        assert secret not in first.errors
        monkeypatch.setenv("TENSORUS_ADDRESS", served.address)
        monkeypatch.setenv("TENSORUS_TOKEN", secret)
        # Every worker knows the token by now, or asks the catalogue.
        wait_until(lambda: all(run_command("status").exit_code == 0 for _ in range(3)))
        assert "admin *" in run_command("status").output
        made = run_command("token", "create", "trainer", "--expires", "90d", "--scope", "writer team/*", "--json")
        assert made.exit_code == 0
        assert run_command("grant", "token:trainer", "writer", "team/*").output == "token:trainer is writer of team/*\n"
        # Another worker may answer, which learns of it within 2 seconds.
        wait_until(lambda: "token:trainer  writer  team/*" in run_command("grants").output)
        listings: list[str] = []
        wait_until(lambda: "token:trainer" in (listings.append(run_command("token", "list").output) or listings[-1]))
        listed = listings[-1]
        assert "writer team/*" in listed
        assert secret not in listed
        assert run_command("quota", "token:trainer", "--stored", "1GiB", "--streams", "4").exit_code == 0
        wait_until(lambda: "0 B of 1.0 GiB" in run_command("quotas").output)
        assert run_command("revoke", "token:trainer", "writer", "team/*").exit_code == 0
        assert run_command("revoke", "token:trainer", "writer", "team/*").exit_code == 1
        token_id = secret.split("_")[1]
        assert run_command("token", "revoke", token_id).exit_code == 0
        wait_until(lambda: run_command("token", "list").exit_code != 0)
    finally:
        served.terminate()


def test_a_token_can_be_created_before_there_is_a_store(tmp_path: Path) -> None:
    made = run_command("token", "create", "admin", "--store", str(tmp_path / "new" / "store"), "--grant", "admin *")
    assert made.exit_code == 0, made.errors
    with (
        running_server(tmp_path / "new" / "store", authenticates=True) as server,
        tensorus.connect(server.address, token=made.output.strip()) as client,
    ):
        assert client.server_status().rights == ("admin *",)


def test_a_server_that_nobody_can_call_says_how_to_create_the_first_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for expected in (True, False):
        caplog.clear()
        with running_server(tmp_path / "store", authenticates=True) as server:
            assert ("tensorus token create admin" in caplog.text) is expected
            server._engine.access.create_token("admin")


def test_files_of_a_new_server_are_its_owner_s_alone(tmp_path: Path, server: Server) -> None:
    with client_of(server, "admin", "admin *") as client:
        client.create_dataset("d")
        client.insert("d", np.zeros(1_000_000), id="t")
        for path in (tmp_path / "store").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
