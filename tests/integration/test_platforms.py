"""Systems that this suite does not run on, as far as they can be played: macOS can hold a store, Windows says why it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

from support.client import run_process
from tensorus_server.processes.server import Server

MACOS = """
import os, sys
import tensorus, tensorus.embedded
import numpy as np

sys.platform = "darwin"
del os.fdatasync
with tensorus.open({folder!r}) as store:
    store.create_dataset("d", preset="none")
    store.insert("d", np.arange(300_000), id="in a file")
    store.insert("d", np.arange(3), id="in the catalogue")
with tensorus.open({folder!r}) as store:
    assert (store.get("d", "in a file", as_="numpy") == np.arange(300_000)).all()
    assert (store.get("d", "in the catalogue", as_="numpy") == np.arange(3)).all()
"""

WINDOWS = """
import sys
import click, grpc, numpy, rich, tensorus, tensorus.cli
import tensorus._grpc.remote

sys.platform = "win32"
for module in ("fcntl", "resource"):
    sys.modules[module] = None
"""

WHY_NOT = (
    "Windows cannot hold a store: it has neither the file locks (flock) nor the syncs of folders that a store needs. "
    "Run the server on Linux (WSL 2 or a container works), and connect to it with tensorus.connect"
)


def test_a_system_without_fdatasync_holds_a_store(tmp_path: Path) -> None:
    ran = run_process([sys.executable, "-c", MACOS.format(folder=str(tmp_path / "store"))])
    assert (ran.returncode, ran.stderr) == (0, "")


def test_windows_is_told_why_it_cannot_open_a_store(tmp_path: Path) -> None:
    source = f"""{WINDOWS}
try:
    tensorus.open({str(tmp_path / "store")!r})
except ImportError as error:
    print(error)
"""
    ran = run_process([sys.executable, "-c", source])
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{WHY_NOT}\n", "")
    assert not (tmp_path / "store").exists()


def test_windows_is_told_why_it_cannot_serve(tmp_path: Path) -> None:
    source = f"""{WINDOWS}
sys.argv = ["tensorus", "serve", "--data-dir", {str(tmp_path / "store")!r}, "--listen", "127.0.0.1:0"]
tensorus.cli.main()
"""
    ran = run_process([sys.executable, "-c", source])
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"tensorus: {WHY_NOT}\n")
    assert not (tmp_path / "store").exists()


def test_windows_can_be_a_client(server: Server, dataset: str) -> None:
    source = f"""{WINDOWS}
with tensorus.connect({server.address!r}) as client:
    client.create_dataset({dataset!r})
    client.insert({dataset!r}, numpy.arange(300_000), id="t")
    assert (client.get({dataset!r}, "t", as_="numpy") == numpy.arange(300_000)).all()
"""
    ran = run_process([sys.executable, "-c", source])
    assert (ran.returncode, ran.stderr) == (0, "")
