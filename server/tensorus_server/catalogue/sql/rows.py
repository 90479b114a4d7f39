"""Converts tensors to rows of the table `tensor`, and back.

A row has a checksum over all of its columns (`row_checksum.py`), which is verified whenever the row is read.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import product
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.sql.row_checksum import MALFORMED, require_no_blobs, row_checksum
from tensorus_server.catalogue.sql.tensor_columns import COLUMNS
from tensorus_server.model import Checksum, Locator, StorageReport, Tensor, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.tensor_columns import TensorColumn

__all__ = [
    "ROW_CHECKSUM_COLUMNS",
    "TENSOR_COLUMNS",
    "Alike",
    "RowDamageError",
    "RowWriter",
    "checksum_of_row",
    "spec_from_columns",
    "tensor_from_row",
    "verified",
]

_SHARED = [column for column in COLUMNS if column.shared]
_NUMBERS = [column for column in COLUMNS if not column.shared and column.kind != "t"]
_TEXTS = [column for column in COLUMNS if not column.shared and column.kind == "t"]
_IN_ROW = [*_NUMBERS, *_TEXTS, None, *_SHARED]

ROW_CHECKSUM_COLUMNS = tuple(column.name for column in (*_SHARED, *_NUMBERS, *_TEXTS))
"""The columns that a row's checksum covers, in its order."""

TENSOR_COLUMNS = tuple("row_checksum" if column is None else column.name for column in _IN_ROW)
"""The table's columns, in the order of `tensor_from_row` and `RowWriter.row`."""

_SHARED_TYPES = "".join(column.kind for column in _SHARED)
_OWN_TYPES = "".join(column.kind for column in (*_NUMBERS, *_TEXTS))

_FIRST_TEXT = len(_NUMBERS)
_ROW_CHECKSUM = _FIRST_TEXT + len(_TEXTS)
_FIRST_SHARED = _ROW_CHECKSUM + 1
_SUMMARY = TENSOR_COLUMNS.index("min")
_ZERO_COUNT = TENSOR_COLUMNS.index("zero_count")

_pack_own = struct.Struct("<" + _OWN_TYPES.replace("t", "q")).pack

_NO_VALUES = (None,) * (_FIRST_TEXT - _SUMMARY)
"""The columns from "min" to "infinity_count" of a dtype without a summary."""


# ---- From a `StoredTensor` to columns ----------------------------------------------------------------------------------

_VALUES = "new.spec", "new.policy", "storage"
"""Values with several shared columns, or with JSON. Equal ones may differ in their JSON, so they are compared by identity."""


def _stored_paths(group: Iterable[TensorColumn]) -> list[str]:
    return [column.stored for column in group if column.stored is not None]


def _compared(path: str) -> str:
    """Return the path of the value that decides whether a column is shared: the column's own, or one of `_VALUES`."""
    return next((value for value in _VALUES if f"{path}.".startswith(f"{value}.")), path)


