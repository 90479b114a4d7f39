"""`tensorus status`, and the options with which every command reaches its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

import tensorus
from support.certificates import Authority
from support.client import run_command
from support.secure_servers import Seen, secure_server, wants_token
from support.servers import engine_config
from tensorus_server.app import open_engine
from tensorus_server.engine.engine import Engine
from tensorus_server.processes.server import Server

TOKEN = "s3cr3t-token"
CA = Authority.shared()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(engine_config(tmp_path_factory.mktemp("store")))
    yield engine
    engine.close()


@pytest.fixture
def secure(engine: Engine) -> Iterator[Seen]:
    """A server with TLS that wants a token."""
    with secure_server(engine, CA.pair("server", "localhost")) as seen:
        seen.refuse = wants_token(TOKEN)
        yield seen


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a token, and the authority of the server."""
    (tmp_path / "ca.pem").write_bytes(CA.cert)
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path


def test_it_shows_a_server(server: Server) -> None:
    ran = run_command("status", "--server", server.address)
    assert (ran.exit_code, ran.errors) == (0, "")
    fields = dict(line.split(maxsplit=1) for line in ran.output.splitlines())
    assert fields["address"] == server.address
    assert (fields["TLS"], fields["version"], fields["health"]) == ("no", tensorus.__version__, "SERVING")
    assert fields["principal"].startswith("local:")
    assert fields["latency"].endswith(" ms")
    assert {"uptime", "rights", "store", "tensors", "stored", "free"} <= set(fields)


def test_it_shows_it_to_scripts(secure: Seen, files: Path) -> None:
    address = f"grpcs://localhost:{secure.port}"
    ran = run_command(
        "status", "--server", address, "--ca", files / "ca.pem", "--token-file", files / "token", "--json"
    )
    assert (ran.exit_code, ran.errors) == (0, "")
    found = json.loads(ran.output)
    assert (found["address"], found["tls"], found["health"]) == (address, True, "SERVING")
    assert found["latency_s"] > 0
    assert found["space"]["datasets"] == 0
    assert TOKEN not in ran.output
    assert {name for name, _ in secure.calls} == {"GetServerStatus", "GetStoreStats", "Check"}


def test_what_the_caller_may_not_know_is_left_out(secure: Seen, files: Path) -> None:
    denied = (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", {})
    secure.refuse = lambda name, _: denied if name == "GetStoreStats" else None
    ran = run_command("status", "--server", f"grpcs://localhost:{secure.port}", "--ca", files / "ca.pem", "--json")
    assert ran.exit_code == 0
    assert json.loads(ran.output)["space"] is None


def test_a_server_that_is_ill_is_an_error(secure: Seen, files: Path) -> None:
    secure.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    arguments = [
        "--server",
        f"grpcs://localhost:{secure.port}",
        "--ca",
        files / "ca.pem",
        "--token-file",
        files / "token",
    ]
    ran = run_command("status", *arguments)
    assert ran.exit_code == 1
    assert "NOT_SERVING" in ran.output


def test_a_server_that_is_away_is_one_line() -> None:
    ran = run_command("status", "--server", "127.0.0.1:1")
    assert (ran.exit_code, ran.output) == (4, "")
    assert ran.errors.startswith("tensorus: no server can be reached at '127.0.0.1:1' (")
    assert ran.errors.count("\n") == 1


def test_a_caller_that_it_does_not_know_is_one_line(secure: Seen, files: Path) -> None:
    ran = run_command("status", "--server", f"grpcs://localhost:{secure.port}", "--ca", files / "ca.pem")
    assert (ran.exit_code, ran.output) == (1, "")
    assert ran.errors == "tensorus: what is wrong\n"


def test_commands_take_certificates_and_token_from_the_environment_and_from_profiles(
    secure: Seen, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"grpcs://localhost:{secure.port}"
    environment = {"TENSORUS_ADDRESS": address, "TENSORUS_CA": str(files / "ca.pem"), "TENSORUS_TOKEN": TOKEN}
    assert run_command("ls", env=environment).exit_code == 0
    # Another address: neither is used, and the token goes nowhere.
    seen = len(secure.calls)
    assert run_command("ls", "--server", "127.0.0.1:1", env=environment).exit_code == 4
    assert len(secure.calls) == seen

    monkeypatch.setenv("XDG_CONFIG_HOME", str(files))
    config = files / "tensorus" / "config.toml"
    config.parent.mkdir()
    config.write_text(f'[profiles.team]\naddress = "{address}"\nca = "../ca.pem"\ntoken_file = "../token"\n')
    assert run_command("ls", "--profile", "team").exit_code == 0
    assert run_command("ls", env={"TENSORUS_PROFILE": "team"}).exit_code == 0
    assert run_command("status", "--profile", "team").exit_code == 0
    ran = run_command("ls", "--profile", "tem")
    assert (ran.exit_code, "there is no profile 'tem'" in ran.errors) == (2, True)


def test_copy_takes_profiles(secure: Seen, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(files))
    config = files / "tensorus" / "config.toml"
    config.parent.mkdir()
    address = f"grpcs://localhost:{secure.port}"
    config.write_text(f'[profiles.team]\naddress = "{address}"\nca = "../ca.pem"\ntoken_file = "../token"\n')
    ran = run_command("copy", "profile:team", files / "copied")
    assert (ran.exit_code, ran.errors) == (0, "")
    # It is the same server.
    assert run_command("copy", "profile:team", address, env={"TENSORUS_CA": str(files / "ca.pem")}).exit_code == 2


def test_a_token_without_an_address_goes_to_neither_of_two_servers(
    secure: Seen, server: Server, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    environment = {"TENSORUS_TOKEN": TOKEN, "SSL_CERT_FILE": str(files / "ca.pem")}
    ran = run_command("copy", f"grpcs://localhost:{secure.port}", server.address, env=environment)
    assert ran.exit_code == 1
    assert secure.calls
    assert set(secure.of("authorization")) == {""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--ca", "nowhere.pem"], "ca is given (argument), but the address 127.0.0.1:1 is without TLS", id="ca"
        ),
        pytest.param(["--token-file", "nowhere"], "token file 'nowhere' cannot be read: No such file", id="token"),
        pytest.param(["--profile", "x"], "profile 'x':", id="profile"),
    ],
)
def test_options_that_cannot_be_meant_are_wrong_usage(arguments: list[str], message: str) -> None:
    ran = run_command("ls", "--server", "127.0.0.1:1", *arguments)
    assert (ran.exit_code, ran.output) == (2, "")
    assert message in ran.errors


def test_an_unexpected_error_is_shown_with_the_id_of_its_call(secure: Seen, files: Path) -> None:
    arguments = [
        "--server",
        f"grpcs://localhost:{secure.port}",
        "--ca",
        files / "ca.pem",
        "--token-file",
        files / "token",
    ]
    secure.refuse = lambda _, __: (grpc.StatusCode.INTERNAL, "INTERNAL", {"number": "7"})
    with tensorus.request_id("job-17"):
        ran = run_command("ls", *arguments)
    assert ran.errors == "tensorus: what is wrong (request job-17)\n"
    secure.refuse = lambda _, __: (grpc.StatusCode.NOT_FOUND, "DATASET_NOT_FOUND", {})
    with tensorus.request_id("job-17"):
        ran = run_command("ls", *arguments)
    assert ran.errors == "tensorus: what is wrong\n"
