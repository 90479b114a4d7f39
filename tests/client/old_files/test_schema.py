"""Schemas of the original: what a store can say of them is kept, the rest is noted."""

from __future__ import annotations

from typing import Any

from support.cases import each
from tensorus.old_files.pt_values import Mark
from tensorus.old_files.schema import OldSchema, converted_schema


def test_without_a_schema_there_is_none() -> None:
    assert converted_schema(None) == (OldSchema(), ())
    assert converted_schema({}) == (OldSchema(), ())


def test_a_whole_schema_is_converted() -> None:
    types = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
    pickled = {"shape": (3, 0), "dtype": "torch.bfloat16", "metadata": {f"a {name}": name for name in types}}
    found, notes = converted_schema(pickled)
    assert found == OldSchema("bfloat16", (3, 0), {f"a {name}": kind for name, kind in types.items()})
    assert notes == ()


def test_an_unknown_type_asks_for_presence() -> None:
    assert converted_schema({"metadata": {"a": "date", "b": 7}})[0].metadata == {"a": None, "b": None}


def test_a_dtype_may_be_named_by_itself() -> None:
    assert converted_schema({"dtype": Mark("torch.int64")})[0].dtype == "int64"


@each(
    ("pickled", "note"),
    [
        ([], "its schema is dropped: it is a list, must be a dict"),
        ({"dtype": "float32"}, "its schema's dtype is dropped: dtype 'float32' cannot be stored"),
        ({"dtype": "torch.qint8"}, "its schema's dtype is dropped: dtype 'torch.qint8' cannot be stored"),
        ({"shape": "3"}, "its schema's shape is dropped: it is a str that no shape is"),
        ({"shape": (3, None)}, "its schema's shape is dropped: it is a tuple that no shape is"),
        ({"shape": [-1]}, "its schema's shape is dropped: it is a list that no shape is"),
        ({"shape": [True]}, "its schema's shape is dropped: it is a list that no shape is"),
        ({"shape": [2**63]}, "its schema's shape is dropped: it is a list that no shape is"),
        ({"metadata": ["a"]}, "its schema's metadata is dropped: it is a list, must be a dict"),
        ({"strides": 1}, "its schema's 'strides' is dropped: it never meant anything"),
    ],
)
def test_what_a_store_cannot_say_is_noted(pickled: Any, note: str) -> None:
    assert converted_schema(pickled) == (OldSchema(), (note,))


def test_the_rest_of_a_schema_is_kept() -> None:
    found, notes = converted_schema(
        {"shape": (3, None), "dtype": "torch.float32", "metadata": {"a": "int", Mark("b"): "int"}}
    )
    assert found == OldSchema("float32", None, {"a": int})
    assert len(notes) == 1
