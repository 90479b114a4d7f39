"""`tensorus serve --workers`: what the command line makes of it, without a process that serves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.client import PROCESS_TIMEOUT_S, run_command
from tensorus_server.config import EngineConfig, LogConfig, ServerConfig
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes import supervisor as workers_module
from tensorus_server.processes.control import Channel, Kind, Message
from tensorus_server.processes.supervisor import SETTINGS


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations, and the commands of their workers, that would have been supervised."""
    found: list[Any] = []

    def supervise(config: ServerConfig, command: Sequence[str], on_ready: Callable[[str], None]) -> None:
        found.append((config, list(command)))
        on_ready("127.0.0.1:4711")

    monkeypatch.setattr(workers_module, "supervise", supervise)
    # It speaks of this process: the log stays as it is.
    monkeypatch.setattr("tensorus_server.logs.setup.log_to_stderr", lambda *_, **__: None)
    return found


def test_the_options_are_those_of_all_workers_together(supervised: list[Any]) -> None:
    options = (
        "--data-dir folder --listen 0.0.0.0:0 --codec-threads 3 --streams 5 --memory-budget 64MiB --reserve-bytes 7"
    )
    ran = run_command("serve", "--insecure", *options.split(), "--grace", "0.5", "--workers", "4")
    assert (ran.exit_code, ran.errors) == (0, "")
    assert ran.output == "Tensorus serves folder on 127.0.0.1:4711, reserve 7 B, 4 workers. Ctrl-C stops it.\n"
    ((config, command),) = supervised
    assert config == ServerConfig(
        EngineConfig(Path("folder"), 3, reserve_bytes=7, reserve_share=0.02),
        "0.0.0.0:0",
        5,
        64 * 1024**2,
        0.5,
        workers=4,
        authenticates=False,
        insecure=True,
    )
    assert command == [sys.executable, "-P", "-m", "tensorus.cli._worker"]


def test_the_log_s_settings_are_passed_on_to_the_workers(supervised: list[Any]) -> None:
    run_command("serve", "--workers", "2", "--log-level", "error", "--log-format", "json", "--audit-log", "audit")
    config = ServerConfig.from_json(supervised[0][0].of_worker("127.0.0.1:1").to_json())
    assert config.logs == LogConfig("json", "error", audit_file=Path("audit"))


def test_the_log_says_which_process_speaks(supervised: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[bool] = []
    monkeypatch.setattr(
        "tensorus_server.logs.setup.log_to_stderr", lambda _, names_process: named.append(names_process)
    )
    run_command("serve", "--workers", "2")
    assert named == [True]


def test_one_worker_is_no_supervisor(supervised: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorus_server.processes import server as server_module  # noqa: PLC0415 - what is replaced is looked up there

    served: list[Any] = []
    monkeypatch.setattr(server_module, "serve", lambda config, _: served.append(config))
    monkeypatch.setattr("tensorus.cli.serve.tune_allocator", lambda **_: True)
    assert run_command("serve", "--workers", "1").exit_code == 0
    assert (supervised, [config.workers for config in served]) == ([], [1])


def test_elsewhere_than_on_linux_several_are_refused(supervised: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ran = run_command("serve", "--workers", "2")
    assert (ran.exit_code, supervised) == (2, [])
    assert "workers is 2, must be 1 on darwin: only Linux lets processes share a port" in ran.errors


def test_a_server_that_cannot_serve_is_exit_code_4(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise StoreUnavailableError("cannot listen on 127.0.0.1:1: is another server there?")

    monkeypatch.setattr(workers_module, "supervise", refuse)
    monkeypatch.setattr("tensorus_server.logs.setup.log_to_stderr", lambda *_, **__: None)
    ran = run_command("serve", "--workers", "2")
    assert (ran.exit_code, ran.errors) == (4, "tensorus: cannot listen on 127.0.0.1:1: is another server there?\n")


WITHOUT_APSW = """
import sys
sys.modules["apsw"] = None
from tensorus.cli._worker import main
sys.exit(main(sys.argv[1]))
"""


def test_a_worker_that_misses_a_library_says_which(tmp_path: Path) -> None:
    ours, theirs = Channel.pair()
    with theirs:
        settings = ServerConfig(EngineConfig(tmp_path)).to_json()
        ran = subprocess.run(
            [sys.executable, "-c", WITHOUT_APSW, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, SETTINGS: settings},
            check=False,
            timeout=PROCESS_TIMEOUT_S,
        )
    assert ran.returncode == 1
    assert ours.receive() == Message(
        Kind.NOT_INSTALLED, "apsw is not installed, which the engine needs: pip install 'tensorus[server]'"
    )
    ours.close()


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(*_: Any) -> None:
        raise ImportError("apsw is not installed: pip install 'tensorus[server]'")

    monkeypatch.setattr(workers_module, "supervise", miss)
    monkeypatch.setattr("tensorus_server.logs.setup.log_to_stderr", lambda *_, **__: None)
    ran = run_command("serve", "--workers", "2")
    assert (ran.exit_code, ran.errors) == (1, "tensorus: apsw is not installed: pip install 'tensorus[server]'\n")
