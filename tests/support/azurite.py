"""Azurite, Azure's own emulator of its blob storage, in a process of its own. Without it, from npm, tests are skipped."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import shutil
import subprocess
import time
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from support.seaweed import answers, free_ports
from support.tied import start_tied

__all__ = ["ACCOUNT", "KEY", "Azurite"]

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every emulator; published by Microsoft."""

CONTAINER = "tensorus"

_START_S = 60.0


class Azurite:
    """An emulator with a container. A context manager; it ends with the thread that enters it."""

    def __init__(self, folder: Path) -> None:
        """Keep its files in `folder`."""
        program = shutil.which("azurite-blob")
        if program is None:
            pytest.skip("Azurite is not installed: npm install -g azurite")
        self._program = program
        self._folder = folder
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self._port), "--location", str(self._folder)]
        self._process = start_tied([self._program, *place, *options], subprocess.DEVNULL)
        give_up_s = time.monotonic() + _START_S
        while True:
            try:
                answers(self._port)
                break
            except OSError:
                assert time.monotonic() < give_up_s
                time.sleep(0.1)
        self._make_container()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, prefix: str) -> str:
        """Return an address for a store."""
        return f"az://{CONTAINER}/{prefix}?endpoint=http://127.0.0.1:{self._port}/{ACCOUNT}"

    def _make_container(self) -> None:
        """Make the container, with a request signed as Azure documents it (Shared Key)."""
        path = f"/{ACCOUNT}/{CONTAINER}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
        text = f"PUT{12 * chr(10)}{named}/{ACCOUNT}{path}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
            connection.request("PUT", f"{path}?restype=container", headers=headers)
            answer = connection.getresponse()
            assert answer.status == http.HTTPStatus.CREATED, answer.read()
