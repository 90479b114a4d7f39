"""What an operator can get wrong about a store beyond one machine: each start ends with one message that names the part.

Nothing of a password is printed, neither by the command nor by its workers, nor is it among the arguments of workers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.cases import each
from support.client import Ran, run_command
from support.http_proxy import HttpProxy, Passed, Treatment
from support.postgres import PASSWORD, PostgresServer, shared_server
from support.seaweed import BUCKET, SECRET_KEY, Seaweed, new_prefix, shared_seaweed
from support.servers import ServerProcess

pytestmark = pytest.mark.timeout(120)

WRONG = "Sekret"
"""Stands for a password or a key that must not be shown."""

USAGE, UNAVAILABLE = 2, 4

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "writer", "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
"""They permit what a store needs, and not to make buckets."""


@dataclass(frozen=True)
class Parts:
    """A database and a bucket that work, with one store in them, and names that are free."""

    postgres: PostgresServer
    seaweed: Seaweed
    folder: Path
    used: str
    """The prefix, and the schema, of a store that exists."""
    free: str = field(default_factory=lambda: new_prefix().replace("-", "_"))

    @property
    def database(self) -> str:
        return self.postgres.tcp_dsn(schema=self.free)

    @property
    def bucket(self) -> str:
        return self.seaweed.url(self.free)


def serve(
    *options: str, credentials: dict[str, str] = CREDENTIALS, program: tuple[str, ...] = ("-m", "tensorus")
) -> subprocess.CompletedProcess[str]:
    """Run a server that must end by itself, and return how it did."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG", "TENSORUS_"))
    }
    return subprocess.run(
        [sys.executable, *program, "serve", "--listen", "127.0.0.1:0", *options],
        capture_output=True,
        text=True,
        env={**environment, "AWS_EC2_METADATA_DISABLED": "true", **credentials},
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def used() -> str:
    """The name of the prefix and the schema of a store that exists."""
    name = new_prefix().replace("-", "_")
    options = ("--catalogue", shared_server().tcp_dsn(schema=name), "--chunks", shared_seaweed().url(name))
    server = ServerProcess(Path("unused"), options=options, environment=CREDENTIALS, grace_s=1.0)
    assert server.terminate() == 0
    return name


@pytest.fixture
def parts(used: str, tmp_path: Path) -> Parts:
    """See `Parts`."""
    return Parts(shared_server(), shared_seaweed(), tmp_path, used)


@dataclass(frozen=True)
class Case:
    """One thing to get wrong."""

    name: str
    options: Callable[[Parts], tuple[str, ...]]
    credentials: dict[str, str]
    code: int
    message: str
    """A regular expression; a port is put in."""


CASES: list[Case] = [
    Case(
        "a wrong password",
        lambda parts: ("--catalogue", parts.database.replace(PASSWORD, WRONG), "--chunks", parts.bucket),
        CREDENTIALS,
        UNAVAILABLE,
        "PostgreSQL at 127.0.0.1:{port}/postgres: it cannot be reached: .*password authentication failed",
    ),
    Case(
        "a wrong password, and workers",
        lambda parts: (
            *("--catalogue", parts.database.replace(PASSWORD, WRONG), "--chunks", parts.bucket, "--workers", "2"),
        ),
        CREDENTIALS,
        UNAVAILABLE,
        "tensorus: PostgreSQL at 127.0.0.1:{port}/postgres: it cannot be reached: .*password authentication failed",
    ),
    Case(
        "no such database",
        lambda parts: ("--catalogue", parts.postgres.tcp_dsn("missing"), "--chunks", parts.bucket),
        CREDENTIALS,
        UNAVAILABLE,
        'PostgreSQL at .*/missing: it cannot be reached: .*database "missing" does not exist',
    ),
    Case(
        "no database server",
        lambda parts: ("--catalogue", f"postgresql://u:{WRONG}@127.0.0.1:1/x", "--chunks", parts.bucket),
        CREDENTIALS,
        UNAVAILABLE,
        "PostgreSQL at 127.0.0.1:1/x: it cannot be reached: .*Connection refused",
    ),
    Case(
        "another database",
        lambda parts: ("--catalogue", f"mysql://u:{WRONG}@h/x", "--chunks", parts.bucket),
        CREDENTIALS,
        USAGE,
        "Error: catalogue must be the URL of a PostgreSQL database",
    ),
    Case(
        "a connection string",
        lambda parts: ("--catalogue", f"host=h password={WRONG}", "--chunks", parts.bucket),
        CREDENTIALS,
        USAGE,
        "Error: catalogue must be the URL of a PostgreSQL database",
    ),
    Case(
        "a malformed URL of the database",
        lambda parts: ("--catalogue", f"postgresql://u:{WRONG}@[::bad/x", "--chunks", parts.bucket),
        CREDENTIALS,
        USAGE,
        "Error: the address of the catalogue in PostgreSQL is malformed",
    ),
    Case(
        "a malformed schema",
        lambda parts: ("--catalogue", parts.postgres.tcp_dsn(schema="Upper"), "--chunks", parts.bucket),
        CREDENTIALS,
        USAGE,
        "Error: the address of the catalogue in PostgreSQL is malformed: schema is 'Upper'",
    ),
    Case(
        "a catalogue without chunks",
        lambda parts: ("--catalogue", parts.database),
        CREDENTIALS,
        USAGE,
        "Error: a catalogue in PostgreSQL needs an object store",
    ),
    Case(
        "wrong credentials",
        lambda parts: ("--catalogue", parts.database, "--chunks", parts.bucket),
        {**CREDENTIALS, "AWS_SECRET_ACCESS_KEY": WRONG},
        UNAVAILABLE,
        f"the object store s3://{BUCKET}/.* refuses the credentials .HTTP 403, SignatureDoesNotMatch.",
    ),
    Case(
        "credentials that only permit reading",
        lambda parts: ("--catalogue", parts.database, "--chunks", parts.bucket),
        {**CREDENTIALS, "AWS_ACCESS_KEY_ID": "reader"},
        UNAVAILABLE,
        f"the object store s3://{BUCKET}/.* refuses the credentials .HTTP 403, AccessDenied.; .* what they permit",
    ),
    Case(
        "a bucket of somebody else",
        lambda parts: ("--catalogue", parts.database, "--chunks", parts.bucket.replace(BUCKET, "missing-bucket", 1)),
        CREDENTIALS,
        UNAVAILABLE,
        "the object store s3://missing-bucket/.* refuses the credentials .*the name of the bucket",
    ),
    Case(
        "no object store",
        lambda parts: ("--catalogue", parts.database, "--chunks", "s3://bucket/x?endpoint=http://127.0.0.1:9"),
        CREDENTIALS,
        UNAVAILABLE,
        "the object store s3://bucket/x is not reachable: the connection was refused",
    ),
    Case(
        "a malformed bucket",
        lambda parts: ("--catalogue", parts.database, "--chunks", "s3://b/x"),
        CREDENTIALS,
        USAGE,
        "Error: the address of the object store names the bucket 'b', which is no valid name",
    ),
    Case(
        "an unknown scheme",
        lambda parts: ("--catalogue", parts.database, "--chunks", "ftp://bucket/x", "--workers", "2"),
        CREDENTIALS,
        USAGE,
        "Error: the address of the object store begins with ftp://",
    ),
    Case(
        "a folder instead of a URL",
        lambda parts: ("--catalogue", parts.database, "--chunks", "folder"),
        CREDENTIALS,
        USAGE,
        "Error: chunks is 'folder', must be a URL",
    ),
    Case(
        "credentials in the address",
        lambda parts: ("--catalogue", parts.database, "--chunks", f"s3://key:{WRONG}@bucket/x"),
        CREDENTIALS,
        USAGE,
        "Error: the address of the object store holds credentials; put them into the environment",
    ),
    Case(
        "credentials in a parameter of the address",
        lambda parts: ("--catalogue", parts.database, "--chunks", f"s3://bucket/x?secret_key={WRONG}"),
        CREDENTIALS,
        USAGE,
        "Error: the address of the object store has the parameter 'secret_key'",
    ),
    Case(
        "a cache without an object store",
        lambda parts: ("--cache-dir", str(parts.folder / "cache")),
        CREDENTIALS,
        USAGE,
        "Error: cache_dir is set, but payloads in data_dir need no cache",
    ),
    Case(
        "a cache of no size",
        lambda parts: (
            *("--catalogue", parts.database, "--chunks", parts.bucket, "--cache-dir", str(parts.folder)),
            *("--cache-size", "0"),
        ),
        CREDENTIALS,
        USAGE,
        "Error: cache_bytes is 0, must be at least 1",
    ),
    Case(
        "a cache folder that cannot be made",
        lambda parts: ("--catalogue", parts.database, "--chunks", parts.bucket, "--cache-dir", "/proc/cache"),
        CREDENTIALS,
        UNAVAILABLE,
        "tensorus: could not use the cache's folder /proc/cache: No such file or directory",
    ),
    Case(
        "two stores on one prefix",
        lambda parts: ("--catalogue", parts.database, "--chunks", parts.seaweed.url(parts.used)),
        CREDENTIALS,
        UNAVAILABLE,
        "PostgreSQL at .*: the store is not opened, .*: there are payloads of store [0-9a-f]{{32}}, and the catalogue was",
    ),
    Case(
        "a second catalogue, in SQLite, on one prefix",
        lambda parts: ("--data-dir", str(parts.folder / "data"), "--chunks", parts.seaweed.url(parts.used)),
        CREDENTIALS,
        UNAVAILABLE,
        "the store in .* is not opened, .*: there are payloads of store [0-9a-f]{{32}}, and",
    ),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.code != USAGE], ids=lambda case: case.name)
