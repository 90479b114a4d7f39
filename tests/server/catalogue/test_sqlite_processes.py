"""Several processes on one catalogue: they take turns, lose nothing, and see what the others did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.engine import Reopen, commit, create, stored_tensor
from tensorus_server.catalogue.abc import PageRequest

pytestmark = pytest.mark.slow

TENSORS = 60

WRITER = f"""
import sys
from pathlib import Path
from support.engine import stored_tensor
from tensorus_server.catalogue.sqlite import SqliteCatalogue

catalogue = SqliteCatalogue(Path(sys.argv[1]))
dataset = catalogue.datasets.get("dataset")
print("ready", flush=True)
sys.stdin.readline()
for number in range({TENSORS}):
    names = (f"{{sys.argv[2]}}-{{number}}", f"both-{{number}}")
    own, both = (stored_tensor(dataset, name, source=number.to_bytes(16, "big")) for name in names)
    outcomes = catalogue.tensors.commit([own, both])
    catalogue.maintain(idle=number % 10 == 0)
    print(outcomes[0].generation, outcomes[1].generation, flush=True)
catalogue.close()
"""


@pytest.fixture
def writers(reopen: Reopen, tmp_path: Path) -> list[subprocess.Popen[str]]:
    """Two processes that wait to write into one dataset."""
    create(reopen())
    tests = str(Path(__file__).parents[2])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{WRITER}", str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return started


def test_two_processes_write_at_once_and_nothing_is_lost(writers: list[subprocess.Popen[str]], reopen: Reopen) -> None:
    catalogue = reopen()
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    # A third one, this one, writes and reads meanwhile.
    dataset = catalogue.datasets.get("dataset")
    mine = [commit(catalogue, stored_tensor(dataset, f"mine-{number}"))[0].generation for number in range(20)]
    outputs = [process.communicate(timeout=60)[0] for process in writers]
    assert [process.returncode for process in writers] == [0, 0]
    said = [[tuple(map(int, line.split())) for line in output.splitlines()] for output in outputs]
    assert [len(lines) for lines in said] == [TENSORS, TENSORS]
    # The same tensor inserted by both is one; every other has a generation of its own.
    assert [both for _, both in said[0]] == [both for _, both in said[1]]
    own = [generation for lines in said for generation, _ in lines]
    both = [generation for _, generation in said[0]]
    assert len(set(own + both + mine)) == 3 * TENSORS + len(mine)
    page = catalogue.tensors.page("dataset", PageRequest(size=1000))
    assert {tensor.generation for tensor in page.tensors} == set(own + both + mine)
    # Whoever committed them, they are numbered in the order of their commits, and no number is missing or comes twice.
    assert [tensor.ordinal for tensor in page.tensors] == list(range(1, 3 * TENSORS + len(mine) + 1))
