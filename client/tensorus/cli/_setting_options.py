"""The options of a command that takes the settings of a server, grouped in its help, and the effective settings as TOML."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorus.cli._setting_sources import CONFIG_VARIABLE, DEFAULT, choose
from tensorus.cli._settings import BY_NAME, GROUPS, PREFIX, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus.cli._setting_sources import Chosen
    from tensorus.cli._settings import Setting

__all__ = ["SettingsCommand", "settings_options", "to_toml"]


class SettingsCommand(click.Command):
    """A command whose help has the settings in groups, and its other options below them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        records: dict[str, list[tuple[str, str]]] = {group: [] for group in (*GROUPS, "Options")}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                setting = BY_NAME.get(parameter.name or "")
                records["Options" if setting is None else setting.group].append(record)
        for group, lines in records.items():
            if lines:
                with formatter.section(group):
                    formatter.write_dl(lines)
        formatter.write_paragraph()
        formatter.write_text(
            f'Every option in a group is a setting: it may also be in the file of --config (memory_budget = "2GiB") or in the '
            f"environment ({PREFIX}MEMORY_BUDGET). Flags beat the environment, which beats the file."
        )


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config and a flag for each setting to a command, which gets all of them as one argument, `chosen`."""

    @wraps(command)
    def with_settings(*args: Any, config: Path | None, **options: Any) -> Any:
        flags = {setting.name: options.pop(setting.name) for setting in SETTINGS}
        if options.pop("verbose", False):
            flags["log_level"] = "debug"
        return command(*args, chosen=choose(flags, config), **options)

    decorated: Callable[..., Any] = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"TOML file with settings. Relative paths in it start at its folder.  [env var: {CONFIG_VARIABLE}]",
    )(with_settings)
    for setting in reversed(SETTINGS):
        decorated = _option(setting)(decorated)
    return decorated


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    is_bool = setting.kind.form == "bool"
    return click.option(
        f"{setting.flag}/--no-{setting.flag.removeprefix('--')}" if is_bool else setting.flag,
        setting.name,
        # Without a flag the value is None: then it comes from elsewhere.
        default=None,
        type=None if is_bool else setting.kind.click_type,
        metavar=setting.metavar,
        help=f"{setting.help}  [default: {setting.default_text}]",
    )


def to_toml(chosen: Sequence[Chosen], without_password: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines of a TOML file with these values, each with a comment that says where it comes from.

    Args:
        without_password: returns a URL without the password in it.
    """
    for one in chosen:
        setting, origin = one.setting, one.origin if one.origin.isprintable() else repr(one.origin)
        if one.value is None:
            yield f"# {setting.name} is not set: {setting.unset}"
            continue
        if origin not in {DEFAULT, setting.flag, setting.variable}:
            origin = f"file {origin}"
        value = one.value
        if setting.may_hold_password and (value := without_password(one.value)) != one.value:
            origin += "; the password is not shown"
        yield f"{setting.name} = {setting.kind.to_toml(value)}  # {origin}"
