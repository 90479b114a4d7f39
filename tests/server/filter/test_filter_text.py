"""The language of filters: what each text means, what is refused and where, and that no text hurts."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.cases import each
from tensorus._where import filter_text
from tensorus_server.errors import InvalidFilterError, LimitExceededError
from tensorus_server.filter.text import parse_filter
from tensorus_server.filter.tree import (
    AllOf,
    AnyOf,
    Compare,
    Dimension,
    Exists,
    Filter,
    Key,
    Not,
    OneOf,
    Operator,
    Prefix,
    Property,
)
from tensorus_server.limits import FILTER_DEPTH_MAX, FILTER_TEXT_BYTES_MAX

A, B, C = (Compare(Key(name), Operator.EQUAL, 1) for name in "abc")


def equal(name: str, value: bool | float | str) -> Compare:  # noqa: FBT001 - a value as any other
    """Return the condition that most cases use."""
    return Compare(Key(name), Operator.EQUAL, value)


ACCEPTED: list[tuple[str, Filter]] = [
    ("a = 1", A),
    ("a=1", A),
    ("  a\t=\n1  ", A),
    ("a != 1", Compare(Key("a"), Operator.NOT_EQUAL, 1)),
    ("a < 1", Compare(Key("a"), Operator.LESS, 1)),
    ("a <= 1", Compare(Key("a"), Operator.LESS_OR_EQUAL, 1)),
    ("a<=1", Compare(Key("a"), Operator.LESS_OR_EQUAL, 1)),
    ("a > 1", Compare(Key("a"), Operator.GREATER, 1)),
    ("a >= 1", Compare(Key("a"), Operator.GREATER_OR_EQUAL, 1)),
    # Numbers.
    ("a = -1", equal("a", -1)),
    ("a = +1", equal("a", 1)),
    ("a = 1.5", equal("a", 1.5)),
    ("a = 1.", equal("a", 1.0)),
    ("a = .5", equal("a", 0.5)),
    ("a = -.5e-3", equal("a", -0.0005)),
    ("a = 1e9", equal("a", 1e9)),
    ("a = 1E+9", equal("a", 1e9)),
    ("a = 123456789012345678", equal("a", 123456789012345678)),
    ("(a=-1)AND b=1", AllOf((equal("a", -1), B))),
    # Text.
    ('a = "x"', equal("a", "x")),
    ("a = 'x'", equal("a", "x")),
    ('a = ""', equal("a", "")),
    ("a = ''", equal("a", "")),
    ('a = "it\'s"', equal("a", "it's")),
    ("a = 'say \"x\"'", equal("a", 'say "x"')),
    (r'a = "a\"b"', equal("a", 'a"b')),
    (r"a = 'a\'b'", equal("a", "a'b")),
    (r'a = "a\\"', equal("a", "a\\")),
    (r'a = "\n"', equal("a", "n")),
    ('a = "two\nlines"', equal("a", "two\nlines")),
    ('a = "AND (b = 1)"', equal("a", "AND (b = 1)")),
    ('a = "ä\U0001f600\0"', equal("a", "ä\U0001f600\0")),
    # Booleans, in any case.
    ("a = true", equal("a", value=True)),
    ("a = FALSE", equal("a", value=False)),
    ("a = True", equal("a", value=True)),
    # Fields.
    ("layer_1.attn-q.w = 1", equal("layer_1.attn-q.w", 1)),
    ("_x = 1", equal("_x", 1)),
    ("größe = 1", equal("größe", 1)),
    ("a. = 1", equal("a.", 1)),
    ("`any key: (x)` = 1", equal("any key: (x)", 1)),
    (r"`a\.b` = 1", equal(r"a\.b", 1)),
    ("`1` = 1", equal("1", 1)),
    ("`NOT` = 1", equal("NOT", 1)),
    ("and = 1", equal("and", 1)),
    ("in = 1", equal("in", 1)),
    ("@id = 'x'", Compare(Property.ID, Operator.EQUAL, "x")),
    *((f"@{known.value} EXISTS", Exists(known)) for known in Property),
    ("@dim.0 = 3", Compare(Dimension(0), Operator.EQUAL, 3)),
    ("@dim.31 > 3", Compare(Dimension(31), Operator.GREATER, 3)),
    # The other conditions, in any case.
    ("a EXISTS", Exists(Key("a"))),
    ("a exists", Exists(Key("a"))),
    ("exists EXISTS", Exists(Key("exists"))),
    ("a STARTS WITH 'x'", Prefix(Key("a"), "x")),
    ("a starts\nwith ''", Prefix(Key("a"), "")),
    ("a IN (1)", OneOf(Key("a"), (1,))),
    ("a in (1, 'x', true, -0.5)", OneOf(Key("a"), (1, "x", True, -0.5))),
    ("a IN(1,2)", OneOf(Key("a"), (1, 2))),
    # Joined.
    ("a = 1 AND b = 1", AllOf((A, B))),
    ("a = 1 and b = 1 And c = 1", AllOf((A, B, C))),
    ("a = 1 OR b = 1 or c = 1", AnyOf((A, B, C))),
    ("(a = 1)", A),
    ("((a = 1))", A),
    ("(a = 1 AND b = 1) OR c = 1", AnyOf((AllOf((A, B)), C))),
    ("a = 1 AND (b = 1 OR c = 1)", AllOf((A, AnyOf((B, C))))),
    ("(a=1)AND(b=1)", AllOf((A, B))),
    ("NOT a = 1", Not(A)),
    ("not not a = 1", Not(Not(A))),
    ("NOT (a = 1 OR b = 1)", Not(AnyOf((A, B)))),
    ("NOT a = 1 AND b = 1", AllOf((Not(A), B))),
    ("a = 1 OR NOT b = 1", AnyOf((A, Not(B)))),
]

REFUSED = [
    ("", "at character 0: found the end, expected a metadata key or a property"),
    ("   ", "found the end, expected a metadata key"),
    ("a", "at character 1: found the end, expected =, !=, <, <=, >, >=, IN, STARTS WITH or EXISTS"),
    ("a b", "at character 2: found 'b', expected =, !="),
    ("a =", "at character 3: found the end, expected a number, text in quotes, true or false"),
    ("a = b", "at character 4: found 'b', expected a number, text"),
    ("a = = 1", "at character 4: found '=', expected a number"),
    ("= 1", "at character 0: found '=', expected a metadata key"),
    ("1 = a", "at character 0: found '1', expected a metadata key"),
    ("'a' = 1", "at character 0: found \"'a'\", expected a metadata key"),
    ("a == 1", "at character 3: found '=', expected a number"),
    ("a <> 1", "at character 3: found '>', expected a number"),
    ("a = 1 b = 1", "at character 6: found 'b', expected AND, OR or the end"),
    ("a = 1 AND", "at character 9: found the end, expected a metadata key"),
    ("AND a = 1", "at character 4: found 'a', expected =, !="),
    ("a = 1 AND OR b = 1", "at character 13: found 'b', expected =, !="),
    ("a = 1 AND b = 1 OR c = 1", "at character 16: AND and OR are mixed, use parentheses"),
    ("a = 1 OR b = 1 AND c = 1", "at character 15: AND and OR are mixed, use parentheses"),
    ("(a = 1", r"at character 6: found the end, expected '\)'"),
    ("a = 1)", r"at character 5: found '\)', expected AND, OR or the end"),
    ("()", r"at character 1: found '\)', expected a metadata key"),
    ("a IN ()", r"at character 6: found '\)', expected a number"),
    ("a IN (1", r"at character 7: found the end, expected '\)'"),
    ("a IN (1 2)", r"at character 8: found '2', expected '\)'"),
    ("a IN (1,)", r"at character 8: found '\)', expected a number"),
    ("a IN 1", r"at character 5: found '1', expected '\('"),
    ("a STARTS 'x'", "at character 9: found \"'x'\", expected WITH"),
    ("a STARTS WITH 1", "at character 14: found '1', expected text in quotes"),
    ("a STARTS WITH", "at character 13: found the end, expected text in quotes"),
    ("NOT", "at character 3: found the end, expected a metadata key"),
    ("@nothing = 1", "at character 0: @nothing is not one of @id, .*@infinity_count, @dim.0"),
    ("a = 1 AND @dim = 1", "at character 10: @dim is not one of"),
    ("@dim.x = 1", "at character 0: @dim.x is not one of"),
    ("@dim.00000 = 1", "at character 0: @dim.00000 is not one of"),
    ("@ID = 'x'", "at character 0: @ID is not one of"),
    ("a = 'x", 'at character 4: "\'x"'),
    ('a = "x\\"', "at character 4: "),
    ("`a = 1", "at character 0: '`a = 1'"),
    ("`` = 1", "at character 0: '`` = 1'"),
    ("a = 1x", "at character 4: '1x'"),
    ("a = 1.2.3", "at character 4: '1.2.3'"),
    ("a = 1e", "at character 4: '1e'"),
    ("a = nan", "at character 4: found 'nan', expected a number"),
    ("a = inf", "at character 4: found 'inf', expected a number"),
    ("a = null", "at character 4: found 'null', expected a number"),
    ("a = -", "at character 4: '-'"),
    ("a.-b! = 1", "at character 4: '! = 1'"),
    ("a; DROP TABLE tensor", "at character 1: '; DROP TABLE tensor'"),
    ("a = 1 \0", r"at character 6: '\\x00'"),
    ("@ = 1", "at character 0: '@ = 1'"),
    ("a && b", "at character 2: '&& b'"),
    ("a = 1 -- comment", "at character 6: '-- comment'"),
]


@each(("text", "expected"), ACCEPTED)
def test_a_text_means_a_tree(text: str, expected: Filter) -> None:
    found = parse_filter(text)
    assert found == expected
    # Equality of trees does not tell 1 from 1.0 and true; their notation does.
    assert repr(found) == repr(expected)


@each(("text", "message"), REFUSED)
def test_a_text_that_does_not_parse_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidFilterError, match=message) as caught:
        parse_filter(text)
    assert str(caught.value).startswith("filter does not parse at character ")


def test_a_long_rest_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse_filter("a = ;" + "x" * 10_000)
    assert len(str(caught.value)) < 100


class TestLimits:
    """Length and depth are bounded before they cost anything."""

    @each(("open_", "close"), [("(", ")"), ("NOT ", ""), ("NOT (", ")")])
    def test_nesting_has_a_limit(self, open_: str, close: str) -> None:
        # "NOT (" is two levels.
        levels = (FILTER_DEPTH_MAX - 1) // (2 if open_ == "NOT (" else 1)
        parse_filter(open_ * levels + "a = 1" + close * levels)
        with pytest.raises(LimitExceededError, match=r"depth of the filter is above 8 \(filter_depth_max\)") as caught:
            parse_filter(open_ * (levels + 1) + "a = 1" + close * (levels + 1))
        assert caught.value.facts == {"limit": "8"}

    def test_length_has_a_limit_in_bytes(self) -> None:
        longest = 'a = "' + "é" * ((FILTER_TEXT_BYTES_MAX - 6) // 2) + '"'
        assert len(longest.encode()) == FILTER_TEXT_BYTES_MAX
        parse_filter(longest)
        message = r"filter_text is 65537 bytes, limit is 65536 bytes \(filter_text_bytes_max\)"
        with pytest.raises(LimitExceededError, match=message) as caught:
            parse_filter(longest + " ")
        assert caught.value.facts == {"limit": "65536"}

    def test_text_that_is_no_unicode_has_a_length_too(self) -> None:
        with pytest.raises(InvalidFilterError, match="does not parse at character 4"):
            parse_filter("a = \ud800")


HOSTILE = {
    "parentheses": "(" * 60_000,
    "negations": "NOT " * 15_000,
    "quotes": '"' * 60_000,
    "an open quote": 'a = "' + "x" * 60_000,
    "backslashes in an open quote": 'a = "' + "\\" * 60_000,
    "backquotes": "`" * 60_000,
    "an open backquote": "`" + "x" * 60_000,
    "space": " " * 60_000,
    "space before what does not parse": " " * 60_000 + ";",
    "operators": "<" * 60_000,
    "a long word": "x" * 60_000,
    "dots": "a" + "." * 60_000,
    "property": "@" + "dim." * 15_000,
    "a dimension of many digits": "@dim." + "1" * 60_000 + " = 1",
    "digits": "a = " + "1" * 60_000,
    "digits with a point": "a = " + "1" * 30_000 + "." + "1" * 29_000,
    "an exponent of many digits": "a = 1e" + "1" * 50_000,
    "signs": "a = " + "-" * 60_000,
    "values": "a IN (" + "1," * 30_000,
    "conditions": "a=1 AND " * 8_000 + "a=1",
    "AND": "AND " * 15_000,
}


@pytest.mark.slow
@each("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_within_the_limit_hurts(text: str) -> None:
    # A tree or a refusal: either is right, and nothing else is.
    with contextlib.suppress(InvalidFilterError, LimitExceededError):
        parse_filter(text)


BUSY = ["a = {0}x", "a = {0}.{0}x", "a = 1e{0}x"]
"""Digits where {0} is."""

PARSE_WITHIN_A_BUDGET = """
import resource, sys
from tensorus_server.errors import InvalidFilterError
from tensorus_server.filter.text import parse_filter

resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
for text in sys.argv[1:]:
    try:
        parse_filter(text.format("1" * 30_000))
    except InvalidFilterError:
        print("refused", text)
"""


@pytest.mark.slow
def test_no_text_keeps_a_processor_busy() -> None:
    # The pattern of numbers must not try every way to split the digits: that is quadratic, and at the allowed length takes
    # minutes in which no other thread runs. A budget that is a hundred times what is needed tells the two apart.
    done = subprocess.run(
        [sys.executable, "-c", PARSE_WITHIN_A_BUDGET, *BUSY], capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines(), done.returncode) == ([f"refused {text}" for text in BUSY], 0)


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = plain.filter(lambda key: key and "`" not in key and not key.startswith("@"))
values = st.one_of(
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    plain,
)


class TestClientsFilters:
    """What the client writes for a dict of wishes, the parser reads back as these wishes."""

    @given(
        wishes=st.dictionaries(
            keys, st.one_of(values, st.lists(values, min_size=1, max_size=4)), min_size=1, max_size=4
        )
    )
    @example(wishes={'a"b\\': '"\\', "NOT": "\n", "1": -0.0, " ": 5e-324})
    def test_wishes_come_back_as_conditions(self, wishes: dict[str, object]) -> None:
        conditions = tuple(
            OneOf(Key(key), tuple(value)) if isinstance(value, list) else Compare(Key(key), Operator.EQUAL, value)
            for key, value in wishes.items()
        )
        found = parse_filter(filter_text(wishes))
        assert repr(found) == repr(conditions[0] if len(conditions) == 1 else AllOf(conditions))

    @each(("key", "field"), [(f"@{known.value}", known) for known in Property] + [("@dim.3", Dimension(3))])
    def test_properties_are_named_as_in_the_text_form(self, key: str, field: Property | Dimension) -> None:
        assert parse_filter(filter_text({key: 1})) == Compare(field, Operator.EQUAL, 1)
