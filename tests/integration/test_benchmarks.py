"""`make bench` runs as its documentation says; what it measures here says nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.client import run_process

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"


def test_a_group_with_servers_and_clients_runs_with_a_relative_output(tmp_path: Path) -> None:
    # Of the groups that start both, `growth` is the smallest that needs no library beyond those for development.
    command = [sys.executable, str(RUN), "growth", "--mebibytes", "4", "--repeats", "1", "--output", "results"]
    ran = run_process(command, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "insert, among 1,000 tensors" in ran.stdout
    found = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert set(found) == {"machine", "growth"}
    assert "insert, among 100 tensors" in (tmp_path / "results" / "results.md").read_text(encoding="utf-8")
    # Stores and files are gone, the results are there.
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"results.json", "results.md", "growth.png"}


def test_a_group_whose_peer_is_not_installed_says_what_brings_it(tmp_path: Path) -> None:
    source = f"""
import runpy, sys
sys.modules["pyarrow"] = None
sys.path.insert(0, {str(RUN.parent)!r})
sys.argv = ["run.py", "memory", "--mebibytes", "4", "--repeats", "1", "--output", "results"]
runpy.run_path({str(RUN)!r}, run_name="__main__")
"""
    ran = run_process([sys.executable, "-c", source], cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.endswith("pyarrow is not installed, which group memory needs: pip install '.[all,bench]'\n")
