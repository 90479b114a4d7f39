"""`tensorus serve` as a process: it starts, answers, and ends as it is told."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.cases import each
from support.client import run_command, run_process
from support.servers import ServerProcess
from tensorus import errors
from tensorus_server.config import EngineConfig, LogConfig, ServerConfig
from tensorus_server.processes import server as server_module
from tensorus_server.processes.server import Server

SERVE = [sys.executable, "-c", "import tensorus.cli; tensorus.cli.main()", "serve"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path / "store")
    yield running
    if running.process.poll() is None:
        running.kill()


def test_it_serves_and_ends_with_0_when_it_is_terminated(process: ServerProcess, tmp_path: Path) -> None:
    assert run_command("ls", "--server", process.address).exit_code == 0
    with tensorus.connect(process.address) as client:
        client.create_dataset("d")
        info = client.insert("d", np.arange(3), id="t")
    assert process.terminate() == 0
    with tensorus.open(tmp_path / "store") as client:
        assert client.info("d", "t") == info


def test_it_ends_with_0_when_it_is_interrupted(process: ServerProcess) -> None:
    process.process.send_signal(signal.SIGINT)
    _, complaints = process.process.communicate(timeout=30)
    assert process.process.returncode == 0
    assert "Traceback" not in complaints


def test_its_clients_learn_that_it_has_gone(process: ServerProcess) -> None:
    with tensorus.connect(process.address) as client:
        client.create_dataset("d")
        process.kill()
        with pytest.raises(errors.UnavailableError):
            client.create_dataset("other")


def test_it_says_where_it_serves(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*SERVE, "--data-dir", str(tmp_path / "a b"), "--listen", "127.0.0.1:0", "--reserve-bytes", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    rest, _ = process.communicate(timeout=30)
    assert line.startswith(f"Tensorus serves {tmp_path / 'a b'} on 127.0.0.1:")
    assert line.endswith(", reserve 0 B. Ctrl-C stops it.\n")
    assert rest == ""


def test_a_port_that_is_taken_is_exit_code_4_and_leaves_no_store(server: Server, tmp_path: Path) -> None:
    ran = run_process([*SERVE, "--data-dir", str(tmp_path / "store"), "--listen", server.address])
    assert (ran.returncode, ran.stdout) == (4, "")
    # One line: nothing of gRPC's own log beside it.
    assert ran.stderr == f"tensorus: cannot listen on {server.address}: is another server there?\n"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        pytest.param("no-such-host.invalid", r"the host 'no-such-host\.invalid' is unknown \(.+\)", id="no such host"),
        pytest.param("192.0.2.1", r"'192\.0\.2\.1' is not an address of this machine", id="another machine's"),
    ],
)
def test_a_host_that_cannot_be_listened_on_is_exit_code_4_and_leaves_no_store(
    tmp_path: Path, host: str, reason: str
) -> None:
    ran = run_command("serve", "--insecure", "--data-dir", str(tmp_path / "store"), "--listen", f"{host}:7733")
    assert (ran.exit_code, ran.output) == (4, "")
    assert re.fullmatch(rf"tensorus: cannot listen on {host}:7733: {reason}\n", ran.errors)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        pytest.param("file/store", "Not a directory", id="below a file"),
        pytest.param("/proc/store", "No such file or directory", id="where nothing can be made"),
    ],
)
def test_a_folder_that_cannot_be_made_is_exit_code_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    ran = run_command("serve", "--data-dir", folder, "--listen", "127.0.0.1:0")
    assert (ran.exit_code, ran.output) == (4, "")
    assert ran.errors == f"tensorus: cannot open a store in {folder}: {part}\n"


def test_a_folder_that_may_not_be_written_to_is_exit_code_4(tmp_path: Path) -> None:
    # A privileged user may write anywhere but into a file system that is mounted for reading; there is none to rely on.
    folder = tmp_path / "store"
    folder.mkdir(mode=0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        ran = run_command("serve", "--data-dir", folder, "--listen", "127.0.0.1:0")
        assert ran.exit_code == 4
        assert ran.errors == f"tensorus: cannot open a store in {folder}: Permission denied\n"
    else:
        pytest.skip("this user may write anywhere")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that would have been served."""
    found: list[Any] = []
    monkeypatch.setattr(server_module, "serve", lambda config, _: found.append(config))
    # It speaks of this process: the allocator and the log stay as they are.
    monkeypatch.setattr("tensorus.cli.serve.tune_allocator", lambda **_: True)
    monkeypatch.setattr("tensorus_server.logs.setup.log_to_stderr", lambda *_, **__: None)
    return found


def test_without_options_it_serves_as_the_help_says(served: list[Any]) -> None:
    assert run_command("serve").exit_code == 0
    assert served == [
        ServerConfig(
            EngineConfig(Path("tensorus-data"), None, reserve_bytes=1024**3, reserve_share=0.02),
            listen="127.0.0.1:7733",
            streams_max=64,
            grace_s=30.0,
            authenticates=False,
        )
    ]


def test_every_option_arrives(served: list[Any]) -> None:
    options = {
        "--data-dir": "folder",
        "--listen": "0.0.0.0:1234",
        "--codec-threads": "3",
        "--streams": "5",
        "--reserve-bytes": "7",
        "--grace": "0.5",
    }
    assert run_command("serve", "--insecure", *(part for pair in options.items() for part in pair)).exit_code == 0
    assert served == [
        ServerConfig(
            EngineConfig(Path("folder"), 3, reserve_bytes=7, reserve_share=0.02),
            listen="0.0.0.0:1234",
            streams_max=5,
            grace_s=0.5,
            authenticates=False,
            insecure=True,
        )
    ]


def test_no_reserve_is_no_share_of_the_disk_either(served: list[Any]) -> None:
    run_command("serve", "--reserve-bytes", "0")
    assert (served[0].engine.reserve_bytes, served[0].engine.reserve_share) == (0, 0.0)


@each(
    ("options", "logs"),
    [
        ([], LogConfig("text", "info", access=False, audit_file=None)),
        (["--verbose"], LogConfig(level="debug")),
        (["--log-level", "warning", "--log-format", "json"], LogConfig("json", "warning")),
        (["--access-log", "--audit-log", "a b"], LogConfig(access=True, audit_file=Path("a b"))),
    ],
)
def test_the_options_of_the_log_arrive(served: list[Any], options: list[str], logs: LogConfig) -> None:
    served.clear()
    run_command("serve", *options)
    assert [config.logs for config in served] == [logs]
