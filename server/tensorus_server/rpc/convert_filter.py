"""Converts filters, as messages or as text, into the engine's filter tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.errors import InvalidFilterError, LimitExceededError
from tensorus_server.filter.text import parse_filter
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
)
from tensorus_server.limits import FILTER_DEPTH_MAX

if TYPE_CHECKING:
    from tensorus_server.filter.tree import (
        Field,
        Filter,
        Scalar,
    )

__all__ = ["filter_from"]

_PROPERTIES = {
    number: Property(name.removeprefix("PROPERTY_").lower())
    for name, number in pb.Property.items()
    if number != pb.PROPERTY_UNSPECIFIED
}

_OPERATORS = {
    pb.Compare.OPERATOR_EQUAL: Operator.EQUAL,
    pb.Compare.OPERATOR_NOT_EQUAL: Operator.NOT_EQUAL,
    pb.Compare.OPERATOR_LESS: Operator.LESS,
    pb.Compare.OPERATOR_LESS_OR_EQUAL: Operator.LESS_OR_EQUAL,
    pb.Compare.OPERATOR_GREATER: Operator.GREATER,
    pb.Compare.OPERATOR_GREATER_OR_EQUAL: Operator.GREATER_OR_EQUAL,
}


def filter_from(message: pb.Filter | None, text: str) -> Filter | None:
    """Return the filter of a request, which is a message or text; None if it has neither.

    Raises:
        InvalidFilterError: the request has both, or the filter is malformed.
        LimitExceededError: the filter is nested too deep.
    """
    if message is not None and text:
        raise InvalidFilterError("the request has both a filter and a filter_text, must have at most one")
    if text:
        return parse_filter(text)
    return None if message is None else _node_from(message, 1)


def _node_from(message: pb.Filter, depth: int) -> Filter:
    if depth > FILTER_DEPTH_MAX:
        raise LimitExceededError(
            f"depth of the filter is above {FILTER_DEPTH_MAX} (filter_depth_max)", limit=FILTER_DEPTH_MAX
        )
    node = message.WhichOneof("node")
    if node == "all_of":
        return AllOf(tuple(_node_from(child, depth + 1) for child in message.all_of.filters))
    if node == "any_of":
        return AnyOf(tuple(_node_from(child, depth + 1) for child in message.any_of.filters))
    if node == "negated":
        return Not(_node_from(message.negated, depth + 1))
    if node == "compare":
        operator = _OPERATORS.get(message.compare.operator)
        if operator is None:
            raise InvalidFilterError(
                f"operator of a comparison is number {message.compare.operator}, which this server does not know"
            )
        return Compare(_field_from(message.compare.field), operator, _scalar_from(message.compare.value))
    if node == "one_of":
        return OneOf(_field_from(message.one_of.field), tuple(map(_scalar_from, message.one_of.values)))
    if node == "exists":
        return Exists(_field_from(message.exists.field))
    if node == "prefix":
        return Prefix(_field_from(message.prefix.field), message.prefix.text)
    raise InvalidFilterError("node of a filter is missing, or of a kind that this server does not know")


def _field_from(message: pb.Field) -> Field:
    kind = message.WhichOneof("kind")
    if kind == "key":
        return Key(message.key)
    if kind == "dimension":
        return Dimension(message.dimension)
    if kind == "property" and message.property in _PROPERTIES:
        return _PROPERTIES[message.property]
    raise InvalidFilterError("field of a condition is missing, or of a kind that this server does not know")


def _scalar_from(message: pb.Value) -> Scalar:
    kind = message.WhichOneof("kind")
    if kind == "boolean":
        return message.boolean
    if kind == "integer":
        return message.integer
    if kind == "number":
        return message.number
    if kind == "text":
        return message.text
    raise InvalidFilterError(
        f"value of a condition is a {kind or 'value without kind'}, must be a boolean, a number or text"
    )
