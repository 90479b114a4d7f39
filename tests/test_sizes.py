"""No module and no function outgrows a reader: 500 and 70 lines, and far less for most."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for folder in ("protos", "codecs", "server", "client", "examples", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if "_pb2" not in path.name
)
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def test_no_module_is_too_long() -> None:
    sizes = {str(path.relative_to(ROOT)): line_count(path) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES_MAX} == {}
    assert statistics.median(sizes.values()) <= 200


def test_no_function_is_too_long() -> None:
    sizes = dict(size for path in MODULES for size in functions(path))
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES_MAX} == {}
    assert statistics.median(sizes.values()) <= 12


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