def test_a_store_that_cannot_be_opened_is_refused_by_the_name_of_its_part(parts: Parts, case: Case) -> None:
    done = serve(*case.options(parts), "--verbose", credentials=case.credentials)
    _require(done, case.code, case.message.format(port=parts.postgres.port))


@each("case", [case for case in CASES if case.code == USAGE])
def test_a_malformed_option_is_refused_before_anything_is_opened(parts: Parts, case: Case) -> None:
    ran = run_command("serve", *case.options(parts))
    _require(ran, case.code, case.message)


def _require(ran: Ran | subprocess.CompletedProcess[str], code: int, message: str) -> None:
    output = (ran.output + ran.errors) if isinstance(ran, Ran) else (ran.stdout + ran.stderr)
    assert (ran.exit_code if isinstance(ran, Ran) else ran.returncode) == code, output
    assert re.search(message, output), output
    assert "Traceback" not in output
    for secret in (WRONG, PASSWORD, SECRET_KEY):
        assert secret not in output


def _without_ranges(request: Passed) -> Treatment | None:
    return Treatment("no_range") if request.method == "GET" else None


def _with_empty_objects(request: Passed) -> Treatment | None:
    return Treatment("status", status=200) if request.method == "GET" and "list-type" not in request.path else None


def _with_empty_listings(request: Passed) -> Treatment | None:
    listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    return Treatment("status", status=200, body=listing) if "list-type" in request.path else None


