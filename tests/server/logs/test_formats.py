"""A record is one line, whatever it repeats."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.cases import each
from tensorus_server.logs.formats import JsonFormatter, TextFormatter, escaped, utc

TEXT = TextFormatter(names_process=False)
JSON = JsonFormatter()
KEYS = ["time", "level", "logger", "process", "message"]
FORGED = "2026-01-01T00:00:00.000Z CRITICAL tensorus_server: all is lost"


def record(message: str, *arguments: object, error: BaseException | None = None, **fields: Any) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("tensorus_server.x", logging.WARNING, "x.py", 1, message, arguments, info)
    made.created, made.fields, made.process = 1_767_225_600.0129, fields, 7
    return made


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@each(
    ("seconds", "expected"),
    [(0.0, "1970-01-01T00:00:00.000Z"), (1_767_225_600.9999, "2026-01-01T00:00:00.999Z")],
)
def test_times_are_utc_with_milliseconds(seconds: float, expected: str) -> None:
    assert utc(seconds) == expected


def test_a_line_of_text_has_everything_and_its_fields_at_the_end() -> None:
    line = TEXT.format(record("%s is %d", "x", 3, peer="[::1]:5", dataset="a b", tensors=2))
    expected = '2026-01-01T00:00:00.012Z WARNING tensorus_server.x: x is 3 [peer="[::1]:5" dataset="a b" tensors=2]'
    assert line == expected
    assert "WARNING [7] tensorus_server.x" in TextFormatter(names_process=True).format(record("x"))


def test_an_object_has_the_same_keys_first_and_then_its_fields() -> None:
    found = json.loads(JSON.format(record("%s is %d", "x", 3, tensors=2, logger="another")))
    assert list(found) == [*KEYS, "tensors"]
    assert found["time"] == "2026-01-01T00:00:00.012Z"
    assert (found["logger"], found["process"], found["message"], found["tensors"]) == (
        "tensorus_server.x",
        7,
        "x is 3",
        2,
    )


@each("form", [TEXT, JSON], ids=["text", "json"])
@given(text=st.text(alphabet=st.characters(), max_size=40))
def test_no_text_ends_its_line_or_moves_a_terminal(form: logging.Formatter, text: str) -> None:
    line = form.format(record("%s", text, dataset=text))
    # As every program counts lines.
    assert len(line.splitlines()) == 1
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in line)
    line.encode()
    if form is JSON:
        found = json.loads(line)
        assert found["message"] == found["dataset"] == text.encode(errors="backslashreplace").decode()


def test_an_error_is_one_text_of_an_object() -> None:
    error = raised(f"what\n{FORGED}")
    found = json.loads(JSON.format(record("it failed", error=error)))
    assert list(found) == [*KEYS, "exception"]
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith(f"ValueError: what\n{FORGED}")


def test_no_line_of_a_traceback_passes_for_another_one() -> None:
    lines = TEXT.format(record("it failed", error=raised(f"what\n{FORGED}\x1b[2J"))).split("\n")
    assert lines[1] == "    Traceback (most recent call last):"
    assert lines[-1] == f"    {FORGED}\\x1b[2J"
    assert all(line.startswith("    ") for line in lines[1:])


def test_a_message_that_is_meant_to_have_lines_has_them_indented() -> None:
    line = TEXT.format(record("thread %s hangs:\n%s", "x\n" + FORGED, "  File a\n  File b"))
    assert line.split(": ", 1)[1].split("\n") == ["thread x", f"    {FORGED} hangs:", "      File a", "      File b"]


def test_a_line_is_bounded() -> None:
    error = raised("e" * 1_000_000)
    for form in (TEXT, JSON):
        assert len(form.format(record("%s", "m" * 1_000_000, error=error))) < 48 * 1024


def test_plain_text_stays_as_it_is() -> None:
    assert escaped("a\\b é 💡") == "a\\b é 💡"
    assert escaped("\n\x1b\x9b\u2028\u202e\ud800") == r"\n\x1b\x9b\u2028\u202e\ud800"


def test_a_message_that_python_cannot_encode_is_one_too(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stderr.write(TEXT.format(record("%s", "\udcff")) + "\n")
    assert r"\udcff" in capfd.readouterr().err
