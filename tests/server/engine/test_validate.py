"""What names, shapes, metadata and schemas may be; checked before anything of their size is made."""

from __future__ import annotations

import math
from typing import Any

import pytest

from support.cases import each
from tensorus_codecs.dtypes import DTYPES, dtype_by_name
from tensorus_codecs.errors import UnsupportedDTypeError
from tensorus_server.engine.validate import (
    checked_spec,
    require_dataset_name,
    require_id,
    require_metadata,
    require_schema,
    require_schema_fit,
)
from tensorus_server.errors import (
    InvalidMetadataError,
    InvalidNameError,
    InvalidShapeError,
    LimitExceededError,
    SchemaMismatchError,
)
from tensorus_server.limits import (
    DATASET_NAME_BYTES_MAX,
    ID_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_DEPTH_MAX,
    METADATA_KEY_BYTES_MAX,
    RANK_MAX,
    TENSOR_BYTES_MAX,
)
from tensorus_server.model import Schema, TensorSpec

FLOAT32 = dtype_by_name("float32")

GOOD_NAMES = ["a", "A b", "a/b/c", "...", "a..b", ".hidden", "ä\U0001f600", "'; --", "-", "x" * 255, "é" * 127]

BAD_NAMES = [
    ("", "is '', 0 bytes of UTF-8; must be 1 to 255 bytes"),
    ("x" * 256, "is 'x{40}'..., 256 bytes of UTF-8; must be 1 to 255 bytes"),
    ("é" * 128, "256 bytes of UTF-8; must be 1 to 255 bytes"),
    (".", "is '.': a part between slashes must not be empty, '.' or '..'"),
    ("..", "is '..': a part between slashes"),
    ("/", "is '/': a part between slashes"),
    ("/a", "is '/a': a part between slashes"),
    ("a/", "is 'a/': a part between slashes"),
    ("a//b", "is 'a//b': a part between slashes"),
    ("a/../b", "is 'a/../b': a part between slashes"),
    ("../../etc/passwd", "a part between slashes"),
    ("./a", "a part between slashes"),
    ("a\0", r"is 'a\\x00', must have no control characters"),
    ("a\nb", r"is 'a\\nb', must have no control characters"),
    ("\x1f", "must have no control characters"),
    ("\x7f", "must have no control characters"),
    ("\ud800", "is not Unicode text: surrogates not allowed"),
]


@each("name", GOOD_NAMES)
def test_a_dataset_may_have_the_name(name: str) -> None:
    require_dataset_name(name)


@each(("name", "message"), BAD_NAMES)
def test_a_dataset_may_not_have_the_name(name: str, message: str) -> None:
    with pytest.raises(InvalidNameError, match=f"^name of a dataset .*{message}"):
        require_dataset_name(name)


@each("name", [".", "..", "/", "a//b", "../../etc/passwd", "x" * 512, "layer.0/q[1] ä"])
def test_a_tensor_may_have_the_id(name: str) -> None:
    require_id(name, dataset="d")


@each(
    ("name", "message"),
    [
        ("", r"is '', 0 bytes of UTF-8; must be 1 to 512 bytes \[dataset=d\]"),
        ("x" * 513, "513 bytes of UTF-8; must be 1 to 512 bytes"),
        ("é" * 257, "514 bytes of UTF-8"),
        ("a\tb", r"is 'a\\tb', must have no control characters \[dataset=d\]"),
        ("\x7f", "must have no control characters"),
        ("a\ud800", "is not Unicode text"),
    ],
)
def test_a_tensor_may_not_have_the_id(name: str, message: str) -> None:
    with pytest.raises(InvalidNameError, match=f"^id of a tensor .*{message}"):
        require_id(name, dataset="d")


def test_a_refused_name_carries_its_limit() -> None:
    with pytest.raises(InvalidNameError) as caught:
        require_dataset_name("")
    assert caught.value.facts == {"limit": str(DATASET_NAME_BYTES_MAX)}
    with pytest.raises(InvalidNameError) as caught:
        require_id("", dataset="d")
    assert caught.value.facts == {"dataset": "d", "limit": str(ID_BYTES_MAX)}


