"""Starts programs that end with the test process, also if it is killed.

What ties them runs in the new process before the program does, rather than between fork and exec: there, a process with threads
of gRPC may crash.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_TIE = """
import ctypes, os, sys
ending, user, *command = sys.argv[1:]
if user:
    import pwd
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
ctypes.CDLL(None).prctl(1, int(ending))  # PR_SET_PDEATHSIG; changing the user resets it
os.execv(command[0], command)
"""


def start_tied(
    command: Sequence[str],
    log: IO[bytes] | int,
    *,
    user: str | None = None,
    ending: signal.Signals = signal.SIGKILL,
    folder: Path | str = "/",
) -> subprocess.Popen[bytes]:
    """Start a program, whose output goes to `log`. It ends with the thread that calls this.

    Args:
        command: begins with an absolute path.
        user: that runs it; None: the one of the test.
        ending: the signal that it gets when the test process ends.
        folder: its current folder.
    """
    tie = [sys.executable, "-S", "-c", _TIE, str(int(ending)), user or ""]
    return subprocess.Popen([*tie, *map(str, command)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
