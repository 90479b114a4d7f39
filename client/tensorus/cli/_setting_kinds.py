"""The types that settings of a server have: how they are written as text and in TOML, and what is allowed."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from tensorus.cli._options import SIZE

__all__ = ["BOOL", "FILE", "FOLDER", "SIZE_KIND", "TEXT", "Kind", "choice", "count", "seconds"]

Form = Literal["text", "bool", "path", "size", "count", "seconds"]

_TOML_TYPES: dict[Form, tuple[type, ...]] = {
    "text": (str,),
    "bool": (bool,),
    "path": (str,),
    "size": (str, int),
    "count": (int,),
    "seconds": (int, float),
}

_BINARY = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


@dataclass(frozen=True)
class Kind:
    """A type of settings."""

    form: Form
    click_type: Any  # a `click.ParamType`, which is not generic in every version of click
    """Parses the text of a flag or of an environment variable."""
    allowed: str
    """What is allowed, to follow "must be"."""

    def parse(self, value: object, *, folder: Path | None) -> Any:
        """Return the value of a setting.

        Args:
            value: of a TOML file, or the text of an environment variable.
            folder: of the file, to which relative paths in it refer; None: the value is text of the environment.

        Raises:
            ValueError: it has the wrong type, or is not allowed. The error has no message.
        """
        in_file = folder is not None
        if in_file and (isinstance(value, bool) != (self.form == "bool") or type(value) not in _TOML_TYPES[self.form]):
            raise ValueError
        if value == "":
            raise ValueError
        if self.form == "path":
            # The shell does this for flags.
            value = str((folder or Path()) / Path(str(value)).expanduser())
        try:
            parsed = self.click_type.convert(value, None, None)
        except (click.ClickException, OverflowError):
            raise ValueError from None
        if self.form == "size" and parsed < 0:
            raise ValueError
        return parsed

    def to_toml(self, value: Any) -> str:
        """Return a value of a setting as TOML; paths are absolute."""
        if self.form == "bool":
            return str(value).lower()
        if self.form == "path":
            return toml_text(str(Path(value).absolute()))
        if self.form == "size":
            for unit, unit_bytes in _BINARY:
                if value and value % unit_bytes == 0:
                    return toml_text(f"{value // unit_bytes}{unit}")
        return toml_text(value) if isinstance(value, str) else repr(value)


def toml_text(text: str) -> str:
    """Return a text as a basic string of TOML."""
    # JSON's strings are TOML's, but for this character, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Seconds(click.FloatRange):
    """A finite number of seconds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. `Any`: text, or a number already."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class _Bool(click.ParamType):  # type: ignore[type-arg]  # not generic in every version of click
    """True or false."""

    name = "boolean"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Return the value. `Any`: text, or a bool already."""
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if not re.fullmatch("true|false|1|0|yes|no|on|off", text):
            self.fail(f"{value!r} is neither true nor false", param, ctx)
        return text in {"true", "1", "yes", "on"}


TEXT = Kind("text", click.STRING, "a text that is not empty")
BOOL = Kind("bool", _Bool(), "true or false")
SIZE_KIND = Kind("size", SIZE, 'a size such as "256MiB", or a number of bytes')
FOLDER = Kind("path", click.Path(file_okay=False, path_type=Path), "the path of a folder")
FILE = Kind("path", click.Path(dir_okay=False, path_type=Path), "the path of a file")


def count(least: int) -> Kind:
    """Return the type of whole numbers of at least `least`."""
    return Kind("count", click.IntRange(least), f"a whole number of at least {least}")


def seconds(*, zero: bool = False) -> Kind:
    """Return the type of durations in seconds; 0 is allowed with `zero`."""
    return Kind(
        "seconds", _Seconds(0, min_open=not zero), f"a number of seconds {'of at least' if zero else 'above'} 0"
    )


def choice(*values: str) -> Kind:
    """Return the type of settings with one of these values."""
    return Kind("text", click.Choice(values), f"one of {', '.join(values)}")
