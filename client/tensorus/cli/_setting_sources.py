"""Where the value of each setting comes from: flags before the environment, before the file, before the defaults."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorus.cli._setting_kinds import toml_text
from tensorus.cli._settings import BY_NAME, PREFIX, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus.cli._settings import Setting

__all__ = ["CONFIG_VARIABLE", "DEFAULT", "Chosen", "choose"]

CONFIG_VARIABLE = PREFIX + "CONFIG"
"""The environment variable that names the file."""

DEFAULT = "default"
"""The origin of a value that nobody gave."""

_FILE_BYTES_MAX = 1024 * 1024
"""Far more than all settings take; a device or a tensor that is named by mistake is refused."""

_OF_OTHERS = frozenset({"ADDRESS", "CONFIG", "PROFILE", "SERVER", "TOKEN"})
"""Variables of clients, and the one that names the file."""

_TYPO_RATIO = 0.8
"""How alike a variable and a setting must be to count as a typo. Variables that Kubernetes sets for a service that is called
tensorus, such as TENSORUS_SERVICE_PORT, are far less alike."""


@dataclass(frozen=True)
class Chosen:
    """The value of one setting, and where it comes from."""

    setting: Setting
    value: Any
    """Parsed; None: not set."""
    origin: str
    """`DEFAULT`, a flag, an environment variable, or the path of the file."""


def choose(flags: Mapping[str, Any], file: Path | None) -> tuple[Chosen, ...]:
    """Return the value of every setting, in the order of the table.

    Args:
        flags: parsed values by the names of settings; None or absent: the flag was not given.
        file: with settings; None: the one that the environment names, if any.

    Raises:
        click.UsageError: the file cannot be read, or it or the environment has what is not allowed.
    """
    named_by = "--config"
    if file is None and (named := os.environ.get(CONFIG_VARIABLE)):
        file, named_by = Path(named), CONFIG_VARIABLE
    found = {} if file is None else _from_file(file, named_by)
    found |= _from_environment()
    found |= {
        name: Chosen(BY_NAME[name], value, BY_NAME[name].flag) for name, value in flags.items() if value is not None
    }
    return tuple(found.get(setting.name, _default(setting)) for setting in SETTINGS)


def _default(setting: Setting) -> Chosen:
    if setting.default is None:
        return Chosen(setting, None, DEFAULT)
    return Chosen(setting, setting.kind.click_type.convert(setting.default, None, None), DEFAULT)


def _from_file(file: Path, named_by: str) -> dict[str, Chosen]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"cannot read the file {str(file)!r} of {named_by}: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise click.UsageError(f"{file} of {named_by} has more than {_FILE_BYTES_MAX} bytes: it is no file of settings")
    try:
        keys = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file}: not a TOML file: byte {error.start} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{file}: not a TOML file: {error}") from error
    return {key: _of_file(file, key, value) for key, value in keys.items()}


def _of_file(file: Path, key: str, value: object) -> Chosen:
    setting = BY_NAME.get(key)
    if setting is None:
        raise click.UsageError(
            f"{file}: unknown key {key!r} with the value {_shown(key, value)}; {_instead(key, value)}"
        )
    try:
        return Chosen(setting, setting.kind.parse(value, folder=file.absolute().parent), str(file))
    except ValueError:
        raise _not_allowed(f"{file}: {key}", setting, value) from None


def _from_environment() -> dict[str, Chosen]:
    found = {}
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        setting = BY_NAME.get(name.lower()) if name.isupper() else None
        if setting is None:
            _refuse_typo(variable, name, text)
        # An empty variable counts as not set, as compose files and shells have it (`NAME=${OTHER:-}`).
        elif text:
            try:
                found[setting.name] = Chosen(setting, setting.kind.parse(text, folder=None), variable)
            except ValueError:
                raise _not_allowed(variable, setting, text) from None
    return found


def _refuse_typo(variable: str, name: str, text: str) -> None:
    if name not in _OF_OTHERS and (near := _nearest(name.lower(), _TYPO_RATIO)) is not None:
        instead = BY_NAME[near].variable
        if _is_negated(name.lower(), near):
            instead += "=false"
        raise click.UsageError(
            f"the environment variable {variable} with the value {_shown(near, text)} is unknown; did you mean {instead}?"
        )


def _nearest(name: str, ratio: float) -> str | None:
    if name.startswith("no_") and name.removeprefix("no_") in BY_NAME:
        return name.removeprefix("no_")
    return next(iter(difflib.get_close_matches(name, BY_NAME, n=1, cutoff=ratio)), None)


def _is_negated(name: str, near: str) -> bool:
    return name == f"no_{near}" and BY_NAME[near].kind.form == "bool"


def _instead(key: str, value: object) -> str:
    near = _nearest(key.lower().replace("-", "_"), 0.6)
    if near is None:
        flat = "keys are flat, without tables; " if isinstance(value, dict) else ""
        return f"{flat}the keys are {', '.join(BY_NAME)}"
    return f"did you mean {near}{' = false' if _is_negated(key, near) else ''}?"


def _not_allowed(where: str, setting: Setting, value: object) -> click.UsageError:
    return click.UsageError(f"{where} is {_shown(setting.name, value)}, must be {setting.kind.allowed}")


def _shown(key: str, value: object) -> str:
    """Return a value for a message, unless it may be or hold a secret."""
    text = (
        toml_text(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    )
    near = _nearest(key, 0.6)
    if (near is not None and BY_NAME[near].may_hold_password) or re.search(
        r"@|passw|secret|token", key + text, re.IGNORECASE
    ):
        return "(not shown: it may hold a password)"
    return text if len(text) <= 80 else text[:77] + "..."
