"""Compiles a filter tree to SQL over the tensor row `t`, of the table `tensor` or of `past_tensor`.

Keys and values are bound parameters, and column names come from the tables below, so no part of a request becomes part of a
statement. Every condition is true or false, never NULL, so that NOT is the exact complement.

A condition on metadata is compiled to an EXISTS over `attr`. The most selective one of those that must hold becomes the driver,
`t.seq IN (...)`, which determines the rows that are searched. It is found by counting the rows of each one, up to `_PROBE_MAX`.
Measured with 200,000 tensors and pages of 100: a selective range takes 128 ms without a driver and 0.2 ms with one; a broad
range takes 57 ms with a driver and 0.2 ms without.

The index also has rows that name keys it leaves out of a tensor (see `metadata_index`). If the dataset has such a row for the
key of a condition, the metadata of those tensors is read, and the condition cannot be the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.sql.statements import select
from tensorus_server.filter.tree import (
    AllOf,
    AnyOf,
    Compare,
    Dimension,
    Exists,
    Key,
    Not,
    OneOf,
    Operator,
    Prefix,
    Property,
    indexed,
)

if TYPE_CHECKING:
    from tensorus_server.catalogue.sql.connection import Connection, Sql
    from tensorus_server.filter.tree import (
        Filter,
    )

__all__ = ["DIMENSION_KEY", "LEFT_OUT_KEY", "LEFT_OUT_MANY_KEY", "compile_condition", "compile_filter"]

DIMENSION_KEY = "@dim."
"""Prefix of the reserved keys that hold dimensions; no metadata key starts with "@"."""

LEFT_OUT_KEY = "@left_out"
"""Reserved key; its text is a metadata key of the tensor that is not in the index."""

LEFT_OUT_MANY_KEY = "@left_out_many"
"""Reserved key; any metadata key of the tensor may be missing from the index."""

_TENSORS = {"attr": "tensor", "past_attr": "past_tensor"}
"""The table of tensors by that of their attributes."""

_PROBE_MAX = 5000
"""Largest number of rows of a condition that may be the driver."""

_TEXT_COLUMNS = {Property.ID: "t.id", Property.DTYPE: "t.dtype", Property.SHAPE: "t.shape"}

_NUMBER_COLUMNS = {
    Property.RANK: "t.rank",
    Property.NBYTES: "t.nbytes",
    Property.STORED_BYTES: "t.stored_bytes",
    Property.CREATED: "t.created_us / CAST(1e6 AS DOUBLE PRECISION)",
    Property.MIN: 't."min"',
    Property.MAX: 't."max"',
    Property.MEAN: "t.mean",
    Property.STANDARD_DEVIATION: "t.standard_deviation",
    Property.L2_NORM: "t.l2_norm",
    Property.ZERO_COUNT: "t.zero_count",
    Property.NAN_COUNT: "t.nan_count",
    Property.INFINITY_COUNT: "t.infinity_count",
}

_INTEGERS = frozenset(
    {
        Property.RANK,
        Property.NBYTES,
        Property.STORED_BYTES,
        Property.ZERO_COUNT,
        Property.NAN_COUNT,
        Property.INFINITY_COUNT,
    }
)
"""Columns that are compared with integers where the value is one: PostgreSQL uses no index of integers for a float."""

_OPERATORS = {
    Operator.EQUAL: "=",
    Operator.NOT_EQUAL: "<>",
    Operator.LESS: "<",
    Operator.LESS_OR_EQUAL: "<=",
    Operator.GREATER: ">",
    Operator.GREATER_OR_EQUAL: ">=",
}


def compile_filter(root: Filter | None, ds: int, connection: Connection, attr: str = "attr") -> Sql:
    """Return the condition on `t` for tensors of dataset `ds`, with the most selective driver.

    Args:
        attr: the table that has the rows' attributes.
    """
    required: list[Filter] = list(root.filters) if isinstance(root, AllOf) else [] if root is None else [root]
    left_out = _LeftOut(ds, connection, attr)
    driver = _choose_driver(required, left_out)
    parts = [_driven(node, left_out) if node is driver else _compile(node, left_out) for node in required]
    if driver is None:
        # Only needed without a driver, which selects within the dataset. With one, SQLite might choose the dataset's index
        # over the driver.
        parts.insert(0, ("t.ds = ?", [ds]))
    return " AND ".join(where for where, _ in parts), [p for _, ps in parts for p in ps]


def compile_condition(root: Filter | None, ds: int, connection: Connection, attr: str = "attr") -> Sql:
    """Return the condition on `t` for a single tensor that is read by generation."""
    return ("TRUE", []) if root is None else _compile(root, _LeftOut(ds, connection, attr))


class _LeftOut:
    """Tells which keys the index leaves out of tensors of one dataset."""

    def __init__(self, ds: int, connection: Connection, attr: str) -> None:
        self.ds = ds
        self.attr = attr
        self.connection = connection
        self._known: dict[str, bool] = {}

    def has(self, key: str) -> bool:
        """Whether the key may be left out of the index for some tensor."""
        if key not in self._known:
            statement = (
                f"SELECT EXISTS (SELECT 1 FROM {self.attr} WHERE ds = ?1 AND key = ?2 AND txt = ?3) "
                f"OR EXISTS (SELECT 1 FROM {self.attr} WHERE ds = ?1 AND key = ?4)"
            )
            parameters = (self.ds, LEFT_OUT_KEY, key, LEFT_OUT_MANY_KEY)
            ((found,),) = select(self.connection, statement, parameters)
            self._known[key] = bool(found)
        return self._known[key]

    def decided(self, node: Compare | OneOf | Exists | Prefix, candidates: Sql) -> Sql:
        """See `Connection.metadata_condition`."""
        return self.connection.metadata_condition(node, candidates, tensor=_TENSORS[self.attr], ds=self.ds)


def _choose_driver(required: list[Filter], left_out: _LeftOut) -> Filter | None:
    best, fewest = None, _PROBE_MAX + 1
    for node in required:
        if not _is_on_attr(node) or _may_be_left_out(node, left_out):
            continue
        where, parameters = _attr_condition(node)
        statement = (
            f"SELECT count(*) FROM (SELECT 1 FROM {left_out.attr} a WHERE a.ds = ? AND {where} LIMIT ?) AS found"
        )
        ((count,),) = select(left_out.connection, statement, [left_out.ds, *parameters, fewest])
        if count < fewest:
            best, fewest = node, count
    return best


def _is_on_attr(node: Filter) -> bool:
    return isinstance(node, (Compare, OneOf, Exists, Prefix)) and isinstance(node.field, (Key, Dimension))


def _may_be_left_out(node: Filter, left_out: _LeftOut) -> bool:
    return (
        isinstance(node, (Compare, OneOf, Exists, Prefix))
        and isinstance(node.field, Key)
        and left_out.has(node.field.name)
    )


def _driven(node: Filter, left_out: _LeftOut) -> Sql:
    where, parameters = _attr_condition(node)
    driver = f"t.seq IN (SELECT a.seq FROM {left_out.attr} a WHERE a.ds = ? AND {where})"
    return driver, [left_out.ds, *parameters]


def _compile(node: Filter, left_out: _LeftOut) -> Sql:
    if isinstance(node, AllOf):
        return _join([_compile(child, left_out) for child in node.filters], "AND", empty="TRUE")
    if isinstance(node, AnyOf):
        return _join([_compile(child, left_out) for child in node.filters], "OR", empty="FALSE")
    if isinstance(node, Not):
        where, parameters = _compile(node.filter, left_out)
        return f"NOT {where}", parameters
    if isinstance(node.field, Property):
        return _column_condition(node, node.field)
    where, parameters = _attr_condition(node)
    condition = f"EXISTS (SELECT 1 FROM {left_out.attr} a WHERE a.seq = t.seq AND {where})"
    if isinstance(node.field, Key) and _may_be_left_out(node, left_out):
        marked = (
            f"EXISTS (SELECT 1 FROM {left_out.attr} m WHERE m.seq = t.seq AND (m.key = ? AND m.txt = ? OR m.key = ?))"
        )
        marks = [LEFT_OUT_KEY, node.field.name, LEFT_OUT_MANY_KEY]
        decided, decided_by = left_out.decided(node, (marked, marks))
        return f"({condition} OR {decided})", [*parameters, *decided_by]
    return condition, parameters


def _join(parts: list[Sql], operator: str, *, empty: str) -> Sql:
    if not parts:
        return empty, []
    return "(" + f" {operator} ".join(where for where, _ in parts) + ")", [p for _, ps in parts for p in ps]


def _column_condition(node: Compare | OneOf | Exists | Prefix, field: Property) -> Sql:
    is_text = field in _TEXT_COLUMNS
    column = _TEXT_COLUMNS[field] if is_text else _NUMBER_COLUMNS[field]
    where, parameters = _value_condition(node, number=None if is_text else column, text=column if is_text else None)
    if field in _INTEGERS:
        parameters = [int(value) if value.is_integer() and abs(value) < 2**63 else value for value in parameters]
    # A column is NULL if the dtype has no such summary. IS TRUE makes the condition false then.
    return f"(({where}) IS TRUE)", parameters


def _attr_condition(node: Filter) -> Sql:
    assert isinstance(node, (Compare, OneOf, Exists, Prefix))
    if isinstance(node.field, Key) and node.field.name.startswith("@"):
        # No metadata key starts with "@" (see `join_key`), so this must not match the reserved keys.
        return "FALSE", []
    key = node.field.name if isinstance(node.field, Key) else f"{DIMENSION_KEY}{getattr(node.field, 'axis', 0)}"
    where, parameters = _value_condition(node, number="a.num", text="a.txt")
    return f"a.key = ? AND {where}", [key, *parameters]


def _value_condition(node: Compare | OneOf | Exists | Prefix, *, number: str | None, text: str | None) -> Sql:
    """Return the condition on a value; `number` and `text` are the columns that may hold it."""
    if isinstance(node, Exists):
        return ("TRUE", []) if number and text else (f"{number or text} IS NOT NULL", [])
    if isinstance(node, Prefix):
        return ("FALSE", []) if text is None else _prefix_condition(text, node.text)
    if isinstance(node, Compare):
        value = indexed(node.value)
        column = text if isinstance(value, str) else number
        return ("FALSE", []) if column is None else (f"{column} {_OPERATORS[node.operator]} ?", [value])
    parts = []
    for column, kind in ((number, float), (text, str)):
        values = [value for value in map(indexed, node.values) if isinstance(value, kind)]
        if column is not None and values:
            parts.append((f"{column} IN ({', '.join('?' * len(values))})", values))
    return _join(parts, "OR", empty="FALSE")


def _prefix_condition(column: str, prefix: str) -> Sql:
    """Return a prefix condition as a range, which an index can answer; SQLite compares text by UTF-8 bytes."""
    if not prefix:
        return f"{column} IS NOT NULL", []
    after = _text_after(prefix)
    if after is None:
        return f"{column} >= ?", [prefix]
    return f"{column} >= ? AND {column} < ?", [prefix, after]


def _text_after(prefix: str) -> str | None:
    """Return the smallest text above all texts with this prefix; None if there is none."""
    while prefix:
        code_point = ord(prefix[-1]) + 1
        if 0xD800 <= code_point <= 0xDFFF:
            # Skip surrogates, which are not characters.
            code_point = 0xE000
        if code_point <= 0x10FFFF:
            return prefix[:-1] + chr(code_point)
        prefix = prefix[:-1]
    return None
