"""Options shared by several commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SIZE", "json_option"]

_UNITS = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


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
        return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


SIZE = _Size()
"""Type of options that take a number of bytes."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)
