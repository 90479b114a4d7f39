"""Clients over TLS and with tokens: what goes over the wire, what is refused, and what new certificates and tokens need."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.cases import each
from support.certificates import Authority
from support.proxy import Fault, FaultProxy
from support.secure_servers import Refusal, Seen, secure_server, wants_token
from support.servers import engine_config
from tensorus import errors
from tensorus._grpc import credentials
from tensorus._grpc import servers as servers_module
from tensorus.tensor_storage import TensorStorage
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.app import open_engine
from tensorus_server.engine.engine import Engine

TOKEN = "s3cr3t-token"
CA = Authority.shared()
PAIR = CA.pair("server", "localhost", "tensorus.test")
VALUES = np.arange(20_000, dtype=np.float32)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(engine_config(tmp_path_factory.mktemp("store")))
    yield engine
    engine.close()


@pytest.fixture
def secure(engine: Engine) -> Iterator[Seen]:
    """A server with TLS."""
    with secure_server(engine, PAIR) as seen:
        yield seen


@pytest.fixture
def plain(engine: Engine) -> Iterator[Seen]:
    with secure_server(engine) as seen:
        yield seen


def use_everything(client: tensorus.Client, dataset: str) -> None:
    """Make calls of every kind."""
    client.create_dataset(dataset)
    client.insert(dataset, VALUES, id="a", ask_first=True)
    client.insert_many(dataset, {"b": VALUES, "c": VALUES[:3]}.items())
    assert (client.get(dataset, "a", as_="numpy") == VALUES).all()
    assert len(list(client.query(dataset))) == 3
    assert len(list(client.list(dataset))) == 3
    client.copy(dataset, "a", "d")
    client.explain(VALUES, policies=["none"])
    client.verify(dataset)
    client.store_stats()
    client.delete(dataset, ["a", "b"])


async def use_everything_asynchronously(client: tensorus.aio.AsyncClient, dataset: str) -> None:
    await client.create_dataset(dataset)
    await client.insert(dataset, VALUES, id="a", ask_first=True)
    await client.insert_many(dataset, {"b": VALUES, "c": VALUES[:3]}.items())
    assert (await client.get(dataset, "a", as_="numpy") == VALUES).all()
    assert len([record async for record in client.query(dataset)]) == 3
    assert len([info async for info in client.list(dataset)]) == 3
    await client.copy(dataset, "a", "d")
    await client.explain(VALUES, policies=["none"])
    await client.verify(dataset)
    await client.store_stats()
    await client.delete(dataset, ["a", "b"])


def test_every_call_has_the_token_and_an_id_of_its_own(secure: Seen) -> None:
    secure.refuse = wants_token(TOKEN)
    with tensorus.connect(f"grpcs://localhost:{secure.port}", ca=CA.cert, token=TOKEN) as client:
        use_everything(client, "every")
    assert {name for name, _ in secure.calls} >= {"Insert", "InsertKnown", "Get", "Query", "ExplainPolicy", "Verify"}
    ids = secure.of("x-request-id")
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_so_do_those_of_the_asynchronous_client(secure: Seen) -> None:
    secure.refuse = wants_token(TOKEN)

    async def run() -> None:
        async with tensorus.aio.connect(f"grpcs://localhost:{secure.port}", ca=CA.cert, token=TOKEN) as client:
            await use_everything_asynchronously(client, "asynchronous")

    asyncio.run(run())
    assert {name for name, _ in secure.calls} >= {"Insert", "InsertKnown", "Get", "Query", "ExplainPolicy", "Verify"}
    ids = secure.of("x-request-id")
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_a_plan_of_a_direct_read_is_asked_for_with_the_token(plain: Seen) -> None:
    from tensorus._grpc.steps import Call  # noqa: PLC0415 - only here

    plain.refuse = wants_token(TOKEN)
    call = Call("GetPlan", pb.GetPlanRequest(dataset="none"), pb.GetPlanResponse.FromString, lambda found: found)
    with (
        tensorus.connect(f"localhost:{plain.port}", token=TOKEN) as client,
        pytest.raises(errors.TensorusError) as caught,
    ):
        client._backend.call(call)  # type: ignore[attr-defined]
    assert not isinstance(caught.value, errors.UnauthenticatedError)
    assert plain.of("authorization") == [f"Bearer {TOKEN}"]


def test_a_function_gives_each_call_its_token(plain: Seen) -> None:
    numbers = iter(range(100))
    with tensorus.connect(f"localhost:{plain.port}", token=lambda: f"token-{next(numbers)}") as client:
        for _ in range(3):
            client.datasets()
    assert plain.of("authorization") == ["Bearer token-0", "Bearer token-1", "Bearer token-2"]


def test_what_the_function_raises_is_what_the_caller_gets(plain: Seen) -> None:
    def broken() -> str:
        raise RuntimeError("the issuer is away")

    async def run() -> None:
        async with tensorus.aio.connect(f"localhost:{plain.port}", token=broken) as client:
            with pytest.raises(RuntimeError, match="the issuer is away"):
                await client.datasets()

    asyncio.run(run())
    with tensorus.connect(f"localhost:{plain.port}", token=broken) as client:
        for action in (client.datasets, lambda: client.get("d", "t"), lambda: client.insert("d", VALUES)):
            with pytest.raises(RuntimeError, match="the issuer is away"):
                action()
    assert plain.calls == []


# ---- Refusals -----------------------------------------------------------------------------------------------------------

REFUSALS = [
    (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", errors.UnauthenticatedError),
    (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", errors.PermissionDeniedError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", errors.QuotaExceededError),
]


@each(("code", "reason", "kind"), REFUSALS)
def test_who_is_refused_is_not_tried_again(
    plain: Seen, code: grpc.StatusCode, reason: str, kind: type[errors.TensorusError]
) -> None:
    with tensorus.connect(f"localhost:{plain.port}", token=TOKEN) as client:
        client.datasets()
        plain.calls.clear()
        plain.refuse = lambda _, __: (code, reason, {})
        for action in (client.datasets, lambda: client.get("d", "t"), lambda: client.insert("d", VALUES)):
            with pytest.raises(kind) as caught:
                action()
            assert caught.value.reason == reason
            assert TOKEN not in f"{caught.value} {caught.value.facts}"
        assert len([name for name, _ in plain.calls if name != "CancelInsert"]) == 3
    plain.refuse = lambda _, __: None
    plain.calls.clear()


def limited_first(pause_s: float | None) -> Callable[[str, dict[str, Any]], Refusal | None]:
    """Return a function that refuses the first call for its rate."""
    facts = {} if pause_s is None else {"retry_after_s": str(pause_s)}
    refusals: list[Refusal | None] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", facts)]
    return lambda _, __: refusals.pop() if refusals else None


def test_who_is_too_fast_comes_back_after_the_pause(plain: Seen) -> None:
    plain.refuse = limited_first(0.2)
    with tensorus.connect(f"localhost:{plain.port}") as client:
        began_s = time.monotonic()
        # Also a call that is not safe to repeat, and though the server has answered nothing yet: it was not begun.
        client.create_dataset("fast")
        assert time.monotonic() - began_s >= 0.2
        for action in (client.datasets, lambda: list(client.query("fast")), lambda: client.insert("fast", VALUES)):
            plain.refuse = limited_first(0.1)
            action()
    # It is one call: all attempts have one id.
    assert len(set(plain.of("x-request-id")[:2])) == 1


@each("pause_s", [None, 0.0, 30.0])
def test_who_is_not_told_when_or_would_wait_too_long_is_told_so(plain: Seen, pause_s: float | None) -> None:
    plain.refuse = limited_first(pause_s)
    with tensorus.connect(f"localhost:{plain.port}", retry_timeout_s=20.0) as client:
        with pytest.raises(errors.RateLimitedError):
            client.datasets()
        assert len(plain.calls) == 1
    plain.calls.clear()


# ---- Ids ----------------------------------------------------------------------------------------------------------------


def test_a_caller_may_set_the_id_which_errors_have(plain: Seen) -> None:
    with tensorus.connect(f"localhost:{plain.port}") as client, tensorus.request_id("job-17"):
        with pytest.raises(errors.DatasetNotFoundError) as caught:
            client.dataset("none")
        assert caught.value.facts["request_id"] == "job-17"
        with pytest.raises(errors.TensorusError) as caught:
            client.get("none", "t")
        assert caught.value.facts["request_id"] == "job-17"
    assert set(plain.of("x-request-id")) == {"job-17"}


# ---- TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two names resolve to two addresses of loopback each."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **settings: Any) -> Any:
        if str(host).endswith(".test"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{end}", port)) for end in (1, 2)]
        return real(host, port, *args, **settings)

    monkeypatch.setattr(servers_module.socket, "getaddrinfo", resolve)


@pytest.mark.usefixtures("replicas")
def test_servers_behind_one_name_have_certificates_of_that_name(secure: Seen) -> None:
    with tensorus.connect(f"grpcs://tensorus.test:{secure.port}", ca=CA.cert) as client:
        client.datasets()
        assert {server.authority for server in client._backend.servers._servers} == {f"tensorus.test:{secure.port}"}  # type: ignore[attr-defined]
    with (
        tensorus.connect(f"grpcs://other.test:{secure.port}", ca=CA.cert) as client,
        pytest.raises(errors.UnavailableError, match="the server's certificate is of another name"),
    ):
        client.datasets()
    # The names of the certificate do not include the addresses.
    with (
        tensorus.connect(f"grpcs://127.0.0.1:{secure.port}", ca=CA.cert) as client,
        pytest.raises(errors.UnavailableError, match="the server's certificate is of another name"),
    ):
        client.datasets()


def test_what_is_wrong_with_a_connection_is_said(engine: Engine, secure: Seen, plain: Seen) -> None:
    other = Authority("other")
    mine, yours = CA.pair("mine"), CA.pair("yours")
    cases: list[tuple[str, dict[str, Any], str]] = [
        (f"grpcs://localhost:{secure.port}", {}, r"ca= \(--ca\) names whom to trust"),
        (f"grpcs://localhost:{secure.port}", {"ca": other.cert}, r"ca= \(--ca\) names whom to trust"),
        (f"localhost:{secure.port}", {}, r"it may want TLS \(grpcs://\)"),
        (f"grpcs://localhost:{plain.port}", {"ca": CA.cert}, "the server does not speak TLS"),
        (
            f"grpcs://localhost:{secure.port}",
            {"ca": CA.cert, "cert": mine.cert, "key": yours.key},
            "the key is not that of cert",
        ),
    ]
    for address, settings, message in cases:
        with tensorus.connect(address, **settings) as client, pytest.raises(errors.UnavailableError, match=message):
            client.datasets()


def test_a_server_may_want_certificates_of_its_clients(engine: Engine) -> None:
    with secure_server(engine, PAIR, client_ca=CA.cert) as seen:
        address, mine, others = f"grpcs://localhost:{seen.port}", CA.pair("gpu-17"), Authority("other").pair("gpu-17")
        with tensorus.connect(address, ca=CA.cert, cert=mine.cert, key=mine.key) as client:
            client.datasets()
        for settings in ({}, {"cert": others.cert, "key": others.key}):
            with (
                tensorus.connect(address, ca=CA.cert, **settings) as client,
                pytest.raises(errors.UnavailableError, match="a client certificate"),
            ):
                client.datasets()


def test_without_ca_the_authorities_of_the_system_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: Seen
) -> None:
    (tmp_path / "roots.pem").write_bytes(CA.cert)
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    with tensorus.connect(f"grpcs://localhost:{secure.port}") as client:
        client.datasets()
    assert credentials.system_roots() == CA.cert
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    monkeypatch.setattr(credentials, "_BUNDLES", (str(tmp_path / "missing"), str(tmp_path / "roots.pem")))
    assert credentials.system_roots() == CA.cert
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(tmp_path / "roots.pem"))
    assert credentials.system_roots() is None, "gRPC reads it itself"


def rotated(folder: Path) -> tuple[dict[str, str], Callable[[Authority], None]]:
    """Return files of certificates, and a function that replaces them by those of another authority."""
    files = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}

    def write(authority: Authority) -> None:
        pair = authority.pair("client")
        for name, content in (("ca", authority.cert), ("cert", pair.cert), ("key", pair.key)):
            Path(files[name]).write_bytes(content)

    return files, write


def test_a_long_lived_client_takes_new_certificates_when_it_connects_again(engine: Engine, tmp_path: Path) -> None:
    files, write = rotated(tmp_path)
    write(CA)
    with secure_server(engine, PAIR, client_ca=CA.cert) as seen:
        port = seen.port
        client = tensorus.connect(f"grpcs://localhost:{port}", **files)
        client.datasets()
    new = Authority("new")
    with client, secure_server(engine, new.pair("server", "localhost"), client_ca=new.cert, port=port):
        with pytest.raises(errors.UnavailableError):
            tensorus.connect(f"grpcs://localhost:{port}", **files).datasets()
        write(new)
        client.datasets()


def test_so_does_an_asynchronous_one(engine: Engine, tmp_path: Path) -> None:
    files, write = rotated(tmp_path)
    write(CA)
    new = Authority("new")

    async def run() -> None:
        with secure_server(engine, PAIR, client_ca=CA.cert) as seen:
            client = tensorus.aio.connect(f"grpcs://localhost:{seen.port}", **files)
            await client.datasets()
        async with client:
            with secure_server(engine, new.pair("server", "localhost"), client_ca=new.cert, port=seen.port):
                write(new)
                await client.datasets()

    asyncio.run(run())


def test_the_storage_of_tensorus_0_1_takes_them_too(
    secure: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_bytes(CA.cert)
    secure.refuse = wants_token(TOKEN)
    monkeypatch.setenv("TENSORUS_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("TENSORUS_TOKEN", TOKEN)
    storage = TensorStorage(f"grpcs://localhost:{secure.port}/")
    storage.create_dataset("images")
    assert storage.dataset_exists("images")


# ---- Other processes ----------------------------------------------------------------------------------------------------


def _ask(client: tensorus.Client, queue: Any) -> None:
    queue.put([info.name for info in client.datasets()])
    client.close()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_client_goes_to_other_processes_with_its_certificates_and_its_token(
    secure: Seen, tmp_path: Path, start: str
) -> None:
    secure.refuse = wants_token(TOKEN)
    (tmp_path / "ca.pem").write_bytes(CA.cert)
    client = tensorus.connect(f"grpcs://localhost:{secure.port}", ca=tmp_path / "ca.pem", token=TOKEN)
    if start == "spawn":
        # A fork is only allowed before the process that it leaves uses gRPC in other threads; here it has no channel yet.
        pickled = pickle.dumps(client)
        assert pickle.loads(pickled).datasets() is not None
        client.datasets()
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    child = context.Process(target=_ask, args=(client, queue))
    child.start()
    assert isinstance(queue.get(timeout=60), list)
    child.join(60)
    client.close()


def test_no_log_has_the_token(secure: Seen, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secure.refuse = wants_token("another")
    with (
        tensorus.connect(f"grpcs://localhost:{secure.port}", ca=CA.cert, token=TOKEN) as client,
        pytest.raises(errors.UnauthenticatedError) as caught,
    ):
        client.datasets()
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(caught.value.__cause__)


def test_a_server_that_is_far_away_can_be_reached(engine: Engine) -> None:
    """The first bytes of the server take half a second, as around the earth; no call may be given up before them."""
    with (
        secure_server(engine) as plain,
        FaultProxy(f"127.0.0.1:{plain.port}", lambda _: [Fault("pause", 0, upward=False, seconds=0.5)]) as far,
    ):
        with tensorus.connect(far.address) as client:
            assert client.server_status().healthy

        async def is_healthy() -> bool:
            async with tensorus.aio.connect(far.address) as client:
                return (await client.server_status()).healthy

        assert asyncio.run(is_healthy())
