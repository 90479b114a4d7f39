"""Errors of the disk, which strace puts into single system calls of a program that works on a store (`disk_child.py`)."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.tools import require_tools

__all__ = ["Call", "DiskChild"]

_READING = "openat,read,pread64,preadv,fstat,newfstatat,statx,statfs,fstatfs,getdents64,flock"
_WRITING = (
    "write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,utimensat"
)
_CALLS = f"{_READING},{_WRITING}"

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_TESTS = str(Path(__file__).parents[1])
_ATTACHED_S = 30.0


@dataclass(frozen=True)
class Call:
    """A system call of an operation."""

    thread: str
    """Name of the thread that makes it."""
    name: str
    """Of the system call."""
    number: int
    """Which of this thread's calls of the name it is, from 1."""
    takes_space: bool
    """Whether a full disk may make it fail: it writes, or creates a file, or changes a folder."""


class DiskChild:
    """The program, and strace on it."""

    def __init__(self, folder: Path, patch: str = "pass") -> None:
        """Start the program on the store in `folder`, or skip the test if strace cannot be used.

        Args:
            patch: statements that break the program on purpose.
        """
        require_tools("strace")
        self.folder = folder / "store"
        self._patch = patch
        self._log = folder / "strace"
        self._errors = folder / "errors"
        self.start()

    def start(self) -> None:
        """Start the program, again if it has ended."""
        program = (
            f"import sys; sys.path.insert(0, {_TESTS!r})\nfrom pathlib import Path\nfrom support import disk_child\n"
            f"def patch():\n    {self._patch.strip().replace(chr(10), chr(10) + '    ')}\n"
            f"disk_child.main(Path({str(self.folder)!r}), patch)\n"
        )
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._answer()

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str, *arguments: str) -> Any:
        """Return the answer; an error is a `RuntimeError` with what was said."""
        print(json.dumps([command, *arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def outcome(self, command: str, *arguments: str) -> str:
        """Return "ok", or the error."""
        try:
            self.ask(command, *arguments)
        except RuntimeError as error:
            return str(error)
        return "ok"

    def calls(self, operation: str, name: str) -> list[Call]:
        """Do an operation, and return its system calls on files of the store, in their order.

        Without those that release a lock: Linux has no reason to fail them.
        """
        self.ask("prepare", operation, name)
        names = {str(number): thread for thread, number in self.ask("threads").items()}
        outcome = self._traced(["-f", "-p", str(self._process.pid), "-y", "-e", f"trace={_CALLS}"], operation, name)
        assert outcome == "ok", outcome
        counts: Counter[tuple[str, str]] = Counter()
        found = []
        for line in self._log.read_text(encoding="utf-8").splitlines():
            if (parsed := _LINE.match(line)) is None:
                continue
            thread, call, rest = parsed.groups()
            counts[thread, call] += 1
            # A thread that began since then is not one that an error can be put into.
            if str(self.folder) in rest and thread in names and "LOCK_UN" not in rest:
                found.append(Call(names[thread], call, counts[thread, call], _takes_space(call, rest)))
        return found

    def fails_at(self, call: Call, error: str, operation: str, name: str, *, stays: bool = False) -> tuple[bool, str]:
        """Do an operation during which a call fails.

        Args:
            stays: whether all later calls of that name on that thread fail, too.

        Returns:
            Whether the call came, and the outcome of the operation.
        """
        thread = self.ask("threads")[call.thread]
        when = f"{call.number}+" if stays else str(call.number)
        inject = ["-e", f"trace={call.name}", "-e", f"inject={call.name}:error={error}:when={when}"]
        outcome = self._traced(["-p", str(thread), *inject], operation, name)
        return "(INJECTED)" in self._log.read_text(encoding="utf-8"), outcome

    def _traced(self, options: list[str], operation: str, name: str) -> str:
        self._log.unlink(missing_ok=True)
        strace = subprocess.Popen(["strace", "-o", str(self._log), *options], stderr=subprocess.PIPE, text=True)
        try:
            self._wait_until_attached(strace)
            return self.outcome("run", operation, name)
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate(timeout=_ATTACHED_S)

    def _wait_until_attached(self, strace: subprocess.Popen[str]) -> None:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace may not trace here: {line.strip()}")
        # With -f it says so once, and attaches to the other threads a little later.
        if "-f" in strace.args:
            deadline_s = time.monotonic() + _ATTACHED_S
            while not all(_is_traced(task) for task in Path(f"/proc/{self._process.pid}/task").iterdir()):
                assert time.monotonic() < deadline_s
                time.sleep(0.01)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended: {self._errors.read_text(encoding='utf-8')}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]


def _takes_space(call: str, arguments: str) -> bool:
    if call == "openat":
        return "O_CREAT" in arguments
    # Changing a length takes no space, nor does writing in place, where files are not copied on write.
    in_place = call in {"ftruncate", "truncate"} or "/chunks/store>" in arguments
    return call in _WRITING.split(",") and not in_place


def _is_traced(task: Path) -> bool:
    return "TracerPid:\t0\n" not in (task / "status").read_text(encoding="ascii")
