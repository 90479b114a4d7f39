"""Programs that some tests need beside Python. Where one is missing, its tests are skipped and say what brings it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = {
    "go": "golang-go",
    "javac": "default-jdk-headless",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "promtool": "prometheus",
    "protoc": "protobuf-compiler",
    "protoc-gen-go": "protoc-gen-go",
    "/usr/share/gocode/src/google.golang.org/protobuf": "golang-google-protobuf-dev",
    "strace": "strace",
    "/usr/share/java/protobuf.jar": "libprotobuf-java",
}
"""Programs, and files by their path, with the packages of Debian and Ubuntu that have them."""


def require_tools(*names: str) -> None:
    """Skip the test unless all of these are there."""
    missing = [PACKAGES[name] for name in names if not (Path(name).exists() if "/" in name else shutil.which(name))]
    if missing:
        skip(f"needs apt-get install {' '.join(missing)}")


def skip(reason: str) -> NoReturn:
    """Skip the test; with TENSORUS_TOOLS=required, as in CI once it has installed them, it fails instead."""
    if os.environ.get("TENSORUS_TOOLS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
