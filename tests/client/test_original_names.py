"""What programs for Tensorus 0.1 import and this version does not have: the import says so, and where to read on."""

from __future__ import annotations

import importlib
import sys

import pytest

import tensorus
from support.cases import each
from tensorus._original import ABSENT_NAMES


@each("name", sorted(ABSENT_NAMES))
def test_a_name_of_the_original_points_to_the_page_on_migrating(name: str) -> None:
    with pytest.raises(ImportError, match=rf"tensorus.{name}, .*, is not in tensorus .* docs/MIGRATING.md"):
        exec(f"from tensorus import {name}")


@each("module", ["api", "storage_ops"])
@each("statement", ["import tensorus.{}", "from tensorus.{} import app", "from tensorus import {}"])
def test_a_module_of_the_original_points_to_the_page_on_migrating(module: str, statement: str) -> None:
    for _ in range(2):
        with pytest.raises(ImportError, match=rf"tensorus.{module}, .*, is not in tensorus .* docs/MIGRATING.md"):
            exec(statement.format(module))
        assert f"tensorus.{module}" not in sys.modules


def test_any_other_name_is_missing_as_names_are() -> None:
    assert not hasattr(tensorus, "Tensors")
    with pytest.raises(AttributeError, match="module 'tensorus' has no attribute 'Tensors'"):
        tensorus.Tensors  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tensorus.nql_agent")
