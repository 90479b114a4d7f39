"""What proves who calls is written nowhere: no log, trace, metric, error, listing, store or backup has it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import tensorus
import tensorus.aio
from support.client import run_command
from support.http2 import Http2Client
from support.interrupted import wait_until
from support.issuer import AUDIENCE, Issuer, issuer
from support.leaks import assert_in_no_file
from support.postgres import PASSWORD, shared_server
from support.seaweed import ACCESS_KEY, SECRET_KEY, new_prefix, shared_seaweed

pytestmark = pytest.mark.timeout(180)


@dataclass
class Run:
    """A server of two workers that writes everything down, and what was said by it and to its clients."""

    folder: Path
    address: str = ""
    metrics: str = ""
    texts: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def note(self, error: BaseException) -> None:
        """Keep all that a program could print of an error."""
        self.texts += [
            str(error),
            repr(error),
            str(getattr(error, "facts", "")),
            "".join(traceback.format_exception(error)),
        ]

    def note_processes(self) -> None:
        """Keep the command lines of this process's children, which every user of the machine can see."""
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                self.texts.append(" ".join(process.cmdline()))

    def command(self, *arguments: str, **environment: str) -> str:
        """Run a command, keep what it printed, and return that."""
        ran = run_command(*arguments, env={"TENSORUS_ADDRESS": self.address, **environment})
        self.texts.append(f"{ran.output} {ran.errors}")
        return ran.output


@contextmanager
def talkative(folder: Path, *options: str, log_format: str = "text", **environment: str) -> Iterator[Run]:
    """Run a server with every log at its most talkative."""
    run, out, log = Run(folder), folder / "out.txt", folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "tensorus",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--reserve-bytes",
        "0",
        "--workers",
        "2",
    ]
    command += [
        "--log-format",
        log_format,
        "--log-level",
        "debug",
        "--access-log",
        "--audit-log",
        str(folder / "audit.log"),
    ]
    command += ["--traces", "--metrics-listen", "127.0.0.1:0", "--auth", *options]
    variables = {**os.environ, "OTEL_TRACES_EXPORTER": "console", **environment}
    with out.open("w") as printed, log.open("w") as logged:
        process = subprocess.Popen(command, stdout=printed, stderr=logged, env=variables)
    served = re.compile(r"serves .* on ([0-9.]+:\d+)")
    try:
        wait_until(lambda: bool(served.search(out.read_text() + log.read_text())) or process.poll() is not None)
        found = served.search(out.read_text() + log.read_text())
        assert found is not None, log.read_text()
        run.address = found[1]
        metrics = re.search(r"http://([0-9.:]+)/metrics", log.read_text())
        assert metrics is not None
        run.metrics = metrics[0]
        yield run
        run.note_processes()
        with urllib.request.urlopen(run.metrics) as answer:
            run.texts.append(answer.read().decode())
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def parts_of(secret: str) -> list[str]:
    """Return what gives a secret away: also a part of it, so that one that was cut is found."""
    if secret.count(".") == 2:
        return [part[:24] for part in secret.split(".")[1:]]
    random = secret[21:] if secret.startswith("tns_") else secret
    return [random[:16], random[-16:]]


def use(run: Run, secret: str) -> None:
    """Call with a secret in every way, and keep what comes of it."""
    with tensorus.connect(run.address, token=secret, retry_timeout_s=0) as client:
        run.texts += [repr(client), str(client), repr(client.__dict__), repr(client._backend.__dict__)]
        calls = (
            client.server_status,
            lambda: client.create_dataset(f"d{len(run.texts)}"),
            lambda: client.insert("d", np.arange(100), id=f"t{len(run.texts)}", metadata={"key": "value"}),
            lambda: client.get("d", "missing"),
            lambda: client.dataset("missing"),
            client.access.tokens,
            lambda: client.access.revoke_token("missing"),
        )
        for call in calls:
            try:
                run.texts.append(repr(call()))  # type: ignore[no-untyped-call] # they take nothing
            except tensorus.errors.TensorusError as error:
                run.note(error)

    async def asynchronously() -> None:
        async with tensorus.aio.connect(run.address, token=secret, retry_timeout_s=0) as client:
            run.texts += [repr(client), repr(client.__dict__)]
            try:
                await client.datasets()
            except tensorus.errors.TensorusError as error:
                run.note(error)

    asyncio.run(asynchronously())
    for command in ("status", "ls", "token list"):
        run.command(*command.split(), "--json", TENSORUS_TOKEN=secret)
    with Http2Client(run.address) as odd:
        for header in (f"Bearer {secret}", f"Basic {secret}", secret, f"Bearer {secret} {secret}"):
            for raw in (header.encode(), header.encode() + b"\xff"):
                stream = odd.begin("/tensorus.v1.TensorService/GetServerStatus", (b"authorization", raw), message=b"")
                run.texts.append(odd.answer(stream).decode(errors="replace"))
        stream = odd.begin("/no.such/Method", (b"authorization", f"Bearer {secret}".encode()), message=b"\xff")
        run.texts.append(odd.answer(stream).decode(errors="replace"))


