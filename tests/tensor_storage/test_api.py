"""What the package shows: every name of Tensorus 0.1, documented, typed, and with the parameters that it had."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from tensorus import errors, tensor_storage
from tensorus.tensor_storage import TensorStorage

DOCUMENT = Path(__file__).parents[2] / "docs" / "MIGRATING.md"

METHODS = {
    "create_dataset": ["name", "schema"],
    "list_datasets": [],
    "dataset_exists": ["name"],
    "count": ["dataset_name"],
    "insert": ["name", "tensor", "metadata"],
    "get_dataset": ["name"],
    "get_dataset_with_metadata": ["name"],
    "get_tensor_by_id": ["name", "record_id"],
    "query": ["name", "query_fn"],
    "sample_dataset": ["name", "n_samples"],
    "get_records_paginated": ["name", "offset", "limit"],
    "update_tensor_metadata": ["dataset_name", "record_id", "new_metadata"],
    "delete_tensor": ["dataset_name", "record_id"],
    "delete_dataset": ["name"],
    "batch_insert": ["dataset_name", "tensors_and_metadata"],
    "batch_update_metadata": ["dataset_name", "updates"],
    "batch_delete_tensors": ["dataset_name", "record_ids"],
    "transaction": ["dataset_names", "transaction_id"],
    "set_compression_config": ["config"],
    "set_compression_preset": ["preset"],
    "get_compression_stats": ["dataset_name"],
    "query_by_metadata": ["dataset_name", "field", "value"],
    "query_by_tensor_shape": ["dataset_name", "shape"],
    "create_index": ["dataset_name", "index_name", "field_name", "index_type"],
    "rebuild_indexes": ["dataset_name"],
    "get_index_stats": ["dataset_name"],
    "create_ops_interface": [],
    "tensor_add": ["dataset_name", "tensor_id1", "tensor_id2", "store_result", "result_metadata"],
    "tensor_subtract": ["dataset_name", "tensor_id1", "tensor_id2", "store_result", "result_metadata"],
    "tensor_multiply": ["dataset_name", "tensor_id1", "tensor_id2", "store_result", "result_metadata"],
    "tensor_matmul": ["dataset_name", "tensor_id1", "tensor_id2", "store_result", "result_metadata"],
    "tensor_sum": ["dataset_name", "tensor_id", "dim", "keepdim", "store_result", "result_metadata"],
    "tensor_mean": ["dataset_name", "tensor_id", "dim", "keepdim", "store_result", "result_metadata"],
    "tensor_reshape": ["dataset_name", "tensor_id", "shape", "store_result", "result_metadata"],
    "tensor_transpose": ["dataset_name", "tensor_id", "dim0", "dim1", "store_result", "result_metadata"],
    "tensor_svd": ["dataset_name", "tensor_id", "store_result", "result_metadata"],
    "batch_tensor_operation": ["dataset_name", "operation", "tensor_ids"],
    "enable_operation_caching": ["max_size"],
    "disable_operation_caching": [],
    "get_operation_cache_stats": [],
    "benchmark_tensor_operation": ["dataset_name", "operation", "tensor_id", "iterations"],
}
"""With the positional parameters of each, in order."""

ATTRIBUTES = ["datasets", "storage_path", "compression_config", "tensor_compression"]


def positional(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.name != "self" and parameter.kind in kinds]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_parameters_that_it_had(name: str) -> None:
    assert positional(getattr(TensorStorage, name)) == METHODS[name]


def test_the_constructor_has_the_parameters_that_it_had() -> None:
    assert positional(TensorStorage.__init__) == ["storage_path", "compression_config", "compression_preset"]


def test_everything_public_says_what_it_is_and_has_types() -> None:
    for name in tensor_storage.__all__:
        assert getattr(tensor_storage, name).__doc__
    for name, found in inspect.getmembers(TensorStorage):
        if name.startswith("_"):
            continue
        assert found.__doc__, name
        function = found.fget if isinstance(found, property) else found
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, name
        assert all(
            parameter.annotation is not inspect.Parameter.empty
            for parameter in signature.parameters.values()
            if parameter.name != "self"
        ), name
    assert all(isinstance(getattr(TensorStorage, name), property) for name in ATTRIBUTES)


@pytest.mark.parametrize(
    ("name", "builtin", "ours"),
    [
        ("DatasetNotFoundError", ValueError, errors.DatasetNotFoundError),
        ("TensorNotFoundError", ValueError, errors.TensorNotFoundError),
        ("NameTakenError", ValueError, errors.AlreadyExistsError),
        ("SchemaValidationError", ValueError, errors.SchemaMismatchError),
        ("DamagedRecordError", RuntimeError, errors.TensorusError),
        ("TransactionError", Exception, Exception),
        ("OperationError", ValueError, RuntimeError),
    ],
)
def test_an_error_is_the_builtin_that_it_was_and_one_of_the_client_s(name: str, builtin: type, ours: type) -> None:
    assert issubclass(getattr(tensor_storage, name), builtin)
    assert issubclass(getattr(tensor_storage, name), ours)


def test_the_document_s_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = DOCUMENT.read_text(encoding="utf-8").split("## The API", 1)[1]
    names: dict[str, Any] = {}
    exec(section.split("```python\n", 1)[1].split("```", 1)[0], names)
    assert names["image"].shape == (3, 256, 256)
    assert names["storage"].get_compression_stats("images")["average_compression_ratio"] > 1
    names["storage"].close()


def test_the_document_names_every_method_and_no_other() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## The API", 1)[1].split("\n## ", 1)[0]
    table = section.split("| in `TensorStorage` |", 1)[1].split("\n\n", 1)[0]
    named = set(re.findall(r"`(\w+)[(`]", table))
    assert named == {name for name in dir(TensorStorage) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300, None, 7])
def test_a_dataset_of_a_name_that_cannot_be_does_not_exist(storage: TensorStorage, name: Any) -> None:
    assert storage.dataset_exists(name) is False
