"""Options shared by several commands."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from tensorus_protos.rules import is_generation_text, is_time_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AT", "DURATION", "SIZE", "at_option", "json_option"]

_UNITS = {
    "": 1,
    "B": 1,
    "KIB": 1024,
    "MIB": 1024**2,
    "GIB": 1024**3,
    "TIB": 1024**4,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
}


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Size(click.ParamType):  # type: ignore[type-arg]  # not generic in every version of click
    """A number of bytes, such as 268435456, 256MiB or 1.5 GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes. `Any`: text, or a default that is already a number."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", value.strip())
        if found is None or found.group(2).upper() not in _UNITS:
            self.fail(f"{value!r} is not a size; examples are 256MiB, 1GB and 1000000", param, ctx)
        try:
            return int(float(found.group(1)) * _UNITS[found.group(2).upper()])
        except OverflowError:
            self.fail(f"{value[:20]}... is not a size: it is too large", param, ctx)


SIZE = _Size()
"""Type of options that take a number of bytes."""


class _Duration(click.ParamType):  # type: ignore[type-arg]  # as above
    """A number of seconds, minutes, hours, days or weeks, such as 90s, 12h or 7d; 0 is none."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration. `Any`: text, or a duration already."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhdw])", value.strip())
        if found is None and value.strip() != "0":
            self.fail(f"{value!r} is not a duration; examples are 90s, 30m, 12h, 7d, 4w and 0", param, ctx)
        return timedelta(0) if found is None else timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


DURATION = _Duration()
"""Type of options that take a duration."""


class _At(click.ParamType):  # type: ignore[type-arg]  # as above
    """A state of a dataset: digits are a generation, what reads as an ISO 8601 time is a time, anything else is a snapshot.

    No snapshot can have a name that could be meant otherwise.
    """

    name = "state"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int | datetime:
        """Return the state as the client takes it. `Any`: text, or a state already."""
        if not isinstance(value, str):
            state: int | datetime = value
            return state
        if is_generation_text(value):
            # Python refuses to convert texts of thousands of digits. No store has as many generations.
            return int(value) if len(value) < 20 else self.fail(f"{value[:20]}... is no generation", param, ctx)
        if not is_time_text(value):
            return value
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            self.fail(f"{value!r} is no time: {error}", param, ctx)


AT = _At()
"""Type of options and arguments that take a state of a dataset."""


def at_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --at to a command."""
    return click.option(
        "--at",
        type=AT,
        metavar="STATE",
        help="Read an earlier state of the dataset: the name of a snapshot, a generation (digits), or a time, such as "
        "2026-01-31T12:00 (local time) or 2026-01-31T12:00Z.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)