@pytest.mark.parametrize(
    ("rule", "promise"),
    [
        (_without_ranges, "ignores which range of an object is requested"),
        (_with_empty_objects, "breaks a promise that is needed, that it returns what was stored"),
        (_with_empty_listings, "breaks a promise that is needed, that it lists what was just stored"),
    ],
)
def test_an_object_store_that_breaks_a_promise_is_refused(
    parts: Parts, rule: Callable[[Passed], Treatment | None], promise: str
) -> None:
    with HttpProxy(parts.seaweed.port, rule) as proxy:
        address = parts.bucket.replace(parts.seaweed.endpoint, proxy.endpoint)
        done = serve("--catalogue", parts.database, "--chunks", address)
    _require(done, UNAVAILABLE, f"the object store s3://.* {promise}")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_database_of_a_newer_version_is_refused(parts: Parts, workers: str) -> None:
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(parts.postgres.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {parts.free}".encode())
        connection.execute(f"CREATE TABLE {parts.free}.schema_version (version bigint, applied timestamptz)".encode())
        connection.execute(f"INSERT INTO {parts.free}.schema_version VALUES (99, now())".encode())
    done = serve("--catalogue", parts.database, "--chunks", parts.bucket, "--workers", workers)
    _require(
        done, UNAVAILABLE, f"tensorus: PostgreSQL at .*: the catalogue in schema {parts.free} has version 99, this"
    )


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("psycopg", 1, r"tensorus: psycopg is not installed, .*: pip install 'tensorus\[postgres\]'"),
        ("obstore", UNAVAILABLE, r"needs the package obstore: pip install 'tensorus\[object-store\]'"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(parts: Parts, missing: str, code: int, message: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from tensorus.cli import main; main()"
    done = serve("--catalogue", parts.database, "--chunks", parts.bucket, program=("-c", program))
    _require(done, code, message)


def test_a_password_is_neither_shown_nor_among_the_arguments_of_workers(parts: Parts) -> None:
    server = ServerProcess(
        parts.folder / "unused",
        workers=2,
        options=("--chunks", parts.bucket, "--verbose"),
        environment={**CREDENTIALS, "TENSORUS_CATALOGUE": parts.database},
        grace_s=1.0,
    )
    try:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) >= 2
        for pid in (str(server.process.pid), *children):
            assert PASSWORD not in Path(f"/proc/{pid}/cmdline").read_text()
    finally:
        server.process.terminate()
        output = "".join(server.process.communicate(timeout=60))
    assert server.process.returncode == 0
    assert "serves" in output
    assert PASSWORD not in output
