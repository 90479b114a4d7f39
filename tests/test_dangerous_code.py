"""What the packages never do, whatever they read: unpickle, run text as code, or load plugins that nobody named."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.cases import each

ROOT = Path(__file__).parents[1]
FILES = sorted(file for folder in ("client", "codecs", "protos", "server") for file in (ROOT / folder).rglob("*.py"))

UNPICKLING = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
    "copyreg",
}
"""Modules whose loading runs what a file says."""

RUNNING = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
"""Functions of Python that run text."""

CALLS = {"torch.load", "np.load", "numpy.load", "yaml.load", "os.system", "os.popen", "subprocess.getoutput"}
"""Functions of modules that would unpickle, or give a text to a shell."""

ALLOWED = {
    "client/tensorus/cli/_files.py: pickle": "names the error of torch.load",
    "client/tensorus/cli/_files.py: torch.load": "of a file that a user names, tensors only",
    "client/tensorus/cli/_files.py: weights_only": "True: tensors only",
    "server/tensorus_server/catalogue/sql/rows.py: eval": "compiles the paths of constants, once, when it is imported",
}
"""What is used all the same, and why that is safe."""


def uses(source: str) -> Iterator[str]:
    """Yield what a source does of this, each as it is named there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] in UNPICKLING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLING:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = node.func
    if isinstance(called, ast.Name) and called.id in RUNNING:
        yield called.id
    if ast.unparse(called) in CALLS:
        yield ast.unparse(called)
    for keyword in node.keywords:
        harmless = isinstance(keyword.value, ast.Constant) and not keyword.value.value
        if keyword.arg in {"allow_pickle", "shell"} and not harmless:
            yield str(keyword.arg)
        if keyword.arg == "weights_only":
            is_safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            yield "weights_only" if is_safe else "weights_only that may be false"


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    assert len(FILES) > 300
    found = {
        f"{file.relative_to(ROOT).as_posix()}: {use}"
        for file in FILES
        for use in uses(file.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)


@each(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import _pickle as p",
        "np.load(file, allow_pickle=True)",
        "array.load(file, allow_pickle=flag)",
        "torch.load(file, weights_only=True)",
        "eval(text)",
        "exec(compile(text))",
        "subprocess.run(text, shell=True)",
        "yaml.load(text)",
    ],
)
def test_each_of_these_would_be_found(source: str) -> None:
    assert [*uses(source)]


SOURCE = """
import pathlib, sys
import numpy, tensorus, tensorus.aio, tensorus.cli, tensorus.compression
from support.servers import running_server

def has_loaded():
    return sorted(set(sys.modules) & {"evil_codec", "evil_plugin"})

with running_server(pathlib.Path(sys.argv[1])) as server, tensorus.connect(server.address) as client:
    client.create_dataset("d")
    client.insert("d", numpy.arange(10.0), id="t")
    print(has_loaded())
    try:
        client.insert("d", numpy.arange(10.0), policy=tensorus.Policy(encoding=["evil"]))
    except tensorus.errors.TensorusError as error:
        print(has_loaded(), type(error).__name__)
"""


def test_no_plugin_is_loaded_until_a_codec_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """And then only those that say that they are codecs, not whatever else a package offers."""
    found = tmp_path / "packages"
    info = found / "evil-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    groups = {"tensorus.codecs": "evil_codec", "tensorus.plugins": "evil_plugin", "tensorus": "evil_plugin"}
    (info / "entry_points.txt").write_text(
        "".join(f"[{group}]\nevil = {name}:Evil\n" for group, name in groups.items())
    )
    for name in groups.values():
        (found / f"{name}.py").write_text("class Evil: pass\n")
    path = os.pathsep.join([str(found), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", SOURCE, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["[]", "['evil_codec'] UnsupportedCodecError"]
