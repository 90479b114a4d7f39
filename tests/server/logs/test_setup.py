"""What a process has to say goes to the log, also what libraries and Python itself say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SPEAKERS = """
import logging, sys, threading, warnings
from tensorus_server.config import LogConfig
from tensorus_server.logs.setup import log_to_stderr

log_to_stderr(LogConfig(format=sys.argv[1], level=sys.argv[2]), names_process=False)
# Again, as nothing is said twice.
log_to_stderr(LogConfig(format=sys.argv[1], level=sys.argv[2]), names_process=False)

class Unlucky:
    def __del__(self):
        raise RuntimeError("in a finalizer\\nforged")

def end():
    raise RuntimeError("in a thread")

warnings.warn("a warning\\nforged", UserWarning)
Unlucky()
thread = threading.Thread(target=end, name="worker\\nforged")
thread.start()
thread.join()
logging.getLogger("library").info("of a library")
logging.getLogger("library").warning("of a library")
logging.getLogger("tensorus_server.x").debug("debug")
logging.getLogger("tensorus_server.x").info("info")
logging.getLogger("grpc._server").error("of grpc", exc_info=ValueError("x"))
raise RuntimeError("at the end")
"""


def said(form: str, level: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", SPEAKERS, form, level], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    return ran.stderr.splitlines()


@pytest.mark.slow
def test_everything_is_a_line_with_a_level() -> None:
    found = [(entry["level"], entry["logger"], entry["message"]) for entry in map(json.loads, said("json", "info"))]
    assert found[0][:2] == ("WARNING", "tensorus_server.process")
    assert found[0][2].startswith("UserWarning: a warning\nforged (<string>:")
    assert found[1][0] == "ERROR"
    assert "Exception ignored in" in found[1][2] or "finalizer" in found[1][2] or "Unlucky" in found[1][2]
    assert found[2:] == [
        ("ERROR", "tensorus_server.process", "an error ended thread worker\nforged"),
        ("WARNING", "library", "of a library"),
        ("INFO", "tensorus_server.x", "info"),
        ("ERROR", "grpc._server", "of grpc"),
        ("CRITICAL", "tensorus_server.process", "an error ended the process"),
    ]


@pytest.mark.slow
def test_the_level_is_the_lowest_that_is_logged_and_text_has_no_forged_line() -> None:
    lines = said("text", "error")
    assert all(line.startswith(("2", "    ")) for line in lines)
    assert {line.split()[1] for line in lines if line.startswith("2")} == {"ERROR", "CRITICAL"}