def _getter(paths: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that returns the values of these paths of an object, as `operator.attrgetter` does for several.

    It is compiled, as the methods of a dataclass are: with `attrgetter`, which looks up each name anew, a row took 6.3 instead
    of 3.5 microseconds (measured).
    """
    getter: Callable[[Any], tuple[Any, ...]] = eval(  # noqa: S307 - the paths are constants of `COLUMNS`
        f"lambda value: ({''.join(f'value.{path}, ' for path in paths)})"
    )
    return getter


_COMPARED = set(map(_compared, _stored_paths(_SHARED)))
_values_of = _getter(_VALUES)
_scalars_of = _getter(sorted(_COMPARED.difference(_VALUES)))
_shared_of = _getter(_stored_paths(_SHARED))
_numbers_of = _getter(_stored_paths(_NUMBERS[:_SUMMARY]))
_reals_of = _getter(path.removeprefix("values.") for path in _stored_paths(_NUMBERS[_SUMMARY:_ZERO_COUNT]))
_counts_of = _getter(path.removeprefix("values.") for path in _stored_paths(_NUMBERS[_ZERO_COUNT:]))
_texts_of = _getter(_stored_paths(_TEXTS))

_ENCODERS = [(place, column.encode) for place, column in enumerate(_SHARED) if column.encode is not None]


# ---- From columns to a `Tensor` ----------------------------------------------------------------------------------------

_PLACES = {column.tensor: place for place, column in enumerate(_IN_ROW) if column is not None}


def _places(value: type[Any], path: str) -> list[int]:
    """Return the columns of a value's fields, in the order of its constructor. Raises KeyError if a field has none."""
    return [_PLACES[f"{path}.{field.name}"] for field in fields(value)]


_source_checksum_of = itemgetter(*_places(Checksum, "source_checksum"))
_value_checksum_of = itemgetter(*_places(Checksum, "value_checksum"))
_locator_of = itemgetter(*_places(Locator, "locator"))
_METADATA = TENSOR_COLUMNS.index("metadata")

# Places within `Alike.columns`, which start at the first shared column.
_spec_of = itemgetter(*(place for place, column in enumerate(_SHARED) if column.tensor == "spec"))
_storage_of = itemgetter(*(place - _FIRST_SHARED for place in _places(StorageReport, "storage")))
_STORAGE_DECODERS = [
    (number, column.decode)
    for number, place in enumerate(_places(StorageReport, "storage"))
    if (column := _IN_ROW[place]) is not None and column.decode is not None
]
_POLICY, _DS = (TENSOR_COLUMNS.index(name) - _FIRST_SHARED for name in ("policy", "ds"))

_COMPOSED = (
    "inline_payload",
    "dataset",
    "spec",
    "metadata",
    "policy",
    "source_checksum",
    "value_checksum",
    "storage",
    "values",
    "locator",
)
"""Fields of a `Tensor` that are not plain columns. `tensor_from_row` builds them and appends them to the row, in this order."""

_tensor_of = itemgetter(
    *(
        len(TENSOR_COLUMNS) + _COMPOSED.index(field.name) if field.name in _COMPOSED else _PLACES[field.name]
        for field in fields(Tensor)
        if field.name != "outcome"
    )
)
"""Takes the arguments of `Tensor` from a row with `_COMPOSED` after it. Raises KeyError, here, if one of them has no column."""


@lru_cache(maxsize=1024)
def spec_from_columns(dtype_number: int, element_bytes: int, shape: str) -> TensorSpec:
    """Return the spec; `shape` is JSON."""
    return TensorSpec(_dtype(dtype_number, element_bytes), tuple(json.loads(shape)))


class RowDamageError(Exception):
    """A row is damaged; the message says how."""


class RowWriter:
    """Makes rows of new tensors, one at a time. The columns that a tensor shares with the previous one are reused."""

    def __init__(self) -> None:
        """Start without a previous tensor."""
        self._spec: TensorSpec | None = None
        self._policy: StoragePolicy | None = None
        self._storage: StorageReport | None = None
        self._scalars: tuple[Any, ...] = ()
        self._columns: tuple[Any, ...] = ()
        self._start = 0

    def row(self, stored: StoredTensor, generation: int, ordinal: int, created_us: int) -> tuple[Any, ...]:
        """Return the columns of a new tensor, in the order of `TENSOR_COLUMNS`."""
        (spec, policy, storage), scalars = _values_of(stored), _scalars_of(stored)
        if (
            storage is not self._storage
            or spec is not self._spec
            or policy is not self._policy
            or scalars != self._scalars
        ):
            columns = _shared_columns(stored)
            self._start, self._columns = row_checksum(_SHARED_TYPES, columns), columns
            self._spec, self._policy, self._storage, self._scalars = spec, policy, storage, scalars
        numbers = (
            generation,
            ordinal,
            created_us,
            *_numbers_of(stored),
            *(_NO_VALUES if stored.values is None else _summary_columns(stored.values)),
        )
        texts = tensor_id, metadata, source, value, key = _texts_of(stored)
        text, json_text, key_text = tensor_id.encode(), metadata.encode(), key.encode()
        lengths = len(text), len(json_text), len(source), len(value), len(key_text)
        packed = _packed(numbers, lengths)
        checksum = crc32c(b"".join((packed, text, json_text, source, value, key_text)), self._start)
        return (*numbers, *texts, checksum, *self._columns)


def _shared_columns(stored: StoredTensor) -> tuple[Any, ...]:
    columns = list(_shared_of(stored))
    for place, encode in _ENCODERS:
        columns[place] = encode(columns[place])
    return tuple(columns)


def tensor_from_row(row: tuple[Any, ...], dataset: str, ds: int, *, with_metadata: bool = True) -> Tensor:
    """Return the tensor of a row: `TENSOR_COLUMNS`, and the inline payload or NULL after them.

    Args:
        dataset: the dataset's name.
        ds: its number, which the row must have.
        with_metadata: whether its metadata are needed, which are large as Python objects; if not, they are empty.

    Raises:
        RowDamageError: the row is not what was written.
    """
    # A Get of small tensors spends most of its time here, so values are taken by position, and shared ones are cached.
    alike = verified(row, ds)
    metadata = row[_METADATA]
    try:
        composed = (
            *row,
            dataset,
            alike.spec,
            json.loads(metadata) if metadata != "{}" and with_metadata else {},
            alike.policy,
            Checksum(*_source_checksum_of(row)),
            Checksum(*_value_checksum_of(row)),
            alike.storage,
            # A dtype without a summary has no count of zeros, either.
            None if row[_ZERO_COUNT] is None else ValueSummary(*row[_SUMMARY:_FIRST_TEXT]),
            Locator(*_locator_of(row)),
        )
        return Tensor(*_tensor_of(composed))
    except MALFORMED as error:
        raise RowDamageError(f"a value of the row cannot be read: {type(error).__name__}") from error


def verified(row: tuple[Any, ...], ds: int) -> Alike:
    """Verify a row's checksum and return what the row shares with others. Takes the arguments of `tensor_from_row`.

    Raises:
        RowDamageError: the row is not what was written.
    """
    numbers = row[:_FIRST_TEXT]
    tensor_id, metadata, source, value, key, checksum = row[_FIRST_TEXT:_FIRST_SHARED]
    try:
        alike = _alike(row[_FIRST_SHARED:-1])
        text, json_text, key_text = tensor_id.encode(), metadata.encode(), key.encode()
        lengths = len(text), len(json_text), len(source), len(value), len(key_text)
        texts = text, json_text, source, value, key_text
        found = crc32c(b"".join((_packed(numbers, lengths), *texts)), alike.checksum)
        if found != checksum and not any(
            crc32c(b"".join((_packed(signed, lengths), *texts)), alike.checksum) == checksum
            for signed in _with_negative_zeros(numbers)
        ):
            raise RowDamageError(f"the row's checksum is {found:#010x}, expected {checksum:#010x}")
    except MALFORMED as error:
        raise RowDamageError(f"a value of the row cannot be read: {type(error).__name__}") from error
    if alike.ds != ds:
        raise RowDamageError(f"the row is of dataset number {alike.ds}, expected {ds}")
    return alike


def checksum_of_row(columns: tuple[Any, ...]) -> int:
    """Return the checksum of a row of `ROW_CHECKSUM_COLUMNS`, without the shortcuts of `RowWriter`.

    Raises:
        struct.error, TypeError: a value does not have its column's type.
    """
    shared, own = columns[: len(_SHARED)], columns[len(_SHARED) :]
    return row_checksum(_OWN_TYPES, own, row_checksum(_SHARED_TYPES, shared))


def _with_negative_zeros(numbers: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the numbers of a row with -0.0 in place of zeros of its summary, in every combination.

    SQLite stores 0.0 for -0.0. The first versions with row checksums computed them from -0.0; such rows are intact.
    """
    zeros = [place for place in range(_SUMMARY, _ZERO_COUNT) if numbers[place] == 0.0]
    for signs in product((1.0, -1.0), repeat=len(zeros)):
        signed = list(numbers)
        for place, sign in zip(zeros, signs, strict=True):
            signed[place] = sign * 0.0
        yield tuple(signed)


def _packed(numbers: tuple[Any, ...], lengths: tuple[int, ...]) -> bytes:
    try:
        return _pack_own(*numbers, *lengths)
    except struct.error:
        return _pack_with_nulls(numbers, *lengths)


def _pack_with_nulls(numbers: tuple[Any, ...], *lengths: int) -> bytes:
    """Return the numbers of a row, some of which are NULL, as `row_checksum` packs them.

    Raises:
        struct.error: a value does not have its column's type.
    """
    values, counts = numbers[_SUMMARY:_ZERO_COUNT], numbers[_ZERO_COUNT:]
    return _pack_own(
        *numbers[:_SUMMARY],
        *(math.nan if value is None else value for value in values),
        *(-1 if count is None else count for count in counts),
        *lengths,
    )


@dataclass(frozen=True)
class Alike:
    """The values of the shared columns. They are decoded on use, after the row's checksum was verified."""

    columns: tuple[Any, ...]
    checksum: int
    """The checksum of these columns, which the row's checksum continues."""
    ds: int

    @cached_property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        return spec_from_columns(*_spec_of(self.columns))

    @cached_property
    def storage(self) -> StorageReport:
        """The report of how the tensor was stored."""
        values = list(_storage_of(self.columns))
        for number, decode in _STORAGE_DECODERS:
            values[number] = decode(values[number])
        return StorageReport(*values)

    @cached_property
    def policy(self) -> Mapping[str, Any] | None:
        """The insert's own policy, as JSON; None: it followed the dataset's."""
        policy = self.columns[_POLICY]
        return None if policy is None else json.loads(policy)


@lru_cache(maxsize=1024)
def _alike(columns: tuple[Any, ...]) -> Alike:
    # The cache treats 0.0 and -0.0 as equal. A damaged row may have -0.0, which must not be returned for an intact row's 0.0.
    columns = tuple(column + 0.0 if isinstance(column, float) else column for column in columns)
    require_no_blobs(columns)
    return Alike(columns, row_checksum(_SHARED_TYPES, columns), columns[_DS])


def _summary_columns(values: ValueSummary) -> tuple[float | int | None, ...]:
    # SQLite stores 0.0 for -0.0, and the checksum must cover the stored value.
    return *[None if real is None else real + 0.0 for real in _reals_of(values)], *_counts_of(values)


def _dtype(number: int, element_bytes: int) -> DType:
    return dtype_by_number(number) or opaque_dtype(number, 8 * element_bytes)