GOOD_SHAPES: list[tuple[int, ...]] = [
    (),
    (0,),
    (1,) * RANK_MAX,
    (TENSOR_BYTES_MAX // 4,),
    (2**20, 2**18),
    (0, TENSOR_BYTES_MAX),
    (TENSOR_BYTES_MAX, 0, TENSOR_BYTES_MAX),
]

BAD_SHAPES = {
    "one axis too many": ((1,) * (RANK_MAX + 1), "rank is 33, limit is 32 axes"),
    "a hundred thousand axes": ((2**63,) * 100_000, "rank is 100000, limit is 32 axes"),
    "negative": ((3, -1), "size of axis 1 is -1, must not be negative"),
    "far below zero": ((-(2**63), 0), "size of axis 0 is -9223372036854775808"),
    "one element too many": ((TENSOR_BYTES_MAX // 4 + 1,), "needs 1099511627780 bytes, limit is 1099511627776 bytes"),
    "product beyond 64 bits": ((2**32, 2**32), r"shape \[4294967296, 4294967296\] of float32 needs"),
    "sizes of 2**63": ((2**63,) * RANK_MAX, "of float32 needs"),
    "empty, with a size beyond all": ((0, TENSOR_BYTES_MAX + 1), "limit is 1099511627776 bytes"),
}


@each("shape", GOOD_SHAPES)
def test_a_tensor_may_have_the_shape(shape: tuple[int, ...]) -> None:
    assert checked_spec(FLOAT32, shape, dataset="d", tensor="t") == TensorSpec(FLOAT32, shape)


@each(("shape", "message"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_a_tensor_may_not_have_the_shape(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidShapeError, match=message) as caught:
        checked_spec(FLOAT32, shape, dataset="d", tensor="t")
    assert caught.value.facts.items() >= {"dataset": "d", "tensor": "t"}.items()


@each("dtype", DTYPES)
def test_the_limit_of_a_tensor_is_in_bytes(dtype: Any) -> None:
    count = TENSOR_BYTES_MAX // dtype.element_bytes
    checked_spec(dtype, (count,), dataset="d", tensor="t")
    if dtype.element_bytes > 1:
        with pytest.raises(InvalidShapeError):
            checked_spec(dtype, (count + 1,), dataset="d", tensor="t")


def nested(depth: int, kind: type = dict) -> dict[str, Any]:
    """Return metadata of this many maps, or lists in a map, around one value."""
    value: Any = 1
    for _ in range(depth - 1):
        value = {"a": value} if kind is dict else [value]
    return {"a": value}


GOOD_METADATA: dict[str, dict[str, Any]] = {
    "nothing": {},
    "every kind": {"a": None, "b": True, "c": 1, "d": 1.5, "e": "x", "f": [1, [2]], "g": {"h": {}}},
    "floats of every kind": {"a": math.nan, "b": math.inf, "c": -0.0, "d": 5e-324},
    "the least and the largest integer": {"a": -(2**63), "b": 2**63 - 1},
    "text of every kind": {"a": "\0", "b": "\U0010ffff", "": "", "a\0b": ""},
    "as deep as may be": nested(METADATA_DEPTH_MAX),
    "lists as deep as may be": nested(METADATA_DEPTH_MAX, list),
    "as large as may be": {"a": "x" * (METADATA_BYTES_MAX - 8)},
    "as large as may be, in UTF-8": {"a": "é" * ((METADATA_BYTES_MAX - 8) // 2)},
    "the longest key": {"k" * METADATA_KEY_BYTES_MAX: 1},
    "the longest nested key": {"k" * 511: {"k" * 512: 1}},
    "many keys": {f"{number}": number for number in range(4000)},
}

BAD_METADATA: dict[str, tuple[dict[Any, Any], type[Exception], str]] = {
    "bytes": ({"a": b"x"}, InvalidMetadataError, "a value is a bytes; metadata holds None, bool, int, float, str"),
    "a tuple": ({"a": (1,)}, InvalidMetadataError, "a value is a tuple"),
    "a set, deep down": ({"a": [{"b": [set()]}]}, InvalidMetadataError, "a value is a set"),
    "a complex number": ({"a": 1j}, InvalidMetadataError, "a value is a complex"),
    "a key that is no text": ({1: 1}, InvalidMetadataError, "a key is a int, must be text"),
    "a key that is none": ({"a": [{None: 1}]}, InvalidMetadataError, "a key is a NoneType, must be text"),
    "an integer too large": ({"a": 2**63}, InvalidMetadataError, "an integer is 9223372036854775808, beyond 64 bits"),
    "an integer too small": ({"a": [-(2**63) - 1]}, InvalidMetadataError, "an integer is -9223372036854775809, beyond"),
    "too deep": (
        nested(METADATA_DEPTH_MAX + 1),
        LimitExceededError,
        r"nested deeper than 16 levels \(metadata_depth_max\)",
    ),
    "lists too deep": (nested(METADATA_DEPTH_MAX + 1, list), LimitExceededError, "nested deeper than 16 levels"),
    "far too deep": (nested(100_000), LimitExceededError, "nested deeper than 16 levels"),
    "too large": (
        {"a": "x" * (METADATA_BYTES_MAX - 7)},
        LimitExceededError,
        r"metadata is 65537 bytes as JSON, limit is 65536 bytes \(metadata_bytes_max\)",
    ),
    "too large in UTF-8": ({"a": "é" * 32765}, LimitExceededError, "metadata is 65538 bytes as JSON"),
    "too large for its escapes": ({"a": "\0" * 11_000}, LimitExceededError, "metadata is 66008 bytes as JSON"),
    "too long a key": (
        {"k" * 1025: 1},
        LimitExceededError,
        r"metadata key 'k{40}'\.\.\. is 1025 bytes, limit is 1024 bytes \(metadata_key_bytes_max\)",
    ),
    "too long a nested key": ({"k" * 512: {"k" * 512: 1}}, LimitExceededError, "is 1025 bytes, limit is 1024 bytes"),
    "too long a key by its escapes": ({"." * 513: 1}, LimitExceededError, "is 1026 bytes, limit is 1024 bytes"),
    "too long a key in UTF-8": ({"é" * 513: 1}, LimitExceededError, "is 1026 bytes, limit is 1024 bytes"),
}


@each("metadata", GOOD_METADATA.values(), ids=GOOD_METADATA)
def test_a_tensor_may_have_the_metadata(metadata: dict[str, Any]) -> None:
    require_metadata(metadata, dataset="d", tensor="t")


@each(("metadata", "error", "message"), BAD_METADATA.values(), ids=BAD_METADATA)
def test_a_tensor_may_not_have_the_metadata(metadata: dict[Any, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=rf"{message}.*\[dataset=d, tensor=t\]$") as caught:
        require_metadata(metadata, dataset="d", tensor="t")
    assert caught.value.facts.items() >= {"dataset": "d", "tensor": "t"}.items()


@each("metadata", [{"a": "\ud800"}, {"\ud800": 1}, {"a": [{"b": ["x\udfff"]}]}])
def test_text_that_is_no_unicode_is_no_metadata(metadata: dict[str, Any]) -> None:
    # Files and the wire hold UTF-8, which has no lone surrogates; Python's text may have them.
    with pytest.raises(InvalidMetadataError, match=r"\[dataset=d, tensor=t\]"):
        require_metadata(metadata, dataset="d", tensor="t")


def test_metadata_that_holds_itself_is_too_deep() -> None:
    metadata: dict[str, Any] = {}
    metadata["a"] = [metadata]
    with pytest.raises(LimitExceededError, match="nested deeper"):
        require_metadata(metadata, dataset="d", tensor="t")


@pytest.mark.parametrize("innermost", [[], {}], ids=["list", "map"])
def test_an_empty_list_or_map_is_a_level_as_any_other(innermost: Any) -> None:
    metadata: dict[str, Any] = {"a": innermost}
    for _ in range(METADATA_DEPTH_MAX - 2):
        metadata = {"a": metadata}
    require_metadata(metadata, dataset="d", tensor="t")
    with pytest.raises(LimitExceededError, match="nested deeper than 16 levels"):
        require_metadata({"a": metadata}, dataset="d", tensor="t")


GOOD_SCHEMAS = [
    Schema(),
    Schema(dtype="float32", shape=(3, -1), metadata={"a": "text"}),
    Schema(shape=()),
    Schema(shape=(-1,) * RANK_MAX),
    Schema(shape=(0,)),
    Schema(metadata={kind: kind for kind in ("any", "boolean", "integer", "number", "text", "list", "map")}),
]

BAD_SCHEMAS: list[tuple[Schema, type[Exception], str]] = [
    (Schema(dtype="float7"), UnsupportedDTypeError, "dtype 'float7' is not one of"),
    (Schema(shape=(3, -2)), InvalidShapeError, r"shape of the schema is \[3, -2\], must be at most 32 sizes, each -1"),
    (Schema(shape=(-1,) * 33), InvalidShapeError, "must be at most 32 sizes"),
    (Schema(metadata={"a": "float"}), InvalidMetadataError, "type of 'a' in the schema is 'float', must be one of any"),
]


@each("schema", GOOD_SCHEMAS)
def test_a_dataset_may_have_the_schema(schema: Schema) -> None:
    require_schema(schema)


@each(("schema", "error", "message"), BAD_SCHEMAS)
def test_a_dataset_may_not_have_the_schema(schema: Schema, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        require_schema(schema)


def fits(shape: tuple[int, ...], metadata: dict[str, Any], schema: Schema) -> None:
    """Require that a float32 tensor fits."""
    require_schema_fit("t", TensorSpec(FLOAT32, shape), metadata, schema, dataset="d")


FITTING: list[tuple[tuple[int, ...], dict[str, Any], Schema]] = [
    ((3,), {}, Schema()),
    ((3,), {}, Schema(dtype="float32")),
    ((3, 4), {}, Schema(shape=(3, -1))),
    ((3, 0), {}, Schema(shape=(-1, -1))),
    ((), {}, Schema(shape=())),
    ((), {"a": None, "b": 1}, Schema(metadata={"a": "any"})),
    ((), {"a": True}, Schema(metadata={"a": "boolean"})),
    ((), {"a": True}, Schema(metadata={"a": "any"})),
    ((), {"a": 1}, Schema(metadata={"a": "integer"})),
    ((), {"a": 1.0}, Schema(metadata={"a": "number"})),
    ((), {"a": ""}, Schema(metadata={"a": "text"})),
    ((), {"a": []}, Schema(metadata={"a": "list"})),
    ((), {"a": {}}, Schema(metadata={"a": "map"})),
]

NOT_FITTING: list[tuple[tuple[int, ...], dict[str, Any], Schema, str]] = [
    ((3,), {}, Schema(dtype="float64"), "dtype is float32, the schema requires float64"),
    ((3,), {}, Schema(shape=(4,)), r"shape is \[3\], the schema requires \[4\]"),
    ((3, 1), {}, Schema(shape=(3,)), r"shape is \[3, 1\], the schema requires \[3\]"),
    ((3,), {}, Schema(shape=(-1, -1)), r"shape is \[3\], the schema requires \[-1, -1\]"),
    ((3,), {}, Schema(shape=()), r"shape is \[3\], the schema requires \[\]"),
    ((), {}, Schema(metadata={"a": "any"}), "metadata has no 'a', which the schema requires"),
    ((), {"a": {"b": 1}}, Schema(metadata={"a.b": "any"}), r"metadata has no 'a.b', which"),
    ((), {"a": True}, Schema(metadata={"a": "integer"}), "metadata 'a' is a bool, the schema requires integer"),
    ((), {"a": 1}, Schema(metadata={"a": "boolean"}), "metadata 'a' is a int, the schema requires boolean"),
    ((), {"a": 1.0}, Schema(metadata={"a": "integer"}), "metadata 'a' is a float, the schema requires integer"),
    ((), {"a": True}, Schema(metadata={"a": "number"}), "metadata 'a' is a bool, the schema requires number"),
    ((), {"a": None}, Schema(metadata={"a": "text"}), "metadata 'a' is a NoneType, the schema requires text"),
    ((), {"a": 1, "b": 2}, Schema(metadata={"a": "integer", "b": "text"}), "metadata 'b' is a int"),
]


@each(("shape", "metadata", "schema"), FITTING)
def test_a_tensor_fits_the_schema(shape: tuple[int, ...], metadata: dict[str, Any], schema: Schema) -> None:
    fits(shape, metadata, schema)


@each(("shape", "metadata", "schema", "message"), NOT_FITTING)
def test_a_tensor_does_not_fit_the_schema(
    shape: tuple[int, ...], metadata: dict[str, Any], schema: Schema, message: str
) -> None:
    with pytest.raises(SchemaMismatchError, match=rf"^{message}.*\[dataset=d, tensor=t\]$"):
        fits(shape, metadata, schema)


def test_an_integer_is_no_number_of_a_schema() -> None:
    # Seen as a question more than as an answer: "number" is the wire's word for a float alone.
    with pytest.raises(SchemaMismatchError, match="metadata 'a' is a int, the schema requires number"):
        fits((), {"a": 1}, Schema(metadata={"a": "number"}))
