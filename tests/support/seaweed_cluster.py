"""A cluster of SeaweedFS on one machine: a master, three volume servers with two copies of all data, a filer, two gateways."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from support.seaweed import (
    BUCKET,
    CONFIG,
    SeaweedError,
    answers,
    free_ports,
    make_bucket,
    new_prefix,
    weed,
)
from support.tied import start_tied

__all__ = ["SeaweedCluster"]

_VOLUME_SERVERS = 3
_GATEWAYS = 2
_START_S = 60.0


class SeaweedCluster:
    """See the module's description. A context manager; it ends with the thread that enters it."""

    def __init__(self, folder: Path) -> None:
        """Keep its files in `folder`."""
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(2 + _VOLUME_SERVERS + _GATEWAYS)
        self._master, self._filer = ports[:2]
        self._volumes = ports[2 : 2 + _VOLUME_SERVERS]
        self.gateways = ports[2 + _VOLUME_SERVERS :]
        """Their ports."""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "s3.json").write_text(json.dumps(CONFIG))
        try:
            self._start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def endpoint(self, gateway: int) -> str:
        """Return the address of one of the gateways."""
        return f"http://127.0.0.1:{self.gateways[gateway]}"

    def url(self, gateway: int, prefix: str | None = None) -> str:
        """Return an address for a store, through one of the gateways."""
        return f"s3://{BUCKET}/{prefix or new_prefix()}?endpoint={self.endpoint(gateway)}&region=us-east-1"

    def kill(self, name: str) -> None:
        """Kill one process: "volume-0", "gateway-1", and so on."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(30)

    def start_volume(self, number: int) -> None:
        """Start a volume server, again if it was killed."""
        folder = self._folder / f"volume-{number}"
        folder.mkdir(exist_ok=True)
        self._start(
            f"volume-{number}",
            "volume",
            f"-dir={folder}",
            f"-port={self._volumes[number]}",
            f"-master=127.0.0.1:{self._master}",
            # Volumes of 64 MiB. A server without room does not refuse: it lets requests wait.
            "-max=100",
        )

    def close(self) -> None:
        """Kill all processes, and remove their files."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(30)
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_all(self) -> None:
        (self._folder / "master").mkdir(exist_ok=True)
        self._start(
            "master",
            "master",
            f"-mdir={self._folder / 'master'}",
            f"-port={self._master}",
            "-defaultReplication=001",
            "-volumeSizeLimitMB=64",
            "-telemetry=false",
            "-peers=none",
        )
        for number in range(_VOLUME_SERVERS):
            self.start_volume(number)
        (self._folder / "filer").mkdir(exist_ok=True)
        self._start(
            "filer",
            "filer",
            f"-defaultStoreDir={self._folder / 'filer'}",
            f"-port={self._filer}",
            f"-master=127.0.0.1:{self._master}",
        )
        self._wait_for(self._filer)
        for number, port in enumerate(self.gateways):
            self._start(
                f"gateway-{number}",
                "s3",
                f"-port={port}",
                f"-filer=127.0.0.1:{self._filer}",
                f"-config={self._folder / 's3.json'}",
                "-port.iceberg=0",
                "-port.lance=0",
            )
        for number, port in enumerate(self.gateways):
            self._wait_for(port)
            make_bucket(self.endpoint(number))

    def _start(self, name: str, command: str, *options: str) -> None:
        ip = ["-ip.bind=127.0.0.1"] if command == "s3" else ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        with (self._folder / f"{name}.log").open("ab") as log:
            command_line = [weed(), "-logtostderr=true", command, *ip, *options]
            self._processes[name] = start_tied(command_line, log, folder=self._folder)

    def _wait_for(self, port: int) -> None:
        give_up_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_s:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    log = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
                    raise SeaweedError(f"{name} ended: {log}")
            with suppress(OSError):
                answers(port)
                return
            time.sleep(0.1)
        raise SeaweedError(f"port {port} does not answer")
