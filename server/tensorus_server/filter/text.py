r"""Parses the text form of filters, a small language, into the tree of `tree.py`.

    filter      = term, { "AND", term } | term, { "OR", term } ;       mixed only with parentheses
    term        = [ "NOT" ], ( "(", filter, ")" | condition ) ;
    condition   = field, ( "=" | "!=" | "<" | "<=" | ">" | ">=" ), value
                | field, "IN", "(", value, { ",", value }, ")"
                | field, "STARTS WITH", text
                | field, "EXISTS" ;
    field       = key | "@", property ;        a property is a name of `Property`, or "dim.0", "dim.1", ...
    key         = letters, digits, "_", "-" and ".", not beginning with a digit or "-"; or any key in backquotes
    value       = number | text | "true" | "false" ;
    text        = double or single quotes, with \ before a quote or a \ ;

Examples: `layer >= 3 AND kind = "attention"`, `@dtype = "bfloat16" AND @nbytes > 1e9`, `NOT (split IN ("test", "dev"))`.
A "." in a key descends into nested metadata. Keys with other characters are written in backquotes; there, "\" escapes a "."
that belongs to the key itself. The words in capitals may be written in any case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.errors import InvalidFilterError, LimitExceededError
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
from tensorus_server.limits import FILTER_DEPTH_MAX, FILTER_TEXT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.filter.tree import (
        Field,
        Filter,
        Scalar,
    )

__all__ = ["parse_filter"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)(?![\w.])
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<operator><=|>=|!=|=|<|>)
      | (?P<mark>[(),])
      | (?P<property>@[\w.]+)
      | `(?P<quoted>[^`]+)`
      | (?P<word>[A-Za-z_][\w.-]*)
    )""",
    re.VERBOSE,
)
"""The digits are matched possessively ("++"): otherwise, input that is not a number would backtrack in quadratic time."""

_DIMENSION = re.compile(r"dim\.(\d{1,4})")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int

    def is_word(self, word: str) -> bool:
        return self.kind == "word" and self.text.upper() == word


def parse_filter(text: str) -> Filter:
    """Parse a filter.

    Raises:
        InvalidFilterError: the text does not parse; the message has the position and what was expected there.
        LimitExceededError: the text is too long, or the filter is nested too deep.
    """
    size = len(text.encode(errors="replace"))
    if size > FILTER_TEXT_BYTES_MAX:
        raise LimitExceededError(
            f"filter_text is {size} bytes, limit is {FILTER_TEXT_BYTES_MAX} bytes (filter_text_bytes_max)",
            limit=FILTER_TEXT_BYTES_MAX,
        )
    return _Parser(text).parse()


class _Parser:
    """A recursive descent parser for the grammar above."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenize()
        self._at = 0

    def parse(self) -> Filter:
        found = self._filter(1)
        if self._now.kind != "end":
            raise self._expected("AND, OR or the end")
        return found

    def _tokenize(self) -> list[_Token]:
        tokens = []
        position = 0
        end = len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None or match.lastgroup is None:
                begin = position + len(self._text[position:]) - len(self._text[position:].lstrip())
                raise InvalidFilterError(
                    f"filter does not parse at character {begin}: {self._text[begin : begin + 20]!r}"
                )
            tokens.append(_Token(match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup)))
            position = match.end()
        return [*tokens, _Token("end", "", end)]

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._now
        self._at += 1
        return token

    def _filter(self, depth: int) -> Filter:
        terms = [self._term(depth)]
        joined_by = None
        while self._now.is_word("AND") or self._now.is_word("OR"):
            word = self._now.text.upper()
            if joined_by not in {None, word}:
                raise InvalidFilterError(
                    f"filter does not parse at character {self._now.position}: AND and OR are mixed, use parentheses"
                )
            joined_by = word
            self._next()
            terms.append(self._term(depth))
        if joined_by is None:
            return terms[0]
        return AllOf(tuple(terms)) if joined_by == "AND" else AnyOf(tuple(terms))

    def _term(self, depth: int) -> Filter:
        if depth > FILTER_DEPTH_MAX:
            raise LimitExceededError(
                f"depth of the filter is above {FILTER_DEPTH_MAX} (filter_depth_max)", limit=FILTER_DEPTH_MAX
            )
        if self._now.is_word("NOT"):
            self._next()
            return Not(self._term(depth + 1))
        if self._now.text == "(" and self._now.kind == "mark":
            self._next()
            inner = self._filter(depth + 1)
            self._require_mark(")")
            return inner
        return self._condition()

    def _condition(self) -> Filter:
        field = self._field()
        if self._now.kind == "operator":
            return Compare(field, Operator(self._next().text), self._value())
        for word, rest in self._conditions_by_word().items():
            if self._now.is_word(word):
                self._next()
                return rest(field)
        raise self._expected("=, !=, <, <=, >, >=, IN, STARTS WITH or EXISTS")

    def _conditions_by_word(self) -> dict[str, Callable[[Field], Filter]]:
        return {"IN": self._one_of, "STARTS": self._prefix, "EXISTS": Exists}

    def _one_of(self, field: Field) -> Filter:
        self._require_mark("(")
        values = [self._value()]
        while self._now.text == "," and self._now.kind == "mark":
            self._next()
            values.append(self._value())
        self._require_mark(")")
        return OneOf(field, tuple(values))

    def _prefix(self, field: Field) -> Filter:
        if not self._now.is_word("WITH"):
            raise self._expected("WITH")
        self._next()
        if self._now.kind != "text":
            raise self._expected("text in quotes")
        return Prefix(field, _unquote(self._next().text))

    def _field(self) -> Field:
        token = self._now
        if token.kind in {"word", "quoted"}:
            self._next()
            return Key(token.text)
        if token.kind == "property":
            self._next()
            return self._property(token)
        raise self._expected("a metadata key or a property such as @dtype")

    def _property(self, token: _Token) -> Field:
        name = token.text[1:]
        dimension = _DIMENSION.fullmatch(name)
        if dimension is not None:
            return Dimension(int(dimension.group(1)))
        try:
            return Property(name)
        except ValueError as error:
            known = ", ".join(f"@{known.value}" for known in Property)
            raise InvalidFilterError(
                f"filter does not parse at character {token.position}: {token.text} is not one of {known}, @dim.0"
            ) from error

    def _value(self) -> Scalar:
        token = self._now
        if token.kind == "text":
            self._next()
            return _unquote(token.text)
        if token.kind == "number":
            self._next()
            return int(token.text) if re.fullmatch(r"[-+]?\d{1,19}", token.text) else float(token.text)
        if token.is_word("TRUE") or token.is_word("FALSE"):
            self._next()
            return token.is_word("TRUE")
        raise self._expected("a number, text in quotes, true or false")

    def _require_mark(self, mark: str) -> None:
        if self._now.kind != "mark" or self._now.text != mark:
            raise self._expected(f"{mark!r}")
        self._next()

    def _expected(self, what: str) -> InvalidFilterError:
        found = repr(self._now.text) if self._now.kind != "end" else "the end"
        return InvalidFilterError(
            f"filter does not parse at character {self._now.position}: found {found}, expected {what}"
        )


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
