"""Fixtures that all tests share: real servers on loopback, clients of both kinds, and datasets of a test's own.

Servers that many tests share are started once; a test that changes its server takes `fresh_server`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import hypothesis
import psutil
import pytest

pytest.register_assert_rewrite("contract", "support")

import tensorus  # noqa: E402 - the registration comes before the first import of either
from support import stores  # noqa: E402
from support.servers import engine_config, running_server  # noqa: E402
from tensorus.embedded import EmbeddedBackend  # noqa: E402
from tensorus_protos.v1 import tensorus_pb2_grpc  # noqa: E402
from tensorus_server.app import open_engine  # noqa: E402
from tensorus_server.engine.engine import Engine  # noqa: E402
from tensorus_server.processes.server import Server  # noqa: E402

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("fast", deadline=None, derandomize=True, max_examples=10)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 6 * 1024**3


def has_memory() -> bool:
    """Return whether the tests' files fit into memory."""
    if not MEMORY.is_dir():
        return False
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) >= MEMORY_BYTES_MIN


# Stores wait for the disk at every commit, which would be half of the time of the tests. What a killed process has written is
# in memory either way, so most claims are the same there. Whoever sets TMPDIR or --basetemp has the files elsewhere.
if "TMPDIR" not in os.environ and has_memory():
    # For pytest, and for the processes that the tests start.
    os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None

# The profiles and tokens of whoever runs the tests are not for the servers of the tests.
os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir()) / "tensorus-tests-config")
for _name in ("ADDRESS", "CA", "CERT", "KEY", "PROFILE", "SERVER", "TOKEN"):
    os.environ.pop(f"TENSORUS_{_name}", None)

# Who starts the tests in the background may have them ignore Ctrl-C, and then so would every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that only add to it."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone."""
    with running_server(tmp_path / "store") as running:
        yield running


@pytest.fixture(scope="session")
def remote(server: Server) -> Iterator[tensorus.Client]:
    """A client of the shared server."""
    with tensorus.connect(server.address) as client:
        yield client


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tensorus.Client]:
    """A client of a store in this process."""
    with tensorus.Client(EmbeddedBackend(tmp_path_factory.mktemp("embedded"), engine_config)) as client:
        yield client


@pytest.fixture(params=["remote", "embedded"])
def client(request: pytest.FixtureRequest) -> tensorus.Client:
    """Both kinds of client, one after the other: they must not differ."""
    found: tensorus.Client = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def few_shards() -> Iterator[None]:
    """Stores that this process opens while the module runs are quick to make; see `support.stores`."""
    with stores.few_shards():
        yield


@pytest.fixture
def dataset() -> str:
    """A name that no other test uses."""
    return f"dataset-{next(_numbers)}"


@pytest.fixture(scope="session")
def stub(server: Server) -> Iterator[tensorus_pb2_grpc.TensorServiceStub]:
    """What a stranger has: the generated stub, and nothing of ours behind it."""
    with grpc.insecure_channel(server.address) as channel:
        yield tensorus_pb2_grpc.TensorServiceStub(channel)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine of this test alone."""
    opened = open_engine(engine_config(tmp_path / "store"))
    yield opened
    opened.close()
