"""What the package shows: about ten names, all documented, all typed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

import tensorus
from support.cases import each
from tensorus import client, compression, errors, types

PUBLIC_NAMES = {
    "Client",
    "DatasetInfo",
    "NewTensor",
    "Policy",
    "Progress",
    "Record",
    "Schema",
    "TensorInfo",
    "TensorusError",
    "__version__",
    "connect",
    "errors",
    "open",
    "request_id",
}


def test_the_package_exports_these_names() -> None:
    assert set(tensorus.__all__) == PUBLIC_NAMES
    assert tensorus.__all__ == sorted(tensorus.__all__)


def test_the_compression_api_exports_the_names_of_tensorus_0_x() -> None:
    assert set(compression.__all__) >= {
        "COMPRESSION_PRESETS",
        "CompressionAlgorithm",
        "CompressionConfig",
        "CompressionError",
        "FP16Quantization",
        "GZIPCompression",
        "INT8Quantization",
        "LZ4Compression",
        "NoCompression",
        "NoQuantization",
        "QuantizationAlgorithm",
        "QuantizationError",
        "TensorCompression",
        "create_compression_algorithm",
        "create_quantization_algorithm",
        "get_compression_preset",
    }
    assert all(getattr(compression, name) is not None for name in compression.__all__)
    assert len(compression.__all__) == len(set(compression.__all__))


@each("name", sorted(PUBLIC_NAMES))
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(tensorus, name) is not None


def test_the_version_is_the_distribution_s() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|\w*)", tensorus.__version__)
    assert importlib.metadata.version("tensorus") == tensorus.__version__


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield everything that a user can name: functions, classes, and their public methods and properties."""
    for module in (tensorus, client, compression, errors, types):
        yield module.__name__, module
        for name in module.__all__:
            found = getattr(module, name)
            if not (inspect.isclass(found) or inspect.isfunction(found)):
                continue
            yield f"{module.__name__}.{name}", found
            for method, value in vars(found).items() if inspect.isclass(found) else ():
                if not method.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{module.__name__}.{name}.{method}", value


@each(("name", "found"), [pytest.param(*pair, id=pair[0]) for pair in public_objects()])
def test_every_public_object_says_what_it_is(name: str, found: Any) -> None:
    assert found.__doc__
    # A dataclass without a docstring gets its signature for one.
    assert not found.__doc__.startswith(f"{name.rpartition('.')[2]}(")
    assert found.__doc__.splitlines()[0].endswith((".", ":")), found.__doc__


@each("name", sorted(name for name, _ in inspect.getmembers(tensorus.Client, inspect.isfunction)))
def test_every_parameter_of_the_client_is_typed_and_beyond_the_subject_named(name: str) -> None:
    signature = inspect.signature(getattr(tensorus.Client, name))
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)
    assert signature.return_annotation is not inspect.Signature.empty or name == "__init__"
    if not name.startswith("_"):
        # A value with a default is an option: options go by name, but for the subject of the call: the filter of a query,
        # what `verify` verifies, and the id of a copy.
        positional = [
            parameter.name
            for parameter in parameters
            if parameter.default is not inspect.Parameter.empty and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        expected = {"verify": ["dataset", "ids"], "copy": ["new_id"], "move": ["new_id"]}
        assert set(positional) <= {"where"} or positional == expected[name]


@each("package", ["tensorus", "tensorus_codecs", "tensorus_protos", "tensorus_server"])
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()


@each("module", [client, errors, types])
def test_a_module_exports_what_it_defines(module: Any) -> None:
    defined = {
        node.name
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
    }
    assert defined <= set(module.__all__)


def test_the_help_shows_the_ways_in() -> None:
    text = tensorus.__doc__ or ""
    assert "tensorus.connect(" in text
    assert "tensorus.open(" in text