def altered(secret: str) -> str:
    """Return a secret with another character near its end; the last one of a JWT may have unused bits."""
    return f"{secret[:-8]}{'A' if secret[-8] != 'A' else 'B'}{secret[-7:]}"


@pytest.mark.parametrize("log_format", [pytest.param("text", marks=pytest.mark.long), "json"])
def test_tokens_are_written_nowhere(tmp_path: Path, log_format: str) -> None:
    with issuer() as provider:
        options = ("--data-dir", str(tmp_path / "store"), "--oidc-issuer", provider.url, "--oidc-audience", AUDIENCE)
        with talkative(tmp_path, *options, log_format=log_format) as run:
            shown = secrets_of(run, provider)
            for secret in shown.values():
                use(run, secret)
            backup = tmp_path / "backup"
            run.command("backup", "create", str(run.store), str(backup))
    places = [run.store, backup, *(tmp_path / name for name in ("out.txt", "server.log", "audit.log"))]
    # What may be there is there, so it is the right places that are searched.
    said = (tmp_path / "server.log").read_text()
    assert all(word in said for word in ("the token is unknown", "was revoked", "token:admin", "oidc:alice"))
    token_id = shown["valid"].split("_")[1]
    assert token_id in "".join(run.texts)
    assert (
        '"name": "tensorus' in (tmp_path / "out.txt").read_text() or "tensorus.v1" in (tmp_path / "out.txt").read_text()
    )
    stored = b"".join(path.read_bytes() for path in run.store.glob("catalogue.db*"))
    assert hashlib.sha256(shown["valid"].encode()).digest() in stored
    for name, secret in shown.items():
        for part in parts_of(secret):
            assert len(part) >= 16, name
            assert_in_no_file(part, places, *run.texts)
            assert_in_no_file(base64.b64encode(secret.encode()).decode()[4:40], places, *run.texts)


def secrets_of(run: Run, provider: Issuer) -> dict[str, str]:
    """Return tokens that hold and tokens that do not, by what is wrong with them."""
    made = run_command("token", "create", "admin", "--store", str(run.store), "--grant", "admin *")
    assert made.exit_code == 0, made.errors
    valid = made.output.strip()
    with tensorus.connect(run.address, token=valid) as client:
        wait_until(lambda: is_known(client))
        client.create_dataset("d")
        client.access.grant("oidc:alice", "writer", "*")
        revoked, reader = (client.access.create_token(name) for name in ("revoked", "reader"))
        run.texts += [repr(made) for made in (client.access.tokens(), revoked.token, reader.token)]
        client.access.revoke_token(revoked.token.id)
        other_key = issuer_key()
        found = {
            "valid": valid,
            "without rights": reader.secret,
            "revoked": revoked.secret,
            "wrong": altered(valid),
            "malformed": f"tns_{os.urandom(30).hex()}",
            "of nobody": os.urandom(30).hex(),
            "of the provider": provider.token(),
            "signed wrongly": altered(provider.token("mallory")),
            "of another key": provider.token("mallory", key=other_key),
            "of another audience": provider.token("mallory", aud="another"),
            "expired": provider.token("mallory", exp=1),
            "unsigned": f"{provider.token('mallory').rpartition('.')[0]}.{'x' * 40}",
        }
        # Until every worker knows.
        with tensorus.connect(run.address, token=revoked.secret, retry_timeout_s=0) as gone:
            wait_until(lambda: not is_known(gone))
    return found


def is_known(client: tensorus.Client) -> bool:
    try:
        client.server_status()
    except tensorus.errors.UnauthenticatedError:
        return False
    return True


def issuer_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only here

    return ec.generate_private_key(ec.SECP256R1())


def test_the_password_of_the_database_is_written_nowhere(tmp_path: Path) -> None:
    dsn = shared_server().tcp_dsn(schema=new_prefix().replace("-", "_"))
    assert PASSWORD in dsn
    environment = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "TENSORUS_CATALOGUE": dsn}
    chunks = shared_seaweed().url(new_prefix())
    with talkative(tmp_path, "--chunks", chunks, log_format="json", **environment) as run:
        made = run_command(
            "token", "create", "admin", "--catalogue", dsn, "--chunks", chunks, "--grant", "admin *", env=environment
        )
        assert made.exit_code == 0, made.errors
        with tensorus.connect(run.address, token=made.output.strip()) as client:
            wait_until(lambda: is_known(client))
            run.texts.append(repr(client.server_status()))
            client.create_dataset("d")
            client.insert("d", np.arange(100_000), id="t")
            run.texts.append(repr(client.store_stats()))
            with pytest.raises(tensorus.errors.TensorusError) as caught:
                client.get("d", "missing")
            run.note(caught.value)
        shown = run_command("serve", "--chunks", chunks, "--print-config", env=environment)
        run.texts.append(shown.output + shown.errors)
        assert "postgresql://" in shown.output
    lines = (tmp_path / "server.log").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    for secret in (PASSWORD, SECRET_KEY):
        assert_in_no_file(secret, [tmp_path], *run.texts)
